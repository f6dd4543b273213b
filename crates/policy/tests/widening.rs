//! Unknown never widens access: if part of a random cluster can't be read or has not been read, no packet is
//! allowed that was denied.

mod common;

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;

use common::scenario::{Scenario, packet_in_words};
use common::world::{World, world};
use policy::{
    Action, Change, Compiler, Directions, Inventory, Labels, Namespace, NamespaceMatch, Node, Peer, Pod,
    PolicySpec, Scope, Selector, Tier, Verdict,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// The number of random clusters, unless the environment variable `PROPTEST_CASES` is set.
const CASES: u32 = 4_000;

#[test]
fn what_becomes_unknown_allows_no_packet_that_was_denied() {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    let (packets, denied, narrowed, provisional) =
        (Cell::new(0_u64), Cell::new(0), Cell::new(0), Cell::new(0));
    let count = |cell: &Cell<u64>, more: bool| cell.set(cell.get() + u64::from(more));
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&(world(), vec(any::<u8>(), 64)), |(world, choices)| {
        let known = inventory(&world);
        let changes = forget(&known, &choices);
        for scope in [Scope::Cluster, Scope::Node("n1".into())] {
            let all = everything(&known);
            let mut compiler = Compiler::new(scope.clone());
            let before = compiler.apply(all.iter().cloned()).snapshot;
            let after = compiler.apply(changes.iter().cloned()).snapshot;
            for packet in &world.packets {
                let was = before.evaluate(packet, Directions::Both).verdict();
                let decision = after.evaluate(packet, Directions::Both);
                prop_assert!(
                    was == Verdict::Allow || decision.verdict() == Verdict::Deny,
                    "{scope:?}: {} was denied in{}\nand is allowed after{}",
                    packet_in_words(packet),
                    Scenario(&all),
                    Scenario(&changes)
                );
                count(&packets, true);
                count(&denied, was == Verdict::Deny);
                count(&narrowed, was != decision.verdict());
                count(&provisional, decision.is_provisional());
            }
        }
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    let [packets, denied, narrowed, provisional] =
        [packets, denied, narrowed, provisional].map(|cell| cell.get());
    println!("{packets} packets, {denied} were denied, {narrowed} only since, {provisional} provisionally");
    assert!(cases < CASES || packets >= 200_000, "{packets} packets");
    for (what, number) in [("denied", denied), ("narrowed", narrowed), ("provisional", provisional)] {
        assert!(number * 50 >= packets, "only {number} of {packets} {what}");
    }
}

/// The inventory after all changes.
fn inventory(world: &World) -> Inventory {
    let mut inventory = Inventory::default();
    world.batches.iter().flatten().cloned().for_each(|change| inventory.apply(change));
    inventory
}

/// The changes that create an inventory.
fn everything(inventory: &Inventory) -> Vec<Change> {
    let Inventory { namespaces, pods, nodes, policies } = inventory;
    let mut pods: Vec<_> = pods.values().map(|pod| Pod::clone(pod)).collect();
    pods.sort_by(|a, b| a.name.cmp(&b.name));
    let namespaces = namespaces.values().cloned().map(Change::Namespace);
    let nodes = nodes.values().cloned().map(Change::Node);
    let policies = policies.values().cloned().map(Change::Policy);
    namespaces.chain(nodes).chain(pods.into_iter().map(Change::Pod)).chain(policies).collect()
}

/// Makes part of it unknown as sources do: labels, whole pods and namespaces, and policies in part or as a
/// whole.
fn forget(known: &Inventory, choices: &[u8]) -> Vec<Change> {
    let mut choices = choices.iter().cycle().copied();
    let mut choose = || choices.next().unwrap_or(0) % 8;
    let forgotten = everything(known).into_iter().filter_map(|change| match (change, choose()) {
        (Change::Namespace(namespace), 0) => Some(Change::NamespaceGone(namespace.name)),
        (Change::Namespace(namespace), 1 | 2) => {
            Some(Change::Namespace(Namespace { labels: Labels::unknown(), ..namespace }))
        }
        (Change::Pod(pod), 0) if is_where_it_belongs(&pod, known) => Some(Change::PodGone(pod.name)),
        (Change::Node(node), 1 | 2) => Some(Change::Node(Node { labels: Labels::unknown(), ..node })),
        (Change::Pod(pod), 1 | 2) => Some(Change::Pod(Pod { labels: Labels::unknown(), ..pod })),
        (Change::Policy(policy), 0) => part_of(&policy),
        (Change::Policy(policy), 1) => close(&policy),
        _ => None,
    });
    forgotten.collect()
}

/// Whether the pod's addresses are all in the pod CIDRs of its node, as those of real pods are, and no other
/// pod has one of them. Otherwise its address would go to the older pod merely because the newer one can't be
/// read.
fn is_where_it_belongs(pod: &Pod, known: &Inventory) -> bool {
    let node = pod.node.as_ref().and_then(|node| known.nodes.get(node));
    let is_here = |address: &IpAddr| {
        node.is_some_and(|node| {
            node.pod_cidrs.iter().any(|cidr| cidr.contains(address))
                && !node.own_addresses().any(|own| own == *address)
        })
    };
    let others = || known.pods.values().filter(|other| other.name != pod.name);
    pod.addresses
        .iter()
        .all(|address| is_here(address) && !others().any(|other| other.addresses.contains(address)))
}

/// The policy with a peer in its first rule that can't be understood.
fn part_of(policy: &PolicySpec) -> Option<Change> {
    let mut policy = policy.clone();
    let rule = policy.ingress.iter_mut().chain(&mut policy.egress).next()?;
    if policy.tier != Tier::NetworkPolicy && rule.action != Action::Accept {
        // A rule that can't be understood denies everything (semantics 59).
        (rule.action, rule.peers, rule.ports) = (Action::Deny, None, None);
        return Some(Change::Policy(Arc::new(policy)));
    }
    match &mut rule.peers {
        Some(peers) => *peers.first_mut()? = Peer::Nothing,
        peers => *peers = Some(Vec::new()),
    }
    Some(Change::Policy(Arc::new(policy)))
}

/// The policy as it is enforced if only its namespace can be read; or, if it is cluster-wide, only its rules
/// (semantics 59).
fn close(policy: &PolicySpec) -> Option<Change> {
    let mut policy = policy.clone();
    if policy.tier != Tier::NetworkPolicy {
        policy.subject.namespaces = NamespaceMatch::Labels(Selector::everything());
        policy.subject.pods = Selector::everything();
        (policy.tier, policy.priority) = (Tier::Admin, 0);
        for rule in policy.ingress.iter_mut().chain(&mut policy.egress) {
            match rule.action {
                Action::Accept => rule.peers = Some(Vec::new()),
                Action::Deny | Action::Pass => rule.action = Action::Deny,
            }
        }
        return Some(Change::Policy(Arc::new(policy)));
    }
    policy.subject.pods = Selector::everything();
    (policy.isolates_ingress, policy.isolates_egress) = (true, true);
    (policy.ingress, policy.egress) = (Vec::new(), Vec::new());
    Some(Change::Policy(Arc::new(policy)))
}
