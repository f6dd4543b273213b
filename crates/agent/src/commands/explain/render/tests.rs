//! Answers in which cluster-wide policies take part: the tiers are listed up to the one that decides.

use std::net::IpAddr;
use std::sync::Arc;

use policy::{
    Action, Change, Compiler, Labels, Namespace, NamespaceMatch, Packet, Peer, Pod, PodName, PolicyKind,
    PolicyName, PolicySpec, Protocol, RuleSpec, Scope, Selector, Subject,
};

use super::super::endpoint::ResolvedEndpoint;
use super::*;

const A: &str = "10.244.1.2";
const DB: &str = "10.244.2.2";

fn address(text: &str) -> IpAddr {
    text.parse().expect("address")
}

fn pod(namespace: &str, name: &str, at: &str) -> [Change; 2] {
    let labels: Labels = [("kubernetes.io/metadata.name", namespace)].into_iter().collect();
    let pod = Pod {
        name: PodName::new(namespace, name),
        labels: Labels::none(),
        addresses: vec![address(at)],
        ports: Vec::new(),
        node: None,
        host_network: false,
        reported: 0,
        created: 0,
        uid: Default::default(),
        workload: None,
    };
    [Change::Namespace(Namespace { name: namespace.into(), labels }), Change::Pod(pod)]
}

/// A rule about all pods.
fn rule(name: Option<&str>, action: Action) -> RuleSpec {
    let namespaces = NamespaceMatch::Labels(Selector::everything());
    let peers = vec![Peer::Pods { namespaces, pods: Selector::everything() }];
    RuleSpec { name: name.map(Arc::from), action, peers: Some(peers), ports: None }
}

/// A policy for the ingress of all pods, or of a NetworkPolicy's namespace.
fn policy(name: &str, tier: Tier, priority: u16, ingress: Vec<RuleSpec>) -> Change {
    let name = match name.split_once('/') {
        Some((namespace, name)) => PolicyName::network_policy(namespace, name),
        None => {
            PolicyName { kind: PolicyKind::ClusterNetworkPolicy, namespace: "".into(), name: name.into() }
        }
    };
    let namespaces = match tier {
        Tier::NetworkPolicy => NamespaceMatch::Named(Arc::clone(&name.namespace)),
        Tier::Admin | Tier::Baseline => NamespaceMatch::Labels(Selector::everything()),
    };
    Change::Policy(Arc::new(PolicySpec {
        name,
        tier,
        priority,
        subject: Subject { namespaces, pods: Selector::everything() },
        isolates_ingress: tier == Tier::NetworkPolicy,
        isolates_egress: false,
        ingress,
        egress: Vec::new(),
        omitted: None,
    }))
}

/// The answer about web/a to db/db under these policies.
fn answer(policies: impl IntoIterator<Item = Change>) -> Answer {
    let mut compiler = Compiler::new(Scope::Cluster);
    let pods = [pod("web", "a", A), pod("db", "db", DB)].into_iter().flatten();
    let snapshot = compiler.apply(pods.chain(policies)).snapshot;
    let end = |text| ResolvedEndpoint { pod: None, addresses: vec![address(text)] };
    let packet = Packet::new(address(A), address(DB), Protocol::TCP).to_port(5432);
    Answer::new(&snapshot, compiler.inventory(), &end(A), &end(DB), &[packet]).expect("an answer")
}

/// Checks the verdict, and the reasons that are shown for the ingress of db/db.
#[track_caller]
fn assert_shown(policies: impl IntoIterator<Item = Change>, verdict: Verdict, expected: &str) {
    let answer = answer(policies);
    assert_eq!(answer.ingress.verdict, verdict);
    let text = render(&answer, 120).to_string();
    let (_, ingress) = text.split_once("ingress of db/db: ").expect("ingress");
    let (_, reasons) = ingress.split_once('\n').expect("reasons");
    assert_eq!(reasons.trim(), expected.trim());
}

#[test]
fn a_denial_by_tier_admin_names_tier_priority_and_rule() {
    let rules = vec![rule(None, Action::Deny)];
    assert_shown(
        [policy("guard", Tier::Admin, 10, rules)],
        Verdict::Deny,
        "\
  guard ingress[0] of tier Admin decides
  tier Admin  guard ingress[0], priority 10: the first match denies
",
    );
}

#[test]
fn tiers_that_did_not_decide_say_why() {
    let pass = || policy("guard", Tier::Admin, 10, vec![rule(Some("tenants"), Action::Pass)]);
    let isolating = |rules| policy("db/allow-web", Tier::NetworkPolicy, 0, rules);
    assert_shown(
        [pass(), isolating(vec![rule(None, Action::Accept)])],
        Verdict::Allow,
        "\
  db/allow-web ingress[0] of tier NetworkPolicy decides
  tier Admin          guard ingress[0] (tenants), priority 10: the first match passes, so the rest of the tier is
                      skipped
  tier NetworkPolicy  db/allow-web ingress[0]: the first match accepts
",
    );
    assert_shown(
        [pass(), isolating(Vec::new())],
        Verdict::Deny,
        "\
  policies isolate the pod in this direction and none of their rules matches
  isolated by         db/allow-web
  nearest miss        none: no rule matches either the peer or the port
  tier Admin          guard ingress[0] (tenants), priority 10: the first match passes, so the rest of the tier is
                      skipped
  tier NetworkPolicy  policies isolate the pod and no rule matches
",
    );
    let nothing = RuleSpec { peers: Some(vec![Peer::Nothing]), ..rule(None, Action::Deny) };
    assert_shown(
        [
            policy("guard", Tier::Admin, 10, vec![nothing]),
            policy("default", Tier::Baseline, 0, vec![rule(None, Action::Deny)]),
        ],
        Verdict::Deny,
        "\
  default ingress[0] of tier Baseline decides
  tier Admin          no rule matches
  tier NetworkPolicy  no rule applies to the pod in this direction
  tier Baseline       default ingress[0], priority 0: the first match denies
",
    );
}

#[test]
fn json_lists_the_tiers() {
    let rules = vec![rule(Some("tenants"), Action::Pass)];
    let json = serde_json::to_value(answer([policy("guard", Tier::Admin, 10, rules)])).expect("JSON");
    let ingress = &json["ingress"];
    assert_eq!(ingress["reason"], "not-isolated");
    assert_eq!(ingress["tier"], serde_json::Value::Null);
    assert_eq!(
        ingress["tiers"][0],
        serde_json::json!({
            "tier": "Admin",
            "result": "passed",
            "sentence": "the first match passes, so the rest of the tier is skipped",
            "policy": "guard",
            "priority": 10,
            "rule": 0,
            "rule_name": "tenants",
        })
    );
    let results: Vec<_> = ingress["tiers"].as_array().expect("tiers").iter().map(|t| &t["result"]).collect();
    assert_eq!(results, ["passed", "no-rules", "no-rules"]);
}
