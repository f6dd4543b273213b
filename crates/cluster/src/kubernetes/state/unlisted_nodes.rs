//! Policies that select nodes while Nodes may not be listed: they are closed (`closed_policy`) and reported.

use std::sync::Arc;

use super::closed_policy::{closed, is_of_nodes};
use super::{ObjectWarning, Reason, State};
use crate::convert::Kind;
use crate::key::Key;
use crate::problem::{Problem, ProblemLocation};

/// Why such rules are closed.
const WHAT: &str = "it selects nodes, and Nodes may not be listed: allow the agent to list and watch them";
/// The effect if some rules deny or pass.
const CLOSED: &str = "its rules that deny or pass nodes deny every destination, and those that accept nodes \
                      match this node only";
/// The effect if all rules accept.
const NARROW: &str = "its rules that accept nodes match this node only";

impl State {
    /// Sets whether Nodes may not be listed.
    pub(super) fn set_nodes_unlisted(&mut self, are_unlisted: bool) {
        if self.are_nodes_unlisted == are_unlisted {
            return;
        }
        let selecting = self.objects.iter().filter(|(_, change)| is_of_nodes(change));
        let policies: Vec<Key> = selecting.map(|(key, _)| key.clone()).collect();
        policies.iter().for_each(|key| self.record_before(key));
        self.are_nodes_unlisted = are_unlisted;
        policies.iter().for_each(|key| self.check_nodes(key.kind(), key));
    }

    /// Sets or removes the problem of an object that may be a policy that selects nodes. Its author gets an
    /// Event.
    pub(super) fn check_nodes(&mut self, kind: Kind, key: &Key) {
        let Key::Policy(name) = key else { return };
        let change = self.objects.get(key).filter(|change| self.are_nodes_unlisted && is_of_nodes(change));
        let Some(change) = change else {
            self.problems.set_of_nodes(key, None);
            return;
        };
        let effect = if closed(change).is_some() { CLOSED } else { NARROW };
        let resource_version = self.versions.get(name).cloned().unwrap_or_else(|| "".into());
        let problem = Problem {
            location: ProblemLocation::Api { resource_version: Arc::clone(&resource_version) },
            object: Some(key.to_string()),
            what: WHAT.into(),
            effect: effect.into(),
        };
        // A policy from the state on disk has no version. It gets its Event when it is listed.
        if self.problems.set_of_nodes(key, Some(problem)) && !resource_version.is_empty() {
            self.warnings.push(ObjectWarning {
                reason: Reason::UnlistedNodes,
                kind,
                namespace: name.namespace.to_string(),
                name: name.name.to_string(),
                uid: self.uids.get(key).map(|uid| uid.to_string()).unwrap_or_default(),
                resource_version,
                message: format!("{WHAT}; {effect}"),
            });
        }
    }
}
