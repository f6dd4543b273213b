//! The audit record, schema 1: the documented type of a line of the log.
//!
//! From: evaluations and events. To: the log, and programs that read it. Invariant: a line is exactly the
//! serialized form of a [`Record`], with the fields in their order here. `docs/audit/record.schema.json` is
//! generated from these types. Within a schema, fields are only added.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

mod connection;
mod events;
mod form;
mod line;
mod policy_ref;
mod read;
#[cfg(test)]
mod schema;
mod tcp_flags;

pub use connection::{Connection, Endpoint, FoldedBy, MOST_ISOLATING, NearestMiss, Outcome};
pub use events::{
    AppliedPolicy, Bypass, Dropped, Lost, LostReason, PodPort, PolicyChange, PolicyUpdate, Repeated, SeenPod,
    Start, Stop,
};
pub(crate) use line::{ConnectionEvent, LineBuffer, RecordHead};
pub use policy_ref::PolicyRef;
pub use tcp_flags::{NoTcpFlags, TcpFlags};

/// The version of the record's schema.
pub const SCHEMA: u32 = 1;

/// One line of the log.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Record {
    /// The version of the schema: 1.
    pub schema: u32,
    /// The number of the record within its instance, from 1. Numbers have no gaps: a number without a record
    /// is within the range of an event `lost`.
    pub seq: u64,
    /// A random ID of the agent's process, new at each start.
    pub instance: Arc<str>,
    /// The node of the agent.
    pub node: Arc<str>,
    /// The cluster, if the agent was started with `--cluster-name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Arc<str>>,
    /// When it happened: RFC 3339, UTC, nanoseconds. For a connection whose verdict the kernel cached, when
    /// the agent received the kernel's message about it, some hundredths of a second later.
    #[serde(with = "form::time")]
    #[cfg_attr(test, schemars(schema_with = "schema::time"))]
    pub time: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What a record is about. The field `event` has its name, and the event's own fields follow.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// The verdict on a connection, or on a packet that belongs to none.
    Connection(Box<Connection>),
    /// An established connection was cut, because a change denies it.
    Revoked(Box<Connection>),
    /// A connection that was cut passes again, because a change allows it.
    Restored(Box<Connection>),
    /// Records are missing.
    Lost(Lost),
    /// Packets could pass unevaluated on this node.
    Bypass(Box<Bypass>),
    /// Rules dropped packets without a verdict: at most one record per second for each reason and interface.
    Dropped(Box<Dropped>),
    /// Policies were changed or deleted, and the change is in force on this node, even for established
    /// connections.
    Policy(Box<PolicyUpdate>),
    /// The state of a pod that records in this file name. Written when the pod first appears in a file, and
    /// whenever its labels or its workload have changed.
    Pod(Box<SeenPod>),
    /// The following lines are repeated from the previous file.
    Repeated(Repeated),
    /// The agent started.
    Start(Start),
    /// The agent stopped in order. If the last record of an instance is another one, it was killed.
    Stop(Stop),
}

/// The agent that writes the log: the fields that all of its records share.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Instance {
    /// See [`Record::instance`].
    pub id: Arc<str>,
    /// See [`Record::node`].
    pub node: Arc<str>,
    /// See [`Record::cluster`].
    pub cluster: Option<Arc<str>>,
}

impl Instance {
    /// A new instance on `node`, with a random ID from the kernel.
    pub fn new(node: Arc<str>, cluster: Option<Arc<str>>) -> Self {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid");
        let id = match &id {
            Ok(id) => Arc::from(id.trim()),
            // Without /proc, start time and process ID are unique on a node.
            Err(_) => format!("{}-{}", Timestamp::now().as_nanosecond(), std::process::id()).into(),
        };
        Self { id, node, cluster }
    }
}

#[cfg(test)]
pub(crate) mod tests;
