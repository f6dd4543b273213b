//! Which workloads a policy selects.
//!
//! Labels that are unknown may be any (semantics 37), so a workload that might match counts as one that does:
//! what is reported as matching nothing matches nothing whatever they are.

use std::collections::BTreeMap;
use std::sync::Arc;

use cluster::{Manifests, Workload};
use policy::{Change, Labels, Match, Namespace, NamespaceMatch, Peer, PolicySpec, Selector, Subject};

/// The workloads and namespaces of a folder.
#[derive(Clone, Debug)]
pub struct Selection<'a> {
    namespaces: BTreeMap<&'a Arc<str>, &'a Namespace>,
    workloads: &'a [Workload],
}

impl<'a> Selection<'a> {
    /// Those of this folder.
    pub fn new(manifests: &'a Manifests) -> Self {
        let namespaces = manifests.changes.iter().filter_map(|change| match change {
            Change::Namespace(namespace) => Some((&namespace.name, namespace)),
            _ => None,
        });
        Self { namespaces: namespaces.collect(), workloads: &manifests.workloads }
    }

    /// The workloads with pods that both selectors match, hostNetwork pods included.
    fn matching(&self, namespaces: &NamespaceMatch, pods: &Selector) -> impl Iterator<Item = &'a Workload> {
        self.workloads.iter().filter(|workload| {
            let pod = &workload.pod;
            let namespace = self.namespace_matches(namespaces, &pod.name.namespace);
            namespace.min(pods.matches(&pod.labels)) != Match::No
        })
    }

    /// The workloads that these selectors select as peers or subjects. hostNetwork pods count as their nodes
    /// (semantics 20).
    pub fn pods(&self, namespaces: &NamespaceMatch, pods: &Selector) -> Vec<&'a Workload> {
        self.matching(namespaces, pods).filter(|workload| !workload.pod.host_network).collect()
    }

    /// Whether these selectors match pods, and ALL of these use their node's network.
    pub fn matches_only_host_network(&self, namespaces: &NamespaceMatch, pods: &Selector) -> bool {
        let mut matching = self.matching(namespaces, pods).peekable();
        matching.peek().is_some() && matching.all(|workload| workload.pod.host_network)
    }

    /// The subjects of a policy.
    pub fn subjects(&self, policy: &PolicySpec) -> Vec<&'a Workload> {
        let Subject { namespaces, pods } = &policy.subject;
        self.pods(namespaces, pods)
    }

    /// The workloads that a peer selects; `None` if it does not select pods.
    pub fn peers(&self, peer: &Peer) -> Option<Vec<&'a Workload>> {
        match peer {
            Peer::Pods { namespaces, pods } => Some(self.pods(namespaces, pods)),
            Peer::Block(_) | Peer::Nodes(_) | Peer::Nothing => None,
        }
    }

    /// Whether ANY workload is in a namespace that the selector matches.
    pub fn has_workloads_in(&self, namespaces: &NamespaceMatch) -> bool {
        self.workloads
            .iter()
            .any(|workload| self.namespace_matches(namespaces, &workload.pod.name.namespace) != Match::No)
    }

    fn namespace_matches(&self, selector: &NamespaceMatch, namespace: &Arc<str>) -> Match {
        match selector {
            NamespaceMatch::Named(name) => (name == namespace).into(),
            NamespaceMatch::Labels(selector) => match self.namespaces.get(namespace) {
                Some(known) => selector.matches_namespace(namespace, &known.labels),
                None => selector.matches_namespace(namespace, &Labels::unknown()),
            },
        }
    }
}
