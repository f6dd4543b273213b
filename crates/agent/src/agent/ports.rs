//! The agent's part about ports: which addresses are behind which interface, and what rules drop for it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dataplane::conntrack::ConntrackError;
use dataplane::ports::{Monitor, PortQueue, PortQueueConfig};
use dataplane::queues::QueueRange;
use dataplane::table::Protections;
use policy::{Snapshot, Verdict};

use super::{Agent, Message};
use crate::origins::overlay_flows;
use crate::status;

impl Agent {
    /// Follows the node's interfaces, and has packets of new ports wait until the rules know them.
    pub(super) fn follow_ports(&mut self, queues: QueueRange) -> anyhow::Result<()> {
        // The queue must be free again before it can be bound again.
        (self.port_queue, self.monitor) = (None, None);
        let outbox = self.outbox.clone();
        let latest = Arc::clone(&self.latest_interfaces);
        // One message at most waits, however often interfaces change.
        let monitor = Monitor::start(move |interfaces| {
            let waits = lock(&latest).replace(interfaces).is_some();
            if !waits {
                drop(outbox.send(Message::Interfaces));
            }
        })?;
        let config = PortQueueConfig {
            queue: self.config.port_queue(queues),
            marks: self.config.marks,
            timeout: self.config.hold.time,
            limit: self.config.hold.packets,
            pass_unknown: self.config.on_unknown_pod == Verdict::Allow,
        };
        self.port_queue = Some(PortQueue::start(config, &monitor, self.origins.sampler(true))?);
        self.monitor = Some(monitor);
        Ok(())
    }

    /// Brings the rules up to date with the node's interfaces.
    pub(super) fn refresh_origins(&mut self) {
        let Some(snapshot) = self.snapshot.clone() else { return };
        if !self.phase.is_enforcing() {
            return;
        }
        // The node's own addresses are among what a verdict depends on.
        let before = snapshot.generation();
        let snapshot = self.with_own_addresses(&snapshot);
        let is_new = snapshot.generation() != before;
        let (origins, left) = self.origins.derive(&snapshot, self.compiler.inventory());
        let Some(engine) = self.phase.engine() else { return };
        engine.set_overlay(overlay_flows(&origins));
        let is_news = engine.table().set_origins(origins);
        let generation = snapshot.generation().0;
        self.delete_connections_of(left);
        if is_new {
            self.put_in_force_again();
        } else if is_news {
            let updated = self.phase.engine().map(|engine| engine.table().update_origins());
            match updated.unwrap_or(Ok(())) {
                Ok(()) => self.release_ports(),
                Err(error) => {
                    self.behind = true;
                    self.failed(generation, &error.into());
                }
            }
        }
    }

    /// What a pod that is gone has opened is none of the next one's, which sends nothing before it is bound: so this comes before the rules.
    fn delete_connections_of(&mut self, left: BTreeSet<IpAddr>) {
        if left.is_empty() {
            return;
        }
        if let Some(Err(error)) = self.conntrack.as_mut().map(|table| table.delete_of(&left)) {
            if matches!(error, ConntrackError::Superseded(_)) {
                return self.superseded();
            }
            tracing::warn!(%error, "connections of pods that are gone could not be deleted: tried again by the next sweep");
            if let Some(engine) = self.phase.engine() {
                engine.reassign(left);
            }
        }
    }

    /// The snapshot with the node's own addresses as its interfaces have them now: the same one if they are no news.
    pub(super) fn with_own_addresses(&mut self, snapshot: &Arc<Snapshot>) -> Arc<Snapshot> {
        let own = self.origins.own_addresses();
        match self.config.pod_cidrs.set_own_addresses(own, self.compiler.inventory()) {
            Some(change) => {
                let snapshot = self.compiler.apply([change]).snapshot;
                self.snapshot = Some(Arc::clone(&snapshot));
                snapshot
            }
            None => Arc::clone(snapshot),
        }
    }

    /// What waits of ports that are bound goes on.
    pub(super) fn release_ports(&self) {
        if let Some(queue) = &self.port_queue {
            queue.release(self.origins.port_states());
        }
    }

    /// Records what rules have dropped by themselves, and says in status what is known of ports.
    pub(super) fn record_drops(&mut self) {
        let (Some(engine), Some(snapshot)) = (self.phase.engine(), self.snapshot.clone()) else { return };
        let protections = engine.table().protections();
        match engine.table().drop_counts() {
            Ok(counts) => {
                let lines = self.origins.drain_drops(counts, &self.config.node, &snapshot);
                lines.into_iter().for_each(|line| self.audit.record_dropped(line));
            }
            Err(error) => tracing::warn!(%error, "what rules dropped can't be read"),
        }
        let status = self.origins_status(protections, &snapshot);
        self.health.state().status.origins = Some(status);
    }

    /// The part of status about the origin of packets, under rules with these protections.
    pub(super) fn origins_status(&self, protections: Protections, snapshot: &Snapshot) -> status::Origins {
        let new_ports = self.port_queue.as_ref().map(PortQueue::counters).unwrap_or_default();
        status::Origins::new(&self.origins, protections, self.config.bridge, new_ports, snapshot)
    }
}

pub(super) fn lock<T>(latest: &Mutex<Option<T>>) -> MutexGuard<'_, Option<T>> {
    latest.lock().unwrap_or_else(PoisonError::into_inner)
}
