//! The comparison of two folders is exact: over random clusters, a random packet between two ends changes its
//! verdict if and only if the comparison says so; and a rule that is called redundant changes no verdict.
#![allow(clippy::unwrap_used, reason = "what goes wrong here is what the test reports")]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use analysis::difference::{Effect, Folder};
use analysis::layout::Distinguished;
use analysis::partition::ports::PortClass;
use analysis::{Difference, End, Layout, Model, PodNetworks, Rule, VerdictChange, compare, findings};
use cluster::Manifests;
use policy::{Budget, Change, Directions, Packet, Protocol, Verdict};
use proptest::prelude::*;

const WORKLOADS: usize = 8;
const NAMESPACES: [&str; 2] = ["web", "db"];
const APPS: [&str; 3] = ["a", "b", "c"];
const PORTS: [u16; 5] = [53, 80, 443, 5432, 8080];
const BLOCKS: [&str; 6] = ["0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/9", "192.0.2.0/24", "192.0.2.128/25", "::/0"];

/// Workloads of every kind, the same in all folders; their labels are those of the folder.
fn workloads(labels: &[usize]) -> String {
    let mut text = String::new();
    for namespace in NAMESPACES {
        writeln!(
            text,
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {namespace}, labels: {{team: \
            {namespace}}}}}}}\n---"
        )
        .unwrap();
    }
    let kinds = [("apps/v1", "Deployment"), ("apps/v1", "StatefulSet"), ("batch/v1", "Job"), ("v1", "Pod")];
    for (number, label) in labels.iter().enumerate() {
        let (version, kind) = kinds[number % kinds.len()];
        let namespace = NAMESPACES[number % 2];
        // Some workloads of a namespace differ in nothing but their labels, or not at all.
        let port = PORTS[number / 2 % 2];
        let app = APPS[label % APPS.len()];
        let template = format!(
            "metadata: {{labels: {{app: {app}}}}}, spec: {{containers: [{{name: c, ports: [{{name: main, \
                containerPort: {port}}}]}}]}}"
        );
        let object = match kind {
            "Pod" => format!(
                "metadata: {{name: w{number}, namespace: {namespace}, labels: {{app: {app}}}}}, spec: \
                    {{containers: [{{name: c, ports: [{{name: main, containerPort: {port}}}]}}]}}"
            ),
            _ => format!(
                "metadata: {{name: w{number}, namespace: {namespace}}}, spec: {{template: {{{template}}}}}"
            ),
        };
        writeln!(text, "{{apiVersion: {version}, kind: {kind}, {object}}}\n---").unwrap();
    }
    text
}

fn selector() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("{}".to_owned()),
        (0..APPS.len()).prop_map(|app| format!("{{matchLabels: {{app: {}}}}}", APPS[app])),
        (0..APPS.len()).prop_map(|app| {
            format!("{{matchExpressions: [{{key: app, operator: NotIn, values: [{}]}}]}}", APPS[app])
        }),
        (0..APPS.len(), 0..APPS.len()).prop_map(|(a, b)| {
            format!("{{matchExpressions: [{{key: app, operator: In, values: [{}, {}]}}]}}", APPS[a], APPS[b])
        }),
    ]
}

fn peer() -> impl Strategy<Value = String> {
    prop_oneof![
        selector().prop_map(|pods| format!("{{podSelector: {pods}}}")),
        (0..NAMESPACES.len(), selector()).prop_map(|(namespace, pods)| {
            let namespace = NAMESPACES[namespace];
            format!("{{namespaceSelector: {{matchLabels: {{team: {namespace}}}}}, podSelector: {pods}}}")
        }),
        Just("{namespaceSelector: {}}".to_owned()),
        (0..BLOCKS.len()).prop_map(|block| format!("{{ipBlock: {{cidr: \"{}\"}}}}", BLOCKS[block])),
        Just("{ipBlock: {cidr: 10.0.0.0/8, except: [10.128.0.0/9]}}".to_owned()),
        Just("{ipBlock: {cidr: 0.0.0.0/0, except: [192.0.2.0/24]}}".to_owned()),
    ]
}

fn port() -> impl Strategy<Value = String> {
    let protocol = prop_oneof![Just("TCP"), Just("UDP"), Just("SCTP")];
    prop_oneof![
        (0..PORTS.len(), protocol.clone())
            .prop_map(|(port, protocol)| format!("{{protocol: {protocol}, port: {}}}", PORTS[port])),
        (1..9000_u16, 0..2000_u16, protocol.clone()).prop_map(|(first, more, protocol)| {
            format!("{{protocol: {protocol}, port: {first}, endPort: {}}}", first + more)
        }),
        Just("{port: main}".to_owned()),
        protocol.prop_map(|protocol| format!("{{protocol: {protocol}}}")),
    ]
}

fn rule(list: &'static str) -> impl Strategy<Value = String> {
    let peers = prop::option::of(prop::collection::vec(peer(), 1..3));
    let ports = prop::option::of(prop::collection::vec(port(), 1..3));
    (peers, ports).prop_map(move |(peers, ports)| {
        let peers = peers.map(|peers| format!("{list}: [{}]", peers.join(", ")));
        let ports = ports.map(|ports| format!("ports: [{}]", ports.join(", ")));
        format!("{{{}}}", peers.into_iter().chain(ports).collect::<Vec<_>>().join(", "))
    })
}

fn policies() -> impl Strategy<Value = String> {
    let types = prop_oneof![Just("[Ingress]"), Just("[Egress]"), Just("[Ingress, Egress]")];
    let policy = (
        0..NAMESPACES.len(),
        selector(),
        types,
        prop::collection::vec(rule("from"), 0..3),
        prop::collection::vec(rule("to"), 0..3),
    );
    prop::collection::vec(policy, 0..4).prop_map(|policies| {
        let mut text = String::new();
        for (number, (namespace, selector, types, ingress, egress)) in policies.iter().enumerate() {
            let namespace = NAMESPACES[*namespace];
            writeln!(
                text,
                "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p{number}, \
                    namespace: {namespace}}}, spec: {{podSelector: {selector}, policyTypes: {types}, \
                    ingress: [{}], egress: [{}]}}}}\n---",
                ingress.join(", "),
                egress.join(", ")
            )
            .unwrap();
        }
        text
    })
}

fn manifests(text: &str) -> Manifests {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("all.yaml"), text).unwrap();
    let manifests = Manifests::read(folder.path(), Budget::default()).unwrap();
    assert!(manifests.problems.is_empty(), "{:#?}\n{text}", manifests.problems);
    manifests
}

fn networks() -> PodNetworks {
    PodNetworks { ipv4: "10.244.0.0/16".parse().unwrap(), ipv6: "fd00:10:244::/56".parse().unwrap() }
}

/// An end, with the workload if it is one.
type ProbeEnd = (Option<analysis::WorkloadName>, IpAddr);

/// An end with one address of it: a pod, or an address outside of the cluster.
fn end(layout: &Layout, choice: usize, address: u32, is_ipv6: bool) -> Option<ProbeEnd> {
    let pods: Vec<_> =
        layout.pods().iter().flat_map(|(name, pods)| pods.iter().map(move |pod| (name, pod))).collect();
    if let Some((name, pod)) = pods.get(choice) {
        return Some((Some((*name).clone()), pod[usize::from(is_ipv6)]?));
    }
    if is_ipv6 {
        return Some((None, IpAddr::V6((0x2001_0db8_u128 << 96 | u128::from(address)).into())));
    }
    // Near the edges of blocks, and anywhere.
    let edges = [0x0a00_0000, 0x0a7f_ffff, 0x0a80_0000, 0xc000_0200, 0xc000_027f, 0xc000_0280, 0xc000_02ff];
    let address = match choice % 3 {
        0 => address,
        _ => edges[address as usize % edges.len()] + address % 3,
    };
    let address = IpAddr::V4(Ipv4Addr::from(address));
    (!layout.is_of_pods(address)).then_some((None, address))
}

fn packet(from: IpAddr, to: IpAddr, protocol: u8, port: u16) -> Packet {
    let packet = Packet::new(from, to, Protocol(protocol));
    if [6, 17, 132].contains(&protocol) { packet.to_port(port.max(1)) } else { packet }
}

/// Whether a change is about this packet.
fn is_about(
    change: &VerdictChange,
    (from, source): &ProbeEnd,
    (to, destination): &ProbeEnd,
    packet: &Packet,
) -> bool {
    let is_end =
        |end: &End, workload: &Option<analysis::WorkloadName>, address: &IpAddr| match (end, workload) {
            (End::Workload(name), Some(workload)) => name == workload,
            (End::Outside(blocks), None) => blocks.iter().any(|block| {
                block.cidr.contains(address) && !block.except.iter().any(|except| except.contains(address))
            }),
            _ => false,
        };
    let is_port = change.ports.iter().any(|range| match (range.first, range.last, packet.destination_port) {
        (Some(first), Some(last), Some(port)) => {
            range.protocol == packet.protocol.to_string() && (first..=last).contains(&port)
        }
        (None, None, None) => true,
        _ => false,
    });
    is_end(&change.from, from, source)
        && is_end(&change.to, to, destination)
        && is_port
        && change.ip_version.is_none_or(|version| (version == 6) == source.is_ipv6())
}

fn difference(old: &Manifests, new: &Manifests, layout: &Layout) -> (Difference, Model, Model) {
    let model = |manifests: &Manifests| Model::new(manifests, layout, Budget::default());
    let (before, after) = (model(old), model(new));
    let difference =
        compare(Folder { manifests: old, model: &before }, Folder { manifests: new, model: &after }, layout);
    (difference, before, after)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn a_verdict_changes_exactly_where_the_difference_says(
        labels in prop::collection::vec(0..3_usize, WORKLOADS),
        relabelled in 0..WORKLOADS,
        (old, new) in (policies(), policies()),
        probes in prop::collection::vec(
            (
                (0..24_usize, 0..24_usize),
                (any::<u32>(), any::<u32>(), any::<bool>()),
                (0..4_usize, 0..9_usize, any::<u16>()),
            ),
            400,
        ),
    ) {
        let mut other = labels.clone();
        other[relabelled] += 1;
        let (old, new) = (manifests(&(workloads(&labels) + &old)), manifests(&(workloads(&other) + &new)));
        let layout = Layout::new(&[&old, &new], &networks(), &Distinguished::default()).unwrap();
        let (difference, before, after) = difference(&old, &new, &layout);
        for ((from, to), (source, destination, is_ipv6), (protocol, near, port)) in probes {
            let (from, to) =
                (end(&layout, from, source, is_ipv6), end(&layout, to, destination, is_ipv6));
            let (Some(from), Some(to)) = (from, to) else {
                continue;
            };
            // Two outside addresses are no connection of a pod, and a pod always reaches its own address.
            if from.1 == to.1 || (from.0.is_none() && to.0.is_none()) {
                continue;
            }
            let port = PORTS.get(near).copied().unwrap_or(port % 12000);
            let packet = packet(from.1, to.1, [6, 17, 132, 1][protocol], port);
            let verdict = |model: &Model| model.snapshot().evaluate(&packet, Directions::Both).verdict();
            let effect = match (verdict(&before), verdict(&after)) {
                (Verdict::Deny, Verdict::Allow) => Some(Effect::Opens),
                (Verdict::Allow, Verdict::Deny) => Some(Effect::Closes),
                _ => None,
            };
            let said: BTreeSet<Effect> = difference
                .changes
                .iter()
                .filter(|change| is_about(change, &from, &to, &packet))
                .map(|change| change.effect)
                .collect();
            prop_assert_eq!(
                said.into_iter().collect::<Vec<_>>(),
                effect.into_iter().collect::<Vec<_>>(),
                "{:?} -> {:?} {:?}", from, to, packet
            );
        }
    }

    #[test]
    fn a_redundant_rule_changes_no_verdict(
        labels in prop::collection::vec(0..3_usize, WORKLOADS),
        text in policies(),
    ) {
        let old = manifests(&(workloads(&labels) + &text));
        let layout = Layout::new(&[&old], &networks(), &Distinguished::default()).unwrap();
        let model = Model::new(&old, &layout, Budget::default());
        let found = findings::find(&old, &model, &layout);
        for finding in found.iter().filter(|finding| finding.id == Rule::RedundantRule) {
            let mut new = old.clone();
            for change in &mut new.changes {
                let Change::Policy(policy) = change else { continue };
                if finding.object.as_deref() != Some(&format!("NetworkPolicy {}", policy.name)) {
                    continue;
                }
                let field = finding.field.as_deref().unwrap();
                let index: usize = field.split(['[', ']']).nth(1).unwrap().parse().unwrap();
                let policy = Arc::make_mut(policy);
                match field.starts_with("spec.ingress") {
                    true => policy.ingress.remove(index),
                    false => policy.egress.remove(index),
                };
            }
            prop_assert_ne!(&old.changes, &new.changes, "a rule is removed");
            let (difference, ..) = difference(&old, &new, &layout);
            prop_assert!(difference.changes.is_empty(), "{finding:#?}\n{:#?}\n{text}", difference.changes);
        }
    }
}

/// The representative of a class is one of its ports.
#[test]
fn classes_of_ports_are_evaluated_at_one_of_their_ports() {
    let class = PortClass::Ports { protocol: Protocol::TCP, first: 81, last: 90 };
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    assert_eq!(class.packet(Packet::new(address, address, Protocol::UDP)).destination_port, Some(81));
}
