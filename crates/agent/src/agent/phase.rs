//! How far the agent has come: control flow asks this, and the status reports it.

use crate::engine::Engine;

/// See the module.
#[derive(Debug, Default)]
pub(super) enum Phase {
    /// No rules of this agent are in the kernel yet.
    #[default]
    Starting,
    /// This agent's rules are in the kernel.
    Enforcing(Engine),
    /// The kernel's rules are another agent's, or gone: this one only answers what was queued for it.
    Superseded(Engine),
}

impl Phase {
    /// The engine of the rules that this agent has installed, whether or not they are still in the kernel.
    pub(super) fn engine(&mut self) -> Option<&mut Engine> {
        match self {
            Self::Starting => None,
            Self::Enforcing(engine) | Self::Superseded(engine) => Some(engine),
        }
    }

    /// The engine of the rules in the kernel; `None` if they are not this agent's.
    pub(super) fn enforcing(&mut self) -> Option<&mut Engine> {
        match self {
            Self::Enforcing(engine) => Some(engine),
            Self::Starting | Self::Superseded(_) => None,
        }
    }

    pub(super) fn is_starting(&self) -> bool {
        matches!(self, Self::Starting)
    }

    pub(super) fn is_enforcing(&self) -> bool {
        matches!(self, Self::Enforcing(_))
    }

    pub(super) fn is_superseded(&self) -> bool {
        matches!(self, Self::Superseded(_))
    }

    /// Another agent's rules, or none, have taken the place of this one's.
    pub(super) fn supersede(&mut self) {
        *self = match std::mem::take(self) {
            Self::Enforcing(engine) | Self::Superseded(engine) => Self::Superseded(engine),
            Self::Starting => Self::Starting,
        };
    }
}
