//! Judges connections that exist anew, under a new snapshot: those no longer allowed are marked REVOKED, and the mark is
//! taken from those allowed again.
//!
//! From: the engine, after a snapshot was published, the workers' grace is over and the rules have the new open sets. To:
//! the kernel's table of connections. At the agent's start the same sweep adopts the connections that were there before.
//!
//! Why this is exact. A connection is in the table once its first packet has left the hook. When the sweep begins
//! - no worker is still to send a verdict of an older snapshot (grace), and a verdict's packet has left the hook when the
//!   system call that sent the verdict returns: what the older snapshot allowed is in the table;
//! - what the older rules let through without a verdict (open sets, remembered pairs) has left the hook, too, once
//!   [`wait_for_packets_under_way`] has returned: it is called before.
//!
//! ACCEPTED means that a worker allowed a packet of the connection, or one of its pair a moment before, or that it needed no verdict.
//! It is set here at the agent's start alone, on connections that no agent has seen and that policy allows in the direction in which
//! they were opened (semantics 34). It is taken from connections of addresses whose pod is not known any more: the next packet is a
//! question again, since the next pod there may be another. REVOKED wins over ACCEPTED in the rules, so clearing REVOKED restores what
//! was there before. Connections of an address that has another pod now are deleted: they were never the new pod's (semantics 36).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use policy::{Decision, Directions, Outcome, Packet, Protocol, Reason, Snapshot, Verdict};

use crate::conntrack::{Conntrack, ConntrackError, Entry, EntryChange, MarkChange};
use crate::marks::Marks;
use crate::ports::{Overlay, is_link_local};

mod local;
mod under_way;
pub use local::LocalAddresses;
pub use under_way::wait_for_packets_under_way;

/// What a sweep did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SweepReport {
    /// Connections looked at: all, or those of the pods that it was about.
    pub entries: u64,
    /// Connections of pods that the snapshot judges.
    pub judged: u64,
    /// Connections that are REVOKED now and were not before.
    pub revoked: u64,
    /// Connections that were REVOKED and are no longer.
    pub restored: u64,
    /// Connections that only a pod that is not known (yet) denies: this node's own, or a peer that some rule might allow. They
    /// are not ACCEPTED any more.
    pub unknown: u64,
    /// Connections that ended before their mark could be changed.
    pub gone: u64,
    /// Connections that were deleted, since their address has another pod now.
    pub deleted: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// Which connections a sweep is about, and what it does beside evaluating them.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// Connections of these addresses, and perhaps others; `None` for all.
    pub of: Option<BTreeSet<IpAddr>>,
    /// Addresses that another pod has than before: their connections are deleted.
    pub reassigned: BTreeSet<IpAddr>,
    /// Whether connections that no agent has seen are accepted if policy allows them.
    pub adopts: bool,
    /// Whether it is unknown which end opened connections that no agent has seen: they must be allowed from both. So it is after all
    /// rules were deleted, since connection tracking sleeps without them and then picks connections up in the middle.
    pub are_unproven: bool,
    /// What pods may not send to nodes, whatever policy says.
    pub overlay: OverlayFlows,
}

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

/// What a sweep came to, and which connections are to be kept cut, or no longer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Swept {
    /// The numbers.
    pub report: SweepReport,
    /// Connections that are REVOKED, as evaluated; at most [`MOST_REVOKED`].
    pub revoked: Vec<Packet>,
    /// Connections that are REVOKED no longer.
    pub restored: Vec<Packet>,
}

/// Connections that are named in [`Swept::revoked`] at most: as many as the kernel's set of them holds.
pub const MOST_REVOKED: usize = 65_536;

/// Evaluates every connection under `snapshot`, or at least those that `scope` is about. `local` are the node's own addresses, read
/// just before.
pub fn sweep(
    conntrack: &mut Conntrack,
    snapshot: &Snapshot,
    marks: &Marks,
    local: &LocalAddresses,
    scope: &Scope,
) -> Result<Swept, ConntrackError> {
    let started = Instant::now();
    let (revoked, accepted) = (marks.revoked().0, marks.accepted().0);
    let mut swept = Swept::default();
    let each = |entry: &Entry<'_>| {
        let report = &mut swept.report;
        let is_revoked = entry.mark & revoked != 0;
        let packet = entry.judged();
        if [packet.source(), packet.destination()].iter().any(|end| scope.reassigned.contains(end)) {
            report.deleted += 1;
            return Some(EntryChange::Delete);
        }
        let decision = evaluate(&packet, snapshot, local);
        let concerns_us = concerns_us(&decision);
        report.judged += u64::from(concerns_us);
        let is_overlay = concerns_us && !local.contains(packet.source()) && scope.overlay.contains(&packet);
        let standing = if is_overlay { Standing::Denied } else { standing(&decision) };
        let is_unseen = entry.mark & (accepted | revoked) == 0;
        let standing = match standing {
            Standing::Allowed if scope.are_unproven && is_unseen && concerns_us => {
                self::standing(&evaluate(&packet.reversed(), snapshot, local))
            }
            standing => standing,
        };
        let change = match standing {
            Standing::Denied if !is_revoked => {
                report.revoked += 1;
                if swept.revoked.len() < MOST_REVOKED {
                    swept.revoked.push(packet);
                }
                MarkChange { value: revoked, mask: revoked }
            }
            Standing::Allowed if is_revoked => {
                report.restored += 1;
                swept.restored.push(packet);
                MarkChange { value: 0, mask: revoked }
            }
            Standing::Allowed if scope.adopts && concerns_us && entry.mark & accepted == 0 => {
                MarkChange { value: accepted, mask: accepted }
            }
            Standing::Unknown => {
                report.unknown += 1;
                return (entry.mark & accepted != 0)
                    .then_some(MarkChange { value: 0, mask: accepted }.into());
            }
            Standing::Allowed | Standing::Denied => return None,
        };
        Some(change.into())
    };
    let visited = match &scope.of {
        Some(addresses) => conntrack.visit_of(addresses, each),
        None => conntrack.visit(each),
    }?;
    let report = &mut swept.report;
    (report.entries, report.gone, report.elapsed) = (visited.entries, visited.gone, started.elapsed());
    Ok(swept)
}

/// Whether policy allows a connection that was cut again. One that could have been opened by either end is allowed only if policy
/// allows it from both.
pub fn is_allowed_again(
    connection: &Packet,
    is_oriented: bool,
    snapshot: &Snapshot,
    local: &LocalAddresses,
) -> bool {
    let allows = |packet: &Packet| standing(&evaluate(packet, snapshot, local)) == Standing::Allowed;
    allows(connection) && (is_oriented || allows(&connection.reversed()))
}

/// Takes our marks from every connection, for when the rules are gone: nothing of the agent stays in the kernel.
/// Returns how many connections had one.
pub fn clear_marks(conntrack: &mut Conntrack, marks: &Marks) -> Result<u64, ConntrackError> {
    let ours = marks.of_connections().0;
    let clear = |entry: &Entry<'_>| (entry.mark & ours != 0).then_some(MarkChange { value: 0, mask: ours });
    Ok(conntrack.visit(clear)?.changed)
}

/// How many connections carry a mark of ours.
pub fn count_marks(conntrack: &mut Conntrack, marks: &Marks) -> Result<u64, ConntrackError> {
    let (ours, mut marked) = (marks.of_connections().0, 0);
    conntrack.visit(|entry: &Entry<'_>| {
        marked += u64::from(entry.mark & ours != 0);
        None::<MarkChange>
    })?;
    Ok(marked)
}

/// What a snapshot makes of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    Allowed,
    Denied,
    /// Nothing denies it but that a pod is not known yet.
    Unknown,
}

/// Evaluates a connection as the hooks evaluate its packets.
fn evaluate(packet: &Packet, snapshot: &Snapshot, local: &LocalAddresses) -> Decision {
    if local.contains(packet.source()) {
        // The node always reaches its pods (semantics 21); by the rules such packets never get to a queue.
        return Decision {
            egress: Outcome::allow(Reason::NotAPod),
            ingress: Outcome::allow(Reason::OwnNode),
        };
    }
    // The node's own end of the pods' bridge lies in the pod CIDR and is no pod.
    let directions = if local.contains(packet.destination()) { Directions::Egress } else { Directions::Both };
    snapshot.judge(packet, directions)
}

/// Whether ANY side of the connection is a pod of this node, or might be one.
fn concerns_us(decision: &Decision) -> bool {
    let elsewhere =
        |outcome: Outcome| matches!(outcome.reason, Reason::NotAPod | Reason::OtherNode | Reason::OwnNode);
    !(elsewhere(decision.egress) && elsewhere(decision.ingress))
}

/// A connection is denied if ANY direction denies it for a reason that more knowledge can't take away. One that only an
/// unknown pod denies belongs to a pod that is just coming, or to one that is gone, whose address another may get: its packets are
/// held from now on, or dropped, like those of new connections, and judged when the pod is known.
fn standing(decision: &Decision) -> Standing {
    let denies = |outcome: Outcome| outcome.verdict == Verdict::Deny;
    let [egress, ingress] = [decision.egress, decision.ingress];
    if [egress, ingress].into_iter().any(|outcome| denies(outcome) && !outcome.reason.is_unsure()) {
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
            // With `--when-unsure=open` an unknown pod does not deny.
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
