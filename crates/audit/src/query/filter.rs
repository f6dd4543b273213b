//! Which records a query is about.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use jiff::Timestamp;
use policy::{Direction, Protocol, Verdict};

use super::view::{EndView, EventKind, RecordView, WorkloadView};

/// What records have in common. A record must match ALL fields that are not empty, and ANY value of each.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Filter {
    /// If empty, all events other than `pod` and `repeated`, which describe other records.
    pub events: Vec<EventKind>,
    /// What one end matches: source, destination, or the pod that an event `dropped` or `pod` names.
    pub either: EndFilter,
    /// What the source matches.
    pub from: EndFilter,
    /// What the destination matches.
    pub to: EndFilter,
    /// Policies that decided in one of the directions, that isolate, or that were changed.
    pub policies: Vec<NamePattern>,
    /// Verdicts.
    pub verdicts: Vec<Verdict>,
    /// Codes of reasons.
    pub reasons: Vec<String>,
    /// The directions that decided.
    pub directions: Vec<Direction>,
    /// Protocols.
    pub protocols: Vec<Protocol>,
    /// Destination ports.
    pub ports: Vec<RangeInclusive<u16>>,
    /// The time of the first record.
    pub since: Option<Timestamp>,
    /// The time before which the last record was written.
    pub until: Option<Timestamp>,
}

/// What an end of a connection matches: ALL fields that are not empty, and ANY value of each.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EndFilter {
    /// Namespaces of pods.
    pub namespaces: Vec<String>,
    /// Pods.
    pub pods: Vec<NamePattern>,
    /// Workloads.
    pub workloads: Vec<WorkloadPattern>,
    /// Addresses.
    pub addresses: Vec<IpNet>,
}

/// A name, with or without its namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamePattern {
    /// `None` for any namespace, and for none.
    pub namespace: Option<String>,
    /// The whole name.
    pub name: String,
}

/// A workload, with or without its namespace and kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WorkloadPattern {
    /// `None` for any namespace.
    pub namespace: Option<String>,
    /// `None` for any kind. In any case.
    pub kind: Option<String>,
    /// The whole name.
    pub name: String,
}

impl Filter {
    /// Whether the record matches.
    pub fn matches(&self, record: &RecordView<'_>) -> bool {
        self.matches_event(record.event)
            && any(&self.verdicts, record.verdict, |verdict, of| *verdict == of)
            && any(&self.directions, record.direction, |direction, of| *direction == of)
            && any(&self.protocols, record.protocol, |protocol, of| *protocol == of)
            && any(&self.reasons, record.reason.as_deref(), |reason, of| reason == of)
            && any(&self.ports, record.destination.as_ref().and_then(|end| end.port), |ports, of| {
                ports.contains(&of)
            })
            && self.since.is_none_or(|since| record.time >= since)
            && self.until.is_none_or(|until| record.time < until)
            && (self.policies.is_empty()
                || record.policies().any(|policy| {
                    let matches = |pattern: &NamePattern| {
                        pattern.matches(policy.namespace.as_deref(), Some(&policy.name))
                    };
                    self.policies.iter().any(matches)
                }))
            && self.matches_ends(record)
    }

    /// Whether records of this event can match.
    pub(super) fn matches_event(&self, event: EventKind) -> bool {
        match &*self.events {
            [] => !matches!(event, EventKind::Pod | EventKind::Repeated),
            events => events.contains(&event),
        }
    }

    fn matches_ends(&self, record: &RecordView<'_>) -> bool {
        let of_end = |filter: &EndFilter, end: &Option<EndView<'_>>| match end {
            Some(end) => filter.matches_end(end),
            None => filter.is_empty(),
        };
        let of_own_pod = || {
            let (namespace, pod) = (record.namespace.as_deref(), record.pod.as_deref());
            self.either.matches(namespace, pod, record.workload.as_ref(), &record.addresses)
        };
        of_end(&self.from, &record.source)
            && of_end(&self.to, &record.destination)
            && (of_end(&self.either, &record.source)
                || of_end(&self.either, &record.destination)
                || of_own_pod())
    }
}

impl EndFilter {
    /// Whether it matches everything.
    pub fn is_empty(&self) -> bool {
        let Self { namespaces, pods, workloads, addresses } = self;
        namespaces.is_empty() && pods.is_empty() && workloads.is_empty() && addresses.is_empty()
    }

    fn matches_end(&self, end: &EndView<'_>) -> bool {
        let EndView { address, port: _, namespace, pod, workload } = end;
        self.matches(namespace.as_deref(), pod.as_deref(), workload.as_ref(), std::slice::from_ref(address))
    }

    fn matches(
        &self,
        namespace: Option<&str>,
        pod: Option<&str>,
        workload: Option<&WorkloadView<'_>>,
        addresses: &[IpAddr],
    ) -> bool {
        any(&self.namespaces, namespace, |name, of| name == of)
            && (self.pods.is_empty() || self.pods.iter().any(|pattern| pattern.matches(namespace, pod)))
            && any(&self.workloads, workload, |pattern, of| pattern.matches(namespace, of))
            && (self.addresses.is_empty()
                || self.addresses.iter().any(|block| addresses.iter().any(|address| block.contains(address))))
    }
}

impl NamePattern {
    fn matches(&self, namespace: Option<&str>, name: Option<&str>) -> bool {
        name == Some(&self.name) && (self.namespace.is_none() || namespace == self.namespace.as_deref())
    }
}

impl WorkloadPattern {
    fn matches(&self, namespace: Option<&str>, workload: &WorkloadView<'_>) -> bool {
        *workload.name == self.name
            && self.kind.as_ref().is_none_or(|kind| workload.kind.eq_ignore_ascii_case(kind))
            && (self.namespace.is_none() || namespace == self.namespace.as_deref())
    }
}

/// Whether the value exists and ANY of the wanted values matches it. Nothing wanted matches everything.
fn any<W, V: Copy>(wanted: &[W], value: Option<V>, matches: impl Fn(&W, V) -> bool) -> bool {
    wanted.is_empty() || value.is_some_and(|value| wanted.iter().any(|wanted| matches(wanted, value)))
}
