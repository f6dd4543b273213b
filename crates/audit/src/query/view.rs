//! A record whose texts are borrowed from its line.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use jiff::Timestamp;
use policy::{Direction, PolicyKind, Protocol, Tier, Verdict};
use serde::de::Error;
use serde::{Deserialize, Deserializer};

use crate::json_text::JsonText;
use crate::record::{LostReason, PolicyChange};

/// A record of any event, with the fields that a query needs. Fields that its event does not have are absent.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub struct RecordView<'a> {
    /// See [`Record::schema`](crate::Record::schema), and so on.
    pub schema: u32,
    #[expect(missing_docs, reason = "see the field of the same name in Record")]
    pub seq: u64,
    #[expect(missing_docs, reason = "as above")]
    #[serde(borrow)]
    pub instance: JsonText<'a>,
    #[expect(missing_docs, reason = "as above")]
    pub node: JsonText<'a>,
    #[expect(missing_docs, reason = "as above")]
    #[serde(deserialize_with = "parsed")]
    pub time: Timestamp,
    /// The name of the event.
    pub event: EventKind,

    /// Of a connection: see [`Connection`](crate::Connection), as for the following fields.
    #[serde(default, deserialize_with = "optional_verdict")]
    pub verdict: Option<Verdict>,
    /// Of a connection, `dropped`, `lost` and `bypass`.
    pub reason: Option<JsonText<'a>>,
    /// Of a connection.
    #[serde(default, deserialize_with = "optional_direction")]
    pub direction: Option<Direction>,
    /// Of a connection and `policy`.
    pub generation: Option<u64>,
    /// Of a connection and `dropped`.
    #[serde(default, deserialize_with = "optional_parsed")]
    pub protocol: Option<Protocol>,
    /// Of a connection and `dropped`.
    pub source: Option<EndView<'a>>,
    /// Of a connection and `dropped`.
    pub destination: Option<EndView<'a>>,
    /// Of a connection.
    pub tier: Option<Tier>,
    /// Of a connection: the policy whose rule decided.
    pub policy: Option<PolicyView<'a>>,
    /// Of a connection.
    pub rule: Option<u64>,
    /// Of a connection.
    pub rule_name: Option<JsonText<'a>>,
    /// Of a connection: the source's side.
    pub egress: Option<OutcomeView<'a>>,
    /// Of a connection: the destination's side.
    pub ingress: Option<OutcomeView<'a>>,
    /// Of a connection.
    #[serde(default)]
    pub isolated_by: Vec<PolicyView<'a>>,
    /// Of a connection: how many denials it stands for; of `lost`: how many records are lost.
    pub count: Option<u64>,

    /// Of `dropped` and `pod`.
    pub namespace: Option<JsonText<'a>>,
    /// Of `dropped` and `pod`.
    pub pod: Option<JsonText<'a>>,
    /// Of `pod`.
    pub workload: Option<WorkloadView<'a>>,
    /// Of `pod`.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Of `dropped`.
    pub packets: Option<u64>,
    /// Of `dropped`.
    pub interface: Option<JsonText<'a>>,
    /// Of `policy`.
    #[serde(default)]
    pub policies: Vec<AppliedView<'a>>,
    /// Of `bypass`.
    #[serde(default, deserialize_with = "optional_parsed")]
    pub from: Option<Timestamp>,
    /// Of `bypass`.
    #[serde(default, deserialize_with = "optional_parsed")]
    pub to: Option<Timestamp>,
    /// Of `bypass`.
    pub change: Option<JsonText<'a>>,
    /// Of `repeated`.
    pub lines: Option<u64>,
    /// Of `start`.
    pub version: Option<JsonText<'a>>,
    /// Of `stop`.
    pub recorded: Option<u64>,
    /// Of `stop`.
    pub lost: Option<u64>,
}

/// The name of an event.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "see the variants of the same names in Event")]
pub enum EventKind {
    Connection,
    Revoked,
    Restored,
    Lost,
    Bypass,
    Dropped,
    Policy,
    Pod,
    Repeated,
    Start,
    Stop,
}

/// One end of a connection: see [`Endpoint`](crate::Endpoint).
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[expect(missing_docs, reason = "see the fields of the same names in Endpoint")]
pub struct EndView<'a> {
    pub address: IpAddr,
    pub port: Option<u16>,
    #[serde(borrow)]
    pub namespace: Option<JsonText<'a>>,
    pub pod: Option<JsonText<'a>>,
    pub workload: Option<WorkloadView<'a>>,
}

/// The workload that controls a pod.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct WorkloadView<'a> {
    /// Its kind, such as `Deployment`.
    #[serde(borrow)]
    pub kind: JsonText<'a>,
    /// Its name.
    pub name: JsonText<'a>,
}

/// A policy: see [`PolicyRef`](crate::PolicyRef).
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct PolicyView<'a> {
    /// The kind of object.
    pub kind: PolicyKind,
    /// `None` if the kind is cluster-wide.
    #[serde(borrow)]
    pub namespace: Option<JsonText<'a>>,
    /// Its name.
    pub name: JsonText<'a>,
}

/// A policy that was changed or deleted.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct AppliedView<'a> {
    /// What happened to it.
    pub change: PolicyChange,
    /// The policy.
    #[serde(flatten, borrow)]
    pub policy: PolicyView<'a>,
}

/// The outcome of one direction.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct OutcomeView<'a> {
    /// The policy whose rule decided.
    #[serde(borrow)]
    pub policy: Option<PolicyView<'a>>,
}

impl EventKind {
    /// All events.
    pub const ALL: [Self; 11] = [
        Self::Connection,
        Self::Revoked,
        Self::Restored,
        Self::Dropped,
        Self::Lost,
        Self::Bypass,
        Self::Policy,
        Self::Pod,
        Self::Repeated,
        Self::Start,
        Self::Stop,
    ];

    /// The name in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Revoked => "revoked",
            Self::Restored => "restored",
            Self::Lost => "lost",
            Self::Bypass => "bypass",
            Self::Dropped => "dropped",
            Self::Policy => "policy",
            Self::Pod => "pod",
            Self::Repeated => "repeated",
            Self::Start => "start",
            Self::Stop => "stop",
        }
    }
}

impl RecordView<'_> {
    /// How many verdicts, packets or lost records the record stands for.
    pub fn weight(&self) -> u64 {
        match self.event {
            EventKind::Connection | EventKind::Revoked | EventKind::Restored | EventKind::Lost => {
                self.count.unwrap_or(1)
            }
            EventKind::Dropped => self.packets.unwrap_or(1),
            _ => 1,
        }
    }

    /// All policies that the record names: whose rule decided in one of the directions, that isolate, or that
    /// were changed.
    pub fn policies(&self) -> impl Iterator<Item = &PolicyView<'_>> {
        let sides = [&self.egress, &self.ingress].into_iter().flatten();
        let decided = self.policy.iter().chain(sides.filter_map(|side| side.policy.as_ref()));
        decided.chain(&self.isolated_by).chain(self.policies.iter().map(|applied| &applied.policy))
    }

    /// Why the record says that records are missing, in words; `None` if it does not say that.
    pub fn lost_reason(&self) -> Option<LostReason> {
        let reason = self.reason.as_ref().filter(|_| self.event == EventKind::Lost)?;
        let reason: &str = reason;
        let reason = serde::de::value::StrDeserializer::<serde::de::value::Error>::new(reason);
        LostReason::deserialize(reason).ok()
    }
}

impl fmt::Display for PolicyView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{}", self.name),
            None => self.name.fmt(f),
        }
    }
}

/// A value that is written as text.
fn parsed<'de, T: FromStr<Err: fmt::Display>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    JsonText::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

/// A value that is written as text, or absent.
fn optional_parsed<'de, T: FromStr<Err: fmt::Display>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let text = Option::<JsonText<'de>>::deserialize(deserializer)?;
    text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
}

/// A verdict, or absent.
fn optional_verdict<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Verdict>, D::Error> {
    one_of(deserializer, &[("allow", Verdict::Allow), ("deny", Verdict::Deny)])
}

/// A direction, or absent.
fn optional_direction<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Direction>, D::Error> {
    one_of(deserializer, &[("ingress", Direction::Ingress), ("egress", Direction::Egress)])
}

/// One of these names, or absent.
fn one_of<'de, T: Copy, D: Deserializer<'de>>(
    deserializer: D,
    names: &[(&str, T)],
) -> Result<Option<T>, D::Error> {
    let Some(text) = Option::<JsonText<'de>>::deserialize(deserializer)? else { return Ok(None) };
    let found = names.iter().find(|(name, _)| *name == &*text);
    let unknown = || D::Error::custom(format_args!("{:?} is unknown", &*text));
    found.map(|(_, value)| Some(*value)).ok_or_else(unknown)
}
