//! Evaluates connections that exist anew, under a new snapshot: those no longer allowed are marked REVOKED, and the mark is
//! taken from those allowed again.
//!
//! From: the engine, after a snapshot was published, the workers' grace is over and the rules have the new open sets. To:
//! the kernel's table of connections; what is to be cut or restored goes to the caller, which knows whether a newer snapshot is in force.
//! At the agent's start the same sweep adopts the connections that were there before.
//!
//! Why this is exact. A connection is in the table once its first packet has left the hook. When the sweep begins
//! - no worker is still to send a verdict of an older snapshot (grace), and a verdict's packet has left the hook when the
//!   system call that sent the verdict returns: what the older snapshot allowed is in the table;
//! - what the older rules let through without a verdict (open sets, cached pairs) has left the hook, too, once
//!   [`wait_for_packets_under_way`] has returned: it is called before.
//!
//! ACCEPTED means that a worker allowed a packet of the connection, or one of its pair a moment before, or that it needed no verdict.
//! It is set here at the agent's start alone, on connections that no agent has seen and that policy allows in the direction in which
//! they were opened (semantics 34). It is taken from connections of addresses whose pod is not known any more: the next packet is a
//! question again, since the next pod there may be another. REVOKED wins over ACCEPTED in the rules, so clearing REVOKED restores what
//! was there before. Connections of an address that has another pod now are deleted: they were never the new pod's (semantics 36).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use policy::{Affected, Packet};

use crate::conntrack::{Conntrack, ConntrackError, Entry, EntryChange, EntryName, MarkChange};
use crate::marks::Marks;

mod evaluator;
mod local;
mod under_way;
use evaluator::concerns_us;
pub use evaluator::{Evaluator, OverlayFlows, Standing};
pub use local::LocalAddresses;
pub use under_way::wait_for_packets_under_way;

/// What a sweep did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SweepReport {
    /// Connections looked at: all, or those of the pods that it was about.
    pub entries: u64,
    /// Connections of pods that the snapshot evaluates.
    pub evaluated: u64,
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
    /// The connections to evaluate.
    pub of: Affected,
    /// Addresses that another pod has than before: their connections are deleted.
    pub reassigned: BTreeSet<IpAddr>,
    /// Whether connections that no agent has seen are accepted if policy allows them.
    pub adopts: bool,
    /// Whether it is unknown which end opened connections that no agent has seen: they must be allowed from both. So it is after all
    /// rules were deleted, since connection tracking sleeps without them and then picks connections up in the middle.
    pub are_unproven: bool,
}

/// A connection that a sweep found cut, to be cut, or to be a question again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SweptConnection {
    /// As evaluated.
    pub connection: Packet,
    /// Its entry.
    pub entry: EntryName,
    /// Whether it is known which end opened it.
    pub is_oriented: bool,
    /// Whether its entry is marked REVOKED.
    pub is_revoked: bool,
    /// Whether policy allows it: by the sweep's snapshot, unless the caller has evaluated it again since.
    pub is_allowed: bool,
}

/// What became of connections that a sweep found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MarkCounts {
    /// How many are REVOKED now and were not before.
    pub revoked: u64,
    /// How many were REVOKED and are no longer.
    pub restored: u64,
    /// How many ended before their mark could be changed.
    pub gone: u64,
}

/// Sets REVOKED on each found connection that is denied, and clears it on each that is allowed, by [`SweptConnection::is_allowed`].
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
    let visited =
        conntrack.change_marks(found.iter().filter(differs).map(|found| (&found.entry, change(found))))?;
    Ok(MarkCounts { revoked: count(false), restored: count(true), gone: visited.gone })
}

/// The change of a mark after which a connection's next packet is a question.
pub fn unaccept(marks: &Marks) -> MarkChange {
    MarkChange { value: 0, mask: marks.accepted().0 }
}

/// The change of a mark that cuts a connection, or lets it go on as before it was cut.
pub fn revoke(marks: &Marks, is_revoked: bool) -> MarkChange {
    let mask = marks.revoked().0;
    MarkChange { value: if is_revoked { mask } else { 0 }, mask }
}

/// What a sweep hands connections to.
pub trait Sink {
    /// Carries out what the sweep found: sets REVOKED, or clears it.
    ///
    /// # Errors
    /// [`ConntrackError`] if marks can't be changed: it ends the sweep.
    fn apply_marks(&mut self, found: &mut [SweptConnection]) -> Result<MarkCounts, ConntrackError>;

    /// The sweep clears ACCEPTED on a connection that is not cut.
    fn unaccepted(&mut self, _: SweptConnection) {}
}

impl<F: FnMut(&mut [SweptConnection]) -> Result<MarkCounts, ConntrackError>> Sink for F {
    fn apply_marks(&mut self, found: &mut [SweptConnection]) -> Result<MarkCounts, ConntrackError> {
        self(found)
    }
}

/// How many found connections are handed to `apply_marks` at once: few enough that another thread waits for it a few milliseconds at most.
const AT_ONCE: usize = 512;

/// Evaluates every connection with `evaluator`, or at least those that `scope` is about. `evaluator.local` must have been read just
/// before. Connections that are cut or to be cut are handed to `sink`, at most 512 at a time.
///
/// # Errors
/// [`ConntrackError`] if connections can't be read or changed, or what [`Sink::apply_marks`] returns.
pub fn sweep(
    conntrack: &mut Conntrack,
    marks: &Marks,
    evaluator: Evaluator<'_>,
    scope: &Scope,
    sink: &mut dyn Sink,
) -> Result<SweepReport, ConntrackError> {
    let started = Instant::now();
    let report = SweepReport::default();
    let mut sweep = Sweep { evaluator, marks, scope, sink, found: Vec::new(), failed: None, report };
    let each = |entry: &Entry<'_>| sweep.visit(entry);
    let visited = match scope.of.addresses() {
        Some(addresses) => conntrack.visit_of(&addresses, each),
        None => conntrack.visit(each),
    }?;
    sweep.apply_marks();
    let Sweep { mut report, failed, .. } = sweep;
    report.entries = visited.entries;
    report.gone += visited.gone;
    report.elapsed = started.elapsed();
    failed.map_or(Ok(report), Err)
}

/// A sweep in progress.
struct Sweep<'a> {
    evaluator: Evaluator<'a>,
    marks: &'a Marks,
    scope: &'a Scope,
    sink: &'a mut dyn Sink,
    /// What is to be settled.
    found: Vec<SweptConnection>,
    /// The first error of `apply_marks`.
    failed: Option<ConntrackError>,
    report: SweepReport,
}

impl Sweep<'_> {
    fn visit(&mut self, entry: &Entry<'_>) -> Option<EntryChange> {
        let (accepted, scope) = (self.marks.accepted().0, self.scope);
        let (is_accepted, is_revoked) =
            (entry.mark & accepted != 0, entry.mark & self.marks.revoked().0 != 0);
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
        let standing = match self.evaluator.standing_by(&decision, &packet) {
            Standing::Allowed if !is_oriented => self.evaluator.standing(&packet.reversed(), true),
            standing => standing,
        };
        let found = |is_allowed| {
            let entry = entry.name();
            SweptConnection { connection: packet, entry, is_oriented, is_revoked, is_allowed }
        };
        match standing {
            standing @ (Standing::Allowed | Standing::Denied)
                if is_revoked || standing == Standing::Denied =>
            {
                // A sweep of all finds what an earlier agent has cut.
                let is_allowed = standing == Standing::Allowed;
                if is_revoked == is_allowed || scope.of == Affected::All {
                    self.found.push(found(is_allowed));
                    if self.found.len() >= AT_ONCE {
                        self.apply_marks();
                    }
                }
                None
            }
            Standing::Allowed if scope.adopts && concerns_us && !is_accepted => {
                Some(MarkChange { value: accepted, mask: accepted }.into())
            }
            Standing::Allowed | Standing::Denied => None,
            Standing::Unknown => {
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
