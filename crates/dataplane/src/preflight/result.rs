//! A preflight check and its result.

use serde::Serialize;

/// A preflight check and its result.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Check {
    /// A stable name, such as `br_netfilter`.
    pub name: &'static str,
    /// Its result.
    #[serde(flatten)]
    pub state: CheckState,
}

/// The result of a check.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum CheckState {
    /// The requirement is met.
    Fine {
        /// What was found.
        what: String,
    },
    /// The requirement is met only in part, or may soon not be met, or it could not be checked.
    Warning {
        /// What was found.
        what: String,
        /// What to do about it.
        todo: String,
    },
    /// The requirement is not met: the agent is not ready.
    Wrong {
        /// What was found, and for which packets or connections policy is not enforced.
        what: String,
        /// What to do about it.
        todo: String,
        /// Whether no policy can be enforced without it. Otherwise the agent enforces the rest.
        prevents_enforcing: bool,
    },
}

impl CheckState {
    /// Whether it prevents the agent from becoming ready.
    pub fn is_wrong(&self) -> bool {
        matches!(self, Self::Wrong { .. })
    }

    /// Whether it prevents the agent from enforcing any policy.
    pub fn prevents_enforcing(&self) -> bool {
        matches!(self, Self::Wrong { prevents_enforcing: true, .. })
    }

    pub(super) fn fine(what: impl Into<String>) -> Self {
        Self::Fine { what: what.into() }
    }

    pub(super) fn warning(what: impl Into<String>, todo: impl Into<String>) -> Self {
        Self::Warning { what: what.into(), todo: todo.into() }
    }

    pub(super) fn wrong(what: impl Into<String>, todo: impl Into<String>) -> Self {
        Self::Wrong { what: what.into(), todo: todo.into(), prevents_enforcing: true }
    }

    /// A requirement that is not met, although the rest of policy can be enforced.
    pub(super) fn partly(what: impl Into<String>, todo: impl Into<String>) -> Self {
        Self::Wrong { what: what.into(), todo: todo.into(), prevents_enforcing: false }
    }
}
