//! The messages to the agent's thread.

use cluster::Update;
use dataplane::ports::Interfaces;
use dataplane::table::ForeignChange;

/// The name of the agent's thread: nftables' notifications name it as the program that wrote the rules.
pub(crate) const THREAD_NAME: &str = "kube-verdict";

/// A message to the agent's thread.
#[derive(Debug)]
pub(crate) enum Message {
    /// The source changed.
    Update,
    /// The node's interfaces were read again.
    Interfaces,
    /// Another program changed the agent's rules.
    RulesChanged(ForeignChange),
    /// The agent must end.
    Stop,
}

/// Messages that were received together, merged.
#[derive(Debug, Default)]
pub(super) struct MessageBatch {
    pub(super) foreign_change: Option<ForeignChange>,
    pub(super) interfaces: Option<Interfaces>,
    pub(super) update: Option<Update>,
}
