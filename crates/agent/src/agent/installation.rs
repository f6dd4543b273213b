//! Sets up the agent's queues, workers and rules.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use audit::Audit;
use dataplane::conntrack::Conntrack;
use dataplane::drops::DropCounts;
use dataplane::ports::read_interfaces;
use dataplane::queues::QueueRange;
use dataplane::table::{
    FailMode, OriginConfig, Origins, RulesListener, Table, TableConfig, VerdictCacheConfig,
};
use dataplane::workers::{Workers, WorkersConfig};
use policy::{Published, Snapshot};

use super::predecessor::Predecessor;
use super::state::Agent;
use crate::engine::{Engine, open_addresses};
use crate::origins::overlay_flows;
use crate::revoked::{RevokedConnections, RevokedRegistry};
use crate::status;
use crate::sweeper::Sweeper;
use cluster::error_chain::chain;

impl Agent {
    /// Sets up queues, workers and rules, in this order: no packet may be queued before a worker can give its
    /// verdict.
    pub(super) fn install(&mut self, snapshot: &Arc<Snapshot>) -> anyhow::Result<Engine> {
        let in_use = Table::queues_in_use()?;
        let listener = RulesListener::open()?;
        // Under existing rules that let no packet pass unevaluated, every connection is already marked.
        let trust_replies = Table::passes_unevaluated()?;
        // Existing bindings stay: an earlier agent may have seen the addresses at another port first.
        self.origins.begin(read_interfaces()?, Table::bindings_in_force()?);
        let snapshot = &self.with_own_addresses(snapshot);
        let (published, workers, queues) = self.start_workers(snapshot, in_use)?;
        let marks = self.config.marks;
        // Another agent may take over at any time, even while this process is stopped (SIGSTOP).
        let open_conntrack = || Conntrack::open_for(queues);
        self.conntrack = Some(open_conntrack()?);
        let registry = RevokedRegistry::new(open_conntrack()?, marks, Arc::clone(snapshot));
        let registry = Arc::new(Mutex::new(registry.recording(self.audit.recorder())));
        let sweeper = Sweeper::start(open_conntrack()?, marks, Arc::clone(&registry))?;
        let holders = workers.hold_waker();
        self.health.set_workers(Some(workers));
        self.history.publish(snapshot, Instant::now());
        let (origins, unbound) = self.origins.derive(snapshot, self.compiler.inventory());
        let overlay = overlay_flows(&origins);
        self.nflog.begin();
        self.listen_to_nflog(queues);
        let config = self.table_config(snapshot, queues, origins, trust_replies);
        let log_group = self.nflog.group(self.config.log_group(queues));
        let installed = self.watch_ports(queues).and_then(|()| Ok(Table::install(config, queues)?));
        let mut table = match installed {
            Ok(table) => table,
            Err(error) => {
                self.health.set_workers(None);
                self.nflog.end();
                (self.port_queue, self.monitor) = (None, None);
                return Err(error);
            }
        };
        self.nflog.rules_log_to(log_group);
        self.rules.begin(listener, &table, self.outbox.clone());
        self.release_ports();
        let dropped = table.drop_counts().unwrap_or_else(|error| {
            tracing::warn!(
                error = %chain(&error),
                "the counts of dropped packets can't be read: the drops of an earlier agent are recorded \
                 again"
            );
            DropCounts::new()
        });
        self.origins.drops.begin(dropped);
        self.predecessor = in_use.filter(|theirs| *theirs != queues).map(Predecessor::new);
        let origins_status = self.origins_status(table.protections(), snapshot);
        let mut state = self.health.state();
        state.queues = Some(queues);
        // One lock covers all three, so that no status shows rules without their protections.
        state.status.phase = status::PhaseName::Enforcing;
        state.status.table = Some(self.table_status(&table));
        state.status.origins = Some(origins_status);
        drop(state);
        tracing::info!(%queues, form = ?table.form(), node = %self.config.node, "rules installed");
        let (record_open, history) = (self.config.record_open, Arc::clone(&self.history));
        let revoked = RevokedConnections::new(registry);
        let mut engine = Engine::new(published, holders, table, sweeper, record_open, history, revoked);
        engine.set_overlay(overlay);
        engine.reassign(unbound);
        Ok(engine)
    }

    /// Starts workers on the range of queues that the rules in the kernel don't use and don't accept verdicts
    /// from. If another process has bound that range, for example a stopped agent, starts them on the other
    /// one.
    fn start_workers(
        &self,
        snapshot: &Arc<Snapshot>,
        in_use: Option<QueueRange>,
    ) -> anyhow::Result<(Arc<Published>, Workers, QueueRange)> {
        let overlaps = |range: &QueueRange| {
            in_use.is_some_and(|used| range.numbers().any(|number| used.contains(number)))
        };
        let mut ranges = self.config.queues;
        let has_same_parity = |range: &QueueRange| in_use.is_some_and(|used| used.is_odd() == range.is_odd());
        ranges.sort_by_key(|range| (overlaps(range), has_same_parity(range)));
        let [first, second] = ranges.map(|queues| {
            let published = Published::new(Arc::clone(snapshot), usize::from(queues.count));
            let config = WorkersConfig {
                queues,
                marks: self.config.marks,
                caches_denied: self.config.verdict_cache.is_some(),
                queue_length: self.config.queue_length,
                fail_open: false,
                hold: self.config.hold,
            };
            move |audit: &Audit| {
                let recorder = |_| {
                    let mut recorder = audit.recorder();
                    move |evaluation| recorder.record(evaluation)
                };
                Workers::start(config, &published, recorder).map(|workers| (published, workers, queues))
            }
        });
        // The second range is safe if the rules use it and its queues are free: its agent has ended, so no
        // more of its verdicts arrive. It is also safe if the rules use no range, or one of the other parity,
        // whose verdicts differ.
        let can_be_second = overlaps(&ranges[1]) || !has_same_parity(&ranges[1]);
        match first(&self.audit) {
            Ok(started) => Ok(started),
            Err(_) if !overlaps(&ranges[0]) && can_be_second => Ok(second(&self.audit)?),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn table_config(
        &self,
        snapshot: &Snapshot,
        queues: QueueRange,
        origins: Origins,
        trust_replies: bool,
    ) -> TableConfig {
        let log_group = self.nflog.group(self.config.log_group(queues));
        let origin = OriginConfig {
            queue: self.config.port_queue(queues),
            log_group,
            overlay_sources_are_nodes: self.origins.settings().overlay_sources_are_nodes,
            origins,
        };
        TableConfig {
            marks: self.config.marks,
            fail_mode: self.config.fail_mode,
            prerouting_dns: self.config.prerouting_dns,
            holder: format!("{} pid {}", self.config.node, std::process::id()),
            pod_cidrs: snapshot.pod_cidrs().to_vec(),
            open: open_addresses(snapshot, self.config.record_open),
            verdict_cache: self.config.verdict_cache.map(|time| VerdictCacheConfig { ttl: time, log_group }),
            queue_quota: self.config.queue_quota,
            generation: snapshot.generation(),
            origin: Some(origin),
            trust_replies,
        }
    }

    fn table_status(&self, table: &Table) -> status::TableStatus {
        status::TableStatus {
            form: format!("{:?}", table.form()).to_lowercase(),
            queues: table.queues().to_string(),
            fail_mode: match self.config.fail_mode {
                FailMode::Open => "open".to_owned(),
                FailMode::Closed => "closed".to_owned(),
            },
        }
    }
}
