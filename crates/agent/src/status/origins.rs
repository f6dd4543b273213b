//! The part of the status about where packets may come from.

use std::collections::BTreeMap;

use dataplane::drops::DropReason;
use dataplane::ports::PortQueueCounters;
use dataplane::table::Protections;
use policy::Snapshot;
use serde::{Deserialize, Serialize};

use crate::origins::OriginTracker;

/// Which pod is behind which interface, and what rules dropped because a packet did not fit that.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Origins {
    /// The protections, and whether each is in force.
    pub protections: Vec<Protection>,
    /// Pods' ports.
    pub ports: Vec<Port>,
    /// Addresses and hardware addresses that several ports claim.
    pub conflicts: Vec<Conflict>,
    /// What carries packets between nodes, which pods may not send to them.
    pub overlays: Vec<String>,
    /// Pods that may send from any address, as the command line says.
    pub exemptions: Vec<String>,
    /// Packets that rules dropped, by reason, since this agent began.
    pub dropped: BTreeMap<String, u64>,
    /// Packets that waited for their port to be known.
    pub new_ports: NewPorts,
}

/// Packets of ports of which nothing was known yet, since the rules were installed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct NewPorts {
    /// Packets that came.
    pub queued: u64,
    /// Of those: passed once the port was known.
    pub passed: u64,
    /// Of those: dropped once the port was known, since they did not belong there.
    pub dropped: u64,
    /// Of those: waited as long as they may, and then treated by `--on-unknown-pod`.
    pub expired: u64,
    /// Of those: treated by `--on-unknown-pod` at once, for lack of room.
    pub no_room: u64,
}

impl From<PortQueueCounters> for NewPorts {
    fn from(counters: PortQueueCounters) -> Self {
        let PortQueueCounters { queued, passed, dropped, expired, no_room } = counters;
        Self { queued, passed, dropped, expired, no_room }
    }
}

/// A protection of packets' origins.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Protection {
    /// Its short stable name, one of [`Protection::IDS`].
    pub id: String,
    /// What it does.
    pub name: String,
    /// Whether it is in force.
    pub in_force: bool,
    /// If not: why, and what to do.
    pub why_not: Option<String>,
    /// If not: whether that is as it should be, since it was not asked for or there is nothing to protect.
    pub off_by_choice: bool,
}

impl Protection {
    /// The short names of all.
    pub const IDS: [&str; 5] =
        ["bridged-sources", "routed-sources", "own-addresses", "overlay", "overlay-sources"];
}

/// A pod's port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Port {
    /// The interface.
    pub interface: String,
    /// The pod, `namespace/name`; null while it is not known.
    pub pod: Option<String>,
    /// The addresses that may be used there.
    pub addresses: Vec<String>,
    /// Whether others may be used as well, since the pod is exempt.
    pub exempt: bool,
}

/// Several ports claim an address.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Conflict {
    /// The address, or hardware address.
    pub address: String,
    /// The interface that has it; null if nothing says whose it is.
    pub bound_to: Option<String>,
    /// The interface whose pod claims it, too.
    pub claimed_by: String,
}

impl Origins {
    /// What a tracker, the rules and the queue of new ports say. `on_bridge`: whether pods are joined by a bridge.
    pub fn new(
        tracker: &OriginTracker,
        protections: Protections,
        on_bridge: bool,
        new_ports: PortQueueCounters,
        snapshot: &Snapshot,
    ) -> Self {
        let bindings = tracker.bindings();
        let port = |port: &dataplane::ports::Port| Port {
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
                .map(|conflict| Conflict {
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
                        tracker.ledger.totals().get(&reason).copied().unwrap_or_default(),
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
            "the kernel lacks nftables' bridge family: load nf_tables_bridge (CONFIG_NF_TABLES_BRIDGE) and start the agent again",
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
                "this node has no overlay device and --overlay names none, so there is nothing to protect, as with host-gw"
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
                "not asked for: give --overlay-sources=nodes"
            },
            !settings.overlay_sources_are_nodes,
        ),
    ]
    .map(protection)
    .into()
}
