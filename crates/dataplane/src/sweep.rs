//! Evaluates existing connections again under a new snapshot. Connections that are no longer allowed are
//! marked REVOKED. The mark is cleared on those that are allowed again.
//!
//! From: the engine, after it has published a snapshot, the workers' grace period is over and the rules
//! contain the new open sets. To: the kernel's connection tracking table. Connections to cut or restore go to
//! the caller, which can see whether a newer snapshot is in force. When the agent starts, the same sweep
//! adopts the connections that existed before.
//!
//! Why this is exact: a connection is in the table once its first packet has left the hook. When the sweep
//! begins:
//! - No worker will still send a verdict of an older snapshot (grace period). A packet has left the hook when
//!   the system call that sent its verdict returns. So every connection that the older snapshot allowed is in
//!   the table.
//! - Packets that the older rules accepted without a verdict (open sets, cached flow keys) have also left the
//!   hook, because [`wait_for_packets_in_flight`] has returned.
//!
//! ACCEPTED means that a worker allowed a packet of the connection, or recently one with the same flow key,
//! or that the connection needed no verdict. The sweep sets ACCEPTED only when the agent starts, on
//! connections that no agent has seen and that policy allows in the direction in which they were opened
//! (semantics 34). When the pod of an address is no longer known, the sweep clears ACCEPTED on the
//! connections of the address, so that their next packet is queued again: the next pod there may be another.
//! REVOKED wins over ACCEPTED in the rules, so clearing REVOKED restores the previous state. When an address
//! belongs to another pod now, its connections are deleted: they were never the new pod's (semantics 36).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use policy::{Affected, Packet};

use crate::conntrack::{Conntrack, ConntrackError, Entry, EntryChange, EntryName, MarkChange};
use crate::marks::{Mark, Marks};

mod evaluator;
mod in_flight;
mod local;
use evaluator::concerns_us;
pub use evaluator::{ConnectionVerdict, Evaluator, OverlayFlows};
pub use in_flight::wait_for_packets_in_flight;
pub use local::LocalAddresses;

/// The result of a sweep.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SweepReport {
    /// Connections that were visited: all, or those in its scope.
    pub entries: u64,
    /// Connections with a pod of this node, or a possible one, at either end.
    pub evaluated: u64,
    /// Connections on which REVOKED was set.
    pub revoked: u64,
    /// Connections on which REVOKED was cleared.
    pub restored: u64,
    /// Connections that are denied only because a pod is not known (yet): a pod of this node, or a peer that
    /// some rule might allow. They are no longer ACCEPTED.
    pub unknown: u64,
    /// Connections that ended before their mark could be changed.
    pub gone: u64,
    /// Connections that were deleted because their address belongs to another pod now.
    pub deleted: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// Which connections a sweep visits, and what it does besides evaluating them.
#[derive(Clone, Debug, Default)]
pub struct SweepScope {
    /// The connections to evaluate.
    pub of: Affected,
    /// Addresses that belong to another pod than before: their connections are deleted.
    pub reassigned: BTreeSet<IpAddr>,
    /// Whether connections that no agent has seen are accepted if policy allows them.
    pub adopts: bool,
    /// Whether it is unknown which end opened connections that no agent has seen: policy must allow them from
    /// BOTH ends. This is the case after all rules were deleted: connection tracking is inactive without
    /// rules, and picks up connections in the middle afterwards.
    pub are_unproven: bool,
}

/// A connection that is cut, that the sweep wants to cut, or on which it clears ACCEPTED.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SweptConnection {
    /// The packet that is evaluated for the connection.
    pub connection: Packet,
    /// Its conntrack entry.
    pub entry: EntryName,
    /// Whether it is known which end opened it.
    pub is_oriented: bool,
    /// Whether its entry is marked REVOKED.
    pub is_revoked: bool,
    /// Whether policy allows it, by the sweep's snapshot or by the caller's later evaluation.
    pub is_allowed: bool,
}

/// How many marks were changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MarkCounts {
    /// Connections on which REVOKED was set.
    pub revoked: u64,
    /// Connections on which REVOKED was cleared.
    pub restored: u64,
    /// Connections that ended before their mark could be changed.
    pub gone: u64,
}

/// Sets REVOKED on each of these connections that is denied, and clears it on each that is allowed (see
/// [`SweptConnection::is_allowed`]).
///
/// # Errors
/// [`ConntrackError`] if marks can't be changed.
pub fn apply_marks(
    conntrack: &mut Conntrack,
    marks: &Marks,
    found: &[SweptConnection],
) -> Result<MarkCounts, ConntrackError> {
    let differs = |found: &&SweptConnection| found.is_revoked == found.is_allowed;
    let count =
        |is_revoked| found.iter().filter(differs).filter(|f| f.is_revoked == is_revoked).count() as u64;
    let change = |found: &'_ SweptConnection| revoke(marks, !found.is_allowed);
    let counts =
        conntrack.change_marks(found.iter().filter(differs).map(|found| (&found.entry, change(found))))?;
    Ok(MarkCounts { revoked: count(false), restored: count(true), gone: counts.gone })
}

/// The change of a mark after which a connection's next packet is queued and evaluated.
pub fn unaccept(marks: &Marks) -> MarkChange {
    MarkChange { value: Mark::NONE, mask: marks.accepted() }
}

/// The change of a mark that cuts a connection, or that restores its state from before it was cut.
pub fn revoke(marks: &Marks, is_revoked: bool) -> MarkChange {
    let mask = marks.revoked();
    MarkChange { value: if is_revoked { mask } else { Mark::NONE }, mask }
}

/// Receives connections from a sweep.
pub trait Sink {
    /// Sets REVOKED on these connections, or clears it.
    ///
    /// # Errors
    /// [`ConntrackError`] if marks can't be changed. The sweep then changes no more marks and returns the
    /// error.
    fn apply_marks(&mut self, found: &mut [SweptConnection]) -> Result<MarkCounts, ConntrackError>;

    /// Called when the sweep clears ACCEPTED on a connection that is not cut.
    fn unaccepted(&mut self, _: SweptConnection) {}
}

impl<F: FnMut(&mut [SweptConnection]) -> Result<MarkCounts, ConntrackError>> Sink for F {
    fn apply_marks(&mut self, found: &mut [SweptConnection]) -> Result<MarkCounts, ConntrackError> {
        self(found)
    }
}

/// How many connections are passed to `apply_marks` at once: few enough that another thread waits a few
/// milliseconds at most.
const BATCH: usize = 512;

/// Evaluates every connection in `scope` with `evaluator`. `evaluator.local` must have been read just before.
/// Connections that are cut, or that must be cut, are passed to `sink`, at most 512 at a time.
///
/// # Errors
/// [`ConntrackError`] if connections can't be read or changed, or if [`Sink::apply_marks`] fails.
pub fn sweep(
    conntrack: &mut Conntrack,
    marks: &Marks,
    evaluator: Evaluator<'_>,
    scope: &SweepScope,
    sink: &mut dyn Sink,
) -> Result<SweepReport, ConntrackError> {
    let started = Instant::now();
    let report = SweepReport::default();
    let mut sweep = Sweep { evaluator, marks, scope, sink, found: Vec::new(), failed: None, report };
    let each = |entry: &Entry<'_>| sweep.visit(entry);
    let counts = match scope.of.addresses() {
        Some(addresses) => conntrack.visit_of(&addresses, each),
        None => conntrack.visit(each),
    }?;
    sweep.apply_marks();
    let Sweep { mut report, failed, .. } = sweep;
    report.entries = counts.entries;
    report.gone += counts.gone;
    report.elapsed = started.elapsed();
    failed.map_or(Ok(report), Err)
}

/// A sweep in progress.
struct Sweep<'a> {
    evaluator: Evaluator<'a>,
    marks: &'a Marks,
    scope: &'a SweepScope,
    sink: &'a mut dyn Sink,
    /// Connections for the next call of `apply_marks`.
    found: Vec<SweptConnection>,
    /// The first error of `apply_marks`.
    failed: Option<ConntrackError>,
    report: SweepReport,
}

impl Sweep<'_> {
    fn visit(&mut self, entry: &Entry<'_>) -> Option<EntryChange> {
        let (accepted, scope) = (self.marks.accepted(), self.scope);
        let (is_accepted, is_revoked) =
            (entry.mark.has_any(accepted), entry.mark.has_any(self.marks.revoked()));
        let packet = entry.evaluated();
        if [packet.source(), packet.destination()].iter().any(|end| scope.reassigned.contains(end)) {
            self.report.deleted += 1;
            return Some(EntryChange::Delete);
        }
        if !scope.of.contains(packet.source().to_canonical(), packet.destination().to_canonical()) {
            return None;
        }
        let decision = self.evaluator.evaluate(&packet);
        let concerns_us = concerns_us(&decision);
        self.report.evaluated += u64::from(concerns_us);
        let is_oriented = !scope.are_unproven || is_accepted || is_revoked || !concerns_us;
        let verdict = match self.evaluator.verdict_by(&decision, &packet) {
            ConnectionVerdict::Allowed if !is_oriented => self.evaluator.verdict(&packet.reversed(), true),
            verdict => verdict,
        };
        let found = |is_allowed| {
            let entry = entry.name();
            SweptConnection { connection: packet, entry, is_oriented, is_revoked, is_allowed }
        };
        match verdict {
            ConnectionVerdict::Allowed | ConnectionVerdict::Denied
                if is_revoked || verdict == ConnectionVerdict::Denied =>
            {
                // A sweep of all connections also reports those that an earlier agent has cut.
                let is_allowed = verdict == ConnectionVerdict::Allowed;
                if is_revoked == is_allowed || scope.of == Affected::All {
                    self.found.push(found(is_allowed));
                    if self.found.len() >= BATCH {
                        self.apply_marks();
                    }
                }
                None
            }
            ConnectionVerdict::Allowed if scope.adopts && concerns_us && !is_accepted => {
                Some(MarkChange { value: accepted, mask: accepted }.into())
            }
            ConnectionVerdict::Allowed | ConnectionVerdict::Denied => None,
            ConnectionVerdict::Provisional => {
                self.report.unknown += 1;
                if is_accepted && !is_revoked {
                    self.sink.unaccepted(found(false));
                }
                is_accepted.then(|| unaccept(self.marks).into())
            }
        }
    }

    fn apply_marks(&mut self) {
        if self.failed.is_none() {
            match self.sink.apply_marks(&mut self.found) {
                Ok(MarkCounts { revoked, restored, gone }) => {
                    self.report.revoked += revoked;
                    self.report.restored += restored;
                    self.report.gone += gone;
                }
                Err(error) => self.failed = Some(error),
            }
        }
        self.found.clear();
    }
}

/// Clears this agent's marks on every connection, for use once the rules are removed. Returns how many
/// connections had one.
pub fn clear_marks(conntrack: &mut Conntrack, marks: &Marks) -> Result<u64, ConntrackError> {
    let ours = marks.of_connections();
    let clear =
        |entry: &Entry<'_>| entry.mark.has_any(ours).then_some(MarkChange { value: Mark::NONE, mask: ours });
    Ok(conntrack.visit(clear)?.changed)
}

/// How many connections have a mark of this agent.
pub fn count_marks(conntrack: &mut Conntrack, marks: &Marks) -> Result<u64, ConntrackError> {
    let (ours, mut marked) = (marks.of_connections(), 0);
    conntrack.visit(|entry: &Entry<'_>| {
        marked += u64::from(entry.mark.has_any(ours));
        None::<MarkChange>
    })?;
    Ok(marked)
}
