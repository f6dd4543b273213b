//! `/metrics`: the numbers of [`Status`] and three histograms, in the text form of OpenMetrics.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cluster::Link;
use dataplane::drops::DropReason;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::durations::Durations;
use crate::health::Health;
use crate::status::{Origins, Protection, Source, Status};

/// All metrics of an agent.
pub fn registry(health: &Arc<Health>) -> Registry {
    let mut registry = Registry::with_prefix("kube_verdict");
    let Durations { verdict, apply, sweep } = health.durations().clone();
    registry.register("verdict_duration_seconds", "Parsing and evaluating one packet", verdict);
    registry.register(
        "apply_duration_seconds",
        "From a snapshot's publication until it holds everywhere",
        apply,
    );
    registry.register("sweep_duration_seconds", "Evaluating the connections that exist again", sweep);
    registry.register_collector(Box::new(StatusCollector { health: Arc::clone(health) }));
    registry
}

/// The text of `/metrics`.
pub fn text(registry: &Registry) -> Result<String, fmt::Error> {
    let mut text = String::new();
    encode(&mut text, registry)?;
    Ok(text)
}

/// Asks for the status at each scrape: no number is kept twice.
#[derive(Debug)]
struct StatusCollector {
    health: Arc<Health>,
}

impl Collector for StatusCollector {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        encode_status(&self.health.status(), encoder)
    }
}

fn encode_status(status: &Status, mut encoder: DescriptorEncoder) -> fmt::Result {
    let Status { packets, audit, sweeps, inventory, .. } = status;
    let mut metrics = Metrics { encoder: &mut encoder };

    metrics.counters(
        "packets",
        "Packets evaluated, by verdict.",
        "verdict",
        [("allow", packets.allowed), ("deny", packets.denied)],
    )?;
    metrics.counter(
        "cached_connections",
        "Connections that the kernel let pass without asking, because an earlier one to the same port had just been allowed.",
        packets.cached,
    )?;
    metrics.counter(
        "cached_denied_packets",
        "Packets that the kernel dropped without asking, because one of the same flow had just been denied.",
        packets.cached_denied,
    )?;
    metrics.counter(
        "cached_untracked_packets",
        "Packets that connection tracking does not track and that passed without asking, because one of the same flow had just been allowed.",
        packets.cached_untracked,
    )?;
    metrics.counter(
        "packets_unparsable",
        "Packets denied because they could not be parsed.",
        packets.unparsable,
    )?;
    metrics.counter(
        "packets_gone",
        "Packets that the kernel had dropped before the verdict came.",
        packets.gone,
    )?;
    metrics.counter("socket_overflows", "Times that a worker's socket overflowed.", packets.overflows)?;

    let hold = &status.hold;
    metrics.gauge("held_packets", "Packets held now until a pod is known.", hold.now)?;
    metrics.counter("packets_held", "Packets held until a pod is known.", hold.held)?;
    metrics.counters(
        "held_packets_ended",
        "Packets no longer held, by the verdict once the pod was known, or because their time was over.",
        "by",
        [("allow", hold.allowed), ("deny", hold.denied), ("time", hold.expired)],
    )?;
    metrics.counter("hold_no_room", "Packets not held for lack of room.", hold.no_room)?;
    metrics.counter(
        "hold_repeated",
        "Packets dropped since the connection's first packet is held.",
        hold.repeated,
    )?;

    let queues = |number: fn(&crate::status::Queue) -> u64| {
        status.queues.iter().map(move |queue| (queue.number.to_string(), number(queue)))
    };
    metrics.gauges(
        "queue_waiting",
        "Packets that wait for a verdict.",
        "queue",
        queues(|queue| queue.waiting.into()),
    )?;
    metrics.counters(
        "queue_full_drops",
        "Packets dropped by the kernel because the queue was full.",
        "queue",
        queues(|queue| queue.dropped_full.into()),
    )?;
    metrics.counters(
        "queue_socket_drops",
        "Packets dropped by the kernel because the worker's socket was full.",
        "queue",
        queues(|queue| queue.dropped_by_socket.into()),
    )?;

    metrics.origins(status.origins.as_ref())?;

    metrics.gauge("published_generation", "Generation that verdicts follow.", status.published_generation)?;
    metrics.gauge(
        "applied_generation",
        "Generation that nothing contradicts any more.",
        status.applied_generation,
    )?;
    metrics.gauge("ready", "1 if policy is in force as it stands in the source.", status.ready.into())?;
    metrics.gauge("superseded", "1 if another agent has taken over.", {
        (status.phase == crate::status::Phase::Superseded).into()
    })?;

    let bypasses = &status.bypasses;
    metrics.counter(
        "bypasses",
        "Times in which packets could pass unevaluated, since another program had changed the rules.",
        bypasses.count,
    )?;
    metrics.one(
        "bypass_seconds",
        "How long these were, all together.",
        &ConstCounter::new(Duration::from_micros(bypasses.micros).as_secs_f64()),
    )?;

    metrics.counter("sweeps", "Sweeps over connections.", sweeps.count)?;
    metrics.counters(
        "swept_connections",
        "Connections whose standing a sweep changed.",
        "to",
        [("revoked", sweeps.revoked), ("restored", sweeps.restored)],
    )?;

    metrics.gauges(
        "objects",
        "Objects known, by kind.",
        "kind",
        [
            ("Namespace", inventory.namespaces),
            ("Node", inventory.nodes),
            ("Pod", inventory.pods),
            ("policy", inventory.policies),
        ],
    )?;
    let mut problems = std::collections::BTreeMap::<&str, u64>::new();
    for problem in &status.problems {
        *problems.entry(&problem.kind).or_default() += 1;
    }
    metrics.gauges("problems", "What the source's objects got wrong, by kind.", "kind", problems)?;

    if let Some(source) = &status.source {
        let connections = || source.connections.iter();
        metrics.gauges(
            "source_connected",
            "1 if each change of this kind is heard of when it happens.",
            "kind",
            connections().map(|one| (&*one.kind, u64::from(one.state == Link::Watching.name()))),
        )?;
        metrics.gauges(
            "source_since_seconds",
            "When the connection for this kind came or went, in seconds since 1970.",
            "kind",
            connections().map(|one| (&*one.kind, one.since)),
        )?;
        metrics.counters(
            "source_reconnects",
            "Watches that went on where another had ended.",
            "kind",
            connections().map(|one| (&*one.kind, one.reconnects)),
        )?;
        metrics.counters(
            "source_relists",
            "Times that all objects of a kind were listed anew.",
            "kind",
            connections().map(|one| (&*one.kind, one.relists)),
        )?;
        metrics.source_failures(source)?;
    }

    metrics.counter("audit_records_written", "Audit records written.", audit.written)?;
    metrics.counter("audit_records_lost", "Audit records lost.", audit.lost)?;
    metrics.counter("audit_write_errors", "Failed writes to the audit log.", audit.write_errors)?;
    metrics.gauge(
        "audit_failing",
        "1 if the last write to the audit log failed.",
        audit.failing.is_some().into(),
    )?;

    if let Some(conntrack) = &status.conntrack {
        metrics.gauge("conntrack_entries", "Connections in the kernel's table.", conntrack.entries)?;
        metrics.gauge("conntrack_max", "Room in the kernel's table of connections.", conntrack.max)?;
    }
    if let Some(table) = &status.table {
        let labels = [("form", &*table.form), ("queues", &*table.queues), ("fail_mode", &*table.fail_mode)];
        metrics.info("table_info", "The rules in the kernel.", &labels)?;
    }
    metrics.info("build_info", "This program.", &[("version", &*status.version)])?;
    metrics.policies(status)
}

/// Writes metrics, each with its help text and type.
struct Metrics<'a, 'b> {
    encoder: &'a mut DescriptorEncoder<'b>,
}

impl Metrics<'_, '_> {
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.one(name, help, &ConstCounter::new(value))
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.one(name, help, &ConstGauge::new(value))
    }

    fn one(&mut self, name: &str, help: &str, metric: &impl EncodeMetric) -> fmt::Result {
        metric.encode(self.encoder.encode_descriptor(name, help, None, metric.metric_type())?)
    }

    fn counters<L: AsRef<str>>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        self.family(name, help, label, values, ConstCounter::new)
    }

    fn gauges<L: AsRef<str>>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        self.family(name, help, label, values, ConstGauge::new)
    }

    fn family<L: AsRef<str>, M: EncodeMetric>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (L, u64)>,
        metric: fn(u64) -> M,
    ) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, metric(0).metric_type())?;
        for (value, number) in values {
            metric(number).encode(family.encode_family(&[(label, value.as_ref())])?)?;
        }
        Ok(())
    }

    fn info(&mut self, name: &str, help: &str, labels: &[(&str, &str)]) -> fmt::Result {
        let metric = ConstGauge::new(1_u64);
        let mut family = self.encoder.encode_descriptor(name, help, None, metric.metric_type())?;
        metric.encode(family.encode_family(&labels)?)
    }

    /// Before the rules are installed no port is known, and no protection is in force.
    fn origins(&mut self, origins: Option<&Origins>) -> fmt::Result {
        let none = Origins::default();
        let Origins { protections, ports, conflicts, dropped, new_ports, .. } = origins.unwrap_or(&none);
        self.counters(
            "dropped_packets",
            "Packets that rules dropped by themselves, by reason.",
            "reason",
            DropReason::ALL
                .map(DropReason::code)
                .map(|reason| (reason, dropped.get(reason).copied().unwrap_or_default())),
        )?;
        self.gauges(
            "protection_in_force",
            "1 if this protection of packets' origins is in force.",
            "protection",
            Protection::IDS.map(|id| (id, protections.iter().any(|one| one.id == id && one.in_force).into())),
        )?;
        self.gauge("ports", "Interfaces through which pods' packets enter.", ports.len() as u64)?;
        self.gauge(
            "ports_without_pod",
            "Such interfaces whose pod is not known.",
            ports.iter().filter(|port| port.pod.is_none()).count() as u64,
        )?;
        self.gauge(
            "port_conflicts",
            "Addresses that a second interface's pod claims.",
            conflicts.len() as u64,
        )?;
        self.counter(
            "new_port_packets",
            "Packets that waited for their interface to be known.",
            new_ports.queued,
        )?;
        self.counters(
            "new_port_packets_ended",
            "Such packets that wait no more: passed or dropped once the interface was known, or else out of time or room.",
            "by",
            [
                ("pass", new_ports.passed),
                ("drop", new_ports.dropped),
                ("time", new_ports.expired),
                ("room", new_ports.no_room),
            ],
        )
    }

    fn source_failures(&mut self, source: &Source) -> fmt::Result {
        let metric = ConstCounter::new(0_u64).metric_type();
        let help = "Requests to the API server that failed, by kind and class.";
        let mut family = self.encoder.encode_descriptor("source_failures", help, None, metric)?;
        for connection in &source.connections {
            for (class, count) in &connection.failures {
                let labels = [("kind", &*connection.kind), ("class", &**class)];
                ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn policies(&mut self, status: &Status) -> fmt::Result {
        let metric = ConstCounter::new(0_u64).metric_type();
        let mut family =
            self.encoder.encode_descriptor("policy_verdicts", "Verdicts by policy.", None, metric)?;
        // A policy that never decided has nothing to count.
        for policy in status.policies.iter().filter(|policy| policy.allowed + policy.denied > 0) {
            for (verdict, count) in [("allow", policy.allowed), ("deny", policy.denied)] {
                let labels = [("policy", &*policy.policy), ("verdict", verdict)];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
