//! Evaluated packets, and what decided them.

use dataplane::workers::PacketClass;
use serde::{Deserialize, Serialize};

/// The number of packets since the agent started, by outcome.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Packets {
    /// Allowed by a worker.
    pub allowed: u64,
    /// First packets of connections that the kernel allowed from its verdict cache, because an earlier one to
    /// the same port had been allowed. Counted since the rules were first installed.
    #[serde(default)]
    pub cached: u64,
    /// Denied by a worker.
    pub denied: u64,
    /// Packets that the kernel dropped from its verdict cache, because one of the same flow had been denied.
    /// Counted since the rules were first installed.
    #[serde(default)]
    pub cached_denied: u64,
    /// Packets without conntrack that the kernel allowed from its verdict cache, because one of the same flow
    /// had been allowed. Counted since the rules were first installed.
    #[serde(default)]
    pub cached_untracked: u64,
    /// Denied because they could not be parsed (also counted in `denied`).
    pub unparsable: u64,
    /// Already dropped by the kernel when the verdict came.
    pub gone: u64,
    /// How often the kernel reported that a worker's socket had overflowed.
    pub overflows: u64,
    /// The packets in `allowed` and `denied` by what decided them; without those that never occurred.
    #[serde(default)]
    pub by_outcome: Vec<PacketCount>,
}

/// How many packets had the same outcome. The texts are those of the labels of `kube_verdict_packets_total`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct PacketCount {
    /// `allow` or `deny`.
    pub verdict: String,
    /// The direction that decided: `ingress` or `egress`.
    pub direction: String,
    /// Why, in that direction: see [`policy::Reason::code`].
    pub reason: String,
    /// `TCP`, `UDP`, `SCTP`, `ICMP`, `ICMPv6`, `other`, or `unknown` if the packet could not be parsed.
    pub protocol: String,
    /// `IPv4`, `IPv6`, or `unknown` if the packet could not be parsed.
    pub family: String,
    /// The number of packets.
    pub packets: u64,
}

impl PacketCount {
    /// The count of a class.
    pub(crate) fn new(class: PacketClass, packets: u64) -> Self {
        let PacketClass { verdict, direction, reason, protocol, family } = class;
        Self {
            verdict: verdict.name().to_owned(),
            direction: direction.name().to_owned(),
            reason: reason.code().to_owned(),
            protocol: protocol.name().to_owned(),
            family: family.name().to_owned(),
            packets,
        }
    }
}

/// Verdicts of default deny: policies isolate a pod, and none of their rules matches. They count for no
/// policy.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct DefaultDenies {
    /// The isolated pod's namespace.
    pub namespace: String,
    /// The direction in which the pod is isolated: `ingress` or `egress`.
    pub direction: String,
    /// How often a packet was denied, including denials from the verdict cache that have a record.
    pub denied: u64,
}
