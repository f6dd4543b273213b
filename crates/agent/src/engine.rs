//! Applies a compiled snapshot to workers, rules and connections.
//!
//! From: the compiler. To: workers, rules and connections. Invariant: once [`Engine::apply`] has returned, no
//! packet passes on this node that the snapshot denies, on new connections or established ones.
//!
//! The compiler determines the connections that a change affects. Their packets are revalidated (evaluated
//! again) until a sweep has evaluated all connections. So no change waits for a sweep, and sweeps may pause
//! while changes follow each other. A change that may affect any pod is in force only when its sweep has
//! ended. Until then, packets that were already being revalidated, by this agent or the previous one, still
//! are.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use dataplane::cache_log::History;
use dataplane::conntrack::ConntrackError;
use dataplane::sweep::{OverlayFlows, SweepReport, SweepScope};
use dataplane::table::{OpenAddresses, Table, TableConfig, TableError};
use dataplane::workers::HoldWaker;
use policy::published::Grace;
use policy::{Affected, Direction, Published, Snapshot};

use crate::revoked::{RestoreError, RevokedConnections};
use crate::sweeper::{SweepError, SweepResult, Sweeper};

/// How long to sleep between two checks of workers that are evaluating a packet, which takes some
/// microseconds.
const GRACE_POLL: Duration = Duration::from_micros(50);

/// No evaluation takes this long: a worker that is still evaluating the same packet is stuck.
const GRACE_LIMIT: Duration = Duration::from_secs(10);

/// How often to check whether a sweep has ended.
const SWEEP_POLL: Duration = Duration::from_millis(5);

/// The pause after a sweep, as a multiple of the sweep's duration. While changes follow each other, sweeps
/// thus take a twentieth of one core's time.
const SWEEP_PAUSE_FACTOR: u32 = 19;
/// The longest pause before a sweep. Until the sweep has ended, packets of the affected pods are revalidated.
const LONGEST_SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(crate) struct Engine {
    published: Arc<Published>,
    /// Workers that hold packets until a snapshot has their pods.
    holders: HoldWaker,
    table: Table,
    sweeper: Sweeper,
    /// Whether every connection is evaluated, even if no policy applies, so that it is recorded.
    record_open: bool,
    /// The snapshots under which the kernel may have cached verdicts, to record cached connections.
    history: Arc<History>,
    /// Connections whose packets are revalidated because the sweep after their change has not begun.
    dirty: Affected,
    /// Connections whose packets are revalidated until the sweep in progress has ended; `None` if no sweep is
    /// in progress.
    sweeping: Option<Affected>,
    /// When the next sweep may begin.
    sweep_after: Instant,
    /// Reassigned addresses whose connections the next sweep deletes.
    reassigned: BTreeSet<IpAddr>,
    /// Reassigned addresses whose connections the sweep in progress deletes, or a failed one did not delete.
    deleting: BTreeSet<IpAddr>,
    /// Flows that pods may not send to nodes.
    overlay: Arc<OverlayFlows>,
    /// Whether the next sweep of all connections adopts connections that no agent has evaluated.
    adopts: bool,
    /// Whether it is unknown which end opened the connections to adopt.
    are_unproven: bool,
    revoked: RevokedConnections,
}

/// A snapshot is not in force, or only in part. The previous snapshot may still be in force. Retrying is
/// safe.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// A worker is stuck.
    #[error("a worker has evaluated one packet for {} seconds: restart the agent", GRACE_LIMIT.as_secs())]
    Grace,
    /// The rules' sets could not be changed.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The connections could not be swept.
    #[error(transparent)]
    Sweep(#[from] SweepError),
}

impl EngineError {
    /// Whether another agent has taken over, so that this one may change nothing more.
    pub(crate) fn is_superseded(&self) -> bool {
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

/// Statistics of applying a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct ApplyStats {
    /// The result of the sweep, if all connections were affected. Otherwise the sweep follows later.
    pub swept: Option<SweepReport>,
    /// How long evaluations in flight took to end.
    pub grace: Duration,
    /// How long updating the rules' sets took.
    pub table: Duration,
    /// The time from publication until the snapshot was in force.
    pub whole: Duration,
}

impl Engine {
    /// An engine for installed rules, which were compiled from the snapshot in `published`. It has not
    /// adopted connections yet: [`Engine::apply`] does that.
    pub(crate) fn new(
        published: Arc<Published>,
        holders: HoldWaker,
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
            dirty: Affected::NONE,
            sweeping: None,
            sweep_after: Instant::now(),
            reassigned: BTreeSet::new(),
            deleting: BTreeSet::new(),
            overlay: Arc::default(),
            adopts: true,
            are_unproven: false,
            revoked,
        }
    }

    /// Makes the next sweep delete the connections of these addresses, which now belong to other pods.
    pub(crate) fn reassign(&mut self, addresses: BTreeSet<IpAddr>) {
        self.revoked.reassign(&addresses);
        self.reassigned.extend(addresses);
    }

    /// Sets the flows that pods may not send to nodes, effective from the next sweep on.
    pub(crate) fn set_overlay(&mut self, overlay: OverlayFlows) {
        self.overlay = Arc::new(overlay);
    }

    /// Applies a snapshot in four steps: publish, grace period, rules, sweep. From the rules' update on,
    /// packets of `affected` connections are evaluated under `next`, even of established ones. So
    /// [`Engine::sweep`] sweeps them later. If all connections are affected, this waits for their sweep. If
    /// none is, this publishes `next` and changes neither the kernel nor the workers.
    ///
    /// After an error, call this again with all connections affected.
    pub(crate) fn apply(
        &mut self,
        next: &Arc<Snapshot>,
        affected: Affected,
    ) -> Result<ApplyStats, EngineError> {
        let started = Instant::now();
        if affected.is_none() {
            // No verdict changes, so verdicts of the older snapshot may still reach the kernel.
            self.history.replace(next, started);
            drop(self.published.publish(Arc::clone(next)));
            self.revoked.follow(next, &self.overlay, &affected);
            return Ok(ApplyStats { whole: started.elapsed(), ..ApplyStats::default() });
        }
        // The sweep in progress follows an older snapshot: affected connections are swept again.
        let dirty = affected.clone().or(self.dirty.clone());
        let revalidating = dirty.clone().or(self.sweeping.clone().unwrap_or(Affected::NONE));
        // 1. From here on, every evaluation that begins follows `next`.
        self.history.publish(next, started);
        let mut grace = self.published.publish(Arc::clone(next));
        self.holders.wake();
        // 2. From here on, no verdict of an older snapshot reaches the kernel, so none is cached.
        wait_for(&mut grace, started)?;
        let graced = Instant::now();
        // 3. From here on, packets that pass without being queued follow `next`: those of pods without
        //    policy, and of cached flows. So do all packets of affected pods.
        let open = open_addresses(next, self.record_open);
        self.table.update(next.pod_cidrs(), &open, next.generation(), &revalidating)?;
        let updated = Instant::now();
        // 4. Revoked connections that `next` allows resume.
        self.revoked.follow(next, &self.overlay, &affected);
        self.revoked.restore_due(&mut self.table)?;
        let swept = if revalidating == Affected::All {
            Some(self.sweep_now(next)?)
        } else {
            self.dirty = dirty;
            None
        };
        Ok(ApplyStats { swept, grace: graced - started, table: updated - graced, whole: started.elapsed() })
    }

    /// When [`Engine::sweep`] must be called; `None` if there is nothing to do.
    pub(crate) fn sweep_at(&self) -> Option<Instant> {
        let sweep_at = match &self.sweeping {
            Some(_) => Some(Instant::now() + SWEEP_POLL),
            None => (!self.dirty.is_none()).then_some(self.sweep_after),
        };
        sweep_at.into_iter().chain(self.revoked.due_at()).min()
    }

    /// Begins a sweep under `current`, which is in force, if one is due. If a sweep has ended, takes its
    /// report, and ends the revalidation of the connections that changed before it.
    ///
    /// After an error, call [`Engine::apply`] with all connections affected.
    pub(crate) fn sweep(&mut self, current: &Arc<Snapshot>) -> Result<Option<SweepReport>, EngineError> {
        self.revoked.restore_due(&mut self.table)?;
        if self.sweeping.is_some() {
            return self.sweeper.try_outcome().map(|swept| self.finish_sweep(swept)).transpose();
        }
        if !self.dirty.is_none() && Instant::now() >= self.sweep_after {
            let affected = std::mem::replace(&mut self.dirty, Affected::NONE);
            let scope = self.scope(affected.clone());
            self.sweeper.begin(current, &self.overlay, scope, self.table.is_revalidating())?;
            self.sweeping = Some(affected);
        }
        Ok(None)
    }

    /// Evaluates all connections under `current`, which is in force. When this returns, no packet is
    /// revalidated any more.
    pub(crate) fn sweep_now(&mut self, current: &Arc<Snapshot>) -> Result<SweepReport, EngineError> {
        if self.sweeping.take().is_some() {
            // That sweep followed an older snapshot. It must end before another begins.
            let _ = self.sweeper.wait();
        }
        let scope = self.scope(Affected::All);
        self.sweeper.begin(current, &self.overlay, scope, self.table.is_revalidating())?;
        self.dirty = Affected::NONE;
        let swept = self.sweeper.wait();
        self.finish_sweep(swept)
    }

    fn scope(&mut self, of: Affected) -> SweepScope {
        // This keeps the addresses of a sweep that failed.
        self.deleting.append(&mut self.reassigned);
        let reassigned = self.deleting.clone();
        SweepScope { of, reassigned, adopts: self.adopts, are_unproven: self.are_unproven }
    }

    fn finish_sweep(&mut self, swept: SweepResult) -> Result<SweepReport, EngineError> {
        let of = self.sweeping.take();
        let mut report = swept?;
        self.deleting.clear();
        self.sweep_after = Instant::now() + LONGEST_SWEEP_PAUSE.min(report.elapsed * SWEEP_PAUSE_FACTOR);
        report.restored += self.revoked.swept(&mut self.table)?;
        if of.is_none() && self.adopts {
            (self.adopts, self.are_unproven) = (false, false);
            self.table.distrust_replies()?;
        }
        if self.dirty.is_none() {
            self.table.end_revalidation()?;
        }
        Ok(report)
    }

    /// Makes workers evaluate under `next`, and changes nothing else.
    pub(crate) fn publish(&self, next: &Arc<Snapshot>) {
        self.history.publish(next, Instant::now());
        // There is no grace period: the agent that owns the rules sweeps what older verdicts allowed.
        drop(self.published.publish(Arc::clone(next)));
        self.holders.wake();
    }

    /// The rules.
    pub(crate) fn table(&mut self) -> &mut Table {
        &mut self.table
    }

    /// Restores the rules after another program changed them. Call [`Engine::apply`] next, with all
    /// connections affected: connections may have passed that no rule has marked. Returns the generation of
    /// the ruleset that this replaced.
    ///
    /// # Errors
    /// As [`Table::restore`].
    pub(crate) fn restore_rules(&mut self, config: TableConfig) -> Result<u32, TableError> {
        let replaced = self.table.restore(config)?;
        (self.adopts, self.are_unproven) = (true, true);
        self.revoked.save_all();
        Ok(replaced)
    }
}

/// The addresses whose packets need no verdict, for the rules' sets.
pub(crate) fn open_addresses(snapshot: &Snapshot, record_open: bool) -> OpenAddresses {
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
