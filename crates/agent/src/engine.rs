//! Puts a snapshot in force: the end of a policy's life.
//!
//! From: the compiler. To: workers, rules and connections. Invariant: once [`Engine::put_in_force`] has returned, nothing passes on
//! this node that the snapshot denies, on new connections or old.
//!
//! Whose connections a change touches is known, and their packets are evaluated again until a sweep has looked at all connections: so
//! no change waits for a sweep, and sweeps may rest while changes come one after the other. A change that may affect any pod is in force
//! only when its sweep is over. Until then, pods whose packets were already evaluated again, by this agent or the previous one, keep
//! being evaluated again.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use dataplane::cache_log::History;
use dataplane::conntrack::ConntrackError;
use dataplane::sweep::{OverlayFlows, Scope, SweepReport};
use dataplane::table::{OpenAddresses, Table, TableConfig, TableError};
use dataplane::workers::Holders;
use policy::published::Grace;
use policy::{Affected, Direction, Published, Snapshot};

use crate::revoked::{RestoreError, RevokedConnections};
use crate::sweeper::{Outcome, SweepError, Sweeper};

/// How long to sleep between two looks at workers that are inside a verdict; a verdict takes some microseconds.
const GRACE_POLL: Duration = Duration::from_micros(50);

/// No verdict takes so long: a worker that is still inside then is not coming back.
const GRACE_LIMIT: Duration = Duration::from_secs(10);

/// How soon to look again whether a sweep is over.
const SWEEP_POLL: Duration = Duration::from_millis(5);

/// While changes come one after the other, sweeps take a twentieth of one core's time: they rest so many times as long as they took.
const SWEEPS_REST: u32 = 19;
/// A sweep is never put off for longer than this. Until it is over, packets of the affected pods are evaluated again.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub struct Engine {
    published: Arc<Published>,
    /// Workers whose packets wait for a snapshot that knows more.
    holders: Holders,
    table: Table,
    sweeper: Sweeper,
    /// Whether every connection is evaluated, even where no policy applies, so that it is recorded.
    record_open: bool,
    /// Who hears of cached connections looks here for the snapshot under which they passed.
    history: Arc<History>,
    /// Connections whose packets are evaluated again, since the sweep after their change is still to begin.
    unswept: Affected,
    /// Connections whose packets are evaluated again until the sweep in progress is over; `None` if none is.
    sweeping: Option<Affected>,
    /// When the next sweep may begin.
    rested: Instant,
    /// Addresses that have another pod than before, whose connections are still to be deleted.
    reassigned: BTreeSet<IpAddr>,
    /// The same, by the sweep in progress, or by one that failed.
    deleting: BTreeSet<IpAddr>,
    /// What pods may not send to nodes.
    overlay: Arc<OverlayFlows>,
    /// Whether connections that no agent has seen are still to be taken up.
    adopts: bool,
    /// Whether it is unknown which end opened these.
    are_unproven: bool,
    revoked: RevokedConnections,
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
    Sweep(#[from] SweepError),
}

impl EngineError {
    /// Whether another agent has taken over, so that this one may change nothing more.
    pub fn is_superseded(&self) -> bool {
        matches!(
            self,
            Self::Table(TableError::Superseded(_))
                | Self::Sweep(SweepError::Conntrack(ConntrackError::Superseded(_)))
        )
    }
}

impl From<RestoreError> for EngineError {
    fn from(error: RestoreError) -> Self {
        match error {
            RestoreError::Conntrack(error) => Self::Sweep(error.into()),
            RestoreError::Table(error) => Self::Table(error),
        }
    }
}

/// What it took to put a snapshot in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// What became of the connections, if all had to be looked at; others are looked at later.
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
        sweeper: Sweeper,
        record_open: bool,
        history: Arc<History>,
        revoked: RevokedConnections,
    ) -> Self {
        Self {
            published,
            holders,
            table,
            sweeper,
            record_open,
            history,
            unswept: Affected::NONE,
            sweeping: None,
            rested: Instant::now(),
            reassigned: BTreeSet::new(),
            deleting: BTreeSet::new(),
            overlay: Arc::default(),
            adopts: true,
            are_unproven: false,
            revoked,
        }
    }

    /// Connections of these addresses are another pod's from the next sweep on, which deletes them.
    pub fn reassign(&mut self, addresses: BTreeSet<IpAddr>) {
        self.revoked.reassign(&addresses);
        self.reassigned.extend(addresses);
    }

    /// What pods may not send to nodes, from the next sweep on.
    pub fn set_overlay(&mut self, overlay: OverlayFlows) {
        self.overlay = Arc::new(overlay);
    }

    /// Publish, grace, rules, sweep. Packets of `affected` connections are evaluated under `next` from the rules' update on, those of
    /// established connections included: so their sweep comes later, by [`Engine::sweep`]. If all are affected, it is over when this
    /// returns. If none is, `next` is published, and the kernel and the workers are left alone.
    ///
    /// After an error it is to be called again, with all affected.
    pub fn put_in_force(&mut self, next: &Arc<Snapshot>, affected: Affected) -> Result<Applied, EngineError> {
        let started = Instant::now();
        if affected.is_none() {
            // Every decision is as before: a verdict of the older snapshot may still reach the kernel.
            self.history.replace(next, started);
            drop(self.published.publish(Arc::clone(next)));
            self.revoked.follow(next, &self.overlay, &affected);
            return Ok(Applied { whole: started.elapsed(), ..Applied::default() });
        }
        // The sweep in progress follows an older snapshot: what is affected again is swept again.
        let unswept = affected.clone().or(self.unswept.clone());
        let changing = unswept.clone().or(self.sweeping.clone().unwrap_or(Affected::NONE));
        // 1. From here on every verdict that begins follows `next`...
        self.history.publish(next, started);
        let mut grace = self.published.publish(Arc::clone(next));
        self.holders.wake();
        // 2. ... and from here on no verdict of an older snapshot reaches the kernel any more, so none is cached.
        wait_for(&mut grace, started)?;
        let graced = Instant::now();
        // 3. What passes without a question follows `next` from here on: packets of open pods, and of cached pairs. So does all
        //    that changing pods send and receive.
        let open = open_addresses(next, self.record_open);
        self.table.update(next.pod_cidrs(), &open, next.generation(), &changing)?;
        let updated = Instant::now();
        // 4. What it allows again resumes.
        self.revoked.follow(next, &self.overlay, &affected);
        self.revoked.restore_due(&mut self.table)?;
        let swept = if changing == Affected::All {
            Some(self.sweep_now(next)?)
        } else {
            self.unswept = unswept;
            None
        };
        Ok(Applied { swept, grace: graced - started, table: updated - graced, whole: started.elapsed() })
    }

    /// When [`Engine::sweep`] is to be called, if it is.
    pub fn sweep_at(&self) -> Option<Instant> {
        let sweep_at = match &self.sweeping {
            Some(_) => Some(Instant::now() + SWEEP_POLL),
            None => (!self.unswept.is_none()).then_some(self.rested),
        };
        sweep_at.into_iter().chain(self.revoked.due_at()).min()
    }

    /// Begins a sweep under `current`, which is in force, if one is due; or takes the report of one that is over, and ends the time in
    /// which packets of the pods that changed before it are evaluated again.
    ///
    /// After an error [`Engine::put_in_force`] is to be called, with all affected.
    pub fn sweep(&mut self, current: &Arc<Snapshot>) -> Result<Option<SweepReport>, EngineError> {
        self.revoked.restore_due(&mut self.table)?;
        if self.sweeping.is_some() {
            return self.sweeper.look().map(|swept| self.take(swept)).transpose();
        }
        if !self.unswept.is_none() && Instant::now() >= self.rested {
            let affected = std::mem::replace(&mut self.unswept, Affected::NONE);
            let scope = self.scope(affected.clone());
            self.sweeper.begin(current, &self.overlay, scope, self.table.is_revalidating())?;
            self.sweeping = Some(affected);
        }
        Ok(None)
    }

    /// Evaluates all connections under `current`, which is in force. When it returns no packet is evaluated again any more.
    pub fn sweep_now(&mut self, current: &Arc<Snapshot>) -> Result<SweepReport, EngineError> {
        if self.sweeping.take().is_some() {
            // It followed an older snapshot, and is over before another begins.
            let _ = self.sweeper.wait();
        }
        let scope = self.scope(Affected::All);
        self.sweeper.begin(current, &self.overlay, scope, self.table.is_revalidating())?;
        self.unswept = Affected::NONE;
        let swept = self.sweeper.wait();
        self.take(swept)
    }

    fn scope(&mut self, of: Affected) -> Scope {
        // Those of a sweep that failed are still to be done.
        self.deleting.append(&mut self.reassigned);
        let reassigned = self.deleting.clone();
        Scope { of, reassigned, adopts: self.adopts, are_unproven: self.are_unproven }
    }

    fn take(&mut self, swept: Outcome) -> Result<SweepReport, EngineError> {
        let of = self.sweeping.take();
        let mut report = swept?;
        self.deleting.clear();
        self.rested = Instant::now() + LONGEST_REST.min(report.elapsed * SWEEPS_REST);
        report.restored += self.revoked.swept(&mut self.table)?;
        if of.is_none() && self.adopts {
            (self.adopts, self.are_unproven) = (false, false);
            self.table.distrust_replies()?;
        }
        if self.unswept.is_none() {
            self.table.end_recheck()?;
        }
        Ok(report)
    }

    /// Lets verdicts follow `next`, and changes nothing else.
    pub fn publish(&self, next: &Arc<Snapshot>) {
        self.history.publish(next, Instant::now());
        // No one waits: what an older verdict allowed is for whoever changes the rules to look at.
        drop(self.published.publish(Arc::clone(next)));
        self.holders.wake();
    }

    /// The rules.
    pub fn table(&mut self) -> &mut Table {
        &mut self.table
    }

    /// Writes the rules again after another program changed them. [`Engine::put_in_force`] is to be called next, with all affected:
    /// connections may have passed that no rule has marked. Returns the generation of the ruleset that this replaced.
    ///
    /// # Errors
    /// As [`Table::restore`].
    pub fn restore_rules(&mut self, config: TableConfig) -> Result<u32, TableError> {
        let replaced = self.table.restore(config)?;
        (self.adopts, self.are_unproven) = (true, true);
        self.revoked.save_all();
        Ok(replaced)
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
