//! The words that policies use. Labels, namespaces and ports that no policy mentions can't change a verdict, so pods are
//! classed by the mentioned ones alone: a unique label such as a pod's own name doesn't make a class of its own.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::inventory::{Namespace, Pod};
use crate::labels::{Labels, NAME_LABEL};
use crate::selector::{Requirement, Selector};
use crate::snapshot::ports::{ResolvedPort, ResolvedPorts};
use crate::spec::{NamespaceMatch, Peer, PolicySpec, PortNumbers};

/// Stands for every value that no policy mentions.
pub(crate) const OTHER_VALUE: u32 = 0;

/// Labels reduced to the vocabulary.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Facts {
    /// Numbers of keys and values, sorted by key.
    pub pairs: Box<[(u32, u32)]>,
    /// Whether a key that is not among `pairs` is missing; if not, whether it is there is unknown (semantics 37).
    pub are_known: bool,
}

/// A namespace reduced to the vocabulary.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct NamespaceFacts {
    /// Its name, if a policy mentions it.
    pub name: Option<u32>,
    pub labels: Facts,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Vocabulary {
    namespaces: FxHashMap<Arc<str>, u32>,
    namespace_labels: Keys,
    pod_labels: Keys,
    ports: FxHashMap<Arc<str>, u32>,
}

/// Keys and values of labels.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    keys: FxHashMap<Arc<str>, Key>,
}

#[derive(Debug)]
struct Key {
    number: u32,
    /// Numbered from 1 within the key: see [`OTHER_VALUE`].
    values: FxHashMap<Arc<str>, u32>,
}

/// Something that a policy mentions.
enum Mention<'a> {
    Namespace(&'a Arc<str>),
    NamespaceLabel(&'a Requirement),
    PodLabel(&'a Requirement),
    Port(&'a Arc<str>),
}

impl Vocabulary {
    /// Whether everything that the policy mentions is known.
    pub(crate) fn covers(&self, policy: &PolicySpec) -> bool {
        let mut covers = true;
        mentions(policy, &mut |mention| {
            covers &= match mention {
                Mention::Namespace(name) => self.namespaces.contains_key(name),
                Mention::NamespaceLabel(requirement) => self.namespace_labels.covers(requirement),
                Mention::PodLabel(requirement) => self.pod_labels.covers(requirement),
                Mention::Port(name) => self.ports.contains_key(name),
            };
        });
        covers
    }

    /// Adds everything that the policy mentions.
    pub(crate) fn learn(&mut self, policy: &PolicySpec) {
        mentions(policy, &mut |mention| match mention {
            Mention::Namespace(name) => drop(number_of(&mut self.namespaces, name, 0)),
            Mention::NamespaceLabel(requirement) => self.namespace_labels.learn(requirement),
            Mention::PodLabel(requirement) => self.pod_labels.learn(requirement),
            Mention::Port(name) => drop(number_of(&mut self.ports, name, 0)),
        });
    }

    /// The number of a mentioned namespace.
    pub(crate) fn namespace(&self, name: &str) -> Option<u32> {
        self.namespaces.get(name).copied()
    }

    /// The number of a mentioned port name.
    pub(crate) fn port(&self, name: &str) -> Option<u32> {
        self.ports.get(name).copied()
    }

    /// Keys and values of namespaces' labels.
    pub(crate) fn namespace_labels(&self) -> &Keys {
        &self.namespace_labels
    }

    /// Keys and values of pods' labels.
    pub(crate) fn pod_labels(&self) -> &Keys {
        &self.pod_labels
    }

    /// What policies can see of a namespace.
    pub(crate) fn namespace_facts(&self, namespace: &Namespace) -> NamespaceFacts {
        let known = || Labels::from_iter([(NAME_LABEL, Arc::clone(&namespace.name))]);
        let labels = if namespace.labels.are_known() {
            self.namespace_labels.facts(&namespace.labels)
        } else {
            // The label that follows from the name is known all the same (semantics 11, 37).
            let Facts { pairs, .. } = self.namespace_labels.facts(&known());
            Facts { are_known: pairs.len() == self.namespace_labels.keys.len(), pairs }
        };
        NamespaceFacts { name: self.namespace(&namespace.name), labels }
    }

    /// What policies can see of a pod's named ports (semantics 17 to 19).
    pub(crate) fn resolved_ports(&self, pod: &Pod) -> ResolvedPorts {
        if self.ports.is_empty() || pod.ports.is_empty() {
            return None;
        }
        let resolved: Vec<ResolvedPort> = pod
            .ports
            .iter()
            .filter_map(|port| {
                let name = self.port(&port.name)?;
                Some(ResolvedPort { protocol: port.protocol, number: port.number, name })
            })
            .collect();
        (!resolved.is_empty()).then(|| Arc::new(resolved))
    }
}

impl Keys {
    /// What policies can see of these labels. Unknown labels that no policy asks for are as good as known.
    pub(crate) fn facts(&self, labels: &Labels) -> Facts {
        let mut pairs: Vec<(u32, u32)> = labels
            .iter()
            .filter_map(|(key, value)| {
                let key = self.keys.get(key)?;
                Some((key.number, key.values.get(value).copied().unwrap_or(OTHER_VALUE)))
            })
            .collect();
        pairs.sort_unstable();
        Facts { pairs: pairs.into(), are_known: labels.are_known() || self.keys.is_empty() }
    }

    /// The number of a mentioned key.
    pub(crate) fn key(&self, key: &str) -> Option<u32> {
        self.keys.get(key).map(|key| key.number)
    }

    /// The number of a mentioned value of a key.
    pub(crate) fn value(&self, key: &str, value: &str) -> Option<u32> {
        self.keys.get(key)?.values.get(value).copied()
    }

    fn covers(&self, requirement: &Requirement) -> bool {
        let Some(key) = self.keys.get(requirement.key()) else { return false };
        values_of(requirement).iter().all(|value| key.values.contains_key(value))
    }

    fn learn(&mut self, requirement: &Requirement) {
        if !self.keys.contains_key(requirement.key()) {
            let number = self.keys.len() as u32;
            self.keys.insert(Arc::clone(requirement.key()), Key { number, values: FxHashMap::default() });
        }
        if let Some(key) = self.keys.get_mut(requirement.key()) {
            for value in values_of(requirement) {
                number_of(&mut key.values, value, OTHER_VALUE + 1);
            }
        }
    }
}

fn values_of(requirement: &Requirement) -> &[Arc<str>] {
    match requirement {
        Requirement::In(_, values) | Requirement::NotIn(_, values) => values,
        Requirement::Exists(_) | Requirement::DoesNotExist(_) => &[],
    }
}

/// The number of `word`, given now if it has none; numbers begin at `first`.
fn number_of(numbers: &mut FxHashMap<Arc<str>, u32>, word: &Arc<str>, first: u32) -> u32 {
    if let Some(number) = numbers.get(word) {
        return *number;
    }
    let number = first + numbers.len() as u32;
    numbers.insert(Arc::clone(word), number);
    number
}

fn mentions<'a>(policy: &'a PolicySpec, mention: &mut impl FnMut(Mention<'a>)) {
    mentions_of_pods(&policy.subject.namespaces, &policy.subject.pods, mention);
    for rule in policy.ingress.iter().chain(&policy.egress) {
        for peer in rule.peers.iter().flatten() {
            if let Peer::Pods { namespaces, pods } = peer {
                mentions_of_pods(namespaces, pods, mention);
            }
        }
        for port in rule.ports.iter().flatten() {
            if let PortNumbers::Named(name) = &port.numbers {
                mention(Mention::Port(name));
            }
        }
    }
}

fn mentions_of_pods<'a>(
    namespaces: &'a NamespaceMatch,
    pods: &'a Selector,
    mention: &mut impl FnMut(Mention<'a>),
) {
    match namespaces {
        NamespaceMatch::Named(name) => mention(Mention::Namespace(name)),
        NamespaceMatch::Labels(Selector::All(requirements)) => {
            requirements.iter().for_each(|requirement| mention(Mention::NamespaceLabel(requirement)));
        }
        NamespaceMatch::Labels(Selector::Nothing) => {}
    }
    if let Selector::All(requirements) = pods {
        requirements.iter().for_each(|requirement| mention(Mention::PodLabel(requirement)));
    }
}
