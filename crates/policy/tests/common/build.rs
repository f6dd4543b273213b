//! Builders for clusters: `pod("web/a").labels("app=web").at("10.244.1.2")`.

use std::sync::Arc;

use policy::{
    Action, Change, IpBlock, Labels, NamedPort, Namespace, NamespaceMatch, Node, Packet, Peer, Pod, PodName,
    PolicyKind, PolicyName, PolicySpec, PortMatch, PortNumbers, Protocol, Requirement, RuleSpec, Selector,
    Subject, Tier,
};

/// `"a=1,b=2"` as labels.
pub(crate) fn labels(text: &str) -> Labels {
    text.split(',').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap()).collect()
}

/// `"a=1,b in x|y,c notin z,d,!e"` as a selector; the empty string selects everything.
pub(crate) fn selector(text: &str) -> Selector {
    let values = |text: &str| -> Arc<[Arc<str>]> { text.split('|').map(Arc::from).collect() };
    let requirement = |text: &str| {
        if let Some((key, all)) = text.split_once(" notin ") {
            Requirement::NotIn(key.into(), values(all))
        } else if let Some((key, any)) = text.split_once(" in ") {
            Requirement::In(key.into(), values(any))
        } else if let Some((key, value)) = text.split_once('=') {
            Requirement::In(key.into(), values(value))
        } else if let Some(key) = text.strip_prefix('!') {
            Requirement::DoesNotExist(key.into())
        } else {
            Requirement::Exists(text.into())
        }
    };
    Selector::All(text.split(',').filter(|part| !part.is_empty()).map(requirement).collect())
}

/// A namespace with these labels and the label that the API server sets.
pub(crate) fn namespace(name: &str, text: &str) -> Change {
    let own = format!("kubernetes.io/metadata.name={name},{text}");
    Change::Namespace(Namespace { name: name.into(), labels: labels(&own) })
}

/// A node with one address and one pod CIDR, and without labels.
pub(crate) fn node(name: &str, address: &str, cidr: &str) -> Change {
    labelled_node(name, address, cidr, Labels::none())
}

/// A node with labels.
pub(crate) fn labelled_node(name: &str, address: &str, cidr: &str, labels: Labels) -> Change {
    let (addresses, pod_cidrs) = (vec![address.parse().unwrap()], vec![cidr.parse().unwrap()]);
    Change::Node(Node {
        name: name.into(),
        labels,
        addresses,
        pod_cidrs,
        has_all_addresses: false,
        reported_addresses: Vec::new(),
    })
}

/// `namespace/name`.
pub(crate) fn pod_name(name: &str) -> PodName {
    let (namespace, name) = name.split_once('/').unwrap();
    PodName::new(namespace, name)
}

/// A pod on node `n1` without labels or addresses.
pub(crate) fn pod(name: &str) -> PodBuilder {
    PodBuilder(Pod {
        name: pod_name(name),
        labels: Labels::none(),
        addresses: Vec::new(),
        ports: Vec::new(),
        node: Some("n1".into()),
        host_network: false,
        reported: 0,
        created: 1,
        uid: Default::default(),
        workload: None,
    })
}

pub(crate) struct PodBuilder(pub(crate) Pod);

impl PodBuilder {
    pub(crate) fn labels(mut self, text: &str) -> Self {
        self.0.labels = labels(text);
        self
    }

    pub(crate) fn unknown_labels(mut self) -> Self {
        self.0.labels = Labels::unknown();
        self
    }

    pub(crate) fn at(mut self, address: &str) -> Self {
        self.0.addresses.push(address.parse().unwrap());
        self
    }

    pub(crate) fn on(mut self, node: &str) -> Self {
        self.0.node = Some(node.into());
        self
    }

    pub(crate) fn unscheduled(mut self) -> Self {
        self.0.node = None;
        self
    }

    pub(crate) fn created(mut self, created: i64) -> Self {
        self.0.created = created;
        self
    }

    pub(crate) fn reported(mut self, version: u64) -> Self {
        self.0.reported = version;
        self
    }

    pub(crate) fn host_network(mut self) -> Self {
        self.0.host_network = true;
        self
    }

    pub(crate) fn port(mut self, name: &str, protocol: Protocol, number: u16) -> Self {
        self.0.ports.push(NamedPort { name: name.into(), protocol, number });
        self.0.ports.sort();
        self
    }
}

impl From<PodBuilder> for Change {
    fn from(pod: PodBuilder) -> Self {
        Change::Pod(pod.0)
    }
}

/// A NetworkPolicy that selects the pods of its namespace by `pods`, and has no rules or directions yet.
pub(crate) fn network_policy(name: &str, pods: &str) -> PolicyBuilder {
    let (namespace, name) = name.split_once('/').unwrap();
    PolicyBuilder(PolicySpec {
        name: PolicyName::network_policy(namespace, name),
        tier: Tier::NetworkPolicy,
        priority: 0,
        subject: Subject { namespaces: NamespaceMatch::Named(namespace.into()), pods: selector(pods) },
        isolates_ingress: false,
        isolates_egress: false,
        ingress: Vec::new(),
        egress: Vec::new(),
        omitted: None,
    })
}

/// A ClusterNetworkPolicy for every pod.
pub(crate) fn cluster_policy(name: &str, tier: Tier, priority: u16) -> PolicyBuilder {
    PolicyBuilder(PolicySpec {
        name: PolicyName::cluster_wide(PolicyKind::ClusterNetworkPolicy, name),
        tier,
        priority,
        subject: Subject { namespaces: NamespaceMatch::Labels(selector("")), pods: selector("") },
        isolates_ingress: false,
        isolates_egress: false,
        ingress: Vec::new(),
        egress: Vec::new(),
        omitted: None,
    })
}

pub(crate) struct PolicyBuilder(pub(crate) PolicySpec);

impl PolicyBuilder {
    /// `policyTypes: [Ingress]`.
    pub(crate) fn isolate_ingress(mut self) -> Self {
        self.0.isolates_ingress = true;
        self
    }

    /// `policyTypes: [Egress]`.
    pub(crate) fn isolate_egress(mut self) -> Self {
        self.0.isolates_egress = true;
        self
    }

    /// Adds an ingress rule, and isolates if this is a NetworkPolicy.
    pub(crate) fn ingress(mut self, rule: RuleBuilder) -> Self {
        self.0.isolates_ingress |= self.0.tier == Tier::NetworkPolicy;
        self.0.ingress.push(rule.0);
        self
    }

    /// Adds an egress rule, and isolates if this is a NetworkPolicy.
    pub(crate) fn egress(mut self, rule: RuleBuilder) -> Self {
        self.0.isolates_egress |= self.0.tier == Tier::NetworkPolicy;
        self.0.egress.push(rule.0);
        self
    }
}

impl From<PolicyBuilder> for Change {
    fn from(policy: PolicyBuilder) -> Self {
        Change::Policy(Arc::new(policy.0))
    }
}

/// A rule that accepts everything: `[{}]`.
pub(crate) fn rule() -> RuleBuilder {
    RuleBuilder(RuleSpec { name: None, action: Action::Accept, peers: None, ports: None })
}

pub(crate) struct RuleBuilder(pub(crate) RuleSpec);

impl RuleBuilder {
    pub(crate) fn action(mut self, action: Action) -> Self {
        self.0.action = action;
        self
    }

    pub(crate) fn peer(mut self, peer: Peer) -> Self {
        self.0.peers.get_or_insert_default().push(peer);
        self
    }

    /// Pods of one namespace.
    pub(crate) fn pods_in(self, namespace: &str, pods: &str) -> Self {
        self.peer(Peer::Pods { namespaces: NamespaceMatch::Named(namespace.into()), pods: selector(pods) })
    }

    /// Pods of the namespaces that a selector matches.
    pub(crate) fn pods(self, namespaces: &str, pods: &str) -> Self {
        self.peer(Peer::Pods {
            namespaces: NamespaceMatch::Labels(selector(namespaces)),
            pods: selector(pods),
        })
    }

    pub(crate) fn block(self, cidr: &str, except: &[&str]) -> Self {
        let except = except.iter().map(|cidr| cidr.parse().unwrap()).collect();
        self.peer(Peer::Block(IpBlock { cidr: cidr.parse().unwrap(), except }))
    }

    /// The nodes that a selector matches.
    pub(crate) fn nodes(self, nodes: &str) -> Self {
        self.peer(Peer::Nodes(selector(nodes)))
    }

    pub(crate) fn port(mut self, protocol: Option<Protocol>, numbers: PortNumbers) -> Self {
        self.0.ports.get_or_insert_default().push(PortMatch { protocol, numbers });
        self
    }

    pub(crate) fn tcp(self, port: u16) -> Self {
        self.port(Some(Protocol::TCP), PortNumbers::Range(port, port))
    }

    pub(crate) fn named(self, protocol: Protocol, name: &str) -> Self {
        self.port(Some(protocol), PortNumbers::Named(name.into()))
    }
}

/// A TCP packet.
pub(crate) fn tcp(source: &str, destination: &str, port: u16) -> Packet {
    Packet::new(source.parse().unwrap(), destination.parse().unwrap(), Protocol::TCP).to_port(port)
}

/// A packet of another protocol, without ports.
pub(crate) fn raw(source: &str, destination: &str, protocol: Protocol) -> Packet {
    Packet::new(source.parse().unwrap(), destination.parse().unwrap(), protocol)
}
