//! Messages to the writer's thread.

use std::sync::Arc;

use jiff::Timestamp;
use policy::{Generation, Labels, PolicyName};

use crate::policy_versions::PolicyVersion;
use crate::record::Event;

/// What the agent's threads send to the writer besides evaluations.
#[derive(Debug)]
pub(super) enum Message {
    /// An event to record, and its time.
    Event(Timestamp, Event),
    /// The version of a policy from this generation on.
    PolicyVersion(Arc<PolicyName>, Generation, Option<Arc<PolicyVersion>>),
    /// The labels of a namespace; `None` if it is gone.
    Namespace(Arc<str>, Option<Labels>),
}
