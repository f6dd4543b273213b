//! The Kubernetes API as a source of Namespaces, Nodes, Pods and policies.
//!
//! ```text
//!   API server -> [ watcher ] one for each kind -> WatcherEvent --+
//!                 [ reread ]  single objects ----------- Object --+-> [ state ] -> Update -> agent
//!                 [ discovery ] kinds not enforced --- sentence --+        |
//!   CNI cache  -> [ cni ] ------------------------ CachedResult --+        +-> [ report ] -> Event on object
//! ```
//!
//! Each kind is listed once and then watched. The first update is sent when the first list of every kind is
//! complete. While the API server is unreachable, the last known objects stay in force. When it is reachable
//! again, objects that were deleted in the meantime are found, so nothing is missed. A burst of changes
//! becomes one update; a single change is published within some milliseconds.
//!
//! Cluster-wide policies are kinds that a CustomResourceDefinition defines. A kind that the API server does
//! not have has no objects, and is looked for now and then. One that may not be read is reported and not
//! waited for.

mod clients;
mod configuration;
mod discovery;
mod error;
mod failure;
mod object;
mod refused_policy;
mod report;
mod reread;
mod review;
mod rollout;
mod runtime;
mod source;
mod state;
mod timeouts;
mod watcher;
mod watcher_event;

pub(crate) use self::clients::Clients;
pub use self::configuration::{Access, AccessError, UnusableKubeconfig};
pub use self::error::KubernetesError;
pub use self::refused_policy::RefusedPolicy;
pub use self::review::{Permission, Review};
pub use self::rollout::Rollout;
pub(crate) use self::runtime::runtime;
pub use self::source::{Kubernetes, Watching};
pub use self::timeouts::Timeouts;
