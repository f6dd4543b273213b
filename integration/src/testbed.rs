//! A running cluster of network namespaces, with servers in its pods.
//!
//! From: a [`ClusterSpec`]. To: probes, agents and scenarios. Everything is removed when the testbed
//! is dropped, also by a panic. If the process was killed, the next one cleans up. With `KEEP_TESTBED=1` in
//! the environment, everything remains for inspection.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cluster::{ClusterSpec, Links, OUTSIDE};
use crate::command::{bridge, ip, nft, nft_output};
use crate::manifests::Manifests;
use crate::namespace::{self, NetworkNamespace};
use crate::port::PodPort;
use crate::probe::{Family, Observed, ProbeTarget, probe};
use crate::server::Server;
use crate::wiring;

mod churn;

/// Ports on which the nodes and the host outside answer.
const HOST_PORTS: [&str; 2] = ["7000/TCP", "7000/UDP"];

/// See the module's documentation.
#[derive(Debug)]
pub struct Testbed {
    // Dropped in this order: the servers before their namespaces.
    servers: BTreeMap<String, Server>,
    manifests: Manifests,
    /// By the name of a pod (`namespace/name`), of a node, or [`OUTSIDE`]. Pods of the host network have
    /// none.
    namespaces: BTreeMap<String, Arc<NetworkNamespace>>,
    /// The node's end of each pod's veth pair.
    devices: BTreeMap<String, String>,
    cluster: ClusterSpec,
}

impl ClusterSpec {
    /// Builds the testbed. Fails with the first error in the description, if there is one.
    pub fn build(self) -> Result<Testbed> {
        Testbed::build(self.checked()?)
    }
}

impl Testbed {
    /// Starts the description of a cluster.
    #[expect(clippy::new_ret_no_self, reason = "a testbed starts as the description of its cluster")]
    pub fn new() -> ClusterSpec {
        ClusterSpec::new()
    }

    /// Builds what `cluster` describes.
    pub(crate) fn build(cluster: ClusterSpec) -> Result<Self> {
        namespace::require_root()?;
        namespace::remove_stale();
        let mut testbed = Self {
            servers: BTreeMap::new(),
            manifests: Manifests::new()?,
            namespaces: namespaces(&cluster)?,
            devices: BTreeMap::new(),
            cluster,
        };
        testbed.configure()?;
        testbed.manifests.write_cluster(&testbed.cluster)?;
        testbed.start_servers()?;
        Ok(testbed)
    }

    /// The description from which it was built.
    pub fn cluster(&self) -> &ClusterSpec {
        &self.cluster
    }

    /// The folder of manifests that describe it.
    pub fn manifests(&self) -> &Manifests {
        &self.manifests
    }

    /// The network namespace of a pod (`namespace/name`), of a node, or of [`OUTSIDE`].
    pub fn namespace(&self, name: &str) -> Result<&Arc<NetworkNamespace>> {
        if let Some(namespace) = self.namespaces.get(name) {
            return Ok(namespace);
        }
        let pod = self.cluster.pod_named(name)?;
        self.namespaces.get(&pod.node).with_context(|| format!("there is no node {:?}", pod.node))
    }

    /// The node's end of a pod's veth pair.
    pub fn device(&self, pod: &str) -> Result<&str> {
        self.devices.get(pod).map(String::as_str).with_context(|| format!("{pod:?} is not attached"))
    }

    /// The addresses of a pod, of a node, or of [`OUTSIDE`]: IPv4, then IPv6. For an address, that address
    /// twice.
    pub fn addresses(&self, name: &str) -> Result<[IpAddr; 2]> {
        if let Ok(address) = name.parse() {
            return Ok([address; 2]);
        }
        if name == OUTSIDE {
            let [v4, v6] = wiring::OUTSIDE_ADDRESSES;
            return Ok([v4.parse()?, v6.parse()?]);
        }
        match self.cluster.node_named(name) {
            Ok(node) => Ok(node.addresses()),
            Err(_) => Ok(self.cluster.pod_named(name)?.addresses),
        }
    }

    /// The server of a pod, of a node, or of [`OUTSIDE`] (the latter two answer on ports 7000/TCP and
    /// 7000/UDP).
    pub fn server(&self, name: &str) -> Result<&Server> {
        self.servers.get(name).with_context(|| format!("{name:?} has no server"))
    }

    /// Probes `to` from `from`. Either is a pod, a node, or [`OUTSIDE`]; `to` can also be an address.
    pub fn probe(
        &self,
        from: &str,
        to: &str,
        target: ProbeTarget,
        family: Family,
        timeout: Duration,
    ) -> Result<Observed> {
        let address = family.of(self.addresses(to)?);
        self.namespace(from)?
            .run(|| probe(address, target, timeout))?
            .with_context(|| format!("probing {target} of {to} ({address}) from {from}"))
    }

    /// The nftables rules of a node, as `nft list ruleset` shows them.
    pub fn ruleset(&self, node: &str) -> Result<String> {
        nft_output(self.namespace(node)?, &["list", "ruleset"])
    }

    /// Prints the command that enters each namespace, and the rules of each node.
    pub fn print_state(&self) {
        eprintln!("--- how to enter the namespaces (KEEP_TESTBED=1 keeps the testbed)");
        for (name, namespace) in &self.namespaces {
            eprintln!("{name:>16}: {}", namespace.enter_command());
        }
        eprintln!("{:>16}: {}", "manifests", self.manifests.path().display());
        for node in &self.cluster.nodes {
            match self.ruleset(&node.name) {
                Ok(rules) => eprintln!("--- nft list ruleset in {}\n{rules}", node.name),
                Err(error) => eprintln!("--- nft list ruleset in {}: {error:#}", node.name),
            }
        }
    }

    fn configure(&mut self) -> Result<()> {
        let cluster = &self.cluster;
        for (name, namespace) in &self.namespaces {
            namespace.sysctls(&wiring::EVERYWHERE)?;
            if let Ok(node) = cluster.node_named(name) {
                namespace.sysctls(&wiring::NODE)?;
                for sysctl in wiring::BRIDGED {
                    namespace.sysctl(sysctl, "1").with_context(|| {
                        format!("node {}: load the kernel module first: modprobe br_netfilter", node.name)
                    })?;
                }
            } else if name == OUTSIDE {
                for sysctl in wiring::BRIDGED {
                    // The bridge outside stands for the wire between nodes, whose frames must not be
                    // filtered. Without the module, they aren't.
                    let _ = namespace.sysctl(sysctl, "0");
                }
            }
        }
        let path = |name: &str| self.namespaces.get(name).map(|n| n.name().to_owned()).unwrap_or_default();
        ip(self.namespace(OUTSIDE)?, &wiring::outside(cluster, path))?;
        for node in &cluster.nodes {
            let pods = cluster.pods.iter().filter(|pod| pod.node == node.name && !pod.host_network);
            let mut lines = wiring::node(cluster, node);
            for (number, pod) in pods.clone().enumerate() {
                let (name, device) = (pod.full_name(), format!("veth{number}"));
                let peer = (&*path(&name), &*cluster.hardware_address(pod));
                lines.push_str(&cluster.attachment.attach(&device, pod, node, peer));
                self.devices.insert(name, device);
            }
            let namespace = self.namespace(&node.name)?;
            ip(namespace, &lines)?;
            if cluster.links == Links::Vxlan {
                bridge(namespace, &wiring::forwarding(cluster, node))?;
            }
            nft(namespace, &wiring::rules(cluster))?;
            for pod in pods {
                ip(self.namespace(&pod.full_name())?, &cluster.attachment.pod(pod, node))?;
            }
        }
        self.namespaces.values().try_for_each(|namespace| namespace.wait_for_links())
    }

    fn start_servers(&mut self) -> Result<()> {
        let host_ports: Vec<PodPort> = HOST_PORTS.iter().map(|port| port.parse()).collect::<Result<_>>()?;
        let mut wanted = vec![(OUTSIDE.to_owned(), self.addresses(OUTSIDE)?, host_ports.clone())];
        for node in &self.cluster.nodes {
            wanted.push((node.name.clone(), node.addresses(), host_ports.clone()));
        }
        wanted
            .extend(self.cluster.pods.iter().map(|pod| (pod.full_name(), pod.addresses, pod.ports.clone())));
        for (name, addresses, ports) in wanted {
            let server = Server::start(self.namespace(&name)?, &name, &addresses, &ports)?;
            self.servers.insert(name, server);
        }
        Ok(())
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_state();
        }
    }
}

fn namespaces(cluster: &ClusterSpec) -> Result<BTreeMap<String, Arc<NetworkNamespace>>> {
    static TESTBEDS: AtomicU32 = AtomicU32::new(1);
    let number = TESTBEDS.fetch_add(1, Ordering::Relaxed);
    let mut names = vec![OUTSIDE.to_owned()];
    names.extend(cluster.nodes.iter().map(|node| node.name.clone()));
    names.extend(cluster.pods.iter().filter(|pod| !pod.host_network).map(|pod| pod.full_name()));
    let mut made = BTreeMap::new();
    for name in names {
        let namespace = NetworkNamespace::create(&format!("{number}-{}", name.replace('/', ".")))?;
        if made.insert(name.clone(), Arc::new(namespace)).is_some() {
            bail!("two nodes or pods are named {name:?}");
        }
    }
    Ok(made)
}
