//! The metrics for each part of the status. Values of labels that are known in advance have series from the
//! start.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use cluster::{Kind, WatchState};
use dataplane::drops::DropReason;
use dataplane::workers::{FamilyClass, PacketClass, ProtocolClass};
use policy::{Direction, Reason, Verdict};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::encoder::Encoder;
use crate::status::{
    AuditStatus, Bypasses, ConntrackStatus, DefaultDenies, HoldStatus, InventoryStatus, OriginsStatus,
    PacketCount, Packets, PhaseName, PolicyStatus, ProblemStatus, Protection, QueueStatus, SourceStatus,
    Status, Sweeps,
};

impl Encoder<'_, '_> {
    pub(super) fn packets(&mut self, packets: &Packets) -> fmt::Result {
        self.family(
            "packets",
            "Packets evaluated by workers, by verdict, and by the direction, reason, protocol and family that \
             decided.",
            packet_outcomes(packets),
            ConstCounter::new,
        )?;
        self.counters(
            "verdict_cache_hits",
            "Verdicts that the kernel gave from its cache: allowed connections, and denied packets.",
            "verdict",
            [("allow", packets.cached), ("deny", packets.cached_denied)],
        )?;
        self.counter(
            "verdict_cache_untracked_hits",
            "Packets without conntrack that the kernel allowed from its verdict cache.",
            packets.cached_untracked,
        )?;
        self.counter(
            "packets_unparsable",
            "Packets denied because they could not be parsed.",
            packets.unparsable,
        )?;
        self.counter(
            "packets_gone",
            "Packets that the kernel had dropped before the verdict.",
            packets.gone,
        )?;
        self.counter("socket_overflows", "Times that a worker's socket overflowed.", packets.overflows)
    }

    pub(super) fn hold(&mut self, hold: &HoldStatus) -> fmt::Result {
        self.gauge("hold_packets", "Packets held now until a pod is known.", hold.now)?;
        self.counter("hold_started", "Packets held until a pod is known.", hold.held)?;
        self.counters(
            "hold_ended",
            "Packets no longer held: by the verdict once the pod was known, or by --hold-timeout.",
            "by",
            [("allow", hold.allowed), ("deny", hold.denied), ("timeout", hold.expired)],
        )?;
        self.counter(
            "hold_rejected",
            "Packets not held because of --hold-limit or a quota.",
            hold.over_limit,
        )?;
        self.counter(
            "hold_repeated",
            "Retransmissions dropped because the connection's first packet was held.",
            hold.repeated,
        )
    }

    pub(super) fn queues(&mut self, queues: &[QueueStatus]) -> fmt::Result {
        let values = |value: fn(&QueueStatus) -> u64| {
            queues.iter().map(move |queue| (queue.number.to_string(), value(queue)))
        };
        self.gauges(
            "queue_waiting",
            "Packets that wait for a verdict.",
            "queue",
            values(|queue| queue.waiting.into()),
        )?;
        self.counters(
            "queue_full_drops",
            "Packets that the kernel dropped because the queue was full.",
            "queue",
            values(|queue| queue.dropped_full.into()),
        )?;
        self.counters(
            "queue_socket_drops",
            "Packets that the kernel dropped because the worker's socket was full.",
            "queue",
            values(|queue| queue.dropped_by_socket.into()),
        )
    }

    /// Before the rules are installed, no port is known and no protection is in force.
    pub(super) fn origins(&mut self, origins: Option<&OriginsStatus>) -> fmt::Result {
        let none = OriginsStatus::default();
        let OriginsStatus { protections, ports, conflicts, dropped, new_ports, .. } =
            origins.unwrap_or(&none);
        self.counters(
            "dropped_packets",
            "Packets that rules dropped without a verdict, by reason.",
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
        self.gauge("ports", "Interfaces of pods.", ports.len() as u64)?;
        self.gauge(
            "ports_without_pod",
            "Interfaces of pods whose pod is not known.",
            ports.iter().filter(|port| port.pod.is_none()).count() as u64,
        )?;
        self.gauge("port_conflicts", "Addresses that several interfaces claim.", conflicts.len() as u64)?;
        self.counter("new_port_packets", "Packets held until their interface is known.", new_ports.queued)?;
        self.counters(
            "new_port_packets_ended",
            "Such packets no longer held: by the interface's binding, by timeout or by limit.",
            "by",
            [
                ("allow", new_ports.allowed),
                ("deny", new_ports.denied),
                ("timeout", new_ports.expired),
                ("limit", new_ports.over_limit),
            ],
        )
    }

    pub(super) fn state(&mut self, status: &Status) -> fmt::Result {
        self.gauge(
            "published_generation",
            "Generation of the snapshot under which packets are evaluated.",
            status.published_generation,
        )?;
        self.gauge(
            "applied_generation",
            "Generation of the snapshot that is in force, even for established connections.",
            status.applied_generation,
        )?;
        self.gauge("ready", "1 if the source's policy is in force.", status.ready.into())?;
        self.gauge(
            "superseded",
            "1 if another agent has taken over.",
            (status.phase == PhaseName::Superseded).into(),
        )
    }

    pub(super) fn bypasses(&mut self, bypasses: &Bypasses) -> fmt::Result {
        self.counter(
            "bypasses",
            "Periods in which packets could pass unevaluated because another program had changed the rules.",
            bypasses.count,
        )?;
        self.metric(
            "bypass_seconds",
            "Total duration of these periods.",
            &ConstCounter::new(Duration::from_micros(bypasses.micros).as_secs_f64()),
        )
    }

    pub(super) fn sweeps(&mut self, sweeps: &Sweeps) -> fmt::Result {
        self.counter("sweeps", "Sweeps over connections.", sweeps.count)?;
        self.counters(
            "swept_connections",
            "Connections that sweeps revoked or restored.",
            "to",
            [("revoked", sweeps.revoked), ("restored", sweeps.restored)],
        )
    }

    pub(super) fn objects(&mut self, inventory: &InventoryStatus, problems: &[ProblemStatus]) -> fmt::Result {
        let kinds = Kind::ALL.map(|kind| {
            let count = match kind {
                Kind::Namespace => inventory.namespaces,
                Kind::Node => inventory.nodes,
                Kind::Pod => inventory.pods,
                Kind::NetworkPolicy => {
                    inventory.policies
                        - inventory.cluster_network_policies
                        - inventory.admin_network_policies
                        - inventory.baseline_admin_network_policies
                }
                Kind::ClusterNetworkPolicy => inventory.cluster_network_policies,
                Kind::AdminNetworkPolicy => inventory.admin_network_policies,
                Kind::BaselineAdminNetworkPolicy => inventory.baseline_admin_network_policies,
            };
            (kind.name(), count)
        });
        self.gauges("objects", "Known objects, by kind.", "kind", kinds)?;
        let all = Kind::ALL.map(Kind::name).into_iter().chain(ProblemStatus::OTHER_KINDS.map(Into::into));
        let mut counts: BTreeMap<_, u64> = all.map(|kind| (kind, 0)).collect();
        for problem in problems {
            *counts.entry(problem.kind.as_str().into()).or_default() += 1;
        }
        self.gauges("problems", "Problems of the source's objects, by kind.", "kind", counts)
    }

    pub(super) fn source(&mut self, source: &SourceStatus) -> fmt::Result {
        let connections = || source.connections.iter();
        self.gauges(
            "source_connected",
            "1 if changes of objects of this kind are received.",
            "kind",
            connections().map(|one| (&*one.kind, u64::from(one.state == WatchState::Watching.name()))),
        )?;
        self.gauges(
            "source_state_change_timestamp_seconds",
            "When the state of the connection for this kind last changed, in seconds since 1970.",
            "kind",
            connections().map(|one| (&*one.kind, one.since)),
        )?;
        self.counters(
            "source_reconnects",
            "Watches that resumed where the previous one had ended.",
            "kind",
            connections().map(|one| (&*one.kind, one.reconnects)),
        )?;
        self.counters(
            "source_relists",
            "Times that all objects of a kind were listed again.",
            "kind",
            connections().map(|one| (&*one.kind, one.relists)),
        )?;
        let failures = connections().flat_map(|one| {
            let by_class = one.failures.iter();
            by_class.map(|(class, count)| ([("kind", &*one.kind), ("class", &**class)], *count))
        });
        self.family(
            "source_failures",
            "Requests to the API server that failed, by kind and class.",
            failures,
            ConstCounter::new,
        )
    }

    pub(super) fn audit(&mut self, audit: &AuditStatus) -> fmt::Result {
        self.counter("audit_records_written", "Audit records written.", audit.written)?;
        self.counter("audit_records_lost", "Audit records lost.", audit.lost)?;
        self.counter("audit_write_errors", "Failed writes to the audit log.", audit.write_errors)?;
        self.gauge(
            "audit_failing",
            "1 if records can't be written to the audit log.",
            audit.failing.is_some().into(),
        )
    }

    pub(super) fn conntrack(&mut self, conntrack: ConntrackStatus) -> fmt::Result {
        self.gauge("conntrack_entries", "Entries in the kernel's conntrack table.", conntrack.entries)?;
        self.gauge("conntrack_max", "Limit on entries in the kernel's conntrack table.", conntrack.max)
    }

    pub(super) fn info(&mut self, status: &Status) -> fmt::Result {
        if let Some(table) = &status.table {
            let labels = [("form", &table.form), ("queues", &table.queues), ("fail_mode", &table.fail_mode)];
            self.family("table_info", "This agent's rules in the kernel.", [(labels, 1)], ConstGauge::new)?;
        }
        let labels = [("version", &status.version)];
        self.family("build_info", "The program's version.", [(labels, 1)], ConstGauge::new)
    }

    /// Only policies that have decided have series. The namespace of a cluster-wide policy is empty.
    pub(super) fn policies(&mut self, policies: &[PolicyStatus]) -> fmt::Result {
        let decided = policies.iter().filter(|policy| policy.allowed + policy.denied > 0);
        let verdicts = decided.flat_map(|policy| {
            let (namespace, name) = policy.policy.split_once('/').unwrap_or(("", &policy.policy));
            [("allow", policy.allowed), ("deny", policy.denied)].map(|(verdict, count)| {
                let labels = [
                    ("kind", policy.kind.as_str()),
                    ("namespace", namespace),
                    ("policy", name),
                    ("tier", policy.tier.name()),
                    ("verdict", verdict),
                ];
                (labels, count)
            })
        });
        self.family(
            "policy_verdicts",
            "Verdicts that a rule of the policy decided, by policy and its tier.",
            verdicts,
            ConstCounter::new,
        )
    }

    /// Only namespaces with default denies have series.
    pub(super) fn default_denies(&mut self, default_denies: &[DefaultDenies]) -> fmt::Result {
        let values = default_denies.iter().map(|one| {
            let labels = [("namespace", one.namespace.as_str()), ("direction", one.direction.as_str())];
            (labels, one.denied)
        });
        self.family(
            "default_denies",
            "Packets denied because policies isolate a pod and no rule matches, by the pod's namespace.",
            values,
            ConstCounter::new,
        )
    }
}

/// The series of evaluated packets: outcomes that occurred, and zero for those that an alert is about.
fn packet_outcomes(packets: &Packets) -> impl Iterator<Item = ([(&'static str, String); 5], u64)> {
    let zeros = PacketClass::all().filter(needs_zero).map(|class| PacketCount::new(class, 0));
    let mut counts = BTreeMap::new();
    for one in zeros.chain(packets.by_outcome.iter().cloned()) {
        let PacketCount { verdict, direction, reason, protocol, family, packets } = one;
        counts.insert([verdict, direction, reason, protocol, family], packets);
    }
    counts.into_iter().map(|(values, packets)| {
        let [verdict, direction, reason, protocol, family] = values;
        let labels = [
            ("verdict", verdict),
            ("direction", direction),
            ("reason", reason),
            ("protocol", protocol),
            ("family", family),
        ];
        (labels, packets)
    })
}

/// Whether a class has a series before its first packet. `increase()` misses the first packet of a series
/// that starts with it, so each denial and each provisional verdict that can occur has one.
fn needs_zero(class: &PacketClass) -> bool {
    if class.reason == Reason::Unparsable {
        let unknown = (ProtocolClass::Unknown, FamilyClass::Unknown);
        return (class.verdict, class.direction) == (Verdict::Deny, Direction::Egress)
            && (class.protocol, class.family) == unknown;
    }
    let can_occur = match class.protocol {
        ProtocolClass::Tcp | ProtocolClass::Udp | ProtocolClass::Sctp | ProtocolClass::Other => {
            class.family != FamilyClass::Unknown
        }
        ProtocolClass::Icmp => class.family == FamilyClass::Ipv4,
        ProtocolClass::Icmpv6 => class.family == FamilyClass::Ipv6,
        ProtocolClass::Unknown => false,
    };
    let is_denial = matches!(class.reason, Reason::Rule(_) | Reason::DefaultDeny | Reason::Unproven);
    can_occur && (class.reason.is_provisional() || (is_denial && class.verdict == Verdict::Deny))
}
