//! The state on disk before and while the API server answers.
//!
//! Invariant: the objects of each kind stand until the first complete list of that kind, or until it may not be listed; and the consumer has none of them before
//! [`State::release`].

use std::sync::Arc;
use std::time::SystemTime;

use imbl::OrdMap;
use policy::{Change, PodName};

use super::State;
use crate::checkpoint::Checkpoint;
use crate::cni::LocalPod;
use crate::convert::Kind;
use crate::key::Key;
use crate::problem::{Origin, Problem, ResourceVersion};

/// The state on disk, as long as it stands in for lists that are not complete.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standby {
    /// When it was written.
    pub saved: SystemTime,
    /// Whether the consumer may have it: the API server had its chance to answer first.
    pub is_released: bool,
}

impl State {
    /// Takes in the objects of the state on disk, before anything else. They stand until the first complete list of their kind.
    pub fn restore(&mut self, objects: OrdMap<Key, Change>, finished: Vec<PodName>, saved: SystemTime) {
        for (key, change) in &objects {
            self.differences.touch(key, || None);
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

    /// The API server has had its chance: the next update has the state on disk.
    pub fn release(&mut self) {
        if let Some(standby) = &mut self.restored {
            standby.is_released = true;
        }
    }

    /// Whether the state on disk waits for [`State::release`].
    pub fn is_held_back(&self) -> bool {
        self.restored.is_some_and(|standby| !standby.is_released)
    }

    /// Nodes may not be listed. Of those on disk the agent's own stands, and is named: without its pod CIDRs nothing would be enforced. Those
    /// of others are dropped: an address may be another machine's by now, and must not count as a node's.
    pub(super) fn without_nodes(&mut self) {
        if std::mem::replace(&mut self.list(Kind::Node).is_known, true) {
            return;
        }
        let own = Key::Node(Arc::clone(&self.node));
        let nodes: Vec<Key> = self.objects.keys().filter(|key| key.kind() == Kind::Node).cloned().collect();
        for key in &nodes {
            if *key != own {
                self.remove(key);
                continue;
            }
            let resource_version: ResourceVersion = "".into();
            let problem = Problem {
                origin: Origin::Api { resource_version: Arc::clone(&resource_version) },
                object: Some(key.to_string()),
                what: "Nodes may not be listed, and it is known from the state on disk alone".into(),
                effect: "its addresses and pod CIDRs are those of that time: allow the agent to list Nodes, or give --pod-cidr".into(),
            };
            self.problems.set(key, &resource_version, vec![problem]);
        }
    }

    /// What is known now, for the state on disk; `None` if that is what it says already.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        let finished = || self.local.finished().cloned().collect();
        let is_news = self.lists.values().any(|list| list.is_known);
        is_news.then(|| Checkpoint::Kubernetes { objects: self.objects.clone(), finished: finished() })
    }
}
