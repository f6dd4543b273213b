//! The agent's methods about ports: which addresses are behind which interface, and the packets that rules
//! drop because of that.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use dataplane::conntrack::ConntrackError;
use dataplane::ports::{PortMonitor, PortQueue, PortQueueConfig};
use dataplane::queues::QueueRange;
use dataplane::table::Protections;
use jiff::Timestamp;
use policy::{Snapshot, Verdict};

use super::message::Message;
use super::state::Agent;
use crate::origins::overlay_flows;
use crate::status;
use crate::sync::lock;
use cluster::error_chain::chain;

impl Agent {
    /// Watches the node's interfaces, and holds packets of new ports until the rules have their bindings.
    pub(super) fn watch_ports(&mut self, queues: QueueRange) -> anyhow::Result<()> {
        // Unbind the queue before binding it again.
        (self.port_queue, self.monitor) = (None, None);
        let outbox = self.outbox.clone();
        let latest = Arc::clone(&self.latest_interfaces);
        // At most one message is queued, however often interfaces change.
        let monitor = PortMonitor::start(move |interfaces| {
            let is_queued = lock(&latest).replace(interfaces).is_some();
            if !is_queued {
                drop(outbox.send(Message::Interfaces));
            }
        })?;
        let config = PortQueueConfig {
            queue: self.config.port_queue(queues),
            marks: self.config.marks,
            timeout: self.config.hold.timeout,
            limit: self.config.hold.limit,
            pass_unknown: self.config.on_unknown_pod == Verdict::Allow,
        };
        self.port_queue = Some(PortQueue::start(config, &monitor, self.origins.sampler(true))?);
        self.monitor = Some(monitor);
        Ok(())
    }

    /// Updates the rules to the node's current interfaces.
    pub(super) fn refresh_origins(&mut self) {
        let Some(snapshot) = self.snapshot.clone() else { return };
        if !self.phase.is_enforcing() {
            return;
        }
        // Verdicts depend on the node's own addresses.
        let before = snapshot.generation();
        let snapshot = self.with_own_addresses(&snapshot);
        let is_new = snapshot.generation() != before;
        let (origins, unbound) = self.origins.derive(&snapshot, self.compiler.inventory());
        let Some(engine) = self.phase.engine() else { return };
        engine.set_overlay(overlay_flows(&origins));
        let is_changed = engine.table().set_origins(origins);
        let generation = snapshot.generation().0;
        self.delete_connections_of(unbound);
        if is_new {
            self.reapply();
        } else if is_changed {
            let updated = self.phase.engine().map(|engine| engine.table().update_origins());
            match updated.unwrap_or(Ok(())) {
                Ok(()) => self.release_ports(),
                Err(error) => {
                    self.must_reapply = true;
                    self.failed(generation, &error.into());
                }
            }
        }
    }

    /// Deletes connections of deleted pods: the next pod with the address must not use them. Call this before
    /// the rules are updated: the next pod can send nothing before its port is bound.
    fn delete_connections_of(&mut self, unbound: BTreeSet<IpAddr>) {
        if unbound.is_empty() {
            return;
        }
        if let Some(Err(error)) = self.conntrack.as_mut().map(|table| table.delete_of(&unbound)) {
            if matches!(error, ConntrackError::Superseded(_)) {
                return self.superseded();
            }
            tracing::warn!(
                error = %chain(&error),
                "connections of deleted pods could not be deleted: the next sweep retries"
            );
            if let Some(engine) = self.phase.engine() {
                engine.reassign(unbound);
            }
        }
    }

    /// The snapshot with the node's own addresses as its interfaces have them now: the same snapshot if they
    /// have not changed.
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

    /// Releases the held packets of ports that are bound now.
    pub(super) fn release_ports(&self) {
        if let Some(queue) = &self.port_queue {
            queue.release(self.origins.port_states());
        }
    }

    /// Records packets that rules have dropped without a verdict, and reports ports in the status.
    pub(super) fn record_drops(&mut self) {
        let (Some(engine), Some(snapshot)) = (self.phase.engine(), self.snapshot.clone()) else { return };
        let protections = engine.table().protections();
        match engine.table().drop_counts() {
            Ok(counts) => {
                let (dropped, time) = (self.origins.drain_drops(counts, &snapshot), Timestamp::now());
                dropped.into_iter().for_each(|dropped| self.audit.record_dropped(time, dropped));
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), "the counts of dropped packets can't be read");
            }
        }
        let status = self.origins_status(protections, &snapshot);
        self.health.state().status.origins = Some(status);
    }

    /// The part of the status about the origins of packets, under rules with these protections.
    pub(super) fn origins_status(
        &self,
        protections: Protections,
        snapshot: &Snapshot,
    ) -> status::OriginsStatus {
        let new_ports = self.port_queue.as_ref().map(PortQueue::counters).unwrap_or_default();
        status::OriginsStatus::new(&self.origins, protections, self.config.bridge, new_ports, snapshot)
    }
}
