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
use dataplane::sweep::{LocalAddresses, Scope, SweepReport, sweep, sweep_scope, wait_for_packets_under_way};
use dataplane::table::{OpenAddresses, Table, TableError};
use dataplane::workers::Holders;
use policy::published::Grace;
use policy::{Direction, Published, Snapshot};

/// How long to sleep between two looks at workers that are inside a verdict; a verdict takes some microseconds.
const GRACE_POLL: Duration = Duration::from_micros(50);

/// No verdict takes so long: a worker that is still inside then is not coming back.
const GRACE_LIMIT: Duration = Duration::from_secs(10);

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
    /// What became of the connections; both passes together.
    pub swept: SweepReport,
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
        Self { published, holders, table, conntrack, marks, record_open, history }
    }

    /// Publish, grace, rules, sweep. `first` are the pods whose connections are looked at before all others.
    pub fn put_in_force(
        &mut self,
        next: &Arc<Snapshot>,
        first: &[(Direction, IpAddr)],
    ) -> Result<Applied, EngineError> {
        let started = Instant::now();
        // 1. From here on every verdict that begins follows `next`...
        self.history.publish(next, started);
        let mut grace = self.published.publish(Arc::clone(next));
        self.holders.wake();
        // 2. ... and from here on no verdict of an older snapshot reaches the kernel any more, so none is remembered.
        wait_for(&mut grace, started)?;
        let graced = Instant::now();
        // 3. What passes without a question follows `next` from here on: packets of open pods, and of remembered pairs.
        let open = open_addresses(next, self.record_open);
        self.table.update(next.pod_cidrs(), &open, next.generation())?;
        let updated = Instant::now();
        // 4. Connections that got in before are judged again.
        let swept = self.sweep(next, first)?;
        Ok(Applied { swept, grace: graced - started, table: updated - graced, whole: started.elapsed() })
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

    /// The connections of the pods of `first` that are in the table already, and then all, once what the older rules let
    /// through is there, too.
    fn sweep(
        &mut self,
        snapshot: &Snapshot,
        first: &[(Direction, IpAddr)],
    ) -> Result<SweepReport, EngineError> {
        let started = Instant::now();
        let local = LocalAddresses::read().map_err(EngineError::LocalAddresses)?;
        let (revoked, restored) = self.sweep_pods(snapshot, &local, first)?;
        wait_for_packets_under_way();
        let all = sweep(&mut self.conntrack, snapshot, &self.marks, &local)?;
        Ok(SweepReport {
            revoked: all.revoked + revoked,
            restored: all.restored + restored,
            elapsed: started.elapsed(),
            ..all
        })
    }

    /// Each of these pods on a thread of its own: whatever a pass finds, it is a walk through the kernel's whole table.
    /// Returns how many connections were revoked, and how many restored.
    fn sweep_pods(
        &self,
        snapshot: &Snapshot,
        local: &LocalAddresses,
        pods: &[(Direction, IpAddr)],
    ) -> Result<(u64, u64), ConntrackError> {
        let sweep_pod = |direction, address| {
            let scope = Scope::Pod(direction, address);
            sweep_scope(&mut Conntrack::open()?, snapshot, &self.marks, local, scope)
        };
        thread::scope(|threads| {
            let passes: Vec<_> = pods
                .iter()
                .map(|&(direction, address)| threads.spawn(move || sweep_pod(direction, address)))
                .collect();
            passes.into_iter().try_fold((0, 0), |(revoked, restored), pass| {
                let swept = pass.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                Ok((revoked + swept.revoked, restored + swept.restored))
            })
        })
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
