//! The fields by which records are counted.

use std::fmt::{self, Write};
use std::str::FromStr;

use policy::{Direction, Verdict};

use super::view::{EndView, RecordView};

/// A field by which records are counted. A record that lacks it counts under `-`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[expect(missing_docs, reason = "Field::name is the name in records, or explains itself")]
pub enum Field {
    From,
    To,
    FromNamespace,
    ToNamespace,
    FromPod,
    ToPod,
    FromWorkload,
    ToWorkload,
    FromAddress,
    ToAddress,
    Protocol,
    Port,
    Verdict,
    Reason,
    Direction,
    Tier,
    Policy,
    Rule,
    IsolatedBy,
    Event,
    Node,
    Instance,
    Day,
    Hour,
    Minute,
}

/// The text is not the name of a field.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is no field: use {names}", names = Field::ALL.map(Field::name).join(", "))]
pub struct UnknownField(pub String);

impl Field {
    /// All fields.
    pub const ALL: [Self; 25] = [
        Self::From,
        Self::To,
        Self::FromNamespace,
        Self::ToNamespace,
        Self::FromPod,
        Self::ToPod,
        Self::FromWorkload,
        Self::ToWorkload,
        Self::FromAddress,
        Self::ToAddress,
        Self::Protocol,
        Self::Port,
        Self::Verdict,
        Self::Reason,
        Self::Direction,
        Self::Tier,
        Self::Policy,
        Self::Rule,
        Self::IsolatedBy,
        Self::Event,
        Self::Node,
        Self::Instance,
        Self::Day,
        Self::Hour,
        Self::Minute,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::From => "from",
            Self::To => "to",
            Self::FromNamespace => "from-namespace",
            Self::ToNamespace => "to-namespace",
            Self::FromPod => "from-pod",
            Self::ToPod => "to-pod",
            Self::FromWorkload => "from-workload",
            Self::ToWorkload => "to-workload",
            Self::FromAddress => "from-address",
            Self::ToAddress => "to-address",
            Self::Protocol => "protocol",
            Self::Port => "port",
            Self::Verdict => "verdict",
            Self::Reason => "reason",
            Self::Direction => "direction",
            Self::Tier => "tier",
            Self::Policy => "policy",
            Self::Rule => "rule",
            Self::IsolatedBy => "isolated-by",
            Self::Event => "event",
            Self::Node => "node",
            Self::Instance => "instance",
            Self::Day => "day",
            Self::Hour => "hour",
            Self::Minute => "minute",
        }
    }

    /// Writes the field's value in a record; `-` if the record lacks it.
    pub fn write(self, record: &RecordView<'_>, into: &mut impl Write) -> fmt::Result {
        let source = record.source.as_ref();
        let destination = record.destination.as_ref();
        match self {
            Self::From => end(into, source),
            Self::To => end(into, destination),
            Self::FromNamespace => or_none(into, source.and_then(|end| end.namespace.as_deref())),
            Self::ToNamespace => or_none(into, destination.and_then(|end| end.namespace.as_deref())),
            Self::FromPod => pod(into, source),
            Self::ToPod => pod(into, destination),
            Self::FromWorkload => workload(into, source),
            Self::ToWorkload => workload(into, destination),
            Self::FromAddress => or_none(into, source.map(|end| end.address)),
            Self::ToAddress => or_none(into, destination.map(|end| end.address)),
            Self::Protocol => or_none(into, record.protocol),
            Self::Port => or_none(into, destination.and_then(|end| end.port)),
            Self::Verdict => or_none(into, record.verdict.map(verdict_name)),
            Self::Reason => or_none(into, record.reason.as_deref()),
            Self::Direction => or_none(into, record.direction.map(direction_name)),
            Self::Tier => or_none(into, record.tier.map(policy::Tier::name)),
            Self::Policy => or_none(into, record.policy.as_ref()),
            Self::Rule => match record.direction.zip(record.rule) {
                Some((direction, rule)) => write!(into, "{}[{rule}]", direction_name(direction)),
                None => into.write_char('-'),
            },
            Self::IsolatedBy => {
                for (index, policy) in record.isolated_by.iter().enumerate() {
                    write!(into, "{}{policy}", if index == 0 { "" } else { "," })?;
                }
                if record.isolated_by.is_empty() { into.write_char('-') } else { Ok(()) }
            }
            Self::Event => into.write_str(record.event.name()),
            Self::Node => into.write_str(&record.node),
            Self::Instance => into.write_str(&record.instance),
            Self::Day => write!(into, "{}", record.time.strftime("%Y-%m-%d")),
            Self::Hour => write!(into, "{}", record.time.strftime("%Y-%m-%dT%H")),
            Self::Minute => write!(into, "{}", record.time.strftime("%Y-%m-%dT%H:%M")),
        }
    }
}

impl FromStr for Field {
    type Err = UnknownField;

    fn from_str(text: &str) -> Result<Self, UnknownField> {
        Self::ALL.into_iter().find(|field| field.name() == text).ok_or_else(|| UnknownField(text.to_owned()))
    }
}

/// `allow` or `deny`.
pub(super) fn verdict_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
    }
}

/// `ingress` or `egress`.
pub(super) fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

fn or_none(into: &mut impl Write, value: Option<impl fmt::Display>) -> fmt::Result {
    match value {
        Some(value) => write!(into, "{value}"),
        None => into.write_char('-'),
    }
}

/// The pod, or else the address.
fn end(into: &mut impl Write, end: Option<&EndView<'_>>) -> fmt::Result {
    match end {
        Some(EndView { pod: Some(_), .. }) => pod(into, end),
        Some(EndView { address, .. }) => write!(into, "{address}"),
        None => into.write_char('-'),
    }
}

fn pod(into: &mut impl Write, end: Option<&EndView<'_>>) -> fmt::Result {
    match end.and_then(|end| end.namespace.as_ref().zip(end.pod.as_ref())) {
        Some((namespace, pod)) => write!(into, "{namespace}/{pod}"),
        None => into.write_char('-'),
    }
}

/// The workload; a pod without one, or else the address, stands for itself.
fn workload(into: &mut impl Write, end: Option<&EndView<'_>>) -> fmt::Result {
    match end.and_then(|end| end.namespace.as_ref().zip(end.workload.as_ref())) {
        Some((namespace, workload)) => write!(into, "{namespace}/{}/{}", workload.kind, workload.name),
        None => self::end(into, end),
    }
}
