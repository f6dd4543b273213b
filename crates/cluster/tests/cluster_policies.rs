//! Cluster-wide policies as manifests, and the packets that they allow: a scenario for each clause of
//! docs/semantics.md about them.

use std::path::Path;

use cluster::{Folder, Interner, manifest};
use policy::{Budget, Change, Compiler, Directions, Packet, Protocol, Scope, Snapshot, Verdict};

/// Two tenants and the monitoring, on the node that evaluates; and another node.
const CLUSTER: &str = "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: red, labels: {tenant: red}}}
- {apiVersion: v1, kind: Namespace, metadata: {name: blue, labels: {tenant: blue}}}
- {apiVersion: v1, kind: Namespace, metadata: {name: monitoring, labels: {role: system}}}
- {apiVersion: v1, kind: Node, metadata: {name: here}, spec: {podCIDR: 10.244.1.0/24},
   status: {addresses: [{type: InternalIP, address: 192.168.0.1}]}}
- {apiVersion: v1, kind: Node, metadata: {name: edge, labels: {pool: edge}}, spec: {podCIDR: 10.244.2.0/24},
   status: {addresses: [{type: InternalIP, address: 192.168.0.2}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: web, namespace: red, labels: {app: web}},
   spec: {nodeName: here, containers: [{ports: [{name: http, containerPort: 80}, {name: dns, containerPort: 53},
     {name: dns, containerPort: 53, protocol: UDP}]}]}, status: {podIP: 10.244.1.2}}
- {apiVersion: v1, kind: Pod, metadata: {name: db, namespace: blue, labels: {app: db}},
   spec: {nodeName: here, containers: [{ports: [{name: http, containerPort: 8080}]}]}, status: {podIP: 10.244.1.3}}
- {apiVersion: v1, kind: Pod, metadata: {name: prom, namespace: monitoring}, spec: {nodeName: here},
   status: {podIP: 10.244.1.4}}
- {apiVersion: v1, kind: Pod, metadata: {name: agent, namespace: red, labels: {app: agent}},
   spec: {nodeName: edge, hostNetwork: true}, status: {podIP: 192.168.0.2}}
";

const WEB: &str = "10.244.1.2";
const DB: &str = "10.244.1.3";
const PROM: &str = "10.244.1.4";
const HERE: &str = "192.168.0.1";
const EDGE: &str = "192.168.0.2";
const OUTSIDE: &str = "192.0.2.9";

/// A NetworkPolicy that admits only pods of the pod's own namespace.
const OWN_NAMESPACE: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: own, namespace: red}
spec: {podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}
";

/// A NetworkPolicy that admits everything.
const OPEN: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: open, namespace: red}
spec: {podSelector: {}, ingress: [{}]}
";

/// A ClusterNetworkPolicy for every pod. `rest` has its rules.
fn cnp(name: &str, tier: &str, priority: u16, rest: &str) -> String {
    cnp_for("{namespaces: {}}", name, tier, priority, rest)
}

fn cnp_for(subject: &str, name: &str, tier: &str, priority: u16, rest: &str) -> String {
    format!(
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: {name}}}\n\
         spec: {{tier: {tier}, priority: {priority}, subject: {subject}, {rest}}}\n"
    )
}

/// The changes that a text makes. Its only problem is that a rule denies by port name, if one does.
fn changes(text: &str) -> Vec<Change> {
    let reading = manifest::read(Path::new("test.yaml"), text.as_bytes(), &Interner::new());
    let problems = [&reading.failures, &reading.no_manifest];
    assert!(problems.iter().all(|problems| problems.is_empty()), "{problems:?}");
    let denies_by_name = text.contains("amedPort") && text.contains("Deny");
    assert_eq!(reading.flaws.len(), usize::from(denies_by_name), "{:?}", reading.flaws);
    assert!(
        reading.flaws.iter().all(|flaw| flaw.what.contains("a Deny by port name")),
        "{:?}",
        reading.flaws
    );
    reading.changes().cloned().collect()
}

/// The cluster with these policies.
struct Cluster(std::sync::Arc<Snapshot>);

impl Cluster {
    fn with(policies: &[&str]) -> Self {
        let mut compiler = Compiler::new(Scope::Node("here".into()));
        let mut all = changes(CLUSTER);
        all.extend(policies.iter().flat_map(|text| changes(text)));
        Self(compiler.apply(all).snapshot)
    }

    fn passes(&self, packet: Packet) -> bool {
        self.0.evaluate(&packet, Directions::Both).verdict() == Verdict::Allow
    }

    /// Whether a TCP connection is allowed.
    fn tcp(&self, source: &str, destination: &str, port: u16) -> bool {
        self.passes(packet(source, destination, Protocol::TCP).to_port(port))
    }

    fn udp(&self, source: &str, destination: &str, port: u16) -> bool {
        self.passes(packet(source, destination, Protocol::UDP).to_port(port))
    }

    fn ping(&self, source: &str, destination: &str) -> bool {
        let mut ping = packet(source, destination, Protocol::ICMP);
        ping.icmp_type = Some(8);
        self.passes(ping)
    }
}

fn packet(source: &str, destination: &str, protocol: Protocol) -> Packet {
    let address = |text: &str| text.parse().expect("an address");
    Packet::new(address(source), address(destination), protocol)
}

#[test]
fn s44_a_cluster_wide_policy_counts_against_no_budget() {
    let everyone = "[{namespaces: {}}]";
    let rules = format!(
        "ingress: [{{action: Accept, from: {everyone}, protocols: [{{destinationNamedPort: http}}]}}, {{action: Deny, from: {everyone}}}]"
    );
    let folder = tempfile::tempdir().expect("a folder");
    let texts =
        [("cluster", CLUSTER.to_owned()), ("open", OPEN.to_owned()), ("wide", cnp("a", "Admin", 1, &rules))];
    for (name, text) in texts {
        std::fs::write(folder.path().join(name).with_extension("yaml"), text).expect("a manifest");
    }
    let budget = Budget { namespace: 1, total: 1 };
    let (_, update) = Folder::read(folder.path(), budget).expect("a readable folder");
    let mut compiler = Compiler::new(Scope::Node("here".into())).budget(budget);
    let cluster = Cluster(compiler.apply(update.changes).snapshot);
    let refused: Vec<String> = compiler.refusals().map(|refusal| refusal.policy.to_string()).collect();
    assert_eq!(refused, ["red/open"]);
    assert!(cluster.tcp(DB, WEB, 80) && !cluster.tcp(DB, PROM, 80) && !cluster.tcp(OUTSIDE, WEB, 80));
}

#[test]
fn s51_admin_comes_before_network_policy_and_baseline_after_it() {
    let everyone = "from: [{namespaces: {}}]";
    let deny = format!("ingress: [{{action: Deny, {everyone}}}]");
    let accept = format!("ingress: [{{action: Accept, {everyone}}}]");
    assert!(Cluster::with(&[]).tcp(DB, WEB, 80), "nothing decides");
    assert!(!Cluster::with(&[&cnp("a", "Admin", 1, &deny), OPEN]).tcp(DB, WEB, 80));
    assert!(Cluster::with(&[&cnp("a", "Admin", 1, &accept), OWN_NAMESPACE]).tcp(DB, WEB, 80));
    assert!(Cluster::with(&[&cnp("a", "Baseline", 1, &deny), OPEN]).tcp(DB, WEB, 80));
    assert!(!Cluster::with(&[&cnp("a", "Baseline", 1, &accept), OWN_NAMESPACE]).tcp(DB, WEB, 80));
    assert!(!Cluster::with(&[&cnp("a", "Baseline", 1, &deny)]).tcp(DB, WEB, 80), "no NetworkPolicy isolates");
}

#[test]
fn s52_lower_priority_numbers_come_first_and_then_the_name() {
    let rule = |action: &str| format!("ingress: [{{action: {action}, from: [{{namespaces: {{}}}}]}}]");
    let (deny, accept) = (rule("Deny"), rule("Accept"));
    let first = |policies: [String; 2]| {
        let [one, other] = &policies;
        let found = [[one, other], [other, one]]
            .map(|order| Cluster::with(&order.map(String::as_str)).tcp(DB, WEB, 80));
        assert_eq!(found[0], found[1], "the order of the files has no effect");
        found[0]
    };
    assert!(first([cnp("z", "Admin", 0, &accept), cnp("a", "Admin", 1000, &deny)]));
    assert!(!first([cnp("z", "Baseline", 6, &deny), cnp("a", "Baseline", 7, &accept)]));
    assert!(first([cnp("a", "Admin", 5, &accept), cnp("b", "Admin", 5, &deny)]), "equal ones go by name");
    assert!(!first([cnp("b", "Admin", 5, &accept), cnp("a", "Admin", 5, &deny)]));
}

#[test]
fn s53_the_first_rule_that_matches_decides_and_pass_skips_the_rest_of_its_tier() {
    let rules = |actions: [&str; 2]| {
        let rule = |action| format!("{{action: {action}, from: [{{namespaces: {{}}}}]}}");
        format!("ingress: [{}]", actions.map(rule).join(", "))
    };
    assert!(Cluster::with(&[&cnp("a", "Admin", 1, &rules(["Accept", "Deny"]))]).tcp(DB, WEB, 80));
    assert!(!Cluster::with(&[&cnp("a", "Admin", 1, &rules(["Deny", "Accept"]))]).tcp(DB, WEB, 80));
    let passes = cnp("a", "Admin", 1, &rules(["Pass", "Deny"]));
    let denies = cnp("b", "Admin", 2, &rules(["Deny", "Deny"]));
    assert!(
        Cluster::with(&[&passes, &denies]).tcp(DB, WEB, 80),
        "the next policy of the tier is skipped too"
    );
    assert!(!Cluster::with(&[&passes, OWN_NAMESPACE]).tcp(DB, WEB, 80), "the NetworkPolicy decides");
    let baseline = cnp("c", "Baseline", 1, &rules(["Deny", "Deny"]));
    assert!(!Cluster::with(&[&passes, &baseline]).tcp(DB, WEB, 80), "the next tier decides");
    assert!(Cluster::with(&[&cnp("a", "Baseline", 1, &rules(["Pass", "Deny"]))]).tcp(DB, WEB, 80));
}

#[test]
fn s54_a_cluster_network_policy_isolates_nothing() {
    let accept = "ingress: [{action: Accept, from: [{namespaces: {matchLabels: {role: system}}}]}]";
    let cluster = Cluster::with(&[&cnp("a", "Admin", 1, accept), &cnp("b", "Baseline", 1, accept)]);
    assert!(cluster.tcp(DB, WEB, 80) && cluster.tcp(OUTSIDE, WEB, 80) && cluster.tcp(WEB, OUTSIDE, 80));
}

#[test]
fn s55_a_subject_selects_pods_by_namespace_or_by_namespace_and_labels() {
    let deny = "ingress: [{action: Deny, from: [{namespaces: {}}]}]";
    for (subject, web, db) in [
        ("{namespaces: {}}", false, false),
        ("{namespaces: {matchLabels: {tenant: red}}}", false, true),
        ("{namespaces: {matchLabels: {kubernetes.io/metadata.name: blue}}}", true, false),
        ("{pods: {podSelector: {matchLabels: {app: db}}}}", true, false),
        ("{pods: {namespaceSelector: {}, podSelector: {}}}", false, false),
        (
            "{pods: {namespaceSelector: {matchLabels: {tenant: red}}, podSelector: {matchLabels: {app: db}}}}",
            true,
            true,
        ),
    ] {
        let cluster = Cluster::with(&[&cnp_for(subject, "a", "Admin", 1, deny)]);
        assert_eq!((cluster.tcp(PROM, WEB, 80), cluster.tcp(PROM, DB, 80)), (web, db), "{subject}");
    }
}

#[test]
fn s56_peers_are_pods_networks_or_nodes() {
    let denied = |direction: &str, peer: &str| {
        let list = if direction == "ingress" { "from" } else { "to" };
        let rest = format!("{direction}: [{{action: Deny, {list}: [{peer}]}}]");
        Cluster::with(&[&cnp_for("{namespaces: {matchLabels: {tenant: red}}}", "a", "Admin", 1, &rest)])
    };
    let cluster = denied("ingress", "{namespaces: {matchLabels: {tenant: blue}}}");
    assert!(!cluster.tcp(DB, WEB, 80) && cluster.tcp(PROM, WEB, 80) && cluster.tcp(OUTSIDE, WEB, 80));
    let cluster = denied("ingress", "{pods: {podSelector: {matchLabels: {app: db}}}}");
    assert!(!cluster.tcp(DB, WEB, 80) && cluster.tcp(PROM, WEB, 80));
    let cluster = denied("egress", "{networks: [192.0.2.0/24, 10.244.1.4/32]}");
    assert!(!cluster.tcp(WEB, OUTSIDE, 80) && !cluster.tcp(WEB, PROM, 80), "pods have addresses too");
    assert!(cluster.tcp(WEB, DB, 80) && cluster.tcp(DB, OUTSIDE, 80), "blue is not a subject");
    let cluster = denied("egress", "{nodes: {}}");
    assert!(!cluster.tcp(WEB, HERE, 10250) && !cluster.tcp(WEB, EDGE, 10250));
    assert!(!cluster.tcp(WEB, "10.244.2.1", 10250), "the bridge of the other node");
    assert!(cluster.tcp(WEB, DB, 80) && cluster.tcp(WEB, "10.244.2.9", 80), "pods are not nodes");
    let cluster = denied("egress", "{nodes: {matchLabels: {pool: edge}}}");
    assert!(cluster.tcp(WEB, HERE, 10250) && !cluster.tcp(WEB, EDGE, 10250));
}

#[test]
fn s20_s56_a_host_network_pod_is_neither_subject_nor_peer() {
    let deny = "ingress: [{action: Deny, from: [{pods: {podSelector: {matchLabels: {app: agent}}}}]}], \
                egress: [{action: Deny, to: [{pods: {podSelector: {matchLabels: {app: agent}}}}]}]";
    let cluster = Cluster::with(&[&cnp("a", "Admin", 1, deny)]);
    assert!(cluster.tcp(EDGE, WEB, 80) && cluster.tcp(WEB, EDGE, 80));
    let deny = "ingress: [{action: Deny, from: [{namespaces: {}}]}]";
    let subject = "{pods: {podSelector: {matchLabels: {app: agent}}}}";
    assert!(Cluster::with(&[&cnp_for(subject, "a", "Admin", 1, deny)]).tcp(WEB, EDGE, 80));
}

#[test]
fn s57_rules_peers_protocols_and_networks_may_have_25_entries() {
    let list = |entry: &dyn Fn(usize) -> String| (0..25).map(entry).collect::<Vec<_>>().join(", ");
    let networks = list(&|n| format!("192.0.2.{n}/32"));
    let peers = list(&|_| format!("{{networks: [{networks}]}}"));
    let protocols = list(&|n| format!("{{tcp: {{destinationPort: {{number: {}}}}}}}", n + 1));
    let name = "n".repeat(100);
    let rules = list(&|_| format!("{{name: {name}, action: Deny, to: [{peers}], protocols: [{protocols}]}}"));
    let cluster = Cluster::with(&[&cnp("a", "Admin", 1, &format!("egress: [{rules}]"))]);
    assert!(!cluster.tcp(WEB, "192.0.2.24", 25) && cluster.tcp(WEB, "192.0.2.25", 25));
    assert!(cluster.tcp(WEB, "192.0.2.24", 26));
}

#[test]
fn s58_a_protocol_is_a_port_a_range_or_a_name() {
    let denied = |protocol: &str| {
        let rest =
            format!("ingress: [{{action: Deny, from: [{{namespaces: {{}}}}], protocols: [{protocol}]}}]");
        Cluster::with(&[&cnp("a", "Admin", 1, &rest)])
    };
    let cluster = denied("{tcp: {destinationPort: {number: 80}}}");
    assert!(!cluster.tcp(DB, WEB, 80) && cluster.tcp(DB, WEB, 81) && cluster.udp(DB, WEB, 80));
    let cluster = denied("{udp: {destinationPort: {range: {start: 53, end: 55}}}}");
    let found: Vec<bool> = (52..57).map(|port| cluster.udp(DB, WEB, port)).collect();
    assert_eq!(found, [true, false, false, false, true]);
    assert!(cluster.tcp(DB, WEB, 53));
    let cluster = denied("{sctp: {destinationPort: {number: 80}}}");
    assert!(!cluster.passes(packet(DB, WEB, Protocol::SCTP).to_port(80)) && cluster.tcp(DB, WEB, 80));
    let cluster = denied("{destinationNamedPort: dns}");
    assert!(!cluster.tcp(DB, WEB, 53) && !cluster.udp(DB, WEB, 53), "every protocol that has the name");
    let cluster = denied("{destinationNamedPort: http}");
    assert!(!cluster.tcp(DB, WEB, 80) && cluster.tcp(DB, WEB, 8080));
    assert!(!cluster.tcp(WEB, DB, 8080) && cluster.tcp(WEB, DB, 80), "each pod has its own number");
    let cluster = denied("{destinationNamedPort: dns}, {tcp: {destinationPort: {number: 80}}}");
    assert!(!cluster.tcp(DB, WEB, 80) && !cluster.udp(DB, WEB, 53), "one of the entries is enough");
}

#[test]
fn s60_an_egress_accept_does_not_replace_the_ingress_rules_of_the_destination() {
    let accept = cnp("a", "Admin", 1, "egress: [{action: Accept, to: [{namespaces: {}}]}]");
    let cluster = Cluster::with(&[&accept, OWN_NAMESPACE]);
    assert!(!cluster.tcp(DB, WEB, 80) && cluster.tcp(WEB, DB, 80));
    let both = cnp("b", "Admin", 2, "ingress: [{action: Accept, from: [{namespaces: {}}]}]");
    assert!(Cluster::with(&[&accept, &both, OWN_NAMESPACE]).tcp(DB, WEB, 80));
}

#[test]
fn s61_networks_without_protocols_match_every_protocol() {
    let rest =
        |protocols: &str| format!("egress: [{{action: Deny, to: [{{networks: [0.0.0.0/0]}}]{protocols}}}]");
    let cluster = Cluster::with(&[&cnp("a", "Admin", 1, &rest(""))]);
    assert!(!cluster.ping(WEB, OUTSIDE) && !cluster.udp(WEB, OUTSIDE, 53));
    assert!(!cluster.passes(packet(WEB, OUTSIDE, Protocol(47))));
    let tcp = rest(", protocols: [{tcp: {destinationPort: {range: {start: 1, end: 65535}}}}]");
    let cluster = Cluster::with(&[&cnp("a", "Admin", 1, &tcp)]);
    assert!(cluster.ping(WEB, OUTSIDE) && !cluster.tcp(WEB, OUTSIDE, 80));
}

#[test]
fn s63_the_kinds_of_v1alpha1_are_of_the_same_tiers() {
    let old = |kind: &str, name: &str, spec: &str| {
        format!(
            "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\n\
             spec: {{subject: {{namespaces: {{}}}}, {spec}}}\n"
        )
    };
    let deny = "ingress: [{action: Deny, from: [{namespaces: {}}], ports: [{portNumber: {protocol: TCP, port: 80}}, \
                {portRange: {protocol: UDP, start: 53, end: 54}}, {namedPort: http}]}]";
    let admin = old("AdminNetworkPolicy", "a", &format!("priority: 5, {deny}"));
    let cluster = Cluster::with(&[&admin, OPEN]);
    assert!(!cluster.tcp(DB, WEB, 80) && !cluster.udp(DB, WEB, 54) && cluster.tcp(DB, WEB, 81));
    assert!(!cluster.tcp(WEB, DB, 8080), "the port of that name");
    let baseline = old("BaselineAdminNetworkPolicy", "default", deny);
    assert!(Cluster::with(&[&baseline, OPEN]).tcp(DB, WEB, 80));
    assert!(!Cluster::with(&[&baseline]).tcp(DB, WEB, 80));

    // Both APIs count. In tier Baseline the policy of v1alpha1 comes last.
    let accept = "ingress: [{action: Accept, from: [{namespaces: {}}]}]";
    assert!(Cluster::with(&[&admin, &cnp("b", "Admin", 4, accept)]).tcp(DB, WEB, 80));
    assert!(!Cluster::with(&[&admin, &cnp("b", "Admin", 6, accept)]).tcp(DB, WEB, 80));
    assert!(Cluster::with(&[&baseline, &cnp("z", "Baseline", 1000, accept)]).tcp(DB, WEB, 80));

    // Selectors of namespaces as in the first version of v1alpha1.
    let peers = "from: [{namespaces: {namespaceSelector: {matchLabels: {tenant: blue}}}}, \
                 {pods: {namespaces: {namespaceSelector: {}}, podSelector: {matchLabels: {app: agent}}}}]";
    let admin = old("AdminNetworkPolicy", "a", &format!("priority: 5, ingress: [{{action: Deny, {peers}}}]"));
    let cluster = Cluster::with(&[&admin]);
    assert!(!cluster.tcp(DB, WEB, 80) && cluster.tcp(PROM, WEB, 80));
    let peers = "to: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: db}}}}, {networks: [192.0.2.0/24]}, \
                 {nodes: {matchLabels: {pool: edge}}}]";
    let admin = old("AdminNetworkPolicy", "a", &format!("priority: 5, egress: [{{action: Deny, {peers}}}]"));
    let cluster = Cluster::with(&[&admin]);
    assert!(!cluster.tcp(WEB, DB, 80) && !cluster.tcp(WEB, OUTSIDE, 80) && !cluster.tcp(WEB, EDGE, 80));
    assert!(cluster.tcp(WEB, PROM, 80));
}
