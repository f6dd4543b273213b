//! The policy engine: compiles NetworkPolicies and the inventory of a cluster into tries, and evaluates
//! packets against them.
//!
//! The crate is pure: no IO, no clock, no async. The two flows of the project meet here:
//!
//! ```text
//!  policies and inventory                                  packets
//!
//!  [ Change ] -> [ Compiler ]                              [ Packet ]
//!                                      |                        |
//!                                      v                        v
//!                                 [ Snapshot ] -> [ Published ] -> evaluate -> [ Decision ]
//!                                                                              |
//!                                                        [ Evaluation ] -> [ Explanation ]
//! ```
//!
//! - [`spec`], [`selector`], [`inventory`]: what a verdict needs to know about policies, pods, nodes and
//!   namespaces. Every value is valid by construction.
//! - [`admission`]: admits the policies of each namespace up to a budget.
//! - [`compiler`]: turns changes into the next immutable [`Snapshot`], and recompiles only what a change
//!   makes dirty.
//! - [`snapshot`]: evaluates a packet, without allocation, lock or loop over policies.
//! - [`explanation`]: explains a decision in words, off the packet's path.
//! - [`published`]: the cell through which workers get the current snapshot, and the grace period after a
//!   swap.
//! - [`affected`]: the connections with a decision that a change may alter.
//! - [`mod@reference`]: a naive implementation of the same semantics, written from the API's text. Property
//!   tests check that both agree.
#![forbid(unsafe_code)]
// A cast that might change a number must say why it does not.
#![cfg_attr(
    not(test),
    warn(
        clippy::cast_lossless,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )
)]

pub mod admission;
pub mod affected;
pub mod compiler;
mod cost;
pub mod decision;
pub mod evaluation;
pub mod explanation;
pub mod inventory;
pub mod labels;
pub mod names;
pub mod packet;
pub mod prefixes;
pub mod published;
pub mod reference;
pub mod selector;
pub mod snapshot;
pub mod spec;

pub use admission::{Admission, Budget, Refusal};
pub use affected::{Affected, AffectedPeers};
pub use compiler::{Compilation, Compiler, Scope};
pub use decision::{Decision, Direction, Outcome, Reason, RuleId, Verdict};
pub use evaluation::Evaluation;
pub use explanation::{Explanation, TierResult, TierStep};
pub use inventory::{Change, Inventory, NamedPort, Namespace, Node, Pod, PodUid, Workload};
pub use labels::Labels;
pub use names::{Generation, PodName, PolicyKind, PolicyName};
pub use packet::{Packet, Protocol};
pub use prefixes::Prefixes;
pub use published::{Published, Reader};
pub use selector::{Match, Requirement, Selector};
pub use snapshot::{Directions, Snapshot};
pub use spec::{
    Action, Cost, IpBlock, NamespaceMatch, Peer, PolicySpec, PortMatch, PortNumbers, RuleSpec, Subject, Tier,
};
