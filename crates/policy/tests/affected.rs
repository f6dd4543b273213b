//! Which connections a change affects, in scenarios. `property.rs` checks the same for random clusters.
#![allow(clippy::unwrap_used, reason = "a scenario that can't be built is a bug in the test")]

mod common;

use std::net::IpAddr;

use common::build::*;
use policy::{Action, Affected, AffectedPeers, Change, Compiler, Labels, PolicyName, Scope, Tier};

/// Pods of this node: `web` admits pods with `app=client`, `db` admits any, and `open` has no policy.
const WEB: &str = "10.244.1.2";
const DB: &str = "10.244.1.3";
const OPEN: &str = "10.244.1.4";
/// A pod on another node.
const FAR: &str = "10.244.2.2";

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn far(labels: &str) -> Change {
    pod("shop/far").labels(labels).at(FAR).on("n2").into()
}

/// A compiler for `n1` with this cluster.
fn compiler() -> Compiler {
    let web = network_policy("shop/web", "app=web").ingress(rule().pods_in("shop", "app=client").tcp(80));
    let db = network_policy("shop/db", "app=db").ingress(rule().tcp(5432));
    let mut compiler = Compiler::new(Scope::Node("n1".into()));
    let changes: [Change; 9] = [
        namespace("shop", ""),
        node("n1", "192.168.0.1", "10.244.1.0/24"),
        node("n2", "192.168.0.2", "10.244.2.0/24"),
        pod("shop/web").labels("app=web").at(WEB).on("n1").into(),
        pod("shop/db").labels("app=db").at(DB).on("n1").into(),
        pod("shop/open").labels("app=open").at(OPEN).on("n1").into(),
        far("app=other"),
        web.into(),
        db.into(),
    ];
    assert_eq!(compiler.apply(changes).affected, Affected::All, "the first compilation");
    compiler
}

fn affected(compiler: &mut Compiler, change: impl Into<Change>) -> Affected {
    compiler.apply([change.into()]).affected
}

fn with_peers(of: &str, peers: &[&str]) -> Affected {
    let peers = peers.iter().map(|peer| address(peer)).collect();
    Affected::Addresses([(address(of), AffectedPeers::Only(std::sync::Arc::new(peers)))].into())
}

#[test]
fn a_remote_pod_affects_its_connections_with_pods_that_have_rules_its_change_matters_to() {
    let mut compiler = compiler();
    assert_eq!(
        affected(&mut compiler, far("app=other,version=2")),
        Affected::NONE,
        "no policy refers to the label"
    );
    assert_eq!(
        affected(&mut compiler, far("app=another")),
        Affected::NONE,
        "no rule distinguishes the values"
    );
    assert_eq!(affected(&mut compiler, far("app=client")), with_peers(FAR, &[WEB]));
    assert_eq!(affected(&mut compiler, Change::PodGone(pod_name("shop/far"))), with_peers(FAR, &[WEB]));
    let unknown_until_now = affected(&mut compiler, far("app=other"));
    assert_eq!(unknown_until_now, with_peers(FAR, &[WEB]), "the rule might have matched");
}

#[test]
fn a_pod_of_the_node_affects_all_its_connections_if_it_is_replaced_or_gets_other_policies() {
    let mut compiler = compiler();
    let web = |labels: &str| pod("shop/web").labels(labels).at(WEB).on("n1");
    assert_eq!(affected(&mut compiler, web("app=web,version=2")), Affected::NONE);
    assert_eq!(affected(&mut compiler, web("app=db")), Affected::any_peer([address(WEB)]));
    let gone = affected(&mut compiler, Change::PodGone(pod_name("shop/web")));
    assert_eq!(gone, Affected::any_peer([address(WEB)]));
    // Only as a peer.
    let open = pod("shop/open").labels("app=client").at(OPEN).on("n1");
    let mut compiler = self::compiler();
    assert_eq!(affected(&mut compiler, open), with_peers(OPEN, &[WEB]));
}

#[test]
fn a_policy_affects_the_pods_of_the_node_that_it_selects_or_selected_before() {
    let mut compiler = compiler();
    let web = || network_policy("shop/web", "app=web").ingress(rule().pods_in("shop", "app=client").tcp(80));
    assert_eq!(affected(&mut compiler, web()), Affected::NONE, "the policy is unchanged");
    assert_eq!(affected(&mut compiler, web().ingress(rule().tcp(81))), Affected::any_peer([address(WEB)]));
    let moved = network_policy("shop/web", "app=open").isolate_ingress();
    assert_eq!(affected(&mut compiler, moved), Affected::any_peer([address(WEB), address(OPEN)]));
    let gone = Change::PolicyGone(PolicyName::network_policy("shop", "web"));
    assert_eq!(affected(&mut compiler, gone), Affected::any_peer([address(OPEN)]));
    let elsewhere = network_policy("shop/elsewhere", "app=other").isolate_ingress();
    assert_eq!(affected(&mut compiler, elsewhere), Affected::NONE, "it selects pods of other nodes");
}

#[test]
fn a_rule_that_refers_to_a_new_label_affects_the_pods_that_the_policy_selects() {
    let mut compiler = compiler();
    let changed =
        network_policy("shop/web", "app=web").ingress(rule().pods_in("shop", "app=client,tier=front"));
    assert_eq!(affected(&mut compiler, changed), Affected::any_peer([address(WEB)]));
    assert_eq!(affected(&mut compiler, far("app=client,tier=front")), with_peers(FAR, &[WEB]));
}

#[test]
fn pod_cidrs_affect_all_connections_and_a_node_address_affects_its_own() {
    let mut compiler = compiler();
    assert_eq!(affected(&mut compiler, node("n2", "192.168.0.2", "10.244.3.0/24")), Affected::All);
    let moved = affected(&mut compiler, node("n2", "192.168.0.7", "10.244.3.0/24"));
    let [old, new] = ["192.168.0.2", "192.168.0.7"].map(address);
    assert!(moved.has(old) && moved.has(new) && !moved.has(address(WEB)), "{moved:?}");
}

#[test]
fn s56_a_node_affects_the_pods_that_have_a_rule_for_it() {
    let mut compiler = compiler();
    let n2 = |address: &str, labels: Labels| labelled_node("n2", address, "10.244.2.0/24", labels);
    let is = |text: &str| labels(text);
    assert_eq!(
        affected(&mut compiler, n2("192.168.0.2", is("pool=edge"))),
        Affected::NONE,
        "no rule has nodes"
    );
    let mut deny = cluster_policy("k", Tier::Admin, 1)
        .egress(rule().action(Action::Deny).nodes("pool=edge"))
        .egress(rule().nodes("!pool"));
    deny.0.subject.pods = selector("app=web");
    assert_eq!(affected(&mut compiler, deny), Affected::any_peer([address(WEB)]));
    let of_node = |own: &[&str]| {
        let own = own.iter().chain(&["10.244.2.0", "10.244.2.1"]);
        own.map(|own| with_peers(own, &[WEB])).reduce(Affected::or).unwrap()
    };
    assert_eq!(affected(&mut compiler, n2("192.168.0.2", is("pool=edge,zone=a"))), Affected::NONE);
    for labels in [is("pool=core"), is(""), Labels::unknown(), is("pool=edge")] {
        let changed = affected(&mut compiler, n2("192.168.0.2", labels.clone()));
        assert_eq!(changed, of_node(&["192.168.0.2"]), "{labels:?}");
    }
    let moved = affected(&mut compiler, n2("192.168.0.9", is("pool=edge")));
    let [old, new] = ["192.168.0.2", "192.168.0.9"].map(address);
    assert!(moved.contains(old, address(WEB)) && moved.contains(new, address(WEB)), "{moved:?}");
    // A pod takes an address that the node would have.
    let pod_at_bridge = affected(&mut compiler, pod("shop/odd").at("10.244.2.1").on("n2"));
    assert!(pod_at_bridge.contains(address("10.244.2.1"), address(WEB)), "{pod_at_bridge:?}");
}
