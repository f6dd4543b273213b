//! The cluster of these scenarios: pods `web`, `db` and `other` in namespace `shop` on node `node-a`. Policy
//! `db` allows only `web` to reach `db`, on port 5000 over TCP and UDP.

use std::sync::Arc;

use policy::{
    Action, Change, Compiler, Labels, Namespace, NamespaceMatch, Node, Peer, Pod, PodName, PolicyName,
    PolicySpec, PortMatch, PortNumbers, Protocol, Published, Requirement, RuleSpec, Scope, Selector,
    Snapshot, Subject, Tier,
};

pub(crate) const WEB: &str = "10.9.0.1";
pub(crate) const DB: &str = "10.9.0.2";
pub(crate) const OTHER: &str = "10.9.0.3";
/// An address in the node's pod CIDR that no pod has.
pub(crate) const UNASSIGNED: &str = "10.9.0.77";
/// The node's own address on the pods' bridge.
pub(crate) const BRIDGE: &str = "10.9.0.254";
/// The pods' addresses with prefix lengths, for a device.
pub(crate) const ADDRESSES: [&str; 3] = ["10.9.0.1/24", "10.9.0.2/24", "10.9.0.3/24"];

/// The cluster's compiler and its first snapshot. Policy `db` allows `web` to reach these ports.
pub(crate) fn open(ports: &[u16]) -> (Compiler, Arc<Snapshot>) {
    let mut compiler = Compiler::new(Scope::Node("node-a".into()));
    let node = Node {
        name: "node-a".into(),
        labels: Labels::none(),
        addresses: vec!["192.0.2.1".parse().unwrap()],
        has_all_addresses: false,
        reported_addresses: Vec::new(),
        pod_cidrs: vec!["10.9.0.0/24".parse().unwrap(), "fd09::/64".parse().unwrap()],
    };
    let namespace = Namespace { name: "shop".into(), labels: Labels::none() };
    let pods = [("web", &[WEB, "fd09::1"][..]), ("db", &[DB, "fd09::2"]), ("other", &[OTHER, "fd09::3"])];
    let mut changes = vec![Change::Node(node), Change::Namespace(namespace), policy(ports)];
    changes.extend(pods.map(|(name, addresses)| Change::Pod(pod(name, addresses))));
    let snapshot = compiler.apply(changes).snapshot;
    (compiler, snapshot)
}

/// The published snapshot of such a cluster, for this many workers.
pub(crate) fn published(ports: &[u16], workers: u16) -> Arc<Published> {
    Published::new(open(ports).1, usize::from(workers))
}

/// Policy `db`, which allows `web` to reach these ports.
pub(crate) fn policy(ports: &[u16]) -> Change {
    policy_from(Some(vec![Peer::Pods { namespaces: shop(), pods: named("web") }]), ports)
}

/// Policy `db`, which allows any peer to reach these ports.
pub(crate) fn allow_all_on(ports: &[u16]) -> Change {
    policy_from(None, ports)
}

fn named(name: &str) -> Selector {
    Selector::All([Requirement::In("app".into(), [name.into()].into())].into())
}

fn shop() -> NamespaceMatch {
    NamespaceMatch::Named("shop".into())
}

fn policy_from(peers: Option<Vec<Peer>>, ports: &[u16]) -> Change {
    let number = |&port: &u16, protocol| PortMatch {
        protocol: Some(protocol),
        numbers: PortNumbers::Range(port, port),
    };
    let rule = RuleSpec {
        name: None,
        action: Action::Accept,
        peers,
        ports: Some(
            ports
                .iter()
                .flat_map(|port| [number(port, Protocol::TCP), number(port, Protocol::UDP)])
                .collect(),
        ),
    };
    Change::Policy(Arc::new(PolicySpec {
        name: PolicyName::network_policy("shop", "db"),
        tier: Tier::NetworkPolicy,
        priority: 0,
        subject: Subject { namespaces: shop(), pods: named("db") },
        isolates_ingress: true,
        isolates_egress: false,
        ingress: vec![rule],
        egress: vec![],
        omitted: None,
    }))
}

pub(crate) fn pod(name: &str, addresses: &[&str]) -> Pod {
    Pod {
        name: PodName::new("shop", name),
        labels: [("app", name)].into_iter().collect(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        ports: vec![],
        node: Some("node-a".into()),
        host_network: false,
        reported: 0,
        created: 0,
        uid: Default::default(),
        workload: None,
    }
}
