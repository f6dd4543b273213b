//! What an update of the compiled state has changed: ipcache entries, subjects of policies, and pod CIDRs.
//!
//! From: [`Compiled`](crate::compiler::compiled::Compiled), which records each ipcache entry that it replaces
//! and each subject with policies that it changes. To: `Compiled::affected`.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::compiler::classes::Chosen;
use crate::compiler::compiled_selector::SelectorId;
use crate::snapshot::address::AddressKey;
use crate::snapshot::hosts::{Host, HostPod};
use crate::snapshot::ids::ClassId;

/// The changes of an update.
#[derive(Debug, Default)]
pub(crate) struct Diff {
    /// By address: the ipcache entry before the update.
    pub hosts: FxHashMap<AddressKey, HostBefore>,
    /// Subjects of policies that were added, changed or removed.
    pub subjects: FxHashSet<SelectorId>,
    /// Whether the pod CIDRs of this node or of the cluster changed. Then any address may have become that of
    /// an unknown pod.
    pub cidrs: bool,
}

/// The ipcache entry of an address before an update.
#[derive(Debug)]
pub(crate) struct HostBefore {
    pub host: Host,
    /// The subjects that select its pod, by the pod's identity and by its permissive identity.
    pub selected_by: [Option<Arc<[Chosen]>>; 2],
}

/// The identities of a pod: the strict one and the permissive one. They are equal if no labels are unknown.
pub(crate) type Views = [ClassId; 2];

impl Diff {
    /// Records the entry of an address before it is replaced. `selected_by` returns the subjects that select
    /// an identity.
    pub(crate) fn host(
        &mut self,
        key: AddressKey,
        before: Option<&Host>,
        selected_by: impl Fn(ClassId) -> Option<Arc<[Chosen]>>,
    ) {
        self.hosts.entry(key).or_insert_with(|| {
            let host = before.cloned().unwrap_or_default();
            let selected_by = match host.pod.as_ref().filter(|pod| pod.is_evaluated()) {
                Some(pod) => views(pod).map(selected_by),
                None => [None, None],
            };
            HostBefore { host, selected_by }
        });
    }

    /// Records that policies with these subjects changed.
    pub(crate) fn subjects(&mut self, changed: &FxHashSet<SelectorId>) {
        self.subjects.extend(changed);
    }
}

/// The identities of a pod.
pub(crate) fn views(pod: &HostPod) -> Views {
    [pod.class(), pod.hopeful_class()]
}
