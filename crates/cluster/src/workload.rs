//! Workloads of a folder of manifests, for commands that need no cluster: what a Deployment or another
//! workload says about its future pods, and the Services in front of them.
//!
//! ```text
//!   files -> Folder::read -----------------------------------> changes, problems -+
//!     |                                                                           +-> [ Manifests ]
//!     +----> manifest::placed -> pod templates, Services -> [ template ], service -+
//! ```
//!
//! From: a folder or one file, such as a Git repository has. To: [`Manifests`]. A folder source for agents
//! ignores workloads, because their pods come with their own addresses.
//!
//! Invariant: a workload that can't be understood is a [`Problem`](crate::Problem), never left out
//! silently.

mod kind;
mod manifests;
mod place;
mod template;

use policy::{Pod, Protocol};

pub use self::kind::WorkloadKind;
pub use self::manifests::Manifests;
pub use self::place::Place;

/// A workload, or a pod that no workload in the folder creates.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Workload {
    /// Its kind.
    pub kind: WorkloadKind,
    /// A pod of it: the workload's namespace and name, and its template's labels and ports. Only a bare Pod
    /// can have addresses.
    pub pod: Pod,
    /// The ports of its containers and sidecars, with and without names, sorted.
    pub ports: Vec<ContainerPort>,
    /// Where it is defined.
    pub place: Place,
}

/// A port that a container declares.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ContainerPort {
    /// `protocol`.
    pub protocol: Protocol,
    /// `containerPort`.
    pub number: u16,
    /// `name`, if it has one.
    pub name: Option<String>,
}
