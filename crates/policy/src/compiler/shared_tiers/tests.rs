//! Pods with different NetworkPolicies share the rules of cluster-wide policies.

use std::net::IpAddr;

use super::*;
use crate::compiler::{Compiler, Scope};
use crate::inventory::{Change, Namespace, Pod};
use crate::labels::Labels;
use crate::names::{PodName, PolicyKind, PolicyName};
use crate::selector::{Requirement, Selector};
use crate::snapshot::Snapshot;
use crate::spec::{Action, NamespaceMatch, Peer, PolicySpec, RuleSpec, Subject};

fn app(name: &str) -> Selector {
    Selector::All([Requirement::In("app".into(), [Arc::from(name)].into())].into())
}

fn pod(name: &str, address: [u8; 4]) -> Change {
    Change::Pod(Pod {
        name: PodName::new("web", name),
        labels: [("app", name)].into_iter().collect(),
        addresses: vec![IpAddr::from(address)],
        ports: Vec::new(),
        node: None,
        host_network: false,
        reported: 0,
        created: 0,
        uid: Default::default(),
        workload: None,
    })
}

/// A policy with one ingress rule about the pods of an app. A NetworkPolicy selects the pods of its name.
fn policy(name: &str, tier: Tier, peer: &str) -> Change {
    let every_namespace = || NamespaceMatch::Labels(Selector::everything());
    let is_namespaced = tier == Tier::NetworkPolicy;
    let peers = vec![Peer::Pods { namespaces: every_namespace(), pods: app(peer) }];
    Change::Policy(Arc::new(PolicySpec {
        name: match is_namespaced {
            true => PolicyName::network_policy("web", name),
            false => {
                PolicyName { kind: PolicyKind::ClusterNetworkPolicy, namespace: "".into(), name: name.into() }
            }
        },
        tier,
        priority: 0,
        subject: Subject {
            namespaces: every_namespace(),
            pods: if is_namespaced { app(name) } else { Selector::everything() },
        },
        isolates_ingress: is_namespaced,
        isolates_egress: false,
        ingress: vec![RuleSpec { name: None, action: Action::Accept, peers: Some(peers), ports: None }],
        egress: Vec::new(),
        omitted: None,
    }))
}

/// The ingress rules of a tier for the pods `a` and `b`.
fn rules_of(snapshot: &Snapshot, tier: Tier) -> [Arc<TierRules>; 2] {
    ["a", "b"].map(|name| {
        let of_pod = |address: &IpAddr| snapshot.pod_at(*address).is_some_and(|pod| &*pod.name == name);
        let address = snapshot.evaluated_addresses().find(of_pod).expect("a pod");
        let entry = snapshot.ipcache.get(address).expect("an entry");
        let identity = entry.pod.as_ref().expect("a pod").identity();
        let rulesets = snapshot.rulesets[identity.index()].as_ref().expect("rulesets");
        let rules = rulesets.ingress.tiers.iter().find(|rules| rules.tier == tier);
        Arc::clone(rules.expect("rules of the tier"))
    })
}

#[test]
fn rulesets_share_the_rules_of_tiers_with_the_same_policies() {
    let mut compiler = Compiler::new(Scope::Cluster);
    let labels: Labels = [("kubernetes.io/metadata.name", "web")].into_iter().collect();
    let namespace = Change::Namespace(Namespace { name: "web".into(), labels });
    let pods = [pod("a", [10, 0, 0, 1]), pod("b", [10, 0, 0, 2])];
    let network_policies =
        [policy("a", Tier::NetworkPolicy, "client"), policy("b", Tier::NetworkPolicy, "client")];
    let changes = [namespace, policy("guard", Tier::Admin, "client")];
    let first = compiler.apply(changes.into_iter().chain(pods).chain(network_policies)).snapshot;
    let [a, b] = rules_of(&first, Tier::Admin);
    assert!(Arc::ptr_eq(&a, &b), "both pods have the policy");
    let [of_a, of_b] = rules_of(&first, Tier::NetworkPolicy);
    assert!(!Arc::ptr_eq(&of_a, &of_b), "each pod has its own policy");

    // A new identity extends the rules once for all rulesets. The older snapshot keeps its rules.
    let second = compiler.apply([pod("client", [10, 0, 0, 3])]).snapshot;
    let [extended, same] = rules_of(&second, Tier::Admin);
    assert!(Arc::ptr_eq(&extended, &same) && !Arc::ptr_eq(&extended, &a));

    // A change of one tier builds no other tier again.
    let third = compiler.apply([policy("guard", Tier::Admin, "other")]).snapshot;
    let [changed, same] = rules_of(&third, Tier::Admin);
    assert!(Arc::ptr_eq(&changed, &same) && !Arc::ptr_eq(&changed, &extended));
    let [kept, _] = rules_of(&second, Tier::NetworkPolicy);
    let [unchanged, _] = rules_of(&third, Tier::NetworkPolicy);
    assert!(Arc::ptr_eq(&kept, &unchanged));
}

#[test]
fn rules_that_no_ruleset_has_are_dropped() {
    let mut compiler = Compiler::new(Scope::Cluster);
    compiler.apply([pod("a", [10, 0, 0, 1])]);
    for turn in 0..100 {
        compiler.apply([policy("guard", Tier::Admin, &format!("app-{turn}"))]);
    }
    let shared = compiler.compiled.shared_tiers();
    assert_eq!((shared.tiers.len(), shared.ids.len()), (1, 1));
    compiler.apply([Change::PodGone(PodName::new("web", "a"))]);
    let shared = compiler.compiled.shared_tiers();
    assert!(shared.is_empty() && shared.ids.is_empty());
}
