//! A verdict does not allocate: asserted by a counting allocator, with 10,000 pods and 1,000 policies.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::build::{
    PolicyBuilder, RuleBuilder, cluster_policy, namespace, network_policy, node, pod, rule, tcp,
};
use policy::{Action, Change, Directions, PortNumbers, Scope, Tier, Verdict};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is forwarded to the system allocator with its arguments unchanged; counting accesses no
// memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller upholds the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller upholds the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller upholds the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn count(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

#[test]
fn the_allocator_counts() {
    assert_eq!(count(|| drop(std::hint::black_box(Box::new(1)))), 2);
}

#[test]
fn a_verdict_does_not_allocate() {
    let network_policies = network_policies().collect();
    check(network_policies, (1_000, 5_000));
}

#[test]
fn a_verdict_in_all_tiers_does_not_allocate() {
    // Among 100 cluster-wide policies, rules that accept, deny and pass, by pods, blocks and named ports. The
    // labels of one namespace are unknown, so that verdicts take the steps for unknown labels as well.
    let cluster_policies = (0..100_u16).map(|number| {
        let tier = if number % 2 == 0 { Tier::Admin } else { Tier::Baseline };
        let action =
            |offset: u16| [Action::Accept, Action::Deny, Action::Pass][usize::from(number + offset) % 3];
        let app = format!("app=app-{}", number % 50);
        let rules = |policy: PolicyBuilder, add: fn(PolicyBuilder, RuleBuilder) -> PolicyBuilder| {
            (0..8).fold(policy, |policy, rule_number| {
                let port = 3_000 + number * 8 + rule_number;
                let policy = add(policy, rule().action(action(0)).pods("team=front", &app).tcp(port));
                let block = format!("198.51.{}.0/24", number % 256);
                let policy = add(policy, rule().action(action(1)).block(&block, &[]).tcp(1));
                add(
                    policy,
                    rule().action(action(2)).pods("", &app).port(None, PortNumbers::Named("http".into())),
                )
            })
        };
        let policy = cluster_policy(&format!("p{number:03}"), tier, number / 4);
        let policy = rules(policy, PolicyBuilder::ingress);
        let unknown = rule().action(action(1)).pods("!unknown", "").tcp(1_007);
        Change::from(rules(policy, PolicyBuilder::egress).ingress(unknown))
    });
    let policies = network_policies().chain(cluster_policies).chain([Change::NamespaceGone("dark".into())]);
    check(policies.collect(), (1_100, 5_000 + 100 * (24 + 24 + 1)));
}

fn address(number: usize) -> String {
    format!("10.{}.{}.{}", number / 25_600, number / 100 % 256, number % 100 + 2)
}

/// Selectors, blocks, port numbers and port names: every path through the engine.
fn network_policies() -> impl Iterator<Item = Change> {
    (0..1_000).map(|number| {
        let app = format!("app=app-{}", number % 40);
        Change::from(
            network_policy(&format!("web/policy{number}"), "app=server")
                .ingress(rule().pods_in("web", &app).tcp(1_000 + number))
                .ingress(rule().pods("team=front", &app).named(policy::Protocol::TCP, "http"))
                .ingress(rule().block("192.0.2.0/24", &["192.0.2.64/26"]).tcp(2_000 + number))
                .ingress(rule().block(&format!("198.51.{}.0/24", number % 256), &[]))
                .egress(rule().pods("", &app).tcp(3_000 + number)),
        )
    })
}

/// Evaluates packets from and to a server among 10,000 pods. `size` is the number of policies and of rules.
fn check(policies: Vec<Change>, size: (usize, usize)) {
    let pods = (0..10_000).map(|number| {
        let app = if number == 0 {
            "app=server".to_owned()
        } else {
            format!("app=app-{},unique=u{number}", number % 50)
        };
        // The namespace of a few pods is not known.
        let namespace = if number % 50 == 49 { "dark" } else { "web" };
        let pod = pod(&format!("{namespace}/p{number}")).labels(&app).at(&address(number));
        Change::from(pod.created(number as i64).port("http", policy::Protocol::TCP, 8080))
    });
    let cluster = [node("n1", "192.168.0.1", "10.0.0.0/8"), namespace("web", "team=front")];
    let changes: Vec<Change> = cluster.into_iter().chain(policies).chain(pods).collect();
    for scope in [Scope::Cluster, Scope::Node("n1".into())] {
        let (_, snapshot) = common::compile(scope, Verdict::Deny, &changes);
        assert_eq!((snapshot.size().policies, snapshot.size().rules), size);
        // 10.9.9.9 is in the node's pod CIDR, and no pod has it: a rule might allow that pod once it is
        // known.
        let outside =
            ["192.0.2.1", "192.0.2.65", "198.51.7.9", "203.0.113.1", "192.168.0.1", "fd00::1", "10.9.9.9"];
        let peers: Vec<String> = (0..200).map(address).chain(outside.map(str::to_owned)).collect();
        let ports = [1, 1_007, 2_007, 3_007, 8_080];
        let packets: Vec<_> = peers
            .iter()
            .filter(|peer| !peer.contains(':'))
            .flat_map(|peer| ports.map(|port| [tcp(peer, &address(0), port), tcp(&address(0), peer, port)]))
            .flatten()
            .collect();
        let (mut allowed, mut denied) = (0, 0);
        let allocations = count(|| {
            for packet in &packets {
                match snapshot.evaluate(packet, Directions::Both).verdict() {
                    Verdict::Allow => allowed += 1,
                    Verdict::Deny => denied += 1,
                }
            }
        });
        assert!(
            allowed > 100 && denied > 100,
            "{allowed} allowed, {denied} denied: too one-sided to prove anything"
        );
        assert_eq!(allocations, 0, "allocations in {} verdicts", packets.len());
    }
}
