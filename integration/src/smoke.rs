//! The smoke scenario: one small cluster that tests each kind of rule once, in both families.
//!
//! It runs in network namespaces on this kernel and, unchanged, in the virtual machine on another kernel.

use crate::cluster::{ClusterSpec, Links, OUTSIDE};
use crate::probe::Family;
use crate::scenario::{Direction, Scenario, allowed, allowed_because, denied, unevaluated};

use Direction::{Egress, Ingress};

/// The addresses of a service in front of `db/store`.
pub const SERVICE: [&str; 2] = ["10.96.0.20", "fd00:10:96::20"];

/// Web servers, a database and unrelated pods, on two nodes.
pub fn cluster(links: Links) -> ClusterSpec {
    ClusterSpec::of_two_nodes()
        .links(links)
        .namespace("web", &[("team", "front")])
        .namespace("db", &[])
        .namespace("other", &[])
        .pod("web/front", "node-a", &[("app", "front")], &["80"])
        .pod("db/store", "node-a", &[("app", "store")], &["pg=5432", "8080", "53/UDP"])
        .pod("other/client", "node-a", &[("app", "client")], &["80"])
        .pod("web/far", "node-b", &[("app", "front")], &["80"])
        .pod("db/backup", "node-b", &[("app", "backup")], &["pg=6432", "8080"])
        .pod("other/caged", "node-b", &[("app", "caged")], &["80"])
        .host_pod("web/agent", "node-b", &[("app", "front")], &["9100"])
        .service(SERVICE[0], SERVICE[1], "5432", &["db/store"], 5432)
}

/// Writes the policies. If agents run, the policies are in force when this returns.
#[track_caller]
pub fn write_policies(scenario: &mut Scenario) {
    for (name, spec) in POLICIES {
        scenario.policy(name, spec);
    }
}

/// The name and spec of each policy.
pub const POLICIES: [(&str, &str); 5] = [
    (
        "db/default-deny",
        "
        podSelector: {}
        policyTypes: [Ingress]
        ",
    ),
    (
        // A named port, with a different number on each pod.
        "db/allow-front",
        "
        podSelector: {}
        ingress:
        - from:
          - namespaceSelector: {matchLabels: {team: front}}
            podSelector: {matchExpressions: [{key: app, operator: In, values: [front, gate]}]}
          ports:
          - port: pg
        ",
    ),
    (
        "db/allow-dns",
        "
        podSelector: {matchLabels: {app: store}}
        ingress:
        - from: [{namespaceSelector: {}}]
          ports: [{protocol: UDP, port: 53}]
        ",
    ),
    (
        // All of node-a's pods except other/client, on every port and protocol; and the host outside.
        "db/allow-blocks",
        "
        podSelector: {matchLabels: {app: backup}}
        ingress:
        - from:
          - ipBlock: {cidr: 10.244.1.0/24, except: [10.244.1.4/32]}
          - ipBlock: {cidr: 'fd00:10:244:1::/64', except: ['fd00:10:244:1::4/128']}
        - from:
          - ipBlock: {cidr: 192.0.2.1/32}
          - ipBlock: {cidr: '2001:db8::1/128'}
          ports: [{port: 8000, endPort: 8100}]
        ",
    ),
    (
        "other/caged",
        "
        podSelector: {matchLabels: {app: caged}}
        policyTypes: [Egress]
        egress:
        - to: [{namespaceSelector: {matchLabels: {team: front}}}]
          ports: [{port: 80}, {port: 9100}]
        - to:
          - ipBlock: {cidr: 192.0.2.11/32}
          - ipBlock: {cidr: '2001:db8::b/128'}
          ports: [{port: 7000}]
        ",
    ),
];

/// Checks every rule. The agents must run with `--record-open`, so that every connection has an audit record.
#[track_caller]
pub fn run(scenario: &Scenario) {
    // A peer by labels and a named port; then a wrong port and a wrong namespace.
    scenario.expect("web/front", "db/store", "5432", &allowed(Ingress, "db/allow-front", 0));
    scenario.expect("web/front", "db/store", "8080", &denied(Ingress, "db/allow-dns"));
    scenario.expect("other/client", "db/store", "5432", &denied(Ingress, "db/allow-dns"));
    // The same across nodes, where the named port has another number.
    scenario.expect("web/far", "db/store", "5432", &allowed(Ingress, "db/allow-front", 0));
    scenario.expect("web/far", "db/backup", "6432", &allowed(Ingress, "db/allow-front", 0));
    scenario.expect("web/far", "db/backup", "5432", &denied(Ingress, "db/allow-blocks"));

    // UDP from every pod, but not from outside.
    scenario.expect("other/client", "db/store", "53/UDP", &allowed(Ingress, "db/allow-dns", 0));
    scenario.expect(OUTSIDE, "db/store", "53/UDP", &denied(Ingress, "db/allow-dns"));

    // Address blocks also match pods, except for the addresses that they exclude. A rule without ports covers
    // ICMP.
    scenario.expect("web/front", "db/backup", "8080", &allowed(Ingress, "db/allow-blocks", 0));
    scenario.expect("web/front", "db/backup", "ping", &allowed(Ingress, "db/allow-blocks", 0));
    scenario.expect("other/client", "db/backup", "8080", &denied(Ingress, "db/allow-blocks"));
    scenario.expect("web/front", "db/store", "ping", &denied(Ingress, "db/allow-dns"));
    scenario.expect(OUTSIDE, "db/backup", "8080", &allowed(Ingress, "db/allow-blocks", 1));
    scenario.expect(OUTSIDE, "db/backup", "6432", &denied(Ingress, "db/allow-blocks"));

    // Egress: one namespace and its port. Selectors do not match pods of the host network.
    scenario.expect("other/caged", "web/front", "80", &allowed(Egress, "other/caged", 0));
    scenario.expect("other/caged", "web/front", "ping", &denied(Egress, "other/caged"));
    scenario.expect("other/caged", "other/client", "80", &denied(Egress, "other/caged"));
    scenario.expect("other/caged", OUTSIDE, "7000", &denied(Egress, "other/caged"));
    // Egress to the pod's own node is no exception: the node's input is evaluated as well.
    scenario.expect("other/caged", "web/agent", "9100", &denied(Egress, "other/caged"));
    scenario.expect("other/caged", "node-b", "7000/UDP", &denied(Egress, "other/caged"));
    scenario.expect("other/caged", "node-b", "7000", &allowed(Egress, "other/caged", 1));
    scenario.expect("other/caged", "node-a", "7000", &denied(Egress, "other/caged"));

    // No policy isolates these. A pod that is isolated for ingress receives the replies on its own
    // connections.
    scenario.expect("other/client", "web/far", "80", &allowed_because(Ingress, "not-isolated"));
    scenario.expect("db/store", "web/front", "80", &allowed_because(Ingress, "not-isolated"));
    scenario.expect("web/front", "other/caged", "80", &allowed_because(Ingress, "not-isolated"));
    scenario.expect("db/store", OUTSIDE, "7000", &allowed_because(Egress, "not-isolated"));

    // A pod's own node always reaches it. Other nodes don't, and neither do their pods of the host network,
    // whatever their labels.
    scenario.expect("node-a", "db/store", "5432", &unevaluated());
    scenario.expect("node-a", "db/store", "ping", &unevaluated());
    scenario.expect("node-b", "db/store", "5432", &denied(Ingress, "db/allow-dns"));
    scenario.expect("web/agent", "db/store", "5432", &denied(Ingress, "db/allow-dns"));
    scenario.expect("web/agent", "db/backup", "6432", &unevaluated());

    // A service is evaluated by the pod behind it. A pod may always reach itself through a service.
    for family in Family::BOTH {
        let service = SERVICE[family as usize];
        let store = ("db/store", 5432);
        let via = |from: &str, expected| scenario.expect_via(family, from, service, "5432", store, &expected);
        via("web/front", allowed(Ingress, "db/allow-front", 0));
        via("web/far", allowed(Ingress, "db/allow-front", 0));
        via("other/client", denied(Ingress, "db/allow-dns"));
        via("other/caged", denied(Egress, "other/caged"));
        via("db/store", allowed_because(Ingress, "own-address"));
        via("node-a", unevaluated());
    }
}
