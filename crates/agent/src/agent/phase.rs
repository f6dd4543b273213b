//! The agent's phase, which controls what its thread does.

use crate::engine::Engine;

/// See the module.
#[derive(Debug, Default)]
pub(super) enum Phase {
    /// No rules of this agent are in the kernel yet.
    #[default]
    Starting,
    /// This agent's rules are in the kernel.
    Enforcing(Engine),
    /// The kernel has another agent's rules, or none: this agent only gives verdicts on packets in its
    /// queues.
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

    /// Another agent's rules, or none, have replaced this agent's.
    pub(super) fn supersede(&mut self) {
        *self = match std::mem::take(self) {
            Self::Enforcing(engine) | Self::Superseded(engine) => Self::Superseded(engine),
            Self::Starting => Self::Starting,
        };
    }
}
