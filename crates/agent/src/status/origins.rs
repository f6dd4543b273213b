//! The part of the status about the valid origins of packets.

use std::collections::BTreeMap;

use dataplane::drops::DropReason;
use dataplane::ports::PortQueueCounters;
use dataplane::table::Protections;
use policy::Snapshot;
use serde::{Deserialize, Serialize};

use crate::origins::OriginTracker;

/// Which pod is behind which interface, and how many packets rules dropped because of their origin.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct OriginsStatus {
    /// The protections, and whether each is in force.
    pub protections: Vec<Protection>,
    /// The ports of pods.
    pub ports: Vec<PortStatus>,
    /// Addresses and MAC addresses that several ports claim.
    pub conflicts: Vec<ConflictStatus>,
    /// The overlays between nodes, whose packets pods may not send to nodes.
    pub overlays: Vec<String>,
    /// Pods that may send from any address, from the command line.
    pub exemptions: Vec<String>,
    /// The number of packets that rules dropped, by reason, since the agent started.
    pub dropped: BTreeMap<String, u64>,
    /// Packets that were held until their port is known.
    pub new_ports: NewPorts,
}

/// The number of packets from unknown ports, since the rules were installed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct NewPorts {
    /// All packets from unknown ports.
    pub queued: u64,
    /// Packets that were allowed once the port was known.
    pub allowed: u64,
    /// Packets that were denied once the port was known, because of a wrong source.
    pub denied: u64,
    /// Packets that reached `--hold-timeout`, and were then decided by `--on-unknown-pod`.
    pub expired: u64,
    /// Packets that were not held because of a limit, and were decided by `--on-unknown-pod` at once.
    pub over_limit: u64,
}

impl From<PortQueueCounters> for NewPorts {
    fn from(counters: PortQueueCounters) -> Self {
        let PortQueueCounters { queued, allowed, denied, expired, over_limit } = counters;
        Self { queued, allowed, denied, expired, over_limit }
    }
}

/// A protection of packets' origins.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Protection {
    /// Its short stable name, one of [`Protection::IDS`].
    pub id: String,
    /// What it does.
    pub name: String,
    /// Whether it is in force.
    pub in_force: bool,
    /// If not: why, and what to do.
    pub why_not: Option<String>,
    /// If not: whether that is intended, because it is not configured or there is nothing to protect.
    pub off_by_choice: bool,
}

impl Protection {
    /// The short names of all protections.
    pub(crate) const IDS: [&str; 5] =
        ["bridged-sources", "routed-sources", "own-addresses", "overlay", "overlay-sources"];
}

/// A port: the interface of a pod.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct PortStatus {
    /// The interface's name.
    pub interface: String,
    /// The pod, `namespace/name`; null while it is not known.
    pub pod: Option<String>,
    /// The addresses that the pod may use.
    pub addresses: Vec<String>,
    /// Whether the pod may also use other addresses, because it is exempt.
    pub exempt: bool,
}

/// An address that several ports claim.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct ConflictStatus {
    /// The address or MAC address.
    pub address: String,
    /// The interface to which it is bound; null if its owner is unknown.
    pub bound_to: Option<String>,
    /// Another interface that claims it.
    pub claimed_by: String,
}

impl OriginsStatus {
    /// Combines the states of the tracker, the rules and the queue of new ports. `on_bridge`: whether a
    /// bridge connects the pods.
    pub(crate) fn new(
        tracker: &OriginTracker,
        protections: Protections,
        on_bridge: bool,
        new_ports: PortQueueCounters,
        snapshot: &Snapshot,
    ) -> Self {
        let bindings = tracker.bindings();
        let port = |port: &dataplane::ports::Port| PortStatus {
            interface: port.name.to_string(),
            pod: port.pod_addresses().find_map(|address| snapshot.pod_at(address)).map(ToString::to_string),
            addresses: port.addresses.iter().map(ToString::to_string).collect(),
            exempt: port.is_exempt,
        };
        Self {
            protections: protections_of(tracker, protections, on_bridge),
            ports: bindings.ports.values().map(port).collect(),
            conflicts: bindings
                .conflicts
                .iter()
                .map(|conflict| ConflictStatus {
                    address: conflict.address.to_string(),
                    bound_to: conflict.bound_to.as_ref().map(ToString::to_string),
                    claimed_by: conflict.claimed_by.to_string(),
                })
                .collect(),
            overlays: (&bindings.overlays | &tracker.settings().overlays)
                .iter()
                .map(ToString::to_string)
                .collect(),
            exemptions: tracker.settings().exemptions.iter().map(ToString::to_string).collect(),
            dropped: DropReason::ALL
                .into_iter()
                .map(|reason| {
                    (
                        reason.code().to_owned(),
                        tracker.drops.totals().get(&reason).copied().unwrap_or_default(),
                    )
                })
                .collect(),
            new_ports: new_ports.into(),
        }
    }
}

/// All protections, in the order of [`Protection::IDS`].
fn protections_of(tracker: &OriginTracker, protections: Protections, on_bridge: bool) -> Vec<Protection> {
    const NOT_INSTALLED: &str = "the rules are not installed";
    let settings = tracker.settings();
    let has_overlay = !(tracker.bindings().overlays.is_empty() && settings.overlays.is_empty());
    let protection =
        |(id, name, in_force, why_not, off_by_choice): (&str, &str, bool, &str, bool)| Protection {
            id: id.to_owned(),
            name: name.to_owned(),
            in_force,
            why_not: (!in_force).then(|| why_not.to_owned()),
            off_by_choice: !in_force && off_by_choice,
        };
    let [bridged, routed, own, overlay, overlay_sources] = Protection::IDS;
    [
        (
            bridged,
            "pods on a bridge send from their own addresses, to where these are",
            protections.bridged,
            "the kernel lacks nftables' bridge family: load nf_tables_bridge (CONFIG_NF_TABLES_BRIDGE) and \
             restart the agent",
            !on_bridge,
        ),
        (routed, "routed pods send from their own addresses", protections.routed, NOT_INSTALLED, false),
        (
            own,
            "nothing from elsewhere has one of this node's addresses as its source",
            protections.routed,
            NOT_INSTALLED,
            false,
        ),
        (
            overlay,
            "pods send no overlay packets to nodes",
            protections.routed && has_overlay,
            if protections.routed {
                "this node has no overlay device and --overlay names none, so there is nothing to protect, \
                 as with host-gw"
            } else {
                NOT_INSTALLED
            },
            protections.routed,
        ),
        (
            overlay_sources,
            "overlay packets come from nodes alone",
            protections.routed && settings.overlay_sources_are_nodes,
            if settings.overlay_sources_are_nodes {
                NOT_INSTALLED
            } else {
                "not configured: use --overlay-sources=nodes"
            },
            !settings.overlay_sources_are_nodes,
        ),
    ]
    .map(protection)
    .into()
}
