//! The flags that say which records to show.

use std::ops::RangeInclusive;

use audit::query::{EndFilter, EventKind, Filter, NamePattern, WorkloadPattern};
use clap::Args;
use ipnet::IpNet;
use jiff::Timestamp;
use policy::{Direction, Protocol, Verdict};

use super::values::{self, Moment};
use crate::exit::Usage;

/// Which records to show.
#[derive(Debug, Args)]
#[command(next_help_heading = "Filters")]
pub(super) struct FilterArguments {
    /// Namespace of a pod at either end.
    #[arg(long, short, value_name = "NAME", value_delimiter = ',')]
    namespace: Vec<String>,
    /// Namespace of the source.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    from_namespace: Vec<String>,
    /// Namespace of the destination.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    to_namespace: Vec<String>,

    /// Pod at either end.
    #[arg(long, value_name = "[NAMESPACE/]NAME", value_delimiter = ',', value_parser = values::name)]
    pod: Vec<NamePattern>,
    /// Pod at the source.
    #[arg(long, value_name = "[NAMESPACE/]NAME", value_delimiter = ',', value_parser = values::name)]
    from_pod: Vec<NamePattern>,
    /// Pod at the destination.
    #[arg(long, value_name = "[NAMESPACE/]NAME", value_delimiter = ',', value_parser = values::name)]
    to_pod: Vec<NamePattern>,

    /// Workload at either end, such as `web/front` or `web/Deployment/front`.
    #[arg(
        long,
        value_name = "[NAMESPACE/[KIND/]]NAME",
        value_delimiter = ',',
        value_parser = values::workload
    )]
    workload: Vec<WorkloadPattern>,
    /// Workload at the source.
    #[arg(
        long,
        value_name = "[NAMESPACE/[KIND/]]NAME",
        value_delimiter = ',',
        value_parser = values::workload
    )]
    from_workload: Vec<WorkloadPattern>,
    /// Workload at the destination.
    #[arg(
        long,
        value_name = "[NAMESPACE/[KIND/]]NAME",
        value_delimiter = ',',
        value_parser = values::workload
    )]
    to_workload: Vec<WorkloadPattern>,

    /// Address of either end.
    #[arg(long, value_name = "IP|CIDR", value_delimiter = ',', value_parser = values::address)]
    address: Vec<IpNet>,
    /// Address of the source.
    #[arg(long, value_name = "IP|CIDR", value_delimiter = ',', value_parser = values::address)]
    from_address: Vec<IpNet>,
    /// Address of the destination.
    #[arg(long, value_name = "IP|CIDR", value_delimiter = ',', value_parser = values::address)]
    to_address: Vec<IpNet>,

    /// Policy that decided in one of the directions, that isolates, or that was changed.
    #[arg(long, value_name = "[NAMESPACE/]NAME", value_delimiter = ',', value_parser = values::name)]
    policy: Vec<NamePattern>,
    /// Verdict.
    #[arg(long, value_name = "allow|deny", value_delimiter = ',', value_parser = values::verdict)]
    verdict: Vec<Verdict>,
    /// Code of the reason, such as `default-deny`.
    #[arg(long, value_name = "CODE", value_delimiter = ',')]
    reason: Vec<String>,
    /// Direction that decided.
    #[arg(long, value_name = "ingress|egress", value_delimiter = ',', value_parser = values::direction)]
    direction: Vec<Direction>,
    /// Protocol, by name or number.
    #[arg(long, value_name = "PROTOCOL", value_delimiter = ',')]
    protocol: Vec<Protocol>,
    /// Destination port.
    #[arg(long, value_name = "PORT[-PORT]", value_delimiter = ',', value_parser = values::ports)]
    port: Vec<RangeInclusive<u16>>,
    /// Event, or `all`. Default: all but `pod` and `repeated`, which describe other records.
    #[arg(long, value_name = "EVENT", value_delimiter = ',', value_parser = values::events)]
    event: Vec<Vec<EventKind>>,

    /// Records from this time on: a duration before now such as 15m, or RFC 3339.
    #[arg(long, value_name = "DURATION|TIME", value_parser = values::moment)]
    since: Option<Moment>,
    /// Records before this time, likewise.
    #[arg(long, value_name = "DURATION|TIME", value_parser = values::moment)]
    until: Option<Moment>,
}

impl FilterArguments {
    /// The filter; an error if no record can match it.
    pub(super) fn into_filter(self, now: Timestamp) -> Result<Filter, Usage> {
        let time = |flag: &str, moment: Option<Moment>| {
            let Some(moment) = moment else { return Ok(None) };
            let too_long =
                || Usage(format!("--{flag} is before the calendar begins: give a shorter duration"));
            moment.time(now).map(Some).ok_or_else(too_long)
        };
        let (since, until) = (time("since", self.since)?, time("until", self.until)?);
        if let (Some(since), Some(until)) = (since, until)
            && since >= until
        {
            return Err(Usage(format!(
                "--since {since} is not before --until {until}: no record can match both"
            )));
        }
        Ok(Filter {
            events: self.event.into_iter().flatten().collect(),
            either: EndFilter {
                namespaces: self.namespace,
                pods: self.pod,
                workloads: self.workload,
                addresses: self.address,
            },
            from: EndFilter {
                namespaces: self.from_namespace,
                pods: self.from_pod,
                workloads: self.from_workload,
                addresses: self.from_address,
            },
            to: EndFilter {
                namespaces: self.to_namespace,
                pods: self.to_pod,
                workloads: self.to_workload,
                addresses: self.to_address,
            },
            policies: self.policy,
            verdicts: self.verdict,
            reasons: self.reason,
            directions: self.direction,
            protocols: self.protocol,
            ports: self.port,
            since,
            until,
        })
    }
}
