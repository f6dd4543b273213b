//! What a snapshot makes of connections.
//!
//! From: connections as they show in conntrack, snapshots. To: sweeps, and the agent's register of connections that are cut. Invariant: the
//! answer is that of the hooks for the packets of the connection.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use policy::{Decision, Directions, Outcome, Packet, Protocol, Reason, Snapshot, Verdict};

use super::LocalAddresses;
use crate::ports::{Overlay, is_link_local};

/// Packets of the nodes' overlay to nodes: none of a pod's business (semantics 32).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OverlayFlows {
    /// What carries it.
    pub overlays: BTreeSet<Overlay>,
    /// The addresses of all nodes.
    pub node_addresses: BTreeSet<IpAddr>,
    /// The pod CIDRs of all nodes: an address outside may be a node's as well.
    pub pod_cidrs: BTreeSet<IpNet>,
}

impl OverlayFlows {
    fn contains(&self, packet: &Packet) -> bool {
        let overlay = match (packet.protocol, packet.destination_port) {
            (Protocol::UDP, Some(port)) => Overlay::Udp(port),
            (protocol, _) => Overlay::Protocol(protocol.0),
        };
        let destination = packet.destination();
        // A group's address, a broadcast or a link-local one reaches the node's device as well.
        let is_on_link = destination.is_multicast()
            || destination == IpAddr::V4(Ipv4Addr::BROADCAST)
            || is_link_local(destination);
        // ANY of the CIDRs.
        let is_in_pod_network = self.pod_cidrs.iter().any(|cidr| cidr.contains(&destination));
        self.overlays.contains(&overlay)
            && (is_on_link
                || self.node_addresses.contains(&destination)
                || !overlay.is_authenticated() && !is_in_pod_network)
    }
}

/// What a snapshot makes of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It may go on.
    Allowed,
    /// It is to be cut.
    Denied,
    /// Nothing denies it but that a pod is not known yet.
    Unknown,
}

/// Evaluates connections as the hooks evaluate their packets.
#[derive(Clone, Copy, Debug)]
pub struct Evaluator<'a> {
    /// The policy.
    pub snapshot: &'a Snapshot,
    /// The node's own addresses.
    pub local: &'a LocalAddresses,
    /// What pods may not send to nodes, whatever policy says.
    pub overlay: &'a OverlayFlows,
}

impl Evaluator<'_> {
    /// Evaluates a connection. One whose opener is unknown (`is_oriented` is false) must be allowed in BOTH orientations.
    pub fn standing(&self, connection: &Packet, is_oriented: bool) -> Standing {
        match self.standing_as_opened(connection) {
            Standing::Allowed if !is_oriented => self.standing_as_opened(&connection.reversed()),
            standing => standing,
        }
    }

    fn standing_as_opened(&self, connection: &Packet) -> Standing {
        self.standing_by(&self.evaluate(connection), connection)
    }

    /// What becomes of a connection that is evaluated so.
    pub(super) fn standing_by(&self, decision: &Decision, connection: &Packet) -> Standing {
        let is_overlay = concerns_us(decision)
            && !self.local.contains(connection.source())
            && self.overlay.contains(connection);
        if is_overlay { Standing::Denied } else { standing(decision) }
    }

    pub(super) fn evaluate(&self, packet: &Packet) -> Decision {
        if self.local.contains(packet.source()) {
            // The node always reaches its pods (semantics 21); by the rules such packets never get to a queue.
            return Decision {
                egress: Outcome::allow(Reason::NotAPod),
                ingress: Outcome::allow(Reason::OwnNode),
            };
        }
        // The node's own end of the pods' bridge lies in the pod CIDR and is no pod.
        let is_local = self.local.contains(packet.destination());
        let directions = if is_local { Directions::Egress } else { Directions::Both };
        self.snapshot.evaluate(packet, directions)
    }
}

/// Whether ANY side of the connection is a pod of this node, or might be one.
pub(super) fn concerns_us(decision: &Decision) -> bool {
    let elsewhere =
        |outcome: Outcome| matches!(outcome.reason, Reason::NotAPod | Reason::OtherNode | Reason::OwnNode);
    !(elsewhere(decision.egress) && elsewhere(decision.ingress))
}

/// A connection is denied if ANY direction denies it for a reason that more knowledge can't take away. One that only an
/// unknown pod denies belongs to a pod that is just coming, or to one that is gone, whose address another may get: its packets are
/// held from now on, or dropped, like those of new connections, and evaluated when the pod is known.
fn standing(decision: &Decision) -> Standing {
    let denies = |outcome: Outcome| outcome.verdict == Verdict::Deny;
    let [egress, ingress] = [decision.egress, decision.ingress];
    if [egress, ingress].into_iter().any(|outcome| denies(outcome) && !outcome.reason.is_provisional()) {
        Standing::Denied
    } else if denies(egress) || denies(ingress) {
        Standing::Unknown
    } else {
        Standing::Allowed
    }
}

#[cfg(test)]
mod tests {
    use policy::RuleId;

    use super::*;

    const fn decision(egress: Outcome, ingress: Outcome) -> Decision {
        Decision { egress, ingress }
    }

    #[test]
    fn a_connection_is_denied_by_either_side_and_never_by_an_unknown_pod_alone() {
        let open = Outcome::allow(Reason::NotIsolated);
        let closed = Outcome::deny(Reason::DefaultDeny);
        let ruled_out = Outcome::deny(Reason::Rule(RuleId(3)));
        let unknown = Outcome::deny(Reason::UnknownPod);
        let peer = Outcome::deny(Reason::UnknownPeer);
        for (egress, ingress, expected) in [
            (open, open, Standing::Allowed),
            (open, closed, Standing::Denied),
            (ruled_out, open, Standing::Denied),
            (unknown, open, Standing::Unknown),
            (open, unknown, Standing::Unknown),
            (unknown, unknown, Standing::Unknown),
            (unknown, closed, Standing::Denied),
            (closed, unknown, Standing::Denied),
            (open, peer, Standing::Unknown),
            (unknown, peer, Standing::Unknown),
            (peer, closed, Standing::Denied),
            // With `--on-unknown-pod=allow` an unknown pod does not deny.
            (Outcome::allow(Reason::UnknownPod), open, Standing::Allowed),
        ] {
            assert_eq!(
                standing(&decision(egress, ingress)),
                expected,
                "egress {egress:?}, ingress {ingress:?}"
            );
        }
    }

    #[test]
    fn a_connection_between_others_does_not_concern_this_node() {
        let (outside, remote) = (Outcome::allow(Reason::NotAPod), Outcome::allow(Reason::OtherNode));
        assert!(!concerns_us(&decision(outside, remote)));
        assert!(!concerns_us(&decision(outside, Outcome::allow(Reason::OwnNode))));
        assert!(concerns_us(&decision(remote, Outcome::allow(Reason::NotIsolated))));
        assert!(concerns_us(&decision(Outcome::deny(Reason::UnknownPod), outside)));
    }
}
