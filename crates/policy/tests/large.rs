//! Policies as large as the API server accepts, made so that precomputed forms would explode. The memory for
//! compiling them grows linearly with their size, and verdicts equal those of the reference.

#![allow(clippy::unwrap_used, reason = "a cluster that can't be built is a bug in the test")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use common::build::{namespace, network_policy, node, pod, rule};
use common::scenario::packet_in_words;
use policy::{
    Budget, Change, Compiler, Directions, IpBlock, Packet, Peer, PolicySpec, PortMatch, PortNumbers,
    Protocol, Scope, Verdict, reference,
};
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};

thread_local! {
    /// Bytes in use by this thread, and their maximum.
    static IN_USE: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

struct Counting;

impl Counting {
    fn add(bytes: isize) {
        IN_USE.with(|in_use| {
            let (now, most) = in_use.get();
            in_use.set((now + bytes, most.max(now + bytes)));
        });
    }
}

// SAFETY: every call is forwarded to the system allocator with its arguments unchanged; counting accesses no
// memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::add(layout.size().cast_signed());
        // SAFETY: the caller upholds the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        Self::add(-layout.size().cast_signed());
        // SAFETY: the caller upholds the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::add(size.cast_signed() - layout.size().cast_signed());
        // SAFETY: the caller upholds the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The result of `work`, and how many more bytes than before were in use: at most while it ran, and after it.
fn memory<T>(work: impl FnOnce() -> T) -> (T, isize, isize) {
    let (before, _) = IN_USE.get();
    IN_USE.set((before, before));
    let made = work();
    let (after, most) = IN_USE.get();
    (made, most - before, after - before)
}

/// The largest size of an object in the API server, in bytes.
const TEXT: usize = 1_200_000;

/// Pseudo-random numbers, the same in each run.
fn numbers() -> impl FnMut(u32) -> u32 {
    let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    move |below| rng.next_u32() % below
}

fn block(cidr: &str, except: Vec<String>) -> Peer {
    let except = except.iter().map(|net| net.parse().unwrap()).collect();
    Peer::Block(IpBlock { cidr: cidr.parse().unwrap(), except })
}

fn tcp_range(first: u16, last: u16) -> PortMatch {
    PortMatch { protocol: Some(Protocol::TCP), numbers: PortNumbers::Range(first, last) }
}

fn policy(rules: impl Iterator<Item = (Peer, PortMatch)>) -> PolicySpec {
    let rules = rules.map(|(peer, port)| {
        let mut rule = rule().peer(peer);
        rule.0.ports = Some(vec![port]);
        rule
    });
    rules.fold(network_policy("a/large", ""), |policy, rule| policy.ingress(rule)).0
}

fn ports_of(number: u16) -> PortMatch {
    tcp_range(number * 20 + 1, number * 20 + 500)
}

/// A thousand rules, each for all addresses except sixty.
fn exceptions() -> PolicySpec {
    let mut random = numbers();
    policy((0..1_000).map(|number| {
        let except = (0..60)
            .map(|_| format!("{}.{}.{}.{}/32", random(223) + 1, random(256), random(256), random(256)));
        (block("0.0.0.0/0", except.collect()), ports_of(number))
    }))
}

/// The same for IPv6, where a prefix is 32 steps from the root.
fn exceptions_of_ipv6() -> PolicySpec {
    let mut random = numbers();
    policy((0..700).map(|number| {
        let mut group = || random(0x1_0000);
        let except = (0..30).map(|_| {
            let groups: Vec<String> = (0..7).map(|_| format!("{:x}", group())).collect();
            format!("2001:{}/128", groups.join(":"))
        });
        (block("::/0", except.collect()), ports_of(number))
    }))
}

/// Nested blocks, 24 deep, each with different ports.
fn nested() -> PolicySpec {
    let mut random = numbers();
    policy((0..9_000_u32).map(|number| {
        let length = 8 + number % 24;
        let net = ipnet::Ipv4Net::new(
            [10, random(4) as u8, random(4) as u8, random(256) as u8].into(),
            length as u8,
        );
        (block(&net.unwrap().trunc().to_string(), Vec::new()), ports_of((number % 3_000) as u16))
    }))
}

/// Rules that each select all pods except one.
fn negative_selectors() -> PolicySpec {
    policy((0..200_u16).map(|number| {
        let pods = format!("app notin app-{number}");
        (rule().pods_in("a", &pods).0.peers.unwrap().remove(0), ports_of(number))
    }))
}

/// As many selectors as fit into the budget, each matching nearly all identities.
fn selectors_of_all_identities() -> PolicySpec {
    policy((0..3_000_u16).map(|number| {
        let pods = format!("app notin app-{}", number % 1_500);
        let pods = if number < 1_500 { pods } else { format!("{pods},app") };
        (rule().pods_in("a", &pods).0.peers.unwrap().remove(0), ports_of(number % 500))
    }))
}

/// Many port names. A pod gives some of them the same number.
fn names() -> PolicySpec {
    policy((0..10_000).map(|number| {
        let port = PortMatch {
            protocol: Some(Protocol::TCP),
            numbers: PortNumbers::Named(format!("p{number}").into()),
        };
        (block("0.0.0.0/0", vec![format!("10.9.{}.{}/32", number / 256, number % 256)]), port)
    }))
}

fn cluster() -> Vec<Change> {
    let mut changes = vec![namespace("a", ""), node("n1", "192.168.0.1", "10.244.0.0/16")];
    let server = pod("a/server").labels("app=server").at("10.244.0.1").on("n1");
    let server = (0..50).fold(server, |pod, number| pod.port(&format!("p{number}"), Protocol::TCP, 80));
    changes.push(server.into());
    changes.extend((0..1_500_u32).map(|number| {
        let address = format!("10.244.{}.{}", 1 + number / 250, number % 250 + 1);
        pod(&format!("a/{number}")).labels(&format!("app=app-{number}")).at(&address).on("n1").into()
    }));
    changes
}

/// Addresses at the edges of a policy's blocks, and addresses of pods.
fn peers(policy: &PolicySpec) -> Vec<IpAddr> {
    let blocks =
        policy.ingress.iter().flat_map(|rule| rule.peers.iter().flatten()).filter_map(|peer| match peer {
            Peer::Block(block) => Some(block),
            _ => None,
        });
    let nets = blocks.flat_map(|block| block.except.iter().chain([block.cidr]));
    let mut all: Vec<IpAddr> = nets.flat_map(|net| [net.network(), net.broadcast()]).collect();
    all.extend(
        (0..1_500).map(|number| IpAddr::from([10, 244, (1 + number / 250) as u8, (number % 250 + 1) as u8])),
    );
    all
}

#[track_caller]
fn compiles_within(name: &str, policy: PolicySpec, most: isize, kept: isize) {
    let changes = cluster();
    let (mut compiler, _) = common::compile(Scope::Cluster, Verdict::Deny, &changes);
    let policy = Arc::new(policy);
    let ((snapshot, took), peak, left) = memory(|| {
        let begun = std::time::Instant::now();
        let snapshot = compiler.apply([Change::Policy(Arc::clone(&policy))]).snapshot;
        (snapshot, begun.elapsed())
    });
    println!("{name}: {} kB at most, {} kB kept, {took:?}", peak / 1000, left / 1000);
    assert!(peak < most, "{name}: {peak} bytes in use while compiling");
    assert!(left < kept, "{name}: {left} bytes kept");
    let mut random = numbers();
    let peers = peers(&policy);
    for _ in 0..300 {
        let peer = peers[random(peers.len() as u32) as usize];
        let server = if peer.is_ipv6() { "fd00::1" } else { "10.244.0.1" };
        let packet = Packet::new(peer, server.parse().unwrap(), Protocol::TCP).to_port(random(22_000) as u16);
        let found = common::engine(&snapshot, &packet, Directions::Both);
        let expected = reference::evaluate(
            compiler.inventory(),
            &Scope::Cluster,
            Verdict::Deny,
            &packet,
            Directions::Both,
        );
        assert_eq!(found, expected, "{name}: {}", packet_in_words(&packet));
    }
}

#[test]
fn large_policies_compile_in_linear_memory() {
    let text = TEXT as isize;
    compiles_within("exceptions", exceptions(), 40 * text, 10 * text);
    compiles_within("exceptions of IPv6", exceptions_of_ipv6(), 40 * text, 10 * text);
    compiles_within("nested blocks", nested(), 40 * text, 10 * text);
    compiles_within("negative selectors", negative_selectors(), 40 * text, 10 * text);
    compiles_within("names of ports", names(), 40 * text, 10 * text);
    compiles_within("selectors of all identities", selectors_of_all_identities(), 40 * text, 10 * text);
}

/// Each pod is selected by a different subset of large policies. The budget limits how many of their rulesets
/// there are.
#[test]
fn policies_in_many_rulesets_take_no_more_than_their_budget() {
    let budget = Budget { namespace: 1 << 16, total: 1 << 19 };
    let mut changes = vec![namespace("a", ""), node("n1", "192.168.0.1", "10.244.0.0/16")];
    changes.push(pod("a/other").labels("app=other").at("10.244.1.1").on("n1").into());
    changes.push(
        network_policy("a/small", "app=other")
            .ingress(rule().port(Some(Protocol::TCP), PortNumbers::Range(80, 80)))
            .into(),
    );
    changes.extend((0..100_u32).map(|number| {
        let labels: Vec<String> =
            (0..12).filter(|bit| number >> bit & 1 == 1).map(|bit| format!("l{bit}=yes")).collect();
        pod(&format!("a/{number}"))
            .labels(&labels.join(","))
            .at(&format!("10.244.0.{}", number + 1))
            .on("n1")
            .into()
    }));
    let mut compiler = Compiler::new(Scope::Node("n1".into())).budget(budget);
    compiler.apply(changes);
    let mut random = numbers();
    let large = (0..7).map(|bit| {
        let except: Vec<String> =
            (0..5_000).map(|_| format!("{}.{}.{}.1/32", random(223) + 1, random(256), random(256))).collect();
        let mut rule = rule().peer(block("0.0.0.0/0", except));
        rule.0.ports = Some(vec![ports_of(bit)]);
        Change::from(network_policy(&format!("a/large-{bit}"), &format!("l{bit}=yes")).ingress(rule))
    });
    let large: Vec<Change> = large.collect();
    let (snapshot, peak, kept) = memory(|| compiler.apply(large).snapshot);
    println!("many rulesets: {} kB at most, {} kB kept", peak / 1000, kept / 1000);
    assert!(peak < 30_000_000 && kept < 10_000_000, "{peak} bytes in use, {kept} kept");
    let refused: Vec<String> = compiler.refusals().map(|refusal| refusal.policy.to_string()).collect();
    assert!(refused.len() > 4 && !refused.contains(&"a/small".to_owned()), "{refused:?}");
    // Refused policies isolate; the others allow what their rules allow.
    let verdict = |to: &str, port| {
        let packet =
            Packet::new("198.51.100.1".parse().unwrap(), to.parse().unwrap(), Protocol::TCP).to_port(port);
        snapshot.evaluate(&packet, Directions::Both).verdict()
    };
    assert_eq!(verdict("10.244.0.100", 100), Verdict::Deny);
    assert_eq!(verdict("10.244.1.1", 80), Verdict::Allow);
}

/// Policies that come and go, each with different symbols, leave nothing behind.
#[test]
fn unused_symbols_and_ports_take_no_memory() {
    let (mut compiler, _) = common::compile(Scope::Node("n1".into()), Verdict::Deny, &cluster());
    let mut round = |number: u32| {
        let rules = (0..50).map(|of_round| {
            let pods = format!("app notin value-{number}-{of_round}");
            let mut rule = rule().pods_in("a", &pods);
            rule.0.ports = Some(vec![PortMatch {
                protocol: Some(Protocol::TCP),
                numbers: PortNumbers::Named(format!("p{number}-{of_round}").into()),
            }]);
            rule
        });
        let policy =
            rules.fold(network_policy("a/symbols", "app=server"), |policy, rule| policy.ingress(rule));
        let server = pod("a/server").labels("app=server").at("10.244.0.1").on("n1");
        let server = server.port(&format!("p{number}-0"), Protocol::TCP, 80);
        drop(compiler.apply([policy.into(), server.into()]));
    };
    (0..2_000).for_each(&mut round);
    let ((), _, kept) = memory(|| (2_000..6_000).for_each(&mut round));
    println!("symbols: {} kB kept", kept / 1000);
    assert!(kept < 16_000_000, "{kept} bytes kept after the policies were deleted");
}

/// Pods with labels that change repeatedly keep creating identities, and every ruleset may have an entry for
/// each. An agent keeps the snapshots of the last second, which share what did not change.
#[test]
fn label_churn_takes_bounded_memory() {
    const SNAPSHOTS: usize = 64;
    let mut random = numbers();
    let mut labelled = |number: u32| {
        let labels: Vec<String> =
            (0..50).filter(|_| random(2) == 0).map(|key| format!("k{key}=yes")).collect();
        let (pod, node) = (pod(&format!("a/{number}")), if number < 100 { "n1" } else { "n2" });
        let address = format!("10.244.{}.{}", number / 100, number % 100 + 1);
        Change::from(pod.labels(&labels.join(",")).at(&address).on(node))
    };
    let mut changes = vec![namespace("a", ""), node("n1", "192.168.0.1", "10.244.0.0/16")];
    changes.extend((0..50).map(|key| {
        let mut rule = rule().pods_in("a", &format!("k{key}"));
        rule.0.ports = Some(vec![ports_of(key)]);
        network_policy(&format!("a/p{key}"), &format!("k{key}")).ingress(rule).into()
    }));
    changes.extend((0..1_100).map(&mut labelled));
    let mut compiler = Compiler::new(Scope::Node("n1".into())).budget(Budget::default());
    let (mut snapshots, peak, kept) = memory(|| VecDeque::from([compiler.apply(changes).snapshot]));
    println!("many rulesets and identities: {} kB at most, {} kB kept", peak / 1000, kept / 1000);
    assert!(peak < 30_000_000 && kept < 15_000_000, "{peak} bytes in use, {kept} kept");
    let ((), peak, kept) = memory(|| {
        for number in 0..1_000 {
            snapshots.push_back(compiler.apply([labelled(number % 100)]).snapshot);
            if snapshots.len() > SNAPSHOTS {
                snapshots.pop_front();
            }
        }
    });
    println!("label churn: {} kB at most, {} kB kept", peak / 1000, kept / 1000);
    assert!(peak < 60_000_000, "{peak} bytes in use");
}
