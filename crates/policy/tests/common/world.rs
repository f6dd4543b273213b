//! Random clusters, changes and packets.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use policy::{
    Action, Change, IpBlock, Labels, NamedPort, Namespace, NamespaceMatch, Node, Packet, Peer, Pod,
    PolicyKind, PolicyName, PolicySpec, PortMatch, PortNumbers, Protocol, Requirement, RuleSpec, Selector,
    Subject, Tier, Verdict,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::build::{labels, namespace, pod_name};
use super::scenario::{Scenario, packet_in_words};

/// The random clusters use few names, labels and addresses, so that objects interact.
const NAMESPACES: [&str; 3] = ["a", "b", "c"];
const KEYS: [&str; 3] = ["app", "env", "tier"];
const VALUES: [&str; 3] = ["x", "y", "z"];
const NODES: [&str; 2] = ["n1", "n2"];
const PORT_NAMES: [&str; 2] = ["http", "dns"];
const PORTS: [u16; 6] = [53, 80, 81, 443, 8080, 65535];
const PROTOCOLS: [Protocol; 6] =
    [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::ICMP, Protocol::ICMPV6, Protocol(47)];
/// Addresses of pods, of the nodes in their pod CIDRs, of nodes, and outside the cluster.
const ADDRESSES: [&str; 20] = [
    "10.244.1.2",
    "10.244.1.3",
    "10.244.1.4",
    "10.244.1.17",
    "10.244.2.2",
    "10.244.2.3",
    "10.244.2.18",
    "fd00:1::2",
    "fd00:1::3",
    "fd00:2::2",
    "10.244.1.0",
    "10.244.1.1",
    "10.244.2.1",
    "fd00:1::1",
    "192.168.0.1",
    "192.168.0.2",
    "192.0.2.1",
    "192.0.2.200",
    "2001:db8::1",
    "10.244.1.200",
];
const BLOCKS: [&str; 16] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.244.1.0/24",
    "10.244.1.2/32",
    "10.244.1.2/31",
    "10.244.1.16/28",
    "10.244.2.0/24",
    "192.0.2.0/24",
    "192.0.2.128/25",
    "::/0",
    "fd00::/16",
    "fd00:1::/64",
    "fd00:1::2/128",
    "2001:db8::/32",
    "::ffff:10.244.1.0/120",
    "::ffff:192.0.2.1/128",
];

#[derive(Clone)]
pub(crate) struct World {
    /// Applied batch by batch.
    pub batches: Vec<Vec<Change>>,
    pub packets: Vec<Packet>,
    pub on_unknown_pod: Verdict,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, batch) in self.batches.iter().enumerate() {
            write!(f, "\nbatch {number}:{}", Scenario(batch))?;
        }
        write!(f, "\npackets:")?;
        self.packets.iter().try_for_each(|packet| write!(f, "\n  {}", packet_in_words(packet)))
    }
}

/// A batch of changes, some smaller batches, and packets.
pub(crate) fn world() -> impl Strategy<Value = World> {
    let batches = (vec(change(), 0..80), vec(vec(change(), 1..4), 0..6)).prop_map(|(first, mut more)| {
        more.insert(0, first);
        more
    });
    let on_unknown_pod = prop_oneof![Just(Verdict::Deny), Just(Verdict::Allow)];
    (batches, vec(packet(), 0..64), on_unknown_pod, any::<bool>()).prop_map(
        |(batches, packets, on_unknown_pod, plain)| World {
            batches: if plain { restrict(batches) } else { batches },
            packets,
            on_unknown_pod,
        },
    )
}

/// As [`world`], for the tiers: a cluster in which most packets have a pod at both ends, and changes that are
/// mostly of cluster-wide policies. Few NetworkPolicies isolate, so that many packets reach tier Baseline.
pub(crate) fn world_of_tiers() -> impl Strategy<Value = World> {
    let network_policy = || change_of(tiered_network_policy());
    let cluster_policy = || change_of(tiered_cluster_policy());
    let change = || prop_oneof![10 => cluster_policy(), 2 => network_policy(), 3 => change()];
    let first = (vec(cluster_policy(), 4..16), vec(network_policy(), 0..6), vec(change(), 0..8));
    let batches = (first, vec(vec(change(), 1..4), 0..6)).prop_map(|((tiers, policies, others), more)| {
        let first = common_cluster().into_iter().chain(tiers).chain(policies).chain(others).collect();
        let mut batches = vec![first];
        batches.extend(more);
        batches
    });
    let on_unknown_pod = prop_oneof![Just(Verdict::Deny), Just(Verdict::Allow)];
    (batches, vec(packet(), 0..64), on_unknown_pod).prop_map(|(batches, packets, on_unknown_pod)| World {
        batches,
        packets,
        on_unknown_pod,
    })
}

/// Two nodes, three namespaces, and a pod at each of the first addresses, of both families.
fn common_cluster() -> Vec<Change> {
    let namespaces = NAMESPACES.iter().zip(["env=x", "env=y", ""]).map(|(name, text)| namespace(name, text));
    let node = |number: usize| {
        Change::Node(Node {
            name: NODES[number - 1].into(),
            labels: labels(["app=x", "env=y"][number - 1]),
            addresses: vec![format!("192.168.0.{number}").parse().unwrap()],
            has_all_addresses: false,
            reported_addresses: Vec::new(),
            pod_cidrs: [format!("10.244.{number}.0/24"), format!("fd00:{number}::/64")]
                .map(|cidr| cidr.parse().unwrap())
                .into(),
        })
    };
    let pods = [
        ("a/p", "app=x", "n1", &["10.244.1.2", "fd00:1::2"][..]),
        ("a/q", "app=y,env=x", "n1", &["10.244.1.3", "fd00:1::3"]),
        ("b/p", "app=z", "n1", &["10.244.1.4"]),
        ("c/p", "tier=x", "n2", &["10.244.2.2", "fd00:2::2"]),
        ("b/q", "app=x,tier=y", "n2", &["10.244.2.3"]),
    ];
    let pods = pods.into_iter().enumerate().map(|(index, (name, labels, node, addresses))| {
        let pod = super::build::pod(name)
            .labels(labels)
            .on(node)
            .port("http", Protocol::TCP, PORTS[1 + index % 3])
            .port("dns", Protocol::UDP, 53)
            .port("dns", Protocol::TCP, PORTS[index % 2]);
        addresses.iter().fold(pod, |pod, address| pod.at(address)).into()
    });
    let unreadable = super::build::pod("c/q").unknown_labels().on("n1").at("10.244.1.17").into();
    [node(1), node(2)].into_iter().chain(namespaces).chain(pods).chain([unreadable]).collect()
}

fn change_of(policy: impl Strategy<Value = PolicySpec>) -> impl Strategy<Value = Change> {
    (policy, prop::bool::weighted(0.15)).prop_map(|(policy, is_gone)| {
        if is_gone { Change::PolicyGone(policy.name) } else { Change::Policy(Arc::new(policy)) }
    })
}

fn tiered_network_policy() -> impl Strategy<Value = PolicySpec> {
    (network_policy(), prop::bool::weighted(0.3), prop::bool::weighted(0.3)).prop_map(
        |(policy, isolates_ingress, isolates_egress)| PolicySpec {
            isolates_ingress,
            isolates_egress,
            ..policy
        },
    )
}

/// Cluster-wide policies of a few priorities, so that many have equal ones. Many of their rules match.
fn tiered_cluster_policy() -> impl Strategy<Value = PolicySpec> {
    let action = || prop_oneof![3 => Just(Action::Pass), 2 => Just(Action::Deny), 2 => Just(Action::Accept)];
    let everybody = || (NamespaceMatch::Labels(Selector::everything()), Selector::everything());
    let peer = || {
        prop_oneof![
            2 => Just(everybody()).prop_map(|(namespaces, pods)| Peer::Pods { namespaces, pods }),
            5 => peer(),
        ]
    };
    let named = select(&PORT_NAMES[..])
        .prop_map(|name| PortMatch { protocol: None, numbers: PortNumbers::Named(name.into()) });
    let port = || prop_oneof![1 => named.clone(), 2 => port()];
    let rule = || {
        let name = option::weighted(0.5, select(&["first", "second"][..]).prop_map(Arc::from));
        (name, action(), vec(peer(), 1..4), option::weighted(0.5, vec(port(), 1..4)))
            .prop_map(|(name, action, peers, ports)| RuleSpec { name, action, peers: Some(peers), ports })
    };
    let subject = prop_oneof![2 => Just(everybody()), 1 => (namespaces(), selector())];
    (
        select(&["k", "l", "m", "n", "o", "p"][..]),
        select(&[Tier::Admin, Tier::Baseline][..]),
        0..3_u16,
        subject,
        vec(rule(), 0..4),
        vec(rule(), 0..4),
    )
        .prop_map(|(name, tier, priority, (namespaces, pods), ingress, egress)| PolicySpec {
            name: cluster_policy_name(name),
            tier,
            priority,
            subject: Subject { namespaces, pods },
            isolates_ingress: false,
            isolates_egress: false,
            ingress,
            egress,
            omitted: None,
        })
}

fn cluster_policy_name(name: &str) -> PolicyName {
    PolicyName { kind: PolicyKind::ClusterNetworkPolicy, namespace: "".into(), name: name.into() }
}

/// Restricts the changes to NetworkPolicies and known labels, for which verdicts skip the steps for unknown
/// labels and other tiers.
fn restrict(mut batches: Vec<Vec<Change>>) -> Vec<Vec<Change>> {
    let by_name = |name: &str| labels(&format!("kubernetes.io/metadata.name={name}"));
    for change in batches.iter_mut().flatten() {
        match change {
            Change::Namespace(space) if !space.labels.are_known() => space.labels = by_name(&space.name),
            Change::Node(node) if !node.labels.are_known() => node.labels = Labels::none(),
            Change::Pod(pod) if !pod.labels.are_known() => pod.labels = Labels::none(),
            _ => {}
        }
    }
    for batch in &mut batches {
        batch.retain(|change| match change {
            Change::NamespaceGone(_) => false,
            Change::Policy(policy) => policy.tier == Tier::NetworkPolicy,
            _ => true,
        });
    }
    let namespaces =
        NAMESPACES.map(|name| Change::Namespace(Namespace { name: name.into(), labels: by_name(name) }));
    batches[0].splice(..0, namespaces);
    batches
}

fn change() -> impl Strategy<Value = Change> {
    let name = || select(&NAMESPACES[..]);
    let pod_in =
        || (name(), select(&["p", "q", "r", "s"][..])).prop_map(|(ns, pod)| pod_name(&format!("{ns}/{pod}")));
    prop_oneof![
        3 => (name(), label_set()).prop_map(|(name, extra)| {
            let own = labels(&format!("kubernetes.io/metadata.name={name}"));
            let all = || own.iter().chain(extra.iter()).collect();
            let labels = if extra.are_known() { all() } else { Labels::unknown() };
            Change::Namespace(Namespace { name: name.into(), labels })
        }),
        1 => name().prop_map(|name| Change::NamespaceGone(name.into())),
        12 => (pod_in(), pod()).prop_map(|(name, pod)| Change::Pod(Pod { name, ..pod })),
        2 => pod_in().prop_map(Change::PodGone),
        2 => node().prop_map(Change::Node),
        1 => select(&NODES[..]).prop_map(|name| Change::NodeGone(name.into())),
        12 => policy().prop_map(|policy| Change::Policy(Arc::new(policy))),
        2 => policy().prop_map(|policy| Change::PolicyGone(policy.name)),
    ]
}

fn label_set() -> impl Strategy<Value = Labels> {
    let pair = (select(&KEYS[..]), select(&["x", "y", "z", "unmentioned"][..]));
    prop_oneof![
        7 => vec(pair, 0..3).prop_map(|pairs| pairs.into_iter().collect()),
        1 => Just(Labels::unknown()),
    ]
}

fn pod() -> impl Strategy<Value = Pod> {
    let addresses = subsequence(&ADDRESSES[..12], 0..4);
    let port = (select(&PORT_NAMES[..]), select(&PROTOCOLS[..3]), select(&PORTS[..]))
        .prop_map(|(name, protocol, number)| NamedPort { name: name.into(), protocol, number });
    let node = option::weighted(0.9, select(&NODES[..]));
    (label_set(), addresses, vec(port, 0..3), node, prop::bool::weighted(0.1), (0..3_u64, 0..3_i64)).prop_map(
        |(labels, addresses, mut ports, node, host_network, (reported, created))| {
            ports.sort();
            ports.dedup();
            Pod {
                name: pod_name("?/?"),
                labels,
                addresses: addresses.into_iter().map(|address| address.parse().unwrap()).collect(),
                ports,
                node: node.map(Arc::from),
                host_network,
                reported,
                created,
                uid: Default::default(),
                workload: None,
            }
        },
    )
}

fn node() -> impl Strategy<Value = Node> {
    let flag = prop::bool::weighted;
    let reported = option::weighted(0.5, select(&ADDRESSES[14..19]));
    let parts = (0..2_usize, label_set(), flag(0.9), flag(0.9), flag(0.3), reported);
    parts.prop_map(|(which, labels, v4, v6, has_all_addresses, reported)| {
        let number = which + 1;
        let v4 = v4.then(|| format!("10.244.{number}.0/24"));
        let v6 = v6.then(|| format!("fd00:{number}::/64"));
        Node {
            name: NODES[which].into(),
            labels,
            addresses: vec![format!("192.168.0.{number}").parse().unwrap()],
            has_all_addresses,
            reported_addresses: reported.into_iter().map(|address| address.parse().unwrap()).collect(),
            pod_cidrs: [v4, v6].into_iter().flatten().map(|cidr| cidr.parse().unwrap()).collect(),
        }
    })
}

fn network_policy() -> impl Strategy<Value = PolicySpec> {
    (
        select(&NAMESPACES[..]),
        select(&["one", "two", "three"][..]),
        selector(),
        any::<(bool, bool)>(),
        vec(rule(Just(Action::Accept)), 0..5),
        vec(rule(Just(Action::Accept)), 0..5),
    )
        .prop_map(|(namespace, name, pods, (isolates_ingress, isolates_egress), ingress, egress)| {
            PolicySpec {
                name: PolicyName::network_policy(namespace, name),
                tier: Tier::NetworkPolicy,
                priority: 0,
                subject: Subject { namespaces: NamespaceMatch::Named(namespace.into()), pods },
                isolates_ingress,
                isolates_egress,
                ingress,
                egress,
                omitted: None,
            }
        })
}

fn policy() -> impl Strategy<Value = PolicySpec> {
    let action = || select(&[Action::Accept, Action::Deny, Action::Pass][..]);
    let cluster_policy = (
        select(&["k", "l", "m"][..]),
        select(&[Tier::Admin, Tier::Baseline][..]),
        0..2_u16,
        (namespaces(), selector()),
        vec(rule(action()), 0..4),
        vec(rule(action()), 0..4),
    )
        .prop_map(|(name, tier, priority, (namespaces, pods), ingress, egress)| PolicySpec {
            name: cluster_policy_name(name),
            tier,
            priority,
            subject: Subject { namespaces, pods },
            isolates_ingress: false,
            isolates_egress: false,
            ingress,
            egress,
            omitted: None,
        });
    prop_oneof![3 => network_policy(), 1 => cluster_policy]
}

fn rule(action: impl Strategy<Value = Action>) -> impl Strategy<Value = RuleSpec> {
    let name = option::weighted(0.2, Just(Arc::<str>::from("named")));
    (name, action, option::weighted(0.8, vec(peer(), 0..5)), option::weighted(0.6, vec(port(), 0..4)))
        .prop_map(|(name, action, peers, ports)| RuleSpec { name, action, peers, ports })
}

fn peer() -> impl Strategy<Value = Peer> {
    let block = (select(&BLOCKS[..]), vec(select(&BLOCKS[..]), 0..3)).prop_map(|(cidr, except)| {
        let except = except.into_iter().map(|cidr| cidr.parse().unwrap()).collect();
        Peer::Block(IpBlock { cidr: cidr.parse().unwrap(), except })
    });
    prop_oneof![
        12 => (namespaces(), selector()).prop_map(|(namespaces, pods)| Peer::Pods { namespaces, pods }),
        8 => block,
        2 => selector().prop_map(Peer::Nodes),
        1 => Just(Peer::Nothing),
    ]
}

fn port() -> impl Strategy<Value = PortMatch> {
    let numbers = prop_oneof![
        4 => Just(PortNumbers::Any),
        6 => select(&PORTS[..]).prop_map(|port| PortNumbers::Range(port, port)),
        2 => (select(&PORTS[..]), 0..9000_u16).prop_map(|(first, more)| PortNumbers::Range(first, first.saturating_add(more))),
        1 => Just(PortNumbers::Range(0, u16::MAX)),
        4 => select(&PORT_NAMES[..]).prop_map(|name| PortNumbers::Named(name.into())),
        1 => Just(PortNumbers::Nothing),
    ];
    (option::weighted(0.9, prop_oneof![2 => Just(Protocol::TCP), 1 => select(&PROTOCOLS[..])]), numbers)
        .prop_map(|(protocol, numbers)| PortMatch { protocol, numbers })
}

fn namespaces() -> impl Strategy<Value = NamespaceMatch> {
    prop_oneof![
        4 => select(&NAMESPACES[..]).prop_map(|name| NamespaceMatch::Named(name.into())),
        2 => Just(NamespaceMatch::Labels(Selector::everything())),
        3 => selector().prop_map(NamespaceMatch::Labels),
    ]
}

fn selector() -> impl Strategy<Value = Selector> {
    let values = || vec(select(&VALUES[..]).prop_map(Arc::from), 0..4).prop_map(Arc::<[Arc<str>]>::from);
    let key =
        || select(&["app", "env", "tier", "kubernetes.io/metadata.name"][..]).prop_map(Arc::<str>::from);
    let requirement = prop_oneof![
        4 => (key(), values()).prop_map(|(key, values)| Requirement::In(key, values)),
        2 => (key(), values()).prop_map(|(key, values)| Requirement::NotIn(key, values)),
        1 => key().prop_map(Requirement::Exists),
        1 => key().prop_map(Requirement::DoesNotExist),
    ];
    prop_oneof![
        2 => Just(Selector::everything()),
        5 => requirement.clone().prop_map(|requirement| Selector::All([requirement].into())),
        2 => vec(requirement, 0..3).prop_map(|requirements| Selector::All(requirements.into())),
        1 => Just(Selector::Nothing),
    ]
}

fn packet() -> impl Strategy<Value = Packet> {
    let address = || {
        prop_oneof![9 => select(&ADDRESSES[..10]), 2 => select(&ADDRESSES[..])]
            .prop_map(|address| address.parse::<std::net::IpAddr>().unwrap())
    };
    let protocol =
        prop_oneof![6 => Just(Protocol::TCP), 2 => Just(Protocol::UDP), 3 => select(&PROTOCOLS[..])];
    (address(), address(), protocol, option::weighted(0.9, select(&PORTS[..])), 128..140_u8).prop_map(
        |(source, destination, protocol, port, icmp_type)| {
            let mut packet = Packet::new(source, destination, protocol);
            match protocol {
                Protocol::ICMP | Protocol::ICMPV6 => packet.icmp_type = Some(icmp_type),
                Protocol::TCP | Protocol::UDP | Protocol::SCTP => packet.destination_port = port,
                _ => {}
            }
            packet
        },
    )
}

/// All pairs of addresses of the random clusters.
pub(crate) fn pairs() -> impl Iterator<Item = (IpAddr, IpAddr)> {
    let with_earlier = |(index, one): (usize, &'static &str)| {
        let pair = move |other: &&str| (one.parse().unwrap(), other.parse().unwrap());
        ADDRESSES[..index].iter().map(pair)
    };
    ADDRESSES.iter().enumerate().flat_map(with_earlier)
}

/// Packets of every protocol to every port between two addresses, in both directions.
pub(crate) fn packets_between(one: IpAddr, other: IpAddr) -> impl Iterator<Item = Packet> {
    let ends = [(one, other), (other, one)].into_iter();
    ends.flat_map(|(source, destination)| {
        PROTOCOLS.into_iter().flat_map(move |protocol| {
            let packet = Packet::new(source, destination, protocol);
            PORTS.into_iter().map(move |port| packet.to_port(port)).chain([packet])
        })
    })
}
