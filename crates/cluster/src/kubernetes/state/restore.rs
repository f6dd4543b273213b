//! Restores the state on disk before the API server answers, and replaces it afterwards.
//!
//! Invariant: the restored objects of each kind stay until the first complete list of that kind, or until the
//! kind turns out to be unavailable. The consumer gets none of them before [`State::release`].

use std::sync::Arc;
use std::time::SystemTime;

use imbl::OrdMap;
use policy::{Change, PodName};

use super::State;
use super::standby::Standby;
use crate::checkpoint::Checkpoint;
use crate::cni::LocalPod;
use crate::convert::Kind;
use crate::key::Key;
use crate::problem::{Problem, ProblemLocation, ResourceVersion};

impl State {
    /// Restores the objects of the state on disk. Must be called before anything else. They stay until the
    /// first complete list of their kind.
    pub(crate) fn restore(
        &mut self,
        objects: OrdMap<Key, Change>,
        finished: Vec<PodName>,
        saved: SystemTime,
    ) {
        for (key, change) in &objects {
            self.delta.record_before(key, || None);
            if let Change::Policy(policy) = change {
                self.rule_budget.enter(&policy.name, policy.cost());
            }
            if let Change::Pod(pod) = change
                && !pod.host_network
                && pod.node.as_ref() == Some(&self.node)
            {
                let finished = finished.contains(&pod.name);
                let local = LocalPod { uid: pod.uid, finished, reported: pod.addresses.clone() };
                self.unsettled |= self.local.put(&pod.name, local);
            }
        }
        self.objects = objects;
        self.restored = Some(Standby { saved, is_released: false });
    }

    /// The API server has had its chance, so the next update has the state on disk.
    pub(crate) fn release(&mut self) {
        if let Some(standby) = &mut self.restored {
            standby.is_released = true;
        }
    }

    /// Whether the state on disk waits for [`State::release`].
    pub(crate) fn is_held_back(&self) -> bool {
        self.restored.is_some_and(|standby| !standby.is_released)
    }

    /// Handles that Nodes may not be listed: rules that deny or pass nodes deny every destination. Of the
    /// restored Nodes, the agent's own is kept and reported, because without its pod CIDRs nothing would be
    /// enforced. The other Nodes are dropped: their addresses may be other machines' by now, and must not
    /// count as a node's.
    pub(super) fn without_nodes(&mut self) {
        if std::mem::replace(&mut self.list(Kind::Node).is_known, true) {
            return;
        }
        self.set_nodes_unlisted(true);
        let own = Key::Node(Arc::clone(&self.node));
        let nodes: Vec<Key> = self.objects.keys().filter(|key| key.kind() == Kind::Node).cloned().collect();
        for key in &nodes {
            if *key != own {
                self.remove(key);
                continue;
            }
            let resource_version: ResourceVersion = "".into();
            let problem = Problem {
                location: ProblemLocation::Api { resource_version: Arc::clone(&resource_version) },
                object: Some(key.to_string()),
                what: "Nodes may not be listed, and this one is known only from the state on disk".into(),
                effect:
                    "its addresses and pod CIDRs are those of that time: allow the agent to list Nodes, or \
                         give --pod-cidr"
                        .into(),
            };
            self.problems.set(key, &resource_version, vec![problem]);
        }
    }

    /// Handles that cluster-wide policies of a kind may not be listed. Policies from the state on disk stay
    /// in force, since an administrator may have wanted what they deny.
    pub(super) fn without_permission(&mut self, kind: Kind) {
        if std::mem::replace(&mut self.list(kind).is_known, true) {
            return;
        }
        let restored: Vec<Key> = self.objects.keys().filter(|key| key.kind() == kind).cloned().collect();
        for key in &restored {
            let resource_version: ResourceVersion = "".into();
            let problem = Problem {
                location: ProblemLocation::Api { resource_version: Arc::clone(&resource_version) },
                object: Some(key.to_string()),
                what: format!(
                    "{} may not be listed, and this object is known only from the state on disk",
                    kind.plural()
                ),
                effect: "its rules are those of that time: allow the agent to list and watch these objects"
                    .into(),
            };
            self.problems.set(key, &resource_version, vec![problem]);
        }
    }

    /// The current objects for the state on disk; `None` if they are still those on disk.
    pub(crate) fn checkpoint(&self) -> Option<Checkpoint> {
        let finished = || self.local.finished().cloned().collect();
        let is_newer = self.lists.values().any(|list| list.is_known);
        is_newer.then(|| Checkpoint::Kubernetes { objects: self.objects.clone(), finished: finished() })
    }
}
