//! Reads Kubernetes objects and turns them into the changes that the policy engine compiles.
//!
//! ```text
//!        source                        conversion                       result
//!
//!  [ Folder ] -> [ manifest ] -+
//!    files        documents    |
//!                              +-> [ RawObject ] -> [ convert ] -> policy::Change -> [ Update ] -> agent
//!                              |                        |              ^                 ^
//!  [ Kubernetes ] -------------+                        +-> Flaw ------|-> [ Problem ] --+
//!    list and watch                                                    |
//!  [ cni ] --------------------------------------- addresses ----------+
//!    CNI result cache
//! ```
//!
//! - [`mod@manifest`]: splits YAML or JSON text into [`RawObject`]s, one at a time, and keeps only the fields
//!   that matter.
//! - [`mod@convert`]: converts a [`RawObject`] to a [`policy::Change`], one resource kind per file. Anything
//!   it can't understand never widens access; it is reported as a [`Flaw`] with the path of its field. This
//!   module is independent of files.
//! - [`source`]: the one type through which a consumer uses either source.
//! - [`folder`]: a folder of manifests as a source. It is read once and then watched with inotify.
//! - [`kubernetes`]: the Kubernetes API as a source. It is listed once and then watched; [`watch_status`]
//!   holds the state of each watch.
//! - [`cni`]: the CNI result cache, which has the addresses of this node's pods about a second earlier than
//!   the API server.
//! - [`checkpoint`]: the last known objects of a source on disk, for an agent that starts while the source is
//!   unavailable.
//! - [`namespaces`]: placeholders for namespaces that pods name and no object describes. Used by every
//!   source.
//! - [`interner`]: stores equal strings and equal label sets once. Used by every source.
//! - [`service`]: Services and their pods, for commands.
//! - [`workload`]: Deployments and other workloads of a folder as pods without addresses, and its Services,
//!   for commands that need no cluster.
//! - [`problem`]: what a source could not understand, for logs, metrics and people, and how much it has read.
//!
//! A source sends only deltas to its consumer. Applied in order, the changes of all updates give the current
//! state of the source. An object that did not change is not sent again.
#![forbid(unsafe_code)]

pub mod checkpoint;
pub mod cni;
pub mod convert;
mod delta;
pub mod error_chain;
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
pub mod service;
pub mod source;
mod stamp;
pub mod watch_status;
pub mod workload;

pub use checkpoint::{StateDir, StateStatus, WritePermit};
pub use cni::CniCache;
pub use convert::{Converted, FieldPath, Flaw, Kind, Step, Unusable, convert};
pub use folder::{Folder, FolderError};
pub use interner::Interner;
pub use kubernetes::{Access, Kubernetes, RefusedPolicy, Rollout};
pub use manifest::{FileContent, RawObject};
pub use problem::{CniPorts, Problem, ProblemLocation, ReadCounts, ResourceVersion, Update};
pub use source::{Source, SourceError, Watch};
pub use watch_status::{FailureClass, WatchState, WatchStatus, WatchStatuses};
pub use workload::{ContainerPort, Manifests, Place, Workload, WorkloadKind};
