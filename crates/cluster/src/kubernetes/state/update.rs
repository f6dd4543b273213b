//! The updates for the consumer.

use std::sync::Arc;

use policy::{Change, Labels, PolicyName};

use super::State;
use super::closed_policy::published;
use crate::key::Key;
use crate::problem::{CniPorts, ReadCounts, ResourceVersion, Update};

impl State {
    /// The update since the last one; `None` if nothing differs, or not everything is known yet.
    pub(crate) fn update(&mut self) -> Option<Update> {
        if self.is_discovered && self.lists.values().all(|list| list.is_known) {
            self.restored = None;
        } else if self.restored.is_none_or(|standby| !standby.is_released) {
            return None;
        }
        self.settle();
        self.settle_rules();
        let objects = &self.objects;
        let closed = self.are_nodes_unlisted;
        let changes = self.delta.take(|key| objects.get(key).map(|change| published(change, closed)));
        self.sweep_interner();
        let new_problems = self.problems.report();
        let versions: Vec<_> = std::mem::take(&mut self.reported_versions)
            .into_iter()
            .map(|(name, reported)| (self.versions.get(&name).cloned(), reported, name))
            .filter(|(version, reported, _)| version != reported)
            .map(|(version, _, name)| (name, version))
            .collect();
        let uid = |(name, _): &(PolicyName, Option<ResourceVersion>)| {
            Some((name.clone(), Arc::from(&**self.uids.get(&Key::Policy(name.clone()))?)))
        };
        let uids = versions.iter().filter_map(uid).collect();
        let is_first = !std::mem::replace(&mut self.begun, true);
        let cni_ports = self.new_cni_ports();
        let restored = self.restored.map(|standby| standby.saved);
        let is_other = std::mem::replace(&mut self.reported_restored, restored) != restored;
        let is_changed =
            is_other || new_problems || cni_ports.is_some() || !changes.is_empty() || !versions.is_empty();
        (is_first || is_changed).then(|| Update {
            changes,
            problems: self.problems.reported(),
            read: self.count(),
            versions,
            uids,
            cni_ports,
            restored,
            never_understood: Vec::new(),
        })
    }

    /// The interfaces from the CNI results, if they differ from the last update. If several files name an
    /// interface, the newest file counts.
    fn new_cni_ports(&mut self) -> Option<CniPorts> {
        if !std::mem::take(&mut self.cni_results_changed) {
            return None;
        }
        let results = self.cni_results.iter();
        let named =
            results.filter_map(|result| Some((result.host_interface.clone()?, result.addresses.clone())));
        let ports = CniPorts::new(named.collect());
        (ports != self.cni_ports).then(|| {
            self.cni_ports = Arc::clone(&ports);
            ports
        })
    }

    /// Counts the objects.
    fn count(&self) -> ReadCounts {
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let (objects, policies) = (number(self.objects.len()), number(self.versions.len()));
        ReadCounts { objects, policies, ..ReadCounts::default() }
    }

    /// Drops labels and strings that no object has any more, once there are many.
    pub(super) fn sweep_interner(&self) {
        if self.interner.wants_sweep() {
            self.interner.sweep(self.labels());
        }
    }

    /// The label sets in use.
    fn labels(&self) -> impl Iterator<Item = &Labels> {
        let own = self.objects.values().filter_map(|change| match change {
            Change::Pod(pod) => Some(&pod.labels),
            Change::Node(node) => Some(&node.labels),
            Change::Namespace(namespace) => Some(&namespace.labels),
            _ => None,
        });
        own.chain(self.delta.labels())
    }
}
