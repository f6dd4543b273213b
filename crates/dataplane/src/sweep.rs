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
//! ACCEPTED is never set here: it means that a worker allowed a packet of the connection, or one of its pair a moment before, or
//! that it needed no verdict. It is taken from connections of addresses whose pod is not known any more: the next packet is a
//! question again, since the next pod there may be another. An allowed connection without it is judged, and recorded, at its next
//! packet. REVOKED wins over ACCEPTED in the rules, so clearing REVOKED restores what was there before.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use policy::{Decision, Directions, Outcome, Reason, Snapshot, Verdict};

use crate::conntrack::{Conntrack, ConntrackError, Entry, MarkChange};
use crate::marks::Marks;

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
    /// How long it took.
    pub elapsed: Duration,
}

/// Judges every connection under `snapshot`, or at least those of the pods at these addresses. `local` are the node's own
/// addresses, read just before.
pub fn sweep(
    conntrack: &mut Conntrack,
    snapshot: &Snapshot,
    marks: &Marks,
    local: &LocalAddresses,
    of: Option<&BTreeSet<IpAddr>>,
) -> Result<SweepReport, ConntrackError> {
    let started = Instant::now();
    let (revoked, accepted) = (marks.revoked().0, marks.accepted().0);
    let mut report = SweepReport::default();
    let each = |entry: &Entry<'_>| {
        let is_revoked = entry.mark & revoked != 0;
        let decision = judge(entry, snapshot, local);
        report.judged += u64::from(concerns_us(&decision));
        match standing(&decision) {
            Standing::Denied if !is_revoked => {
                report.revoked += 1;
                Some(MarkChange { value: revoked, mask: revoked })
            }
            Standing::Allowed if is_revoked => {
                report.restored += 1;
                Some(MarkChange { value: 0, mask: revoked })
            }
            Standing::Unknown => {
                report.unknown += 1;
                (entry.mark & accepted != 0).then_some(MarkChange { value: 0, mask: accepted })
            }
            Standing::Allowed | Standing::Denied => None,
        }
    };
    let visited = match of {
        Some(addresses) => conntrack.visit_of(addresses, each),
        None => conntrack.visit(each),
    }?;
    Ok(SweepReport { entries: visited.entries, gone: visited.gone, elapsed: started.elapsed(), ..report })
}

/// Takes our marks from every connection, for when the rules are gone: nothing of the agent stays in the kernel.
/// Returns how many connections had one.
pub fn clear_marks(conntrack: &mut Conntrack, marks: &Marks) -> Result<u64, ConntrackError> {
    let ours = marks.accepted().0 | marks.revoked().0 | marks.asked().0;
    let clear = |entry: &Entry<'_>| (entry.mark & ours != 0).then_some(MarkChange { value: 0, mask: ours });
    Ok(conntrack.visit(clear)?.changed)
}

/// What a snapshot makes of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    Allowed,
    Denied,
    /// Nothing denies it but that a pod is not known yet.
    Unknown,
}

/// Judges a connection as the hooks judge its packets.
fn judge(entry: &Entry<'_>, snapshot: &Snapshot, local: &LocalAddresses) -> Decision {
    let packet = entry.judged();
    if local.contains(packet.source()) {
        // The node always reaches its pods (semantics 21); by the rules such packets never get to a queue.
        return Decision {
            egress: Outcome::allow(Reason::NotAPod),
            ingress: Outcome::allow(Reason::OwnNode),
        };
    }
    // The node's own end of the pods' bridge lies in the pod CIDR and is no pod.
    let directions = if local.contains(packet.destination()) { Directions::Egress } else { Directions::Both };
    snapshot.judge(&packet, directions)
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
