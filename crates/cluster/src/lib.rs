//! From Kubernetes objects to the changes that the policy engine compiles: the first part of a policy's life.
//!
//! ```text
//!        source                        conversion                       result
//!
//!  [ Folder ] -> [ manifest ] -+
//!    files        documents    |
//!                              +-> [ RawObject ] -> [ convert ] -> policy::Change -> [ Update ] -> agent
//!                              |                        |              ^                 ^
//!  [ Kubernetes ] -------------+                        +-> Flaw ------|-> [ Problem ] --+
//!    lists, watches                                                    |
//!  [ cni ] --------------------------------------- addresses ----------+
//!    the CNI's cache
//! ```
//!
//! - [`mod@manifest`]: YAML or JSON text to [`RawObject`]s, one at a time, keeping only the fields that matter.
//! - [`mod@convert`]: a [`RawObject`] to a [`policy::Change`], one resource kind per file; what can't be understood
//!   never widens access and comes back as a [`Flaw`] with the path of its field. Knows nothing of files.
//! - [`source`]: the one type behind which a consumer need not know which source it has.
//! - [`folder`]: a folder of manifests as a source: read once, then watched by inotify.
//! - [`kubernetes`]: the Kubernetes API as a source: listed once, then watched; [`connection`] says how it is connected.
//! - [`cni`]: the CNI's cache, which knows the addresses of this node's pods a second earlier.
//! - [`checkpoint`]: what a source knows, kept on disk for an agent that starts while the source does not answer.
//! - [`namespaces`]: stands in for a namespace that pods name and no object describes. For every source.
//! - [`interner`]: equal texts and label sets are held once, by every source.
//! - [`problem`]: what a source got wrong, for logs, metrics and people, and how much it has read.
//!
//! A source tells its consumer differences only: applied in order, the changes of all updates give what stands in the
//! source now, and an object that did not change is never mentioned twice.
#![forbid(unsafe_code)]

pub mod checkpoint;
pub mod cni;
pub mod connection;
pub mod convert;
mod differences;
pub mod folder;
pub mod interner;
mod invisible;
mod key;
pub mod kubernetes;
pub mod manifest;
pub mod namespaces;
pub mod problem;
mod read_counts;
mod rule_budget;
pub mod source;
mod stamp;

pub use checkpoint::{StateDir, StateStatus, WritePermit};
pub use cni::CniCache;
pub use connection::{Connection, Connections, FailureClass, Link};
pub use convert::{Converted, FieldPath, Flaw, Kind, Unusable, convert};
pub use folder::{Folder, FolderError};
pub use interner::Interner;
pub use kubernetes::{Access, Kubernetes, RefusedPolicy, Rollout};
pub use manifest::{RawObject, Reading};
pub use problem::{CniPorts, Origin, Problem, ReadCounts, ResourceVersion, Update};
pub use source::{Source, SourceError, Watch};
