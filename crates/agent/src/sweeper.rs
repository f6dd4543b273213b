//! The thread that sweeps established connections, so that the next change need not wait for a sweep.
//!
//! From: the engine, with a snapshot that is in force. To: the [`RevokedRegistry`], which revokes and
//! restores connections, and the engine, which takes the report. Invariant: at most one sweep is in progress.

use std::io;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use dataplane::conntrack::{Conntrack, ConntrackError};
use dataplane::marks::{Mark, Marks};
use dataplane::sweep::{
    Evaluator, LocalAddresses, MarkCounts, OverlayFlows, Sink, SweepReport, SweepScope, SweptConnection,
    sweep, wait_for_packets_in_flight,
};
use policy::Snapshot;

use crate::revoked::RevokedRegistry;
use crate::sync::lock;

/// The result of a sweep.
pub(crate) type SweepResult = Result<SweepReport, SweepError>;

/// Not all connections were swept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SweepError {
    /// The connections could not be read, or their marks could not be changed.
    #[error(transparent)]
    Conntrack(#[from] ConntrackError),
    /// The node's own addresses could not be read.
    #[error("cannot list this node's own addresses")]
    LocalAddresses(#[source] io::Error),
    /// The thread has panicked, which is a bug.
    #[error("the thread that sweeps connections has ended: restart the agent")]
    Ended,
}

/// A request to evaluate the connections in `scope` under `snapshot`.
#[derive(Debug)]
struct SweepRequest {
    snapshot: Arc<Snapshot>,
    overlay: Arc<OverlayFlows>,
    scope: SweepScope,
    /// Whether rules revalidate packets of established connections during the sweep.
    is_revalidating: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Sweeper {
    /// `None` once the thread must end.
    requests: Option<Sender<SweepRequest>>,
    outcomes: Receiver<SweepResult>,
    thread: Option<JoinHandle<()>>,
}

impl Sweeper {
    /// Starts the thread, in the network namespace of this one.
    pub(crate) fn start(
        mut conntrack: Conntrack,
        marks: Marks,
        registry: Arc<Mutex<RevokedRegistry>>,
    ) -> io::Result<Self> {
        let (requests, inbox) = channel::<SweepRequest>();
        let (outbox, outcomes) = channel();
        let work = move || {
            for request in inbox {
                // After this, conntrack has all connections that the older rules have let through.
                wait_for_packets_in_flight();
                if outbox.send(request.sweep(&mut conntrack, &marks, &registry)).is_err() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("sweeper".to_owned()).spawn(work)?;
        Ok(Self { requests: Some(requests), outcomes, thread: Some(thread) })
    }

    /// Begins to evaluate connections under a snapshot. `is_revalidating`: whether rules revalidate packets
    /// of some of them during the sweep. No sweep may be in progress.
    ///
    /// # Errors
    /// [`SweepError::Ended`] if the thread has ended.
    pub(crate) fn begin(
        &self,
        snapshot: &Arc<Snapshot>,
        overlay: &Arc<OverlayFlows>,
        scope: SweepScope,
        is_revalidating: bool,
    ) -> Result<(), SweepError> {
        let requests = self.requests.as_ref().ok_or(SweepError::Ended)?;
        let (snapshot, overlay) = (Arc::clone(snapshot), Arc::clone(overlay));
        let request = SweepRequest { snapshot, overlay, scope, is_revalidating };
        requests.send(request).map_err(|_| SweepError::Ended)
    }

    /// The outcome of the sweep in progress, if it has ended.
    pub(crate) fn try_outcome(&self) -> Option<SweepResult> {
        match self.outcomes.try_recv() {
            Ok(swept) => Some(swept),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(SweepError::Ended)),
        }
    }

    /// Waits for the end of the sweep in progress, and returns its outcome.
    pub(crate) fn wait(&self) -> SweepResult {
        self.outcomes.recv().unwrap_or(Err(SweepError::Ended))
    }
}

impl SweepRequest {
    fn sweep(
        self,
        conntrack: &mut Conntrack,
        marks: &Marks,
        registry: &Mutex<RevokedRegistry>,
    ) -> SweepResult {
        let local = LocalAddresses::read().map_err(SweepError::LocalAddresses)?;
        let evaluator = Evaluator { snapshot: &self.snapshot, local: &local, overlay: &self.overlay };
        let mut changed =
            ChangedMarks { registry, local: &local, revoked: Vec::new(), unaccepted: Vec::new() };
        let report = sweep(conntrack, marks, evaluator, &self.scope, &mut changed)?;
        if self.is_revalidating {
            changed.confirm(conntrack, marks)?;
        }
        Ok(report)
    }
}

/// Connections whose marks a sweep has just changed, so that their packets no longer pass without evaluation.
struct ChangedMarks<'a> {
    registry: &'a Mutex<RevokedRegistry>,
    local: &'a LocalAddresses,
    /// Connections on which REVOKED was set.
    revoked: Vec<SweptConnection>,
    /// Connections on which ACCEPTED was cleared.
    unaccepted: Vec<SweptConnection>,
}

impl Sink for ChangedMarks<'_> {
    fn apply_marks(&mut self, found: &mut [SweptConnection]) -> Result<MarkCounts, ConntrackError> {
        let counts = lock(self.registry).apply_marks(found, self.local)?;
        let is_newly_revoked = |found: &&SweptConnection| !found.is_allowed && !found.is_revoked;
        self.revoked.extend(found.iter().filter(is_newly_revoked).cloned());
        Ok(counts)
    }

    fn unaccepted(&mut self, connection: SweptConnection) {
        self.unaccepted.push(connection);
    }
}

impl ChangedMarks<'_> {
    /// Ensures that the marks stay as they are now.
    ///
    /// Rules set a bit in the connection's mark when a packet is revalidated, and write back the whole mark
    /// that they have read (`nft_ct_set_eval`). A change in between is lost. So this waits until each packet
    /// that read the mark earlier has left the rules, and then reads the marks. If REVOKED is set, it stays:
    /// an earlier rule drops all further packets of the connection. If ACCEPTED is cleared, it stays cleared
    /// until a worker allows a packet, which it does only if the snapshot in force allows it.
    fn confirm(self, conntrack: &mut Conntrack, marks: &Marks) -> Result<(), ConntrackError> {
        let Self { registry, local, mut revoked, mut unaccepted } = self;
        let (revoked_bit, accepted_bit) = (marks.revoked(), marks.accepted());
        while !(revoked.is_empty() && unaccepted.is_empty()) {
            wait_for_packets_in_flight();
            let mut lost = |changed: Vec<SweptConnection>, mask, overwritten: Mark| {
                let mut lost = Vec::new();
                for changed in changed {
                    if conntrack.mark(&changed.entry)?.is_some_and(|mark| mark & mask == overwritten) {
                        lost.push(changed);
                    }
                }
                Ok::<_, ConntrackError>(lost)
            };
            let revoked_lost = lost(revoked, revoked_bit, Mark::NONE)?;
            let unaccepted_lost = lost(unaccepted, accepted_bit, accepted_bit)?;
            let mut registry = lock(registry);
            revoked = registry.revoke_again(revoked_lost, local)?;
            unaccepted = registry.unaccept_again(unaccepted_lost, local)?;
        }
        Ok(())
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // Nothing is left to report.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use policy::{Change, PodName};

    use super::*;
    use crate::testing::entries::{NewEntry, make};
    use crate::testing::namespace::in_namespace;
    use crate::testing::shop::{self, DB, UNASSIGNED, WEB};
    use crate::testing::{ACCEPTED, REVOKED, marks, overwrite_marks};

    /// Sweeps all connections under this snapshot. Then sets all marks to `mark`, as a rule does that writes
    /// it back.
    fn sweep_and_lose(
        registry: &Mutex<RevokedRegistry>,
        snapshot: &Snapshot,
        mark: Mark,
        in_between: impl FnOnce(),
    ) -> Vec<Mark> {
        let (local, overlay) = (LocalAddresses::default(), OverlayFlows::default());
        let evaluator = Evaluator { snapshot, local: &local, overlay: &overlay };
        let mut changed =
            ChangedMarks { registry, local: &local, revoked: Vec::new(), unaccepted: Vec::new() };
        let mut conntrack = Conntrack::open().unwrap();
        sweep(&mut conntrack, &Marks::default(), evaluator, &SweepScope::default(), &mut changed).unwrap();
        overwrite_marks(mark);
        in_between();
        changed.confirm(&mut conntrack, &Marks::default()).unwrap();
        marks()
    }

    fn registry(snapshot: &Arc<Snapshot>) -> Mutex<RevokedRegistry> {
        Mutex::new(RevokedRegistry::new(Conntrack::open().unwrap(), Marks::default(), Arc::clone(snapshot)))
    }

    #[test]
    fn revoked_is_set_again_if_a_rule_has_overwritten_it() {
        in_namespace(&[], || {
            make([NewEntry::udp((WEB, 1), (DB, 6000)).marked(ACCEPTED)]);
            let (_, snapshot) = shop::open(&[5000]);
            let found = sweep_and_lose(&registry(&snapshot), &snapshot, ACCEPTED, || {});
            assert_eq!(found, [ACCEPTED | REVOKED]);
        });
    }

    /// Otherwise the next pod at that address would inherit the connection. Found in review.
    #[test]
    fn accepted_is_cleared_again_if_a_rule_has_overwritten_it() {
        in_namespace(&[], || {
            make([NewEntry::udp((UNASSIGNED, 1), ("192.0.2.9", 80)).tcp().marked(ACCEPTED)]);
            let (_, snapshot) = shop::open(&[5000]);
            assert_eq!(sweep_and_lose(&registry(&snapshot), &snapshot, ACCEPTED, || {}), [Mark::NONE]);
        });
    }

    #[test]
    fn accepted_stays_if_the_pod_has_become_known() {
        in_namespace(&[], || {
            make([NewEntry::udp((UNASSIGNED, 1), ("192.0.2.9", 80)).tcp().marked(ACCEPTED)]);
            let (mut compiler, snapshot) = shop::open(&[5000]);
            let registry = registry(&snapshot);
            let known = compiler.apply([Change::Pod(shop::pod("late", &[UNASSIGNED]))]).snapshot;
            let follow = || {
                lock(&registry).follow(&known, &Arc::default(), &policy::Affected::All);
            };
            assert!(
                known
                    .pod_at(UNASSIGNED.parse().unwrap())
                    .is_some_and(|pod| *pod == PodName::new("shop", "late"))
            );
            assert_eq!(sweep_and_lose(&registry, &snapshot, ACCEPTED, follow), [ACCEPTED]);
        });
    }
}
