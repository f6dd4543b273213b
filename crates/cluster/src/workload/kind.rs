//! The kinds of workloads.

use std::fmt;

/// A kind of object that has a pod template, or is a pod.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum WorkloadKind {
    /// `batch/v1`.
    CronJob,
    /// `apps/v1`.
    DaemonSet,
    /// `apps/v1`.
    Deployment,
    /// `batch/v1`.
    Job,
    /// `v1`.
    Pod,
    /// `apps/v1`.
    ReplicaSet,
    /// `v1`.
    ReplicationController,
    /// `apps/v1`.
    StatefulSet,
}

impl WorkloadKind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::CronJob,
        Self::DaemonSet,
        Self::Deployment,
        Self::Job,
        Self::Pod,
        Self::ReplicaSet,
        Self::ReplicationController,
        Self::StatefulSet,
    ];

    /// The `kind` of its objects.
    pub fn name(self) -> &'static str {
        match self {
            Self::CronJob => "CronJob",
            Self::DaemonSet => "DaemonSet",
            Self::Deployment => "Deployment",
            Self::Job => "Job",
            Self::Pod => "Pod",
            Self::ReplicaSet => "ReplicaSet",
            Self::ReplicationController => "ReplicationController",
            Self::StatefulSet => "StatefulSet",
        }
    }

    /// The kind with this `apiVersion` and `kind`. The version within the group does not matter: the pod
    /// template has been in the same field in all of them.
    pub fn of(api_version: &str, kind: &str) -> Option<Self> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        Self::ALL.into_iter().find(|known| known.name() == kind && known.group() == group)
    }

    /// Whether an object of this kind can have several pods at the same time.
    pub fn has_several_pods(self) -> bool {
        self != Self::Pod
    }

    fn group(self) -> &'static str {
        match self {
            Self::CronJob | Self::Job => "batch",
            Self::DaemonSet | Self::Deployment | Self::ReplicaSet | Self::StatefulSet => "apps",
            Self::Pod | Self::ReplicationController => "",
        }
    }

    /// The path of the pod template; empty for a pod, which is its own.
    pub(super) fn template(self) -> &'static [&'static str] {
        match self {
            Self::Pod => &[],
            Self::CronJob => &["spec", "jobTemplate", "spec", "template"],
            _ => &["spec", "template"],
        }
    }
}

impl fmt::Display for WorkloadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
