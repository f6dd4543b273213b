//! The valid origins of packets, from the node's interfaces, the known pods, and the administrator's
//! exemptions.
//!
//! From: [`Interfaces`], the CNI cache, snapshots, flags. To: the rules, as [`Origins`], and the status.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use cluster::CniPorts;
use dataplane::drops::{DropCounts, DropSample};
use dataplane::ports::{
    Bindings, InterfaceIndex, Interfaces, Overlay, Owners, PortState, set_link_local_learning,
};
use dataplane::sweep::OverlayFlows;
use dataplane::table::Origins;
use ipnet::IpNet;
use policy::{Inventory, Node, PodName, Snapshot};

use crate::drops::DropRecorder;
use crate::engine::open_addresses;
use cluster::error_chain::chain;

/// Pods that may send from any address, such as virtual machines, VPN gateways and holders of virtual
/// addresses. Only the command line exempts pods: as `NAMESPACE`, or as `NAMESPACE:KEY=VALUE,...` for the
/// pods with all of these labels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Exemption {
    namespace: Arc<str>,
    labels: Vec<(String, String)>,
}

impl FromStr for Exemption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || format!("{text:?} is not of the form NAMESPACE or NAMESPACE:KEY=VALUE,KEY=VALUE");
        let (namespace, labels) = match text.split_once(':') {
            Some((namespace, labels)) => (namespace, Some(labels)),
            None => (text, None),
        };
        let pair = |pair: &str| {
            let (key, value) = pair.split_once('=')?;
            (!key.is_empty()).then(|| (key.to_owned(), value.to_owned()))
        };
        let labels = labels.map(|labels| labels.split(',').map(pair).collect::<Option<Vec<_>>>());
        match (namespace.is_empty(), labels) {
            (true, _) | (_, Some(None)) => Err(invalid()),
            (false, labels) => {
                Ok(Self { namespace: namespace.into(), labels: labels.flatten().unwrap_or_default() })
            }
        }
    }
}

impl fmt::Display for Exemption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.namespace)?;
        for (number, (key, value)) in self.labels.iter().enumerate() {
            write!(f, "{}{key}={value}", if number == 0 { ':' } else { ',' })?;
        }
        Ok(())
    }
}

/// The flags about origins.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct OriginSettings {
    /// Pods that may send from any address. A pod is exempt if ANY of these selects it.
    pub exemptions: Vec<Exemption>,
    /// Overlays in addition to those of this node's devices.
    pub overlays: BTreeSet<Overlay>,
    /// Whether overlay packets are dropped if their source is not a node's address.
    pub overlay_sources_are_nodes: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct OriginTracker {
    settings: OriginSettings,
    interfaces: Interfaces,
    cni: CniPorts,
    bindings: Bindings,
    states: BTreeMap<InterfaceIndex, PortState>,
    /// Bridges that no longer learn from frames to link-local groups.
    configured: BTreeSet<InterfaceIndex>,
    /// Packets that were dropped, until they are recorded.
    pub drops: DropRecorder,
}

impl OriginTracker {
    /// A tracker without interfaces and bindings.
    pub(crate) fn new(settings: OriginSettings) -> Self {
        Self {
            settings,
            interfaces: Interfaces::default(),
            cni: CniPorts::default(),
            bindings: Bindings::default(),
            states: BTreeMap::new(),
            configured: BTreeSet::new(),
            drops: DropRecorder::default(),
        }
    }

    /// The settings.
    pub(crate) fn settings(&self) -> &OriginSettings {
        &self.settings
    }

    /// Starts with these interfaces, and with the bindings in the kernel from an earlier agent, which stay.
    pub(crate) fn begin(&mut self, interfaces: Interfaces, in_kernel: Bindings) {
        (self.interfaces, self.bindings) = (interfaces, in_kernel);
    }

    /// Replaces the node's interfaces.
    pub(crate) fn set_interfaces(&mut self, interfaces: Interfaces) {
        self.interfaces = interfaces;
    }

    /// Replaces the content of the CNI cache.
    pub(crate) fn set_cni(&mut self, cni: CniPorts) {
        self.cni = cni;
    }

    /// Whether the bindings depend on pod labels. The compiler may not report changes of labels that no
    /// policy selects.
    pub(crate) fn depends_on_labels(&self) -> bool {
        // ANY exemption.
        self.settings.exemptions.iter().any(|exemption| !exemption.labels.is_empty())
    }

    /// The addresses of the node's interfaces, without loopback and link-local ones.
    pub(crate) fn own_addresses(&self) -> Vec<IpAddr> {
        self.interfaces.own_addresses().collect()
    }

    /// The latest bindings.
    pub(crate) fn bindings(&self) -> &Bindings {
        &self.bindings
    }

    /// Derives the bindings under this snapshot. Also returns the addresses that are no longer bound to their
    /// previous port.
    pub(crate) fn derive(
        &mut self,
        snapshot: &Snapshot,
        inventory: &Inventory,
    ) -> (Origins, BTreeSet<IpAddr>) {
        let owners = KnownOwners { snapshot, cni: &self.cni, exemptions: &self.settings.exemptions };
        let next = self.bindings.derive(&self.interfaces, &owners);
        let unbound = next.left_since(&self.bindings);
        for conflict in next.conflicts.difference(&self.bindings.conflicts) {
            tracing::warn!(
                address = %conflict.address,
                bound_to = conflict.bound_to.as_deref().unwrap_or("none"),
                claimed_by = %conflict.claimed_by,
                "several ports claim one address: it is bound to one of them at most"
            );
        }
        for bridge in next.pod_bridges.difference(&self.configured) {
            if let Err(error) = set_link_local_learning(*bridge, false) {
                tracing::warn!(
                    %bridge,
                    error = %chain(&error),
                    "cannot stop the bridge from learning link-local frames: a pod can divert another pod's \
                     packets, which are then dropped"
                );
            }
        }
        self.configured.clone_from(&next.pod_bridges);
        self.bindings = next;
        let nodes = inventory.nodes.values().flat_map(Node::own_addresses);
        let pod_cidrs: BTreeSet<IpNet> =
            inventory.nodes.values().flat_map(|node| node.pod_cidrs.iter().copied()).collect();
        // The bridge of another node receives packets to its broadcast address.
        let broadcasts = pod_cidrs.iter().filter(|cidr| cidr.addr().is_ipv4()).map(IpNet::broadcast);
        let origins = Origins {
            bindings: self.bindings.clone(),
            open: open_addresses(snapshot, false),
            node_addresses: nodes.chain(broadcasts).collect(),
            pod_cidrs: pod_cidrs.clone(),
            more_overlays: self.settings.overlays.clone(),
        };
        self.states = origins.port_states();
        (origins, unbound)
    }

    /// The state of each port, by which the queue of new ports checks packets.
    pub(crate) fn port_states(&self) -> BTreeMap<InterfaceIndex, PortState> {
        self.states.clone()
    }

    /// The records of packets that rules dropped since the last call.
    pub(crate) fn drain_drops(&mut self, counts: DropCounts, snapshot: &Snapshot) -> Vec<audit::Dropped> {
        self.drops.drain(counts, snapshot, &self.bindings)
    }

    /// See [`DropRecorder::sampler`].
    pub(crate) fn sampler(&self, is_own: bool) -> impl Fn(DropSample) + Send + Clone + use<> {
        self.drops.sampler(is_own)
    }
}

/// The packets that pods may not send to nodes.
pub(crate) fn overlay_flows(origins: &Origins) -> OverlayFlows {
    let Origins { bindings, node_addresses, pod_cidrs, more_overlays, .. } = origins;
    OverlayFlows {
        overlays: &bindings.overlays | more_overlays,
        node_addresses: node_addresses | &bindings.own_addresses,
        pod_cidrs: pod_cidrs.clone(),
    }
}

struct KnownOwners<'a> {
    snapshot: &'a Snapshot,
    cni: &'a CniPorts,
    exemptions: &'a [Exemption],
}

impl Owners for KnownOwners<'_> {
    fn pod_at(&self, address: IpAddr) -> Option<PodName> {
        self.snapshot.pod_at(address).cloned()
    }

    fn addresses_of(&self, pod: &PodName, address: IpAddr) -> Vec<IpAddr> {
        let found = self.snapshot.pod(address).filter(|found| found.name == *pod);
        found.map(|pod| pod.addresses.clone()).unwrap_or_default()
    }

    fn in_cni_cache(&self, interface: &str) -> Option<Vec<IpAddr>> {
        self.cni.get(interface).cloned()
    }

    fn pod_cidrs(&self) -> &[IpNet] {
        self.snapshot.pod_cidrs()
    }

    fn is_exempt(&self, pod: &PodName, address: IpAddr) -> bool {
        let labels = self.snapshot.pod(address).filter(|found| found.name == *pod).map(|pod| &pod.labels);
        let has = |(key, value): &(String, String)| {
            labels.is_some_and(|labels| labels.value(key) == Some(value.as_str()))
        };
        // ANY exemption, ALL of its labels.
        self.exemptions
            .iter()
            .any(|exemption| exemption.namespace == pod.namespace && exemption.labels.iter().all(has))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exemptions_are_read_and_shown() {
        for text in ["vpn", "vpn:app=gateway", "vpn:app=gateway,tier=edge", "vpn:empty="] {
            assert_eq!(text.parse::<Exemption>().map(|exemption| exemption.to_string()), Ok(text.to_owned()));
        }
        for text in ["", ":app=x", "vpn:", "vpn:app", "vpn:=x", "vpn:a=b,"] {
            text.parse::<Exemption>().expect_err(text);
        }
    }
}
