//! Evaluates connections under a snapshot.
//!
//! From: connections as conntrack shows them, and a snapshot. To: sweeps, and the agent's register of
//! connections that are cut. Invariant: the verdict is the one that the hooks give to the connection's
//! packets.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use policy::{Decision, Directions, Outcome, Packet, Protocol, Reason, Snapshot, Verdict};

use super::local::LocalAddresses;
use crate::ports::{Overlay, is_link_local};

/// Packets of the nodes' overlay to nodes, which pods may not send (semantics 32).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OverlayFlows {
    /// The protocols of the overlay.
    pub overlays: BTreeSet<Overlay>,
    /// The addresses of all nodes.
    pub node_addresses: BTreeSet<IpAddr>,
    /// The pod CIDRs of all nodes: an address outside of them may also be a node's.
    pub pod_cidrs: BTreeSet<IpNet>,
}

impl OverlayFlows {
    fn contains(&self, packet: &Packet) -> bool {
        let overlay = match (packet.protocol, packet.destination_port) {
            (Protocol::UDP, Some(port)) => Overlay::Udp(port),
            (protocol, _) => Overlay::Protocol(protocol.0),
        };
        let destination = packet.destination();
        // Multicast, broadcast and link-local addresses also reach the node's device.
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

/// The verdict on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnectionVerdict {
    /// Its packets pass.
    Allowed,
    /// It must be cut.
    Denied,
    /// It is denied only because a pod is not known yet.
    Provisional,
}

/// Evaluates connections as the hooks evaluate their packets.
#[derive(Clone, Copy, Debug)]
pub struct Evaluator<'a> {
    /// The policy.
    pub snapshot: &'a Snapshot,
    /// The node's own addresses.
    pub local: &'a LocalAddresses,
    /// Packets that pods may not send to nodes, regardless of policy.
    pub overlay: &'a OverlayFlows,
}

impl Evaluator<'_> {
    /// Evaluates a connection. One whose opener is unknown (`is_oriented` is false) must be allowed in BOTH
    /// orientations.
    pub fn verdict(&self, connection: &Packet, is_oriented: bool) -> ConnectionVerdict {
        match self.verdict_as_opened(connection) {
            ConnectionVerdict::Allowed if !is_oriented => self.verdict_as_opened(&connection.reversed()),
            verdict => verdict,
        }
    }

    /// The decision on a connection, for its record, and whether the connection is denied whatever policy
    /// decides, because its packets are those of the nodes' overlay. Agrees with [`Evaluator::verdict`].
    pub fn decision(&self, connection: &Packet, is_oriented: bool) -> (Decision, bool) {
        let decision = self.evaluate(connection);
        let is_allowed = decision.verdict() == Verdict::Allow;
        let is_overlay = is_allowed && self.verdict_by(&decision, connection) == ConnectionVerdict::Denied;
        if is_oriented || !is_allowed || is_overlay || self.local.contains(connection.source()) {
            return (decision, is_overlay);
        }
        (self.snapshot.evaluate_unproven(connection, self.directions(connection)), false)
    }

    fn verdict_as_opened(&self, connection: &Packet) -> ConnectionVerdict {
        self.verdict_by(&self.evaluate(connection), connection)
    }

    /// The verdict on a connection, given the snapshot's decision.
    pub(super) fn verdict_by(&self, decision: &Decision, connection: &Packet) -> ConnectionVerdict {
        let is_overlay = concerns_us(decision)
            && !self.local.contains(connection.source())
            && self.overlay.contains(connection);
        if is_overlay { ConnectionVerdict::Denied } else { verdict(decision) }
    }

    pub(super) fn evaluate(&self, packet: &Packet) -> Decision {
        if self.local.contains(packet.source()) {
            // The node always reaches its pods (semantics 21): the rules never queue such packets.
            return Decision {
                egress: Outcome::allow(Reason::NotAPod),
                ingress: Outcome::allow(Reason::OwnNode),
            };
        }
        self.snapshot.evaluate(packet, self.directions(packet))
    }

    /// The node's own address on the pods' bridge is in the pod CIDR and is not a pod.
    fn directions(&self, packet: &Packet) -> Directions {
        if self.local.contains(packet.destination()) { Directions::Egress } else { Directions::Both }
    }
}

/// Whether ANY side of the connection is a pod of this node, or might be one.
pub(super) fn concerns_us(decision: &Decision) -> bool {
    let elsewhere =
        |outcome: Outcome| matches!(outcome.reason, Reason::NotAPod | Reason::OtherNode | Reason::OwnNode);
    !(elsewhere(decision.egress) && elsewhere(decision.ingress))
}

/// A connection is denied if ANY direction denies it for a reason that is not provisional. If it is denied
/// only because a pod is unknown, then the pod is about to become known, or it is gone and another pod may
/// get its address. Packets of such a connection are held or dropped from now on, like those of new
/// connections, and are evaluated when the pod is known.
fn verdict(decision: &Decision) -> ConnectionVerdict {
    let denies = |outcome: Outcome| outcome.verdict == Verdict::Deny;
    let [egress, ingress] = [decision.egress, decision.ingress];
    if [egress, ingress].into_iter().any(|outcome| denies(outcome) && !outcome.reason.is_provisional()) {
        ConnectionVerdict::Denied
    } else if denies(egress) || denies(ingress) {
        ConnectionVerdict::Provisional
    } else {
        ConnectionVerdict::Allowed
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
    fn a_connection_is_denied_by_either_side_and_provisional_if_only_an_unknown_pod_denies_it() {
        let open = Outcome::allow(Reason::NotIsolated);
        let closed = Outcome::deny(Reason::DefaultDeny);
        let ruled_out = Outcome::deny(Reason::Rule(RuleId(3)));
        let unknown = Outcome::deny(Reason::UnknownPod);
        let peer = Outcome::deny(Reason::UnknownPeer);
        for (egress, ingress, expected) in [
            (open, open, ConnectionVerdict::Allowed),
            (open, closed, ConnectionVerdict::Denied),
            (ruled_out, open, ConnectionVerdict::Denied),
            (unknown, open, ConnectionVerdict::Provisional),
            (open, unknown, ConnectionVerdict::Provisional),
            (unknown, unknown, ConnectionVerdict::Provisional),
            (unknown, closed, ConnectionVerdict::Denied),
            (closed, unknown, ConnectionVerdict::Denied),
            (open, peer, ConnectionVerdict::Provisional),
            (unknown, peer, ConnectionVerdict::Provisional),
            (peer, closed, ConnectionVerdict::Denied),
            // With `--on-unknown-pod=allow` an unknown pod does not deny.
            (Outcome::allow(Reason::UnknownPod), open, ConnectionVerdict::Allowed),
        ] {
            assert_eq!(
                verdict(&decision(egress, ingress)),
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
