//! An object that needs an Event.

use crate::convert::Kind;
use crate::problem::ResourceVersion;

/// An object that is not fully enforced, for its Event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::kubernetes) struct ObjectWarning {
    pub reason: Reason,
    pub kind: Kind,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub resource_version: ResourceVersion,
    /// What is wrong, and its effect.
    pub message: String,
}

/// Why an object is not fully enforced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::kubernetes) enum Reason {
    /// A part of it is not understood.
    NotUnderstood,
    /// The policies of its namespace exceed their budget.
    OverBudget,
    /// It selects nodes, and Nodes may not be listed.
    UnlistedNodes,
    /// The API server no longer has it in the version that is converted.
    OtherVersions,
}
