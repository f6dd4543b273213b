//! The symbols that policies refer to: label keys and values, names of namespaces, and names of ports. What
//! no policy refers to cannot change a verdict, so pods get identities by symbols only: a unique label such
//! as a pod's own name does not create an identity.
//!
//! Symbols are valid until the next full rebuild. A policy's new symbols affect only the pods and namespaces
//! that have them.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::inventory::{Namespace, Pod};
use crate::labels::{Labels, NAME_LABEL};
use crate::selector::{Requirement, Selector};
use crate::snapshot::ids::number_of;
use crate::snapshot::ports::{PortSymbol, ResolvedPort};
use crate::spec::{NamespaceMatch, Peer, PolicySpec, PortNumbers};

/// The symbol of a namespace's name, numbered from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct NameSymbol(u32);

/// The symbol of a label key, numbered from 0. Keys of namespace labels and of pod labels are numbered
/// separately.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct KeySymbol(u32);

/// The symbol of a value of one label key, numbered from 1 within the key; or [`OTHER_VALUE`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct ValueSymbol(u32);

/// The symbol of all values that no policy refers to.
const OTHER_VALUE: ValueSymbol = ValueSymbol(0);

/// Labels reduced to symbols.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct LabelSet {
    /// Symbols of keys and values, sorted by key.
    pub pairs: Box<[(KeySymbol, ValueSymbol)]>,
    /// If true, keys that are not among `pairs` are missing; if false, it is unknown whether they exist
    /// (semantics 37).
    pub are_known: bool,
}

/// A namespace reduced to symbols.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct NamespaceSymbols {
    /// Its name, if a policy refers to it.
    pub name: Option<NameSymbol>,
    pub labels: LabelSet,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct SymbolTable {
    namespaces: FxHashMap<Arc<str>, NameSymbol>,
    namespace_labels: LabelInterner,
    pod_labels: LabelInterner,
    ports: FxHashMap<Arc<str>, PortSymbol>,
    symbol_count: usize,
}

/// Symbols of label keys and values.
#[derive(Debug, Default)]
pub(crate) struct LabelInterner {
    keys: FxHashMap<Arc<str>, Key>,
}

/// Symbols that are new with a policy.
#[derive(Debug, Default)]
pub(crate) struct NewSymbols {
    /// The number of new namespace names, and of new keys and values of namespace labels.
    namespaces: usize,
    pod_labels: NewLabels,
    ports: FxHashSet<Arc<str>>,
}

/// Label keys and values that are new with a policy.
#[derive(Debug, Default)]
struct NewLabels {
    keys: FxHashSet<Arc<str>>,
    /// By key.
    values: FxHashMap<Arc<str>, FxHashSet<Arc<str>>>,
}

#[derive(Debug)]
struct Key {
    symbol: KeySymbol,
    values: FxHashMap<Arc<str>, ValueSymbol>,
}

/// Something that a policy refers to.
enum Mention<'a> {
    Namespace(&'a Arc<str>),
    NamespaceLabel(&'a Requirement),
    PodLabel(&'a Requirement),
    Port(&'a Arc<str>),
}

impl ValueSymbol {
    /// The symbol of the value with this many values of its key before it.
    fn numbered(before: u32) -> Self {
        Self(OTHER_VALUE.0 + 1 + before)
    }
}

impl SymbolTable {
    /// Interns everything that the policy refers to, and adds new symbols to `new`.
    pub(crate) fn intern(&mut self, policy: &PolicySpec, new: &mut NewSymbols) {
        let before = new.len();
        mentions(policy, &mut |mention| match mention {
            Mention::Namespace(name) => {
                new.namespaces += usize::from(intern(&mut self.namespaces, name, NameSymbol));
            }
            Mention::NamespaceLabel(requirement) => {
                let mut labels = NewLabels::default();
                self.namespace_labels.intern(requirement, &mut labels);
                new.namespaces += labels.len();
            }
            Mention::PodLabel(requirement) => self.pod_labels.intern(requirement, &mut new.pod_labels),
            Mention::Port(name) => {
                if intern(&mut self.ports, name, PortSymbol) {
                    new.ports.insert(Arc::clone(name));
                }
            }
        });
        self.symbol_count += new.len() - before;
    }

    /// The number of symbols.
    pub(crate) fn symbol_count(&self) -> usize {
        self.symbol_count
    }

    /// The symbol of a namespace's name.
    pub(crate) fn namespace(&self, name: &str) -> Option<NameSymbol> {
        self.namespaces.get(name).copied()
    }

    /// The symbol of a port name.
    pub(crate) fn port(&self, name: &str) -> Option<PortSymbol> {
        self.ports.get(name).copied()
    }

    /// The symbols of namespace labels.
    pub(crate) fn namespace_labels(&self) -> &LabelInterner {
        &self.namespace_labels
    }

    /// The symbols of pod labels.
    pub(crate) fn pod_labels(&self) -> &LabelInterner {
        &self.pod_labels
    }

    /// A namespace as policies see it.
    pub(crate) fn namespace_symbols(&self, namespace: &Namespace) -> NamespaceSymbols {
        let known = || Labels::from_iter([(NAME_LABEL, Arc::clone(&namespace.name))]);
        let labels = if namespace.labels.are_known() {
            self.namespace_labels.label_set(&namespace.labels)
        } else {
            // The label with the name is known even then (semantics 11, 37).
            let LabelSet { pairs, .. } = self.namespace_labels.label_set(&known());
            LabelSet { are_known: pairs.len() == self.namespace_labels.keys.len(), pairs }
        };
        NamespaceSymbols { name: self.namespace(&namespace.name), labels }
    }

    /// A pod's named ports as policies see them (semantics 17 to 19).
    pub(crate) fn resolved_ports(&self, pod: &Pod) -> Option<Vec<ResolvedPort>> {
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
        (!resolved.is_empty()).then_some(resolved)
    }
}

impl LabelInterner {
    /// Labels as policies see them. Unknown labels count as known if policies refer to no labels.
    pub(crate) fn label_set(&self, labels: &Labels) -> LabelSet {
        let mut pairs: Vec<(KeySymbol, ValueSymbol)> = labels
            .iter()
            .filter_map(|(key, value)| {
                let key = self.keys.get(key)?;
                Some((key.symbol, key.values.get(value).copied().unwrap_or(OTHER_VALUE)))
            })
            .collect();
        pairs.sort_unstable();
        LabelSet { pairs: pairs.into(), are_known: labels.are_known() || self.keys.is_empty() }
    }

    /// The symbol of a key.
    pub(crate) fn key(&self, key: &str) -> Option<KeySymbol> {
        self.keys.get(key).map(|key| key.symbol)
    }

    /// The symbol of a value of a key.
    pub(crate) fn value(&self, key: &str, value: &str) -> Option<ValueSymbol> {
        self.keys.get(key)?.values.get(value).copied()
    }

    fn intern(&mut self, requirement: &Requirement, new: &mut NewLabels) {
        let name = requirement.key();
        if !self.keys.contains_key(name) {
            let symbol = KeySymbol(number_of(self.keys.len()));
            self.keys.insert(Arc::clone(name), Key { symbol, values: FxHashMap::default() });
            new.keys.insert(Arc::clone(name));
        }
        let Some(key) = self.keys.get_mut(name) else { return };
        for value in values_of(requirement) {
            if intern(&mut key.values, value, ValueSymbol::numbered) {
                new.values.entry(Arc::clone(name)).or_default().insert(Arc::clone(value));
            }
        }
    }
}

impl NewSymbols {
    /// The number of new symbols.
    fn len(&self) -> usize {
        self.namespaces + self.pod_labels.len() + self.ports.len()
    }

    /// Whether policies may see ANY namespace differently now.
    pub(crate) fn affects_namespaces(&self) -> bool {
        self.namespaces > 0
    }

    /// Whether policies may see ANY pod differently now.
    pub(crate) fn affects_pods(&self) -> bool {
        self.pod_labels.len() + self.ports.len() > 0
    }

    /// Whether policies may see this pod differently now, by ANY of its labels or ports.
    pub(crate) fn affects(&self, pod: &Pod) -> bool {
        let NewLabels { keys, values } = &self.pod_labels;
        let is_new = |(key, value): (&str, &str)| {
            keys.contains(key) || values.get(key).is_some_and(|values| values.contains(value))
        };
        !pod.labels.are_known() && !keys.is_empty()
            || pod.labels.iter().any(is_new)
            || pod.ports.iter().any(|port| self.ports.contains(&port.name))
    }
}

impl NewLabels {
    fn len(&self) -> usize {
        self.keys.len() + self.values.values().map(FxHashSet::len).sum::<usize>()
    }
}

fn values_of(requirement: &Requirement) -> &[Arc<str>] {
    match requirement {
        Requirement::In(_, values) | Requirement::NotIn(_, values) => values,
        Requirement::Exists(_) | Requirement::DoesNotExist(_) => &[],
    }
}

/// Interns a text; `symbol` makes the symbol from the number of texts before it. Returns whether it is new.
fn intern<S>(symbols: &mut FxHashMap<Arc<str>, S>, text: &Arc<str>, symbol: impl Fn(u32) -> S) -> bool {
    let is_new = !symbols.contains_key(text);
    if is_new {
        let symbol = symbol(number_of(symbols.len()));
        symbols.insert(Arc::clone(text), symbol);
    }
    is_new
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
