//! Events other than verdicts on connections.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use policy::{Generation, Labels, Protocol, Workload};
use serde::{Deserialize, Serialize};

use super::connection::Endpoint;
use super::form;
use super::policy_ref::PolicyRef;
#[cfg(test)]
use super::schema;

/// Records missing from the log at this position.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Lost {
    /// How many verdicts and other events have no record. Records of pods, starts and losses that could not
    /// be written are not counted, though they are within the range.
    pub count: u64,
    /// The first number of the range. Absent for a partial line, whose number and instance are not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_seq: Option<u64>,
    /// The last number of the range. Absent for a partial line. If a stream's reader stopped, it may have
    /// read some lines of the range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_seq: Option<u64>,
    /// Why they are lost.
    pub reason: LostReason,
}

/// Why records are lost.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum LostReason {
    /// The queue to the log's writer was full: there were more verdicts than the log accepts.
    QueueFull,
    /// The kernel's messages about verdicts of its cache were lost, or could not be read.
    NotReceived,
    /// The log could not be written.
    WriteFailed,
    /// The end of the file was a partial line of an agent that was killed. It was removed.
    PartialLine,
}

impl LostReason {
    /// What happened, in words.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::QueueFull => "the log is slower than the verdicts",
            Self::NotReceived => "the kernel's messages about verdicts of its cache were lost",
            Self::WriteFailed => "the log could not be written",
            Self::PartialLine => "an agent was killed while it wrote a line",
        }
    }
}

/// A mark before lines that may be duplicates. Another program moved the file during their write, so they
/// were written again, byte for byte. Whether that program's copy contains them depends on when it was made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Repeated {
    /// How many of the following lines are repeated.
    pub lines: u64,
}

/// Packets that nftables rules dropped without a verdict.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Dropped {
    /// Why: the stable name of the reason.
    pub reason: Cow<'static, str>,
    /// The interface on which they arrived. Absent if the rule counts by source address instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<Arc<str>>,
    /// The namespace of the pod behind that interface; without `interface`, of the pod that has the source
    /// address. Absent if that pod is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Arc<str>>,
    /// The pod's name. Absent if the pod is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Arc<str>>,
    /// How many packets were dropped since the last such record of this reason and interface.
    pub packets: u64,
    /// The EtherType of one of the packets, such as `0x86dd`. Absent if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ether_type: Option<String>,
    /// The source MAC address of the same packet. Absent if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The protocol of the same packet, as in an event `connection`. Absent if it is not an IP packet or
    /// can't be parsed.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "form::optional_text")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub protocol: Option<Protocol>,
    /// The source of the same packet, which may be forged. Absent if it is not an IP packet or can't be
    /// parsed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Endpoint>,
    /// The destination of the same packet. Absent if it is not an IP packet or can't be parsed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<Endpoint>,
}

/// A period in which packets could pass unevaluated on this node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Bypass {
    /// Why: `rules-changed` if another program changed the rules. `rules-unknown` if the kernel's
    /// notifications of such changes were lost, or if the rules were found missing.
    pub reason: Cow<'static, str>,
    /// When the period began: RFC 3339, UTC, nanoseconds.
    #[serde(with = "form::time")]
    #[cfg_attr(test, schemars(schema_with = "schema::time"))]
    pub from: Timestamp,
    /// When the rules had been restored and all connections evaluated again.
    #[serde(with = "form::time")]
    #[cfg_attr(test, schemars(schema_with = "schema::time"))]
    pub to: Timestamp,
    /// The change to the rules.
    pub change: String,
    /// The name of the program that made the change. Absent if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// The program's process ID. Absent if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
}

/// Policies that were changed or deleted, and are in force.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PolicyUpdate {
    /// The generation that is in force with this update.
    #[serde(with = "form::generation")]
    #[cfg_attr(test, schemars(with = "u64"))]
    pub generation: Generation,
    /// The policies: at most 256. More are in further records of the same generation.
    pub policies: Vec<AppliedPolicy>,
}

/// A policy that was changed or deleted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AppliedPolicy {
    /// `applied`: this version is in force. `deleted`: the policy no longer is.
    pub change: PolicyChange,
    /// The policy, in the version that is in force; if it was deleted, without a version.
    #[serde(flatten)]
    pub policy: PolicyRef,
}

/// What happened to a policy.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum PolicyChange {
    /// It was created or changed.
    Applied,
    /// It was deleted.
    Deleted,
}

/// The state of a pod.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SeenPod {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub pod: Arc<str>,
    /// Its labels. Absent if they are not known.
    #[serde(default = "Labels::unknown", skip_serializing_if = "are_unknown", with = "form::labels")]
    #[cfg_attr(test, schemars(schema_with = "schema::labels"))]
    pub labels: Labels,
    /// The labels of its namespace. Absent if they are not known.
    #[serde(default = "Labels::unknown", skip_serializing_if = "are_unknown", with = "form::labels")]
    #[cfg_attr(test, schemars(schema_with = "schema::labels"))]
    pub namespace_labels: Labels,
    /// The workload that controls it, in its namespace. Absent if there is none, or if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "form::optional_workload")]
    #[cfg_attr(test, schemars(with = "Option<form::WorkloadForm>"))]
    pub workload: Option<Arc<Workload>>,
    /// Its node. Absent if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<Arc<str>>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its named ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PodPort>,
}

/// A named port of a pod.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PodPort {
    /// Its name.
    pub name: Arc<str>,
    /// Its protocol, as in an event `connection`.
    #[serde(with = "form::text")]
    #[cfg_attr(test, schemars(with = "String"))]
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

/// The start of an agent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Start {
    /// The version of the agent.
    pub version: Cow<'static, str>,
    /// Its process ID, in its own PID namespace.
    pub pid: u32,
}

/// The end of an agent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Stop {
    /// How many verdicts and other events have been recorded since its start, including folded ones.
    pub recorded: u64,
    /// How many have been lost since its start.
    pub lost: u64,
}

fn are_unknown(labels: &Labels) -> bool {
    !labels.are_known()
}
