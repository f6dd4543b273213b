//! The cells of a record in a table.

use std::fmt::Write;

use audit::PolicyChange;
use audit::query::{EndView, EventKind, Field, RecordView};

/// The columns of [`cells`].
pub(super) const HEADER: [&str; 5] = ["TIME", "WHAT", "FROM", "TO", "WHY"];

/// The columns of [`wide_cells`].
pub(super) const WIDE_HEADER: [&str; 14] = [
    "TIME",
    "VERDICT",
    "EVENT",
    "COUNT",
    "DIRECTION",
    "FROM",
    "FROM-WORKLOAD",
    "FROM-ADDRESS",
    "TO",
    "TO-WORKLOAD",
    "TO-ADDRESS",
    "PROTOCOL",
    "NODE",
    "WHY",
];

/// How many policies a row names at most.
const MOST_POLICIES: usize = 3;

/// What matters most. The time is in UTC, without the year.
pub(super) fn cells(record: &RecordView<'_>) -> [String; 5] {
    let is_connection = record.event == EventKind::Connection;
    let what = if is_connection { text(Field::Verdict, record) } else { record.event.name().to_owned() };
    [
        record.time.strftime("%m-%d %H:%M:%S").to_string(),
        what + &count(record),
        own_pod(record).unwrap_or_else(|| or_empty(Field::From, record)),
        destination(record),
        why(record),
    ]
}

/// Everything that identifies what happened.
pub(super) fn wide_cells(record: &RecordView<'_>) -> [String; 14] {
    [
        format!("{:.9}", record.time),
        text(Field::Verdict, record),
        record.event.name().to_owned(),
        record.weight().to_string(),
        text(Field::Direction, record),
        own_pod(record).unwrap_or_else(|| text(Field::From, record)),
        text(Field::FromWorkload, record),
        address(record.source.as_ref()),
        text(Field::To, record),
        text(Field::ToWorkload, record),
        address(record.destination.as_ref()),
        text(Field::Protocol, record),
        text(Field::Node, record),
        match &record.policy {
            Some(policy) => format!("{} {}", policy.kind, why(record)),
            None => why(record),
        },
    ]
}

/// A field, or `-`.
fn text(field: Field, record: &RecordView<'_>) -> String {
    let mut text = String::new();
    // Writing to memory cannot fail.
    let _ = field.write(record, &mut text);
    text
}

fn or_empty(field: Field, record: &RecordView<'_>) -> String {
    Some(text(field, record)).filter(|text| text != "-").unwrap_or_default()
}

/// How many denials or packets, such as ` x6`; empty for one.
fn count(record: &RecordView<'_>) -> String {
    Some(record.weight()).filter(|count| *count != 1).map_or_else(String::new, |count| format!(" x{count}"))
}

/// The pod that an event `pod` or `dropped` names, if no source is known.
fn own_pod(record: &RecordView<'_>) -> Option<String> {
    let (namespace, pod) = record.namespace.as_ref().zip(record.pod.as_ref())?;
    record.source.is_none().then(|| format!("{namespace}/{pod}"))
}

/// The destination with port and protocol, as flags of `explain` have them.
fn destination(record: &RecordView<'_>) -> String {
    let mut to = or_empty(Field::To, record);
    match (record.destination.as_ref().and_then(|end| end.port), record.protocol) {
        (Some(port), Some(protocol)) => _ = write!(to, " {port}/{protocol}"),
        (None, Some(protocol)) => _ = write!(to, " {protocol}"),
        (_, None) => {}
    }
    to
}

fn address(end: Option<&EndView<'_>>) -> String {
    match end {
        Some(EndView { address, port: Some(port), .. }) => {
            std::net::SocketAddr::new(*address, *port).to_string()
        }
        Some(EndView { address, .. }) => address.to_string(),
        None => "-".to_owned(),
    }
}

/// What decided, or what else happened.
fn why(record: &RecordView<'_>) -> String {
    let reason = record.reason.as_deref().unwrap_or_default();
    match record.event {
        EventKind::Connection | EventKind::Revoked | EventKind::Restored => decided(record, reason),
        EventKind::Lost => record.lost_reason().map_or(reason, |reason| reason.sentence()).to_owned(),
        EventKind::Dropped => match &record.interface {
            Some(interface) => format!("{reason} on {interface}"),
            None => reason.to_owned(),
        },
        EventKind::Bypass => {
            let (from, to) = (record.from.unwrap_or(record.time), record.to.unwrap_or(record.time));
            let change = record.change.as_deref().unwrap_or_default();
            format!("{reason} from {from} to {to}: {change}")
        }
        EventKind::Policy => {
            let [applied, deleted] = [PolicyChange::Applied, PolicyChange::Deleted].map(|change| {
                let changed = record.policies.iter().filter(|policy| policy.change == change);
                listed(changed.map(|applied| applied.policy.to_string()))
            });
            let parts = [("applied ", applied), ("deleted ", deleted)];
            let parts = parts.iter().filter(|(_, names)| !names.is_empty());
            parts.map(|(change, names)| format!("{change}{names}")).collect::<Vec<_>>().join("; ")
        }
        EventKind::Pod => listed(record.addresses.iter().map(ToString::to_string)),
        EventKind::Repeated => match record.lines {
            Some(lines) => format!("{lines} lines from the previous file follow"),
            None => String::new(),
        },
        EventKind::Start => record.version.as_deref().unwrap_or_default().to_owned(),
        EventKind::Stop => {
            format!("{} recorded, {} lost", record.recorded.unwrap_or(0), record.lost.unwrap_or(0))
        }
    }
}

/// The rule that decided, or the reason and the policies that isolate.
fn decided(record: &RecordView<'_>, reason: &str) -> String {
    let direction = text(Field::Direction, record);
    match (&record.policy, record.rule) {
        (Some(policy), Some(rule)) => {
            let name = record.rule_name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
            let mut why = format!("{policy} {direction}[{rule}]{name}");
            if reason != "rule" {
                let _ = write!(why, " {reason}");
            }
            why
        }
        _ if record.isolated_by.is_empty() => format!("{reason} {direction}"),
        _ => {
            let isolating = listed(record.isolated_by.iter().map(ToString::to_string));
            format!("{reason} {direction} by {isolating}")
        }
    }
}

/// Some names, and the number of the others.
fn listed(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    let shown = names.iter().take(MOST_POLICIES).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MOST_POLICIES) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
