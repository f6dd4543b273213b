//! Cluster-wide policies above and below NetworkPolicies: the compiled engine equals the reference over
//! random mixes of all three tiers, and only pods that policy may deny something are evaluated.

#![allow(clippy::unwrap_used, reason = "a world that can't be built is a bug in the test")]

mod common;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use common::build::*;
use common::probes::{A, B, C, D, cluster};
use common::scenario::packet_in_words;
use common::world::world_of_tiers;
use policy::explanation::RuleName;
use policy::{
    Action, Change, Compilation, Compiler, Direction, Directions, Inventory, Labels, Match, NamespaceMatch,
    Packet, Peer, Pod, PolicySpec, PortNumbers, RuleSpec, Scope, Snapshot, Tier, TierStep, Verdict,
    reference,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// How many packets have a property.
#[derive(Default)]
struct Counts(BTreeMap<String, u64>);

impl Counts {
    fn add(&mut self, property: impl Into<String>) {
        *self.0.entry(property.into()).or_default() += 1;
    }

    fn of(&self, property: &str) -> u64 {
        self.0.get(property).copied().unwrap_or_default()
    }
}

#[test]
fn compiled_equals_reference_in_mixes_of_all_tiers() {
    let counts = RefCell::new(Counts::default());
    let mut runner = TestRunner::new(Config { cases: 600, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&world_of_tiers(), |world| {
        for scope in [Scope::Cluster, Scope::Node("n1".into())] {
            let mut compiler = Compiler::new(scope.clone()).on_unknown_pod(world.on_unknown_pod);
            let mut before = compiler.apply([]).snapshot;
            for batch in &world.batches {
                let Compilation { snapshot, affected } = compiler.apply(batch.iter().cloned());
                let inventory = compiler.inventory();
                check_open(&snapshot, inventory)?;
                for (index, packet) in world.packets.iter().enumerate() {
                    let directions = if index % 8 == 7 { Directions::Egress } else { Directions::Both };
                    let expected =
                        reference::evaluate(inventory, &scope, world.on_unknown_pod, packet, directions);
                    let found = common::engine(&snapshot, packet, directions);
                    prop_assert_eq!(&found, &expected, "{:?}: {}", scope, packet_in_words(packet));
                    let tiers = common::check_tiers(inventory, &scope, &snapshot, packet, directions)?;
                    let mut counts = counts.borrow_mut();
                    for (steps, direction) in tiers.iter().zip([Direction::Egress, Direction::Ingress]) {
                        count(&mut counts, inventory, packet, steps, direction);
                        counts.add(format!("reason {}", found.explanation(direction).reason));
                    }
                    if scope != Scope::Cluster
                        && common::differ(&common::engine(&before, packet, directions), &found)
                    {
                        let (source, destination) = (packet.source(), packet.destination());
                        prop_assert!(
                            affected.contains(source, destination),
                            "not in {:?}: {}",
                            affected,
                            packet_in_words(packet)
                        );
                        counts.add(match batch.iter().all(is_of_cluster_policy) {
                            true => "changed by cluster-wide policies alone",
                            false => "changed by others",
                        });
                    }
                }
                before = snapshot;
            }
        }
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    let counts = counts.into_inner();
    for (property, count) in &counts.0 {
        println!("{count:8} {property}");
    }
    // The random clusters must be worth comparing: each way through the tiers is taken often.
    for property in [
        "Admin no-rules",
        "Admin no-match",
        "Admin passed",
        "Admin accepted",
        "Admin denied",
        "NetworkPolicy no-rules",
        "NetworkPolicy accepted",
        "NetworkPolicy isolated",
        "Baseline no-rules",
        "Baseline no-match",
        "Baseline passed",
        "Baseline accepted",
        "Baseline denied",
        "passed in Admin and in Baseline",
        "passed in Admin, decided by NetworkPolicy",
        "passed in Admin, decided by Baseline",
        "skipped a rule that denies",
        "decided before a policy of equal priority that matches",
        "denied on every port",
        "denied on some ports",
        "named port without a protocol",
        "network",
        "IPv6",
        "rule name",
        "reason unknown-peer",
        "reason unknown-labels",
        "changed by cluster-wide policies alone",
    ] {
        assert!(counts.of(property) >= 500, "{property}: only {} packets", counts.of(property));
    }
}

fn is_of_cluster_policy(change: &Change) -> bool {
    match change {
        Change::Policy(policy) => policy.tier != Tier::NetworkPolicy,
        Change::PolicyGone(name) => name.namespace.is_empty(),
        _ => false,
    }
}

/// Counts the properties of a packet's way through the tiers in one direction.
fn count(
    counts: &mut Counts,
    inventory: &Inventory,
    packet: &Packet,
    steps: &[TierStep],
    direction: Direction,
) {
    for step in steps {
        counts.add(format!("{} {}", step.tier.name(), step.result.code()));
    }
    let result = |tier: Tier| steps.iter().find(|step| step.tier == tier).map(|step| step.result.code());
    let decided = steps.last().filter(|step| step.result.is_decided());
    if result(Tier::Admin) == Some("passed") {
        if result(Tier::Baseline) == Some("passed") {
            counts.add("passed in Admin and in Baseline");
        }
        if let Some(step) = decided {
            counts.add(format!("passed in Admin, decided by {}", step.tier.name()));
        }
    }
    for step in steps {
        let Some(first) = step.result.rule() else { continue };
        let (policy, rule) = spec_of(inventory, first, direction);
        let later = later_matches(inventory, packet, policy, first.index, direction);
        if step.result.code() == "passed" && later.iter().any(|(_, rule)| rule.action == Action::Deny) {
            counts.add("skipped a rule that denies");
        }
        if policy.tier != Tier::NetworkPolicy
            && later.iter().any(|(later, _)| later.name != policy.name && later.priority == policy.priority)
        {
            counts.add("decided before a policy of equal priority that matches");
        }
        if step.result.code() == "denied" {
            counts.add(match rule.ports {
                None => "denied on every port",
                Some(_) => "denied on some ports",
            });
        }
        if step.tier == Tier::NetworkPolicy {
            continue;
        }
        let mut ports = rule.ports.iter().flatten();
        if ports.any(|port| port.protocol.is_none() && matches!(port.numbers, PortNumbers::Named(_))) {
            counts.add("named port without a protocol");
        }
        if rule.peers.iter().flatten().all(|peer| matches!(peer, Peer::Block(_))) {
            counts.add("network");
        }
        if packet.source().is_ipv6() {
            counts.add("IPv6");
        }
        if first.name.is_some() {
            counts.add("rule name");
        }
    }
}

fn spec_of<'a>(
    inventory: &'a Inventory,
    rule: &RuleName,
    direction: Direction,
) -> (&'a PolicySpec, &'a RuleSpec) {
    let policy = &inventory.policies[&*rule.policy];
    assert_eq!((policy.tier, policy.priority_in_tier()), (rule.tier, rule.priority));
    let spec = &rules_of(policy, direction)[rule.index];
    assert_eq!(spec.name, rule.name);
    (policy, spec)
}

fn rules_of(policy: &PolicySpec, direction: Direction) -> &[RuleSpec] {
    match direction {
        Direction::Ingress => &policy.ingress,
        Direction::Egress => &policy.egress,
    }
}

/// The rules of the same tier, after rule `index` of `first`, that would match the packet as well. Found by
/// the reference, in an inventory in which only this rule is left.
fn later_matches<'a>(
    inventory: &'a Inventory,
    packet: &Packet,
    first: &PolicySpec,
    index: usize,
    direction: Direction,
) -> Vec<(&'a PolicySpec, &'a RuleSpec)> {
    let order = |policy: &PolicySpec| (policy.priority, policy.name.clone());
    let after = inventory.policies.values().filter(|policy| policy.tier == first.tier);
    let after = after.filter(|policy| order(policy) >= order(first));
    let rules = after.flat_map(|policy| {
        let from = if policy.name == first.name { index + 1 } else { 0 };
        rules_of(policy, direction).iter().skip(from).map(move |rule| (&**policy, rule))
    });
    let matches = |(policy, rule): &(&PolicySpec, &RuleSpec)| {
        let mut alone = PolicySpec { ingress: Vec::new(), egress: Vec::new(), ..(*policy).clone() };
        match direction {
            Direction::Ingress => alone.ingress.push((*rule).clone()),
            Direction::Egress => alone.egress.push((*rule).clone()),
        }
        let policies = [(alone.name.clone(), alone.into())].into();
        let inventory = Inventory { policies, ..inventory.clone() };
        reference::tiers(&inventory, &Scope::Cluster, packet, Directions::Both, direction)
            .iter()
            .any(|step| step.result.rule().is_some())
    };
    rules.filter(matches).collect()
}

/// Checks which addresses need no verdict, by reading all policies of each pod.
fn check_open(snapshot: &Snapshot, inventory: &Inventory) -> Result<(), TestCaseError> {
    for direction in [Direction::Ingress, Direction::Egress] {
        let found: BTreeSet<IpAddr> = snapshot.open_addresses(direction).collect();
        let is_open = |address: &IpAddr| {
            let pod = snapshot.pod(*address).unwrap();
            let mut policies = inventory.policies.values();
            !policies.any(|policy| selects(inventory, policy, pod) && might_deny(policy, direction))
        };
        let expected: BTreeSet<IpAddr> = snapshot.evaluated_addresses().filter(is_open).collect();
        prop_assert_eq!(found, expected, "{:?}", direction);
    }
    Ok(())
}

/// Whether a policy selects a pod, or might.
fn selects(inventory: &Inventory, policy: &PolicySpec, pod: &Pod) -> bool {
    let namespace = &*pod.name.namespace;
    let of_namespace = match &policy.subject.namespaces {
        NamespaceMatch::Named(name) => Match::from(**name == *namespace),
        NamespaceMatch::Labels(selector) => {
            let known = inventory.namespaces.get(namespace).map(|known| known.labels.clone());
            selector.matches_namespace(namespace, &known.unwrap_or_else(Labels::unknown))
        }
    };
    of_namespace.min(policy.subject.pods.matches(&pod.labels)) != Match::No
}

/// Whether a policy isolates its pods in a direction, or has a rule there that does not accept.
fn might_deny(policy: &PolicySpec, direction: Direction) -> bool {
    match (policy.tier, direction) {
        (Tier::NetworkPolicy, Direction::Ingress) => policy.isolates_ingress,
        (Tier::NetworkPolicy, Direction::Egress) => policy.isolates_egress,
        _ => rules_of(policy, direction).iter().any(|rule| rule.action != Action::Accept),
    }
}

/// The pods of the small cluster whose packets are evaluated after these changes, as `ingress | egress`.
#[track_caller]
fn assert_evaluated(changes: impl IntoIterator<Item = PolicyBuilder>, expected: &str) {
    let changes: Vec<Change> = cluster().into_iter().chain(changes.into_iter().map(Change::from)).collect();
    let (_, snapshot) = common::compile(Scope::Node("n1".into()), Verdict::Deny, &changes);
    let evaluated = |direction| {
        let open: BTreeSet<IpAddr> = snapshot.open_addresses(direction).collect();
        let pods = [("a", A), ("b", B), ("c", C), ("d", D)].into_iter();
        let evaluated = pods.filter(|(_, address)| !open.contains(&address.parse::<IpAddr>().unwrap()));
        evaluated.map(|(pod, _)| pod).collect::<Vec<_>>().join(" ")
    };
    let found = format!("{} | {}", evaluated(Direction::Ingress), evaluated(Direction::Egress));
    assert_eq!(found, expected, "{}", common::scenario::Scenario(&changes));
}

fn admin(pods: &str) -> PolicyBuilder {
    let mut policy = cluster_policy("admin", Tier::Admin, 10);
    policy.0.subject.pods = selector(pods);
    policy
}

fn baseline(pods: &str) -> PolicyBuilder {
    let mut policy = cluster_policy("baseline", Tier::Baseline, 10);
    policy.0.subject.pods = selector(pods);
    policy
}

fn deny() -> RuleBuilder {
    rule().action(Action::Deny).pods("", "")
}

#[test]
fn s54_only_subjects_are_evaluated_and_only_in_directions_with_rules() {
    assert_evaluated([], " | ");
    assert_evaluated([admin("app=a").ingress(deny())], "a | ");
    assert_evaluated([admin("app=a").egress(deny())], " | a");
    assert_evaluated([baseline("app in a|b").egress(deny()).ingress(deny())], "a b | a b");
    // A policy without rules.
    assert_evaluated([admin(""), baseline("")], " | ");
    // A pod that is only a peer.
    let of_d = rule().action(Action::Deny).pods("", "app=d").tcp(80);
    assert_evaluated([admin("app=a").ingress(of_d)], "a | ");
    // Beside a NetworkPolicy, each for its own pods.
    let network_policy = network_policy("db/p", "").isolate_egress();
    assert_evaluated([network_policy, admin("app=a").ingress(deny())], "a | d");
}

#[test]
fn s54_a_pod_that_rules_can_only_accept_is_not_evaluated() {
    let accept = || rule().pods("", "app=d").tcp(80);
    assert_evaluated([admin("").ingress(accept()).egress(accept())], " | ");
    assert_evaluated([admin("").ingress(accept()), baseline("").ingress(accept())], " | ");
    // Another policy may deny the pod something.
    assert_evaluated([admin("").ingress(accept()), baseline("app=b").ingress(deny())], "b | ");
    let network_policy = network_policy("db/p", "").isolate_ingress();
    assert_evaluated([admin("").ingress(accept()), network_policy], "d | ");
    // A rule after the one that accepts.
    assert_evaluated([admin("app=c").ingress(accept()).ingress(deny())], "c | ");
    // A Pass leads to a denial only with another rule. It is counted as one nevertheless.
    assert_evaluated([admin("app=c").egress(deny().action(Action::Pass))], " | c");
}

#[test]
fn s37_a_pod_that_a_rule_might_deny_is_evaluated() {
    let mut changes = cluster();
    changes.push(pod("web/b").unknown_labels().at(B).into());
    changes.push(admin("app=b").egress(deny()).into());
    let (_, snapshot) = common::compile(Scope::Node("n1".into()), Verdict::Deny, &changes);
    let open: Vec<IpAddr> = snapshot.open_addresses(Direction::Egress).collect();
    assert_eq!(open, [A, C, D].map(|address| address.parse::<IpAddr>().unwrap()));
}

/// The tiers of a packet's ingress in words.
fn walk(changes: impl IntoIterator<Item = PolicyBuilder>, packet: &Packet) -> Vec<String> {
    let changes: Vec<Change> = cluster().into_iter().chain(changes.into_iter().map(Change::from)).collect();
    let (compiler, snapshot) = common::compile(Scope::Cluster, Verdict::Deny, &changes);
    common::check_tiers(compiler.inventory(), &Scope::Cluster, &snapshot, packet, Directions::Both).unwrap();
    let decision = snapshot.evaluate(packet, Directions::Both);
    let steps = snapshot.tiers(packet, &decision, Direction::Ingress);
    let in_words = |step: TierStep| {
        let rule = step.result.rule().map(|rule| {
            let priority = rule.priority.map(|priority| format!("@{priority}")).unwrap_or_default();
            format!(" {}{priority}[{}]", rule.policy, rule.index)
        });
        format!("{} {}{}", step.tier.name(), step.result.code(), rule.unwrap_or_default())
    };
    steps.into_iter().map(in_words).collect()
}

#[test]
fn the_tiers_are_listed_up_to_the_one_that_decides() {
    let pass = || rule().action(Action::Pass).pods("", "");
    let accept = || rule().pods("", "app=b");
    let packet = tcp(B, A, 80);
    assert_eq!(walk([], &packet), ["Admin no-rules", "NetworkPolicy no-rules", "Baseline no-rules"]);
    assert_eq!(walk([admin("").ingress(deny())], &packet), ["Admin denied admin@10[0]"]);
    assert_eq!(
        walk([admin("").ingress(pass()).ingress(deny()), baseline("").ingress(accept())], &packet),
        ["Admin passed admin@10[0]", "NetworkPolicy no-rules", "Baseline accepted baseline@10[0]"]
    );
    let isolating = || network_policy("web/p", "").isolate_ingress();
    assert_eq!(
        walk([admin("").ingress(deny().tcp(81)), isolating(), baseline("").ingress(accept())], &packet),
        ["Admin no-match", "NetworkPolicy isolated"]
    );
    assert_eq!(
        walk([isolating().ingress(accept())], &packet),
        ["Admin no-rules", "NetworkPolicy accepted web/p[0]"]
    );
    assert_eq!(
        walk([baseline("").ingress(pass()).ingress(deny())], &packet),
        ["Admin no-rules", "NetworkPolicy no-rules", "Baseline passed baseline@10[0]"]
    );
    // No policy is evaluated: a pod reaches its own address.
    assert_eq!(walk([admin("").ingress(deny())], &tcp(A, A, 80)), [] as [&str; 0]);
}

#[test]
fn an_explanation_names_tier_priority_and_rule_of_a_cluster_wide_policy() {
    let mut no_ssh = deny().tcp(22);
    no_ssh.0.name = Some("no-ssh".into());
    let accept = rule().pods("", "app=b").tcp(22);
    let network_policy = network_policy("web/p", "app=c").ingress(accept);
    let policies = [admin("app=a").ingress(no_ssh), network_policy].map(Change::from);
    let changes: Vec<Change> = cluster().into_iter().chain(policies).collect();
    let (_, snapshot) = common::compile(Scope::Cluster, Verdict::Deny, &changes);
    let explained = |packet: Packet| {
        let decision = snapshot.evaluate(&packet, Directions::Both);
        snapshot.explain(&packet, &decision, Direction::Ingress).to_string()
    };
    assert_eq!(
        explained(tcp(B, A, 22)),
        "denied by ClusterNetworkPolicy admin (tier Admin, priority 10), ingress[0] \"no-ssh\""
    );
    assert_eq!(explained(tcp(B, C, 22)), "allowed by NetworkPolicy web/p, ingress[0]");
}
