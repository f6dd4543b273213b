//! The thread that looks at connections that exist, so that the next change need not wait for it.
//!
//! From: the engine, a snapshot that is in force. To: the [`Register`], which connections are cut or to be cut; the engine, the numbers.
//! One sweep at a time.

use std::io;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use dataplane::conntrack::{Conntrack, ConntrackError};
use dataplane::marks::Marks;
use dataplane::sweep::{
    Evaluator, LocalAddresses, MarkCounts, OverlayFlows, Scope, Sink, SweepReport, SweptConnection, sweep,
    wait_for_packets_under_way,
};
use policy::Snapshot;

use crate::revoked::{Register, lock};

/// What a sweep came to.
pub type Outcome = Result<SweepReport, SweepError>;

/// Connections that were not, or not all, looked at.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The connections.
    #[error(transparent)]
    Conntrack(#[from] ConntrackError),
    /// The node's own addresses.
    #[error("cannot list this node's own addresses: {0}")]
    LocalAddresses(io::Error),
    /// A bug.
    #[error("the thread that sweeps connections has ended: start the agent anew")]
    Ended,
}

/// Under which snapshot which connections are to be evaluated.
#[derive(Debug)]
struct Order {
    snapshot: Arc<Snapshot>,
    overlay: Arc<OverlayFlows>,
    scope: Scope,
    /// Whether packets of connections that exist are evaluated again meanwhile.
    is_revalidating: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Sweeper {
    /// `None` once it is told to end.
    orders: Option<Sender<Order>>,
    reports: Receiver<Outcome>,
    thread: Option<JoinHandle<()>>,
}

impl Sweeper {
    /// Starts the thread, in the network namespace of this one.
    pub fn start(mut conntrack: Conntrack, marks: Marks, register: Arc<Mutex<Register>>) -> io::Result<Self> {
        let (orders, inbox) = channel::<Order>();
        let (outbox, reports) = channel();
        let work = move || {
            for order in inbox {
                // What the older rules let through is in the table of connections...
                wait_for_packets_under_way();
                // ... in which they are evaluated again.
                if outbox.send(order.carry_out(&mut conntrack, &marks, &register)).is_err() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("sweeper".to_owned()).spawn(work)?;
        Ok(Self { orders: Some(orders), reports, thread: Some(thread) })
    }

    /// Has connections evaluated under a snapshot. `is_revalidating`: whether rules evaluate packets of some of them again meanwhile. No
    /// sweep may be in progress.
    ///
    /// # Errors
    /// [`SweepError::Ended`] if the thread has ended.
    pub fn begin(
        &self,
        snapshot: &Arc<Snapshot>,
        overlay: &Arc<OverlayFlows>,
        scope: Scope,
        is_revalidating: bool,
    ) -> Result<(), SweepError> {
        let orders = self.orders.as_ref().ok_or(SweepError::Ended)?;
        let (snapshot, overlay) = (Arc::clone(snapshot), Arc::clone(overlay));
        let order = Order { snapshot, overlay, scope, is_revalidating };
        orders.send(order).map_err(|_| SweepError::Ended)
    }

    /// What the sweep under way came to, if it is over.
    pub fn look(&self) -> Option<Outcome> {
        match self.reports.try_recv() {
            Ok(swept) => Some(swept),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(SweepError::Ended)),
        }
    }

    /// The same, as soon as it is over.
    pub fn wait(&self) -> Outcome {
        self.reports.recv().unwrap_or(Err(SweepError::Ended))
    }
}

impl Order {
    fn carry_out(self, conntrack: &mut Conntrack, marks: &Marks, register: &Mutex<Register>) -> Outcome {
        let local = LocalAddresses::read().map_err(SweepError::LocalAddresses)?;
        let evaluator = Evaluator { snapshot: &self.snapshot, local: &local, overlay: &self.overlay };
        let mut changed = Changed { register, local: &local, cut: Vec::new(), unaccepted: Vec::new() };
        let report = sweep(conntrack, marks, evaluator, &self.scope, &mut changed)?;
        if self.is_revalidating {
            changed.confirm(conntrack, marks)?;
        }
        Ok(report)
    }
}

/// Connections whose marks a sweep has just changed, so that their packets pass no more without being evaluated.
struct Changed<'a> {
    register: &'a Mutex<Register>,
    local: &'a LocalAddresses,
    /// REVOKED was set.
    cut: Vec<SweptConnection>,
    /// ACCEPTED was cleared.
    unaccepted: Vec<SweptConnection>,
}

impl Sink for Changed<'_> {
    fn apply_marks(&mut self, found: &mut [SweptConnection]) -> Result<MarkCounts, ConntrackError> {
        let counts = lock(self.register).apply_marks(found, self.local)?;
        let is_cut_now = |found: &&SweptConnection| !found.is_allowed && !found.is_revoked;
        self.cut.extend(found.iter().filter(is_cut_now).cloned());
        Ok(counts)
    }

    fn unaccepted(&mut self, connection: SweptConnection) {
        self.unaccepted.push(connection);
    }
}

impl Changed<'_> {
    /// Makes sure that the marks stay as they are now.
    ///
    /// Rules note in the connection's mark that a packet is evaluated again, and write back the whole mark as they have read it
    /// (`nft_ct_set_eval`): a change in between is lost. So this waits until each packet that read the mark before has left the rules, and
    /// then looks at the marks. If REVOKED is there, it stays: an earlier rule drops all further packets of the connection. If ACCEPTED is
    /// gone, it stays so until a worker allows a packet, which it does only if the snapshot in force allows it.
    fn confirm(self, conntrack: &mut Conntrack, marks: &Marks) -> Result<(), ConntrackError> {
        let Self { register, local, mut cut, mut unaccepted } = self;
        let (revoked, accepted) = (marks.revoked().0, marks.accepted().0);
        while !(cut.is_empty() && unaccepted.is_empty()) {
            wait_for_packets_under_way();
            let mut lost = |changed: Vec<SweptConnection>, mask, lacks: u32| {
                let mut lost = Vec::new();
                for changed in changed {
                    if conntrack.mark(&changed.entry)?.is_some_and(|mark| mark & mask == lacks) {
                        lost.push(changed);
                    }
                }
                Ok::<_, ConntrackError>(lost)
            };
            let (cut_lost, unaccepted_lost) = (lost(cut, revoked, 0)?, lost(unaccepted, accepted, accepted)?);
            let mut register = lock(register);
            cut = register.cut_again(cut_lost, local)?;
            unaccepted = register.unaccept_again(unaccepted_lost, local)?;
        }
        Ok(())
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // What it could say would be nobody's to hear.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use policy::{Change, PodName};

    use super::*;
    use crate::testing::entries::{Made, make};
    use crate::testing::namespace::in_namespace;
    use crate::testing::shop::{self, DB, NOBODY, WEB};
    use crate::testing::{ACCEPTED, REVOKED, marks, overwrite_marks};

    /// Sweeps all connections under this snapshot; then a rule writes this mark back.
    fn sweep_and_lose(
        register: &Mutex<Register>,
        snapshot: &Snapshot,
        mark: u32,
        in_between: impl FnOnce(),
    ) -> Vec<u32> {
        let (local, overlay) = (LocalAddresses::default(), OverlayFlows::default());
        let evaluator = Evaluator { snapshot, local: &local, overlay: &overlay };
        let mut changed = Changed { register, local: &local, cut: Vec::new(), unaccepted: Vec::new() };
        let mut conntrack = Conntrack::open().unwrap();
        sweep(&mut conntrack, &Marks::default(), evaluator, &Scope::default(), &mut changed).unwrap();
        overwrite_marks(mark);
        in_between();
        changed.confirm(&mut conntrack, &Marks::default()).unwrap();
        marks()
    }

    fn register(snapshot: &Arc<Snapshot>) -> Mutex<Register> {
        Mutex::new(Register::new(Conntrack::open().unwrap(), Marks::default(), Arc::clone(snapshot)))
    }

    #[test]
    fn revoked_is_set_again_if_a_rule_has_overwritten_it() {
        in_namespace(&[], || {
            make([Made::udp((WEB, 1), (DB, 6000)).marked(ACCEPTED)]);
            let (_, snapshot) = shop::open(&[5000]);
            let found = sweep_and_lose(&register(&snapshot), &snapshot, ACCEPTED, || {});
            assert_eq!(found, [ACCEPTED | REVOKED]);
        });
    }

    /// Found by reading: the next pod at that address would have got the connection.
    #[test]
    fn accepted_is_cleared_again_if_a_rule_has_overwritten_it() {
        in_namespace(&[], || {
            make([Made::udp((NOBODY, 1), ("192.0.2.9", 80)).tcp().marked(ACCEPTED)]);
            let (_, snapshot) = shop::open(&[5000]);
            assert_eq!(sweep_and_lose(&register(&snapshot), &snapshot, ACCEPTED, || {}), [0]);
        });
    }

    #[test]
    fn accepted_stays_if_the_pod_became_known_meanwhile() {
        in_namespace(&[], || {
            make([Made::udp((NOBODY, 1), ("192.0.2.9", 80)).tcp().marked(ACCEPTED)]);
            let (mut compiler, snapshot) = shop::open(&[5000]);
            let register = register(&snapshot);
            let known = compiler.apply([Change::Pod(shop::pod("late", &[NOBODY]))]).snapshot;
            let follow = || {
                lock(&register).follow(&known, &Arc::default(), &policy::Affected::All);
            };
            assert!(
                known.pod_at(NOBODY.parse().unwrap()).is_some_and(|pod| *pod == PodName::new("shop", "late"))
            );
            assert_eq!(sweep_and_lose(&register, &snapshot, ACCEPTED, follow), [ACCEPTED]);
        });
    }
}
