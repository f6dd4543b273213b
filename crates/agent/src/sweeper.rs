//! The thread that looks at connections that exist, so that the next change need not wait for it.
//!
//! From: the engine, a snapshot that is in force. To: the engine, what became of the connections. One sweep at a time.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::{self, JoinHandle};

use dataplane::conntrack::{Conntrack, ConntrackError};
use dataplane::marks::Marks;
use dataplane::sweep::{LocalAddresses, Scope, Swept, sweep, wait_for_packets_under_way};
use policy::Snapshot;

/// What a sweep came to.
pub type Outcome = Result<Swept, SweepError>;

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
type Order = (Arc<Snapshot>, Scope);

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
    pub fn start(mut conntrack: Conntrack, marks: Marks) -> io::Result<Self> {
        let (orders, inbox) = channel::<Order>();
        let (outbox, reports) = channel();
        let work = move || {
            for (snapshot, scope) in inbox {
                // What the older rules let through is in the table of connections...
                wait_for_packets_under_way();
                // ... in which they are judged again.
                let swept = LocalAddresses::read()
                    .map_err(SweepError::LocalAddresses)
                    .and_then(|local| Ok(sweep(&mut conntrack, &snapshot, &marks, &local, &scope)?));
                if outbox.send(swept).is_err() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("sweeper".to_owned()).spawn(work)?;
        Ok(Self { orders: Some(orders), reports, thread: Some(thread) })
    }

    /// Has connections evaluated under a snapshot. No sweep may be in progress.
    pub fn begin(&self, snapshot: &Arc<Snapshot>, scope: Scope) -> Result<(), SweepError> {
        let orders = self.orders.as_ref().ok_or(SweepError::Ended)?;
        orders.send((Arc::clone(snapshot), scope)).map_err(|_| SweepError::Ended)
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

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // What it could say would be nobody's to hear.
            let _ = thread.join();
        }
    }
}
