//! The configuration at one moment: pods with their labels, and policies in a form that a test can evaluate
//! itself.
//!
//! From: the seed. To: manifests for the agents, and a naive verdict for each pair of pods, port and
//! direction. Pure. Invariant: both express the same policy. The manifests contain a policy that is named
//! after the world's number, so an agent's log shows which world is in force.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use serde_json::{Value, json};

use crate::cluster::ClusterSpec;
use crate::manifests::policy_text;
use crate::port::Transport;
use crate::scenario::Direction;
use crate::specs::PodSpec;
use crate::static_api::{Objects, POLICIES};

/// The file of namespaces, nodes and pods.
pub const CLUSTER_FILE: &str = "cluster.yaml";
/// The file of policies.
pub const POLICY_FILE: &str = "policies.yaml";
/// The namespace of the policies that are named after worlds. It has no pods.
const MARKERS: &str = "marker";

/// Ports of `db` that `web` may always reach.
pub const DATA: [&str; 2] = ["5432/TCP", "53/UDP"];
/// Ports of `db` that the namespaces in [`World::metrics`] may reach.
pub const METRICS: [&str; 2] = ["9187/TCP", "9188/UDP"];
/// Ports of all other pods.
pub const PLAIN: [&str; 2] = ["80/TCP", "81/UDP"];

/// Where pods of namespace `other` may connect to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Egress {
    /// Anywhere: no policy isolates them.
    Open,
    /// Only to `db`.
    ToDb,
    /// Nowhere.
    Closed,
}

/// The properties of a pod that verdicts depend on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pod {
    /// Its name as `namespace/name`.
    pub name: String,
    /// Its node.
    pub node: String,
    /// Its addresses: IPv4, then IPv6.
    pub addresses: [IpAddr; 2],
    /// Whether its label `team` is `front`.
    pub is_front: bool,
}

impl Pod {
    /// Its namespace.
    pub fn namespace(&self) -> &str {
        self.name.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The ports on which it answers.
    pub fn ports(&self) -> [&'static str; 4] {
        if self.namespace() == "db" {
            [DATA[0], DATA[1], METRICS[0], METRICS[1]]
        } else {
            [PLAIN[0], PLAIN[1], PLAIN[0], PLAIN[1]]
        }
    }
}

impl From<&PodSpec> for Pod {
    fn from(spec: &PodSpec) -> Self {
        Self {
            name: spec.full_name(),
            node: spec.node.clone(),
            addresses: spec.addresses,
            is_front: spec.labels.get("team").is_some_and(|team| team == "front"),
        }
    }
}

/// See the module's documentation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct World {
    /// The world's number, from 1.
    pub number: u64,
    /// The number in [`CLUSTER_FILE`]: that of the last world for which the file was written.
    pub cluster_number: u64,
    /// The number in [`POLICY_FILE`]: that of the last world for which the file was written.
    pub policy_number: u64,
    /// Pods by name.
    pub pods: BTreeMap<String, Pod>,
    /// Namespaces that may reach [`METRICS`]. Of `roll`, only pods of team `front` may.
    pub metrics: BTreeSet<&'static str>,
    /// What pods of `other` may reach.
    pub egress: Egress,
    /// Whether pods of `web` accept connections only from team `front`.
    pub is_web_isolated: bool,
}

/// A port of a pod, and its protocol.
pub type ServicePort = (u16, Transport);

impl World {
    /// The first world.
    pub fn first(pods: impl IntoIterator<Item = Pod>) -> Self {
        Self {
            number: 1,
            cluster_number: 1,
            policy_number: 1,
            pods: pods.into_iter().map(|pod| (pod.name.clone(), pod)).collect(),
            metrics: BTreeSet::from(["web"]),
            egress: Egress::Open,
            is_web_isolated: true,
        }
    }

    /// The marker policies of this world. It is in force once the agent has applied BOTH.
    pub fn markers(&self) -> [String; 2] {
        [
            format!("{MARKERS}/cluster-{}", self.cluster_number),
            format!("{MARKERS}/policies-{}", self.policy_number),
        ]
    }

    /// The pod at an address.
    pub fn at(&self, address: IpAddr) -> Option<&Pod> {
        self.pods.values().find(|pod| pod.addresses.contains(&address))
    }

    /// Whether a connection is allowed in one direction. Addresses without a pod may reach nothing.
    pub fn allows_in(
        &self,
        direction: Direction,
        from: Option<&Pod>,
        to: Option<&Pod>,
        target: ServicePort,
    ) -> bool {
        let (Some(from), Some(to)) = (from, to) else { return false };
        match direction {
            Direction::Egress => match (from.namespace(), self.egress) {
                ("other", Egress::ToDb) => to.namespace() == "db",
                ("other", Egress::Closed) => false,
                _ => true,
            },
            Direction::Ingress => match to.namespace() {
                "db" if DATA.contains(&port_text(target).as_str()) => from.namespace() == "web",
                "db" if METRICS.contains(&port_text(target).as_str()) => match from.namespace() {
                    "roll" => self.metrics.contains("roll") && from.is_front,
                    namespace => self.metrics.contains(namespace),
                },
                "db" => false,
                "web" => !self.is_web_isolated || from.is_front,
                _ => true,
            },
        }
    }

    /// Whether a connection is allowed in BOTH directions.
    pub fn allows(&self, from: Option<&Pod>, to: Option<&Pod>, target: ServicePort) -> bool {
        [Direction::Egress, Direction::Ingress]
            .iter()
            .all(|direction| self.allows_in(*direction, from, to, target))
    }

    /// [`World::allows`] by the names of pods.
    pub fn allows_named(&self, from: &str, to: &str, target: ServicePort) -> bool {
        self.allows(self.pods.get(from), self.pods.get(to), target)
    }

    /// The policies by name, with their specs.
    pub fn policies(&self) -> Vec<(String, Value)> {
        let of = |namespace: &str| json!({"matchLabels": {"kubernetes.io/metadata.name": namespace}});
        let peer = |namespace: &&str| match *namespace {
            "roll" => json!({
                "namespaceSelector": of(namespace),
                "podSelector": {"matchLabels": {"team": "front"}},
            }),
            namespace => json!({"namespaceSelector": of(namespace)}),
        };
        let all = || json!({});
        let data = json!({
            "podSelector": all(),
            "ingress": [{
                "from": [peer(&"web")],
                "ports": [{"port": 5432}, {"protocol": "UDP", "port": 53}],
            }],
        });
        let rules = json!([{
            "from": self.metrics.iter().map(peer).collect::<Vec<_>>(),
            "ports": [{"port": 9187}, {"protocol": "UDP", "port": 9188}],
        }]);
        // A rule without peers would allow all sources.
        let rules = if self.metrics.is_empty() { json!([]) } else { rules };
        let mut policies = vec![
            ("db/allow-web".to_owned(), data),
            ("db/metrics".to_owned(), json!({"podSelector": all(), "ingress": rules})),
        ];
        let egress = |rules: Value| json!({"podSelector": all(), "policyTypes": ["Egress"], "egress": rules});
        match self.egress {
            Egress::Open => {}
            Egress::ToDb => {
                policies.push(("other/egress".to_owned(), egress(json!([{"to": [peer(&"db")]}]))));
            }
            Egress::Closed => policies.push(("other/egress".to_owned(), egress(json!([])))),
        }
        if self.is_web_isolated {
            let front =
                json!({"namespaceSelector": all(), "podSelector": {"matchLabels": {"team": "front"}}});
            let spec = json!({"podSelector": all(), "ingress": [{"from": [front]}]});
            policies.push(("web/front-only".to_owned(), spec));
        }
        policies
    }

    /// The text of [`POLICY_FILE`].
    pub fn policy_text(&self) -> String {
        let texts = self.policies().into_iter().map(|(name, spec)| policy_text(&name, &spec.to_string()));
        texts.chain([marker_text("policies", self.policy_number)]).collect::<Vec<_>>().join("---\n")
    }

    /// The objects that an API server has in this world; nodes and namespaces are those of `cluster`.
    pub fn objects(&self, cluster: &ClusterSpec) -> Objects {
        let metadata = |name: &str| {
            let (namespace, short) = name.split_once('/').unwrap_or(("", name));
            let version = self.number.to_string();
            json!({"name": short, "namespace": namespace, "uid": format!("uid-{name}"), "resourceVersion": version})
        };
        let namespaces =
            cluster.namespaces.keys().map(|name| json!({"metadata": metadata(name)})).map(|mut object| {
                object["metadata"]["labels"] =
                    json!({"kubernetes.io/metadata.name": object["metadata"]["name"].clone()});
                object
            });
        let nodes = cluster.nodes.iter().map(|node| {
            let addresses = node.addresses().map(|address| json!({"type": "InternalIP", "address": address}));
            json!({
                "metadata": metadata(&node.name),
                "spec": {"podCIDRs": node.cidrs()},
                "status": {"addresses": addresses},
            })
        });
        let pods = self.pods.values().map(|pod| {
            let mut metadata = metadata(&pod.name);
            metadata["labels"] = json!({"team": if pod.is_front { "front" } else { "back" }});
            let addresses = pod.addresses.map(|address| json!({"ip": address}));
            json!({
                "metadata": metadata,
                "spec": {"nodeName": pod.node},
                "status": {"phase": "Running", "podIPs": addresses},
            })
        });
        let markers = self.markers().map(|name| (name, json!({"podSelector": {}, "ingress": []})));
        let policies = self.policies().into_iter().chain(markers);
        let policies = policies.map(|(name, spec)| json!({"metadata": metadata(&name), "spec": spec}));
        Objects::from([
            ("/api/v1/namespaces", namespaces.collect()),
            ("/api/v1/nodes", nodes.collect()),
            ("/api/v1/pods", pods.collect()),
            (POLICIES, policies.collect()),
        ])
    }

    /// The text of [`CLUSTER_FILE`]; the pods are those of `cluster`, with this world's labels.
    pub fn cluster_text(&self, cluster: &ClusterSpec) -> String {
        format!(
            "{}---\n{}",
            crate::manifests::cluster_text(cluster, &[]),
            marker_text("cluster", self.cluster_number)
        )
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let metrics: Vec<&str> = self.metrics.iter().copied().collect();
        let front: Vec<&str> =
            self.pods.values().filter(|pod| pod.is_front).map(|pod| pod.name.as_str()).collect();
        write!(
            f,
            "world {}: metrics for [{}], egress of other {:?}, web for {}, front [{}], {} pods",
            self.number,
            metrics.join(" "),
            self.egress,
            if self.is_web_isolated { "team front" } else { "all" },
            front.join(" "),
            self.pods.len()
        )
    }
}

fn port_text((port, transport): ServicePort) -> String {
    format!("{port}/{transport}")
}

fn marker_text(kind: &str, number: u64) -> String {
    policy_text(&format!("{MARKERS}/{kind}-{number}"), "podSelector: {}\ningress: []")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, last: u8, is_front: bool) -> Pod {
        let addresses = [[10, 0, 0, last].into(), std::net::Ipv6Addr::from(u128::from(last)).into()];
        Pod { name: name.to_owned(), node: "node-a".to_owned(), addresses, is_front }
    }

    #[test]
    fn a_world_evaluates_its_policies() {
        let pods =
            [pod("web/c", 2, false), pod("other/x", 3, true), pod("db/s", 4, false), pod("roll/r", 5, false)];
        let mut world = World::first(pods);
        let data = (5432, Transport::Tcp);
        let metrics = (9188, Transport::Udp);
        assert!(world.allows_named("web/c", "db/s", data) && !world.allows_named("other/x", "db/s", data));
        assert!(
            world.allows_named("web/c", "db/s", metrics) && !world.allows_named("roll/r", "db/s", metrics)
        );
        assert!(!world.allows_named("web/c", "db/s", (53, Transport::Tcp)), "the protocol counts");
        assert!(
            world.allows_named("other/x", "web/c", (80, Transport::Tcp))
                && !world.allows_named("roll/r", "web/c", data)
        );
        world.metrics = BTreeSet::from(["other", "roll"]);
        assert!(
            world.allows_named("other/x", "db/s", metrics) && !world.allows_named("roll/r", "db/s", metrics)
        );
        world.egress = Egress::ToDb;
        assert!(
            world.allows_named("other/x", "db/s", metrics)
                && !world.allows_named("other/x", "web/c", (80, Transport::Tcp))
        );
        world.egress = Egress::Closed;
        assert!(!world.allows_named("other/x", "db/s", metrics));
        assert!(!world.allows_named("web/c", "db/gone", data), "a pod that does not exist is not reached");
    }

    #[test]
    fn both_files_contain_their_number() {
        let world = World::first([pod("web/c", 2, false)]);
        assert!(world.policy_text().contains("name: \"policies-1\""));
        assert!(world.cluster_text(&ClusterSpec::of_two_nodes()).contains("name: \"cluster-1\""));
        assert_eq!(world.markers(), ["marker/cluster-1", "marker/policies-1"]);
    }
}
