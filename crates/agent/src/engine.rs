//! Puts a snapshot in force: the end of a policy's life.
//!
//! From: the compiler. To: workers, rules and connections. Invariant: once [`Engine::put_in_force`] has returned, nothing passes on
//! this node that the snapshot denies, on new connections or old.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use dataplane::conntrack::{Conntrack, ConntrackError};
use dataplane::marks::Marks;
use dataplane::remembered::History;
use dataplane::sweep::{LocalAddresses, SweepReport, sweep, wait_for_packets_under_way};
use dataplane::table::{OpenAddresses, Table, TableError};
use dataplane::workers::Holders;
use policy::published::Grace;
use policy::{Direction, Published, Snapshot, Touched};

/// How long to sleep between two looks at workers that are inside a verdict; a verdict takes some microseconds.
const GRACE_POLL: Duration = Duration::from_micros(50);

/// No verdict takes so long: a worker that is still inside then is not coming back.
const GRACE_LIMIT: Duration = Duration::from_secs(10);

/// While changes come one after the other, sweeps take this part of one core's time at most: a fifth.
const SWEEPS_REST: u32 = 4;
/// And yet one is never put off for longer.
const LONGEST_REST: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub struct Engine {
    published: Arc<Published>,
    /// Workers whose packets wait for a snapshot that knows more.
    holders: Holders,
    table: Table,
    conntrack: Conntrack,
    marks: Marks,
    /// Whether every connection is judged, even where no policy applies, so that it is recorded.
    record_open: bool,
    /// Who hears of remembered connections looks here for the snapshot that allowed them.
    history: Arc<History>,
    /// Pods whose packets are judged again, since the sweep after their change is still to come.
    unswept: BTreeSet<IpAddr>,
    /// When the next sweep may begin.
    rested: Instant,
}

/// A snapshot that is not, or not wholly, in force. What was in force before may be so still; trying again is safe.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A worker does not finish.
    #[error("a worker has been at one verdict for {} seconds: start the agent anew", GRACE_LIMIT.as_secs())]
    Grace,
    /// The rules' sets.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The connections.
    #[error(transparent)]
    Conntrack(#[from] ConntrackError),
    /// The node's own addresses.
    #[error("cannot list this node's own addresses: {0}")]
    LocalAddresses(io::Error),
}

/// What it took to put a snapshot in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Applied {
    /// What became of the connections; `None` if they are swept later, or none can be concerned.
    pub swept: Option<SweepReport>,
    /// Waiting for verdicts under way.
    pub grace: Duration,
    /// Bringing the rules' sets up to date.
    pub table: Duration,
    /// From publication until now.
    pub whole: Duration,
}

impl Engine {
    /// Over rules that are installed with what `published` holds now. Connections are not adopted yet:
    /// [`Engine::put_in_force`] does that.
    pub fn new(
        published: Arc<Published>,
        holders: Holders,
        table: Table,
        conntrack: Conntrack,
        marks: Marks,
        record_open: bool,
        history: Arc<History>,
    ) -> Self {
        let unswept = BTreeSet::new();
        Self {
            published,
            holders,
            table,
            conntrack,
            marks,
            record_open,
            history,
            unswept,
            rested: Instant::now(),
        }
    }

    /// Publish, grace, rules, sweep. What passes from or to the pods that are `touched` is judged under `next` from the rules'
    /// update on, connections that exist included: so the sweep may come later, and [`Engine::sweep_at`] says when. If all are
    /// touched, it comes now.
    ///
    /// After an error it is to be called again, with all touched.
    pub fn put_in_force(&mut self, next: &Arc<Snapshot>, touched: Touched) -> Result<Applied, EngineError> {
        let started = Instant::now();
        let (changing, all) = match touched.and(&self.unswept) {
            Touched::Pods(pods) => (pods, false),
            Touched::All => (BTreeSet::new(), true),
        };
        // 1. From here on every verdict that begins follows `next`...
        self.history.publish(next, started);
        let mut grace = self.published.publish(Arc::clone(next));
        self.holders.wake();
        // 2. ... and from here on no verdict of an older snapshot reaches the kernel any more, so none is remembered.
        wait_for(&mut grace, started)?;
        let graced = Instant::now();
        // 3. What passes without a question follows `next` from here on: packets of open pods, and of remembered pairs. So does all
        //    that changing pods send and receive.
        let open = open_addresses(next, self.record_open);
        self.table.update(next.pod_cidrs(), &open, next.generation(), &changing)?;
        let updated = Instant::now();
        self.unswept = changing;
        let due = all || (!self.unswept.is_empty() && updated >= self.rested);
        let swept = if due { Some(self.sweep(next)?) } else { None };
        Ok(Applied { swept, grace: graced - started, table: updated - graced, whole: started.elapsed() })
    }

    /// When [`Engine::sweep`] is to be called, if it is.
    pub fn sweep_at(&self) -> Option<Instant> {
        (!self.unswept.is_empty()).then_some(self.rested)
    }

    /// Judges all connections under `current`, which is in force, and ends the time in which packets of pods that changed are judged
    /// again.
    pub fn sweep(&mut self, current: &Snapshot) -> Result<SweepReport, EngineError> {
        // 4. What the older rules let through is in the table of connections...
        wait_for_packets_under_way();
        // 5. ... in which all are judged again.
        let local = LocalAddresses::read().map_err(EngineError::LocalAddresses)?;
        let swept = sweep(&mut self.conntrack, current, &self.marks, &local)?;
        self.table.end_recheck()?;
        self.unswept.clear();
        self.rested = Instant::now() + LONGEST_REST.min(swept.elapsed * SWEEPS_REST);
        Ok(swept)
    }

    /// Lets verdicts follow `next`, and changes nothing else.
    pub fn publish(&self, next: &Arc<Snapshot>) {
        self.history.publish(next, Instant::now());
        // No one waits: what an older verdict allowed is for whoever changes the rules to look at.
        drop(self.published.publish(Arc::clone(next)));
        self.holders.wake();
    }

    /// The rules.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Goes on with rules that were written anew, since someone had deleted the old ones: everything passed meanwhile.
    pub fn replace_table(&mut self, table: Table) {
        self.table = table;
    }
}

/// Addresses whose packets need no verdict, as the rules' sets hold them.
pub fn open_addresses(snapshot: &Snapshot, record_open: bool) -> OpenAddresses {
    let open = |direction| match record_open {
        true => BTreeSet::new(),
        false => snapshot.open_addresses(direction).collect(),
    };
    OpenAddresses { ingress: open(Direction::Ingress), egress: open(Direction::Egress) }
}

fn wait_for(grace: &mut Grace, started: Instant) -> Result<(), EngineError> {
    while !grace.over() {
        if started.elapsed() > GRACE_LIMIT {
            return Err(EngineError::Grace);
        }
        thread::sleep(GRACE_POLL);
    }
    Ok(())
}
