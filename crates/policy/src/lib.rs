//! What a verdict is: NetworkPolicies and the inventory of a cluster, compiled into tries, answer for a
//! packet.
//!
//! The crate is pure: no IO, no clock, no async. Both lives of the project meet here:
//!
//! ```text
//!  a policy's life                                          a packet's life
//!
//!  [ Change ] -> [ Compiler ]                              [ Packet ]
//!                                      |                        |
//!                                      v                        v
//!                                 [ Snapshot ] -> [ Published ] -> evaluate -> [ Decision ]
//!                                                                              |
//!                                                        [ Evaluation ] -> [ Explanation ]
//! ```
//!
//! - [`spec`], [`selector`], [`inventory`]: the few facts that a verdict needs, valid once they exist.
//! - [`admission`]: admits the policies of each namespace up to a budget.
//! - [`compiler`]: turns changes into the next immutable [`Snapshot`], doing only the work that a change
//!   calls for.
//! - [`snapshot`]: evaluates a packet, without allocation, lock or loop over policies.
//! - [`explanation`]: says in words, off the packet's path, why a decision came out as it did.
//! - [`published`]: the one cell through which a new snapshot reaches the workers, and their grace period.
//! - [`affected`]: the connections whose decision a change may alter.
//! - [`mod@reference`]: the same semantics written naively from the API's text; property tests hold the two
//!   equal.
#![forbid(unsafe_code)]

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
pub use affected::{Affected, Peers};
pub use compiler::{Compilation, Compiler, Scope};
pub use decision::{Decision, Direction, Outcome, Reason, RuleId, Verdict};
pub use evaluation::Evaluation;
pub use explanation::Explanation;
pub use inventory::{Change, Inventory, NamedPort, Namespace, Node, Pod, PodUid};
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
