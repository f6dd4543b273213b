//! What an update of the compiled state has changed: ipcache entries, subjects of policies, nodes, and pod
//! CIDRs.
//!
//! From: [`CompiledState`](crate::compiler::compiled_state::CompiledState), which records each ipcache entry
//! that it replaces and each subject with policies that it changes. To: `CompiledState::affected`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::compiler::compiled_selector::SelectorId;
use crate::compiler::identities::SubjectMatch;
use crate::snapshot::address::AddressKey;
use crate::snapshot::ids::IdentityId;
use crate::snapshot::ipcache::{IpCacheEntry, PodEntry};

/// The changes of an update.
#[derive(Debug, Default)]
pub(crate) struct Diff {
    /// By address: the ipcache entry before the update.
    pub entries: FxHashMap<AddressKey, EntryBefore>,
    /// Subjects of policies that were added, changed or removed.
    pub subjects: FxHashSet<SelectorId>,
    /// The addresses of nodes that policies select differently as peers, and the subjects of these policies.
    pub nodes: (BTreeSet<IpAddr>, FxHashSet<SelectorId>),
    /// Whether the pod CIDRs of this node or of the cluster changed. Then any address may have become that of
    /// an unknown pod.
    pub cidrs: bool,
}

/// The ipcache entry of an address before an update.
#[derive(Debug)]
pub(crate) struct EntryBefore {
    pub entry: IpCacheEntry,
    /// The subjects that select its pod, by the pod's identity and by its permissive identity.
    pub selected_by: [Option<Arc<[SubjectMatch]>>; 2],
}

/// The identities of a pod: the strict one and the permissive one. They are equal if no labels are unknown.
pub(crate) type IdentityPair = [IdentityId; 2];

impl Diff {
    /// Records the entry of an address before it is replaced. `selected_by` returns the subjects that select
    /// an identity.
    pub(crate) fn record_entry(
        &mut self,
        key: AddressKey,
        before: Option<&IpCacheEntry>,
        selected_by: impl Fn(IdentityId) -> Option<Arc<[SubjectMatch]>>,
    ) {
        self.entries.entry(key).or_insert_with(|| {
            let entry = before.cloned().unwrap_or_default();
            let selected_by = match entry.pod.as_ref().filter(|pod| pod.is_evaluated()) {
                Some(pod) => identity_pair(pod).map(selected_by),
                None => [None, None],
            };
            EntryBefore { entry, selected_by }
        });
    }

    /// Records that policies with these subjects select these addresses of nodes differently.
    pub(crate) fn record_nodes(&mut self, addresses: BTreeSet<IpAddr>, subjects: &FxHashSet<SelectorId>) {
        self.nodes.0.extend(addresses);
        self.nodes.1.extend(subjects);
    }

    /// Records that policies with these subjects changed.
    pub(crate) fn record_subjects(&mut self, changed: &FxHashSet<SelectorId>) {
        self.subjects.extend(changed);
    }
}

/// The identities of a pod.
pub(crate) fn identity_pair(pod: &PodEntry) -> IdentityPair {
    [pod.identity(), pod.permissive_identity()]
}
