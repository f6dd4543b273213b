//! Classes of pods that no policy can tell apart as peers: same visible namespace, same visible labels.

use std::collections::HashSet;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::compiler::selectors::{LabelTest, NamespaceTest, Need, SelectorId, Test};
use crate::compiler::vocabulary::{Facts, NamespaceFacts, Vocabulary};
use crate::inventory::{Inventory, Namespace, Pod};
use crate::labels::{Labels, NAME_LABEL};
use crate::snapshot::ruleset::ClassId;

/// See the module. Numbers stay as they are until everything is compiled anew.
#[derive(Debug, Default)]
pub(crate) struct Classes {
    /// By namespace name: its place in `namespaces`, once somebody asked.
    namespace_of: FxHashMap<Arc<str>, u32>,
    namespace_ids: FxHashMap<NamespaceFacts, u32>,
    namespaces: Vec<NamespaceFacts>,
    ids: FxHashMap<(u32, Facts), ClassId>,
    list: Vec<Class>,
    /// How many of `list` have pods.
    inhabited: usize,
    /// How many addresses pods have.
    addresses: usize,
    /// Of all classes but `fresh`.
    index: ClassIndex,
    /// Classes made since [`Classes::settle`].
    fresh: Vec<ClassId>,
}

/// One class.
#[derive(Debug)]
pub(crate) struct Class {
    namespace: u32,
    labels: Facts,
    /// Addresses of its pods.
    pub addresses: u32,
    /// Those of them that the snapshot judges.
    pub judged: u32,
    /// The subjects of policies that choose it, sorted.
    pub subjects: Vec<SelectorId>,
    /// Under which subjects its rulesets are kept, once it has any.
    pub rulesets: Option<Arc<[SelectorId]>>,
}

impl Classes {
    /// The class of a pod.
    pub(crate) fn of_pod(&mut self, vocabulary: &Vocabulary, inventory: &Inventory, pod: &Pod) -> ClassId {
        let namespace = match self.namespace_of.get(&pod.name.namespace) {
            Some(namespace) => *namespace,
            None => self.learn_namespace(vocabulary, inventory, &pod.name.namespace),
        };
        let key = (namespace, vocabulary.pod_labels().facts(&pod.labels));
        if let Some(class) = self.ids.get(&key) {
            return *class;
        }
        let class = self.list.len() as ClassId;
        self.list.push(Class {
            namespace,
            labels: key.1.clone(),
            addresses: 0,
            judged: 0,
            subjects: Vec::new(),
            rulesets: None,
        });
        self.ids.insert(key, class);
        self.fresh.push(class);
        class
    }

    /// Takes note that a namespace changed. True if policies can see a difference, so that its pods need another class.
    pub(crate) fn namespace_changed(
        &mut self,
        vocabulary: &Vocabulary,
        inventory: &Inventory,
        name: &Arc<str>,
    ) -> bool {
        match self.namespace_of.get(name).copied() {
            None => false,
            Some(before) => self.learn_namespace(vocabulary, inventory, name) != before,
        }
    }

    fn learn_namespace(&mut self, vocabulary: &Vocabulary, inventory: &Inventory, name: &Arc<str>) -> u32 {
        let facts = match inventory.namespaces.get(name) {
            Some(namespace) => vocabulary.namespace_facts(namespace),
            // A namespace that is not known (yet) has the label that every namespace has (semantics 11).
            None => {
                let labels = Labels::from_iter([(NAME_LABEL, Arc::clone(name))]);
                vocabulary.namespace_facts(&Namespace { name: Arc::clone(name), labels })
            }
        };
        let id = match self.namespace_ids.get(&facts) {
            Some(id) => *id,
            None => {
                let id = self.namespaces.len() as u32;
                self.namespaces.push(facts.clone());
                self.namespace_ids.insert(facts, id);
                id
            }
        };
        self.namespace_of.insert(Arc::clone(name), id);
        id
    }

    /// Whether `test` chooses the pods of `class`.
    pub(crate) fn is_chosen(&self, class: ClassId, test: &Test) -> bool {
        let class = &self.list[class as usize];
        test.namespaces.holds(&self.namespaces[class.namespace as usize]) && test.pods.holds(&class.labels)
    }

    /// One class.
    pub(crate) fn get(&self, class: ClassId) -> &Class {
        &self.list[class as usize]
    }

    /// One class, to change its counts, subjects or rulesets.
    pub(crate) fn get_mut(&mut self, class: ClassId) -> &mut Class {
        &mut self.list[class as usize]
    }

    /// Counts an address of a pod of `class` in.
    pub(crate) fn count_in(&mut self, class: ClassId, judged: bool) {
        let class = &mut self.list[class as usize];
        self.inhabited += usize::from(class.addresses == 0);
        class.addresses += 1;
        self.addresses += 1;
        class.judged += u32::from(judged);
    }

    /// Counts an address of a pod of `class` out.
    pub(crate) fn count_out(&mut self, class: ClassId, judged: bool) {
        let class = &mut self.list[class as usize];
        class.addresses -= 1;
        self.addresses -= 1;
        class.judged -= u32::from(judged);
        self.inhabited -= usize::from(class.addresses == 0);
    }

    /// How many addresses pods have.
    pub(crate) fn addresses(&self) -> usize {
        self.addresses
    }

    /// How many classes there are, numbered from 0.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// How many classes have pods.
    pub(crate) fn inhabited(&self) -> usize {
        self.inhabited
    }

    /// Whether so few classes have pods that compiling anew saves memory.
    pub(crate) fn is_stale(&self) -> bool {
        self.list.len() > 2 * self.inhabited + 1024
    }

    /// All classes but those made since [`Classes::settle`].
    pub(crate) fn index(&self) -> &ClassIndex {
        &self.index
    }

    /// The classes made since [`Classes::settle`].
    pub(crate) fn fresh(&self) -> ClassIndex {
        let mut index = ClassIndex::default();
        self.fresh.iter().for_each(|class| index.add(*class, self));
        index
    }

    /// Takes the fresh classes into the index.
    pub(crate) fn settle(&mut self) {
        let mut index = std::mem::take(&mut self.index);
        std::mem::take(&mut self.fresh).into_iter().for_each(|class| index.add(class, self));
        self.index = index;
    }
}

/// Finds the few classes that a choice can possibly mean.
#[derive(Debug, Default)]
pub(crate) struct ClassIndex {
    all: Vec<ClassId>,
    by_namespace: FxHashMap<u32, Vec<ClassId>>,
    by_label: FxHashMap<(u32, u32), Vec<ClassId>>,
}

impl ClassIndex {
    fn add(&mut self, class: ClassId, classes: &Classes) {
        let Class { namespace, labels, .. } = classes.get(class);
        self.all.push(class);
        if let Some(name) = classes.namespaces[*namespace as usize].name {
            self.by_namespace.entry(name).or_default().push(class);
        }
        for label in labels {
            self.by_label.entry(*label).or_default().push(class);
        }
    }

    /// Whether there are no classes in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Classes among which are all that `test` chooses, each once.
    pub(crate) fn candidates(&self, test: &Test) -> impl Iterator<Item = ClassId> {
        let in_namespace = match &test.namespaces {
            NamespaceTest::Named(name) => Some(self.by_namespace.get(name).map_or(&[][..], Vec::as_slice)),
            NamespaceTest::Labels(_) => None,
        };
        let all = || in_namespace.unwrap_or(&self.all);
        let lists: Vec<&[ClassId]> = match &test.pods {
            LabelTest::Nothing => Vec::new(),
            // ANY of the values of one requirement: no class is in two of their lists, for a key has one value.
            LabelTest::All(needs) => {
                let by_label = needs.iter().find_map(|need| match need {
                    Need::In(key, values) => Some(self.with_values(*key, values)),
                    _ => None,
                });
                match by_label {
                    Some(lists) if lists.iter().map(|list| list.len()).sum::<usize>() < all().len() => lists,
                    _ => vec![all()],
                }
            }
        };
        lists.into_iter().flatten().copied()
    }

    fn with_values(&self, key: u32, values: &[u32]) -> Vec<&[ClassId]> {
        let distinct: FxHashSet<u32> = HashSet::from_iter(values.iter().copied());
        distinct.into_iter().filter_map(|value| self.by_label.get(&(key, value)).map(Vec::as_slice)).collect()
    }
}
