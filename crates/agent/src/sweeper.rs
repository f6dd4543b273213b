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
    Evaluator, LocalAddresses, OverlayFlows, Scope, SweepReport, SweptConnection, sweep,
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
                // ... in which they are judged again.
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
        let mut cut = Vec::new();
        let mut apply_marks = |found: &mut [SweptConnection]| {
            let settled = lock(register).apply_marks(found, &local)?;
            let is_cut_now = |found: &&SweptConnection| !found.is_allowed && !found.is_revoked;
            cut.extend(found.iter().filter(is_cut_now).cloned());
            Ok(settled)
        };
        let report = sweep(conntrack, marks, evaluator, &self.scope, &mut apply_marks)?;
        if self.is_revalidating {
            confirm(cut, conntrack, marks, register, &local)?;
        }
        Ok(report)
    }
}

/// Makes sure that REVOKED stays on connections that were just cut.
///
/// Rules note in the connection's mark that a packet is evaluated again, and write back the whole mark as they have read it
/// (`nft_ct_set_eval`): a bit that was set in between is lost. So this waits until each packet that read the mark before has left the
/// rules, and then looks for REVOKED. If it is there, it stays: an earlier rule drops all further packets of the connection.
fn confirm(
    mut cut: Vec<SweptConnection>,
    conntrack: &mut Conntrack,
    marks: &Marks,
    register: &Mutex<Register>,
    local: &LocalAddresses,
) -> Result<(), ConntrackError> {
    while !cut.is_empty() {
        wait_for_packets_under_way();
        let mut lost = Vec::new();
        for cut in cut {
            if conntrack.mark(&cut.entry)?.is_some_and(|mark| mark & marks.revoked().0 == 0) {
                lost.push(cut);
            }
        }
        cut = lock(register).cut_again(lost, local)?;
    }
    Ok(())
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
