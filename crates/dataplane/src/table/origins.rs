//! Where packets may come from and go to, as the agent knows it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::open_addresses::OpenAddresses;
use crate::ports::{Attachment, Bindings, InterfaceIndex, Overlay, Port, PortState};

/// Where packets may come from and go to, by port.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Origins {
    /// The addresses behind each port.
    pub bindings: Bindings,
    /// Pods that no policy isolates. Their packets may be evaluated nevertheless, so that they are recorded.
    pub open: OpenAddresses,
    /// The addresses of all nodes, including this one.
    pub node_addresses: BTreeSet<IpAddr>,
    /// The pod CIDRs of all nodes.
    pub pod_cidrs: BTreeSet<IpNet>,
    /// Overlays besides those of this node's devices.
    pub more_overlays: BTreeSet<Overlay>,
}

impl Origins {
    /// What the queue of new ports checks packets against, by port.
    pub fn port_states(&self) -> BTreeMap<InterfaceIndex, PortState> {
        let state = |port: &Port| PortState {
            mac: (port.attachment == Attachment::Bridged).then_some(port.mac),
            addresses: port.addresses.clone(),
            is_settled: port.is_settled,
            isolates_egress: !self.is_open_for_egress(port),
        };
        self.bindings.ports.iter().map(|(index, port)| (*index, state(port))).collect()
    }

    /// Whether the pod behind a port is known and no policy isolates its egress.
    pub(super) fn is_open_for_egress(&self, port: &Port) -> bool {
        is_open(port, &self.open.egress)
    }

    /// Whether the pod behind a port is known and no policy isolates its ingress.
    pub(super) fn is_open_for_ingress(&self, port: &Port) -> bool {
        is_open(port, &self.open.ingress)
    }
}

/// ALL of the pod's addresses must be open. A port without addresses has no known pod, and is not open.
fn is_open(port: &Port, open: &BTreeSet<IpAddr>) -> bool {
    let mut addresses = port.pod_addresses().peekable();
    addresses.peek().is_some() && addresses.all(|address| open.contains(&address))
}
