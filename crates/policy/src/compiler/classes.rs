//! Identities: pods with the same label sets, reduced to what policies refer to, so that no policy
//! distinguishes them as peers. The term is Cilium's.
//!
//! If policies refer to unknown labels of a pod, it has two consecutive identities (semantics 37). In the
//! first, [`View::Strict`], no rule allows what the labels might deny. In the second, [`View::Permissive`],
//! no rule denies what the labels might allow. The first yields the verdict; the second, whether a denial is
//! provisional.

use std::ops::RangeInclusive;
use std::sync::Arc;

use roaring::RoaringBitmap;
use rustc_hash::FxHashMap;

use crate::compiler::compiled_selector::{LabelTest, NamespaceTest, Need, SelectorId, Test};
use crate::compiler::vocabulary::{Facts, NamespaceFacts, Vocabulary};
use crate::inventory::{Inventory, Namespace, Pod};
use crate::labels::Labels;
use crate::selector::Match;
use crate::snapshot::ids::ClassId;

/// See the module. Ids are valid until the next full rebuild.
#[derive(Debug, Default)]
pub(crate) struct Classes {
    /// By namespace name: its index in `namespaces`, once a pod of it was looked up.
    namespace_of: FxHashMap<Arc<str>, u32>,
    namespace_ids: FxHashMap<NamespaceFacts, u32>,
    namespaces: Vec<NamespaceFacts>,
    ids: FxHashMap<(u32, Facts), ClassId>,
    list: Vec<Class>,
    /// The number of identities in `list` that have pods.
    inhabited: usize,
    /// The number of addresses of pods with unknown labels that policies refer to.
    unsure_addresses: usize,
    /// The number of addresses of pods.
    addresses: usize,
    /// All identities but `fresh`.
    index: ClassIndex,
    /// Identities created since the last [`Classes::settle`].
    fresh: Vec<ClassId>,
}

/// How the unknown labels of an identity are interpreted: see the module.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum View {
    /// No labels that policies refer to are unknown.
    Known,
    /// Allows nothing that the labels might deny.
    Cautious,
    /// Denies nothing that the labels might allow. This identity follows the strict one.
    Hopeful,
}

/// A subject of policies that selects an identity, or might.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Chosen {
    pub by: SelectorId,
    /// [`View::Known`] if it certainly does, else the view of the identity.
    pub view: View,
}

/// One identity.
#[derive(Debug)]
pub(crate) struct Class {
    namespace: u32,
    labels: Facts,
    pub view: View,
    /// Addresses of its pods.
    pub addresses: u32,
    /// Addresses of its pods that the snapshot evaluates.
    pub evaluated: u32,
    /// The subjects of policies that select it, or might, sorted. `None` if it has no evaluated pods.
    pub subjects: Option<Vec<Chosen>>,
    /// The key of its cached rulesets, once it has any.
    pub rulesets: Option<Arc<[Chosen]>>,
}

impl Class {
    /// The subjects of policies that select it, or might; empty if it has no evaluated pods.
    pub(crate) fn subjects(&self) -> &[Chosen] {
        self.subjects.as_deref().unwrap_or_default()
    }
}

impl Classes {
    /// The identity of a pod; the strict one if it has two.
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
        let are_known = key.1.are_known && self.namespaces[namespace as usize].labels.are_known;
        let views: &[View] = if are_known { &[View::Known] } else { &[View::Cautious, View::Hopeful] };
        for view in views {
            self.fresh.push(self.list.len() as ClassId);
            self.list.push(Class {
                namespace,
                labels: key.1.clone(),
                view: *view,
                addresses: 0,
                evaluated: 0,
                subjects: None,
                rulesets: None,
            });
        }
        self.ids.insert(key, class);
        class
    }

    /// All identities of the pods of an identity: itself, and the permissive one if it is strict.
    pub(crate) fn views(&self, class: ClassId) -> RangeInclusive<ClassId> {
        class..=class + ClassId::from(self.is_provisional(class))
    }

    /// Whether policies refer to unknown labels of the identity's pods. Then the next identity is the
    /// permissive one.
    pub(crate) fn is_provisional(&self, class: ClassId) -> bool {
        self.list[class as usize].view == View::Cautious
    }

    /// Updates a namespace. Returns whether policies see a difference, so that its pods need another
    /// identity.
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
            // The namespace is not known (yet), and so are its labels (semantics 37).
            None => {
                vocabulary.namespace_facts(&Namespace { name: Arc::clone(name), labels: Labels::unknown() })
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

    /// The namespaces with a pod that was looked up.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &Arc<str>> {
        self.namespace_of.keys()
    }

    /// Whether `selector` matches `identity`: BOTH of its parts must.
    pub(crate) fn is_chosen(&self, class: ClassId, test: &Test) -> Match {
        let class = &self.list[class as usize];
        let namespace = test.namespaces.holds(&self.namespaces[class.namespace as usize]);
        if namespace == Match::No { namespace } else { namespace.min(test.pods.holds(&class.labels)) }
    }

    /// One identity.
    pub(crate) fn get(&self, class: ClassId) -> &Class {
        &self.list[class as usize]
    }

    /// One identity, for changing its counts, subjects or rulesets.
    pub(crate) fn get_mut(&mut self, class: ClassId) -> &mut Class {
        &mut self.list[class as usize]
    }

    /// Adds an address to the counts of `identity`.
    pub(crate) fn count_in(&mut self, class: ClassId, evaluated: bool) {
        self.addresses += 1;
        self.unsure_addresses += usize::from(self.is_provisional(class));
        for class in self.views(class) {
            let class = &mut self.list[class as usize];
            self.inhabited += usize::from(class.addresses == 0);
            class.addresses += 1;
            class.evaluated += u32::from(evaluated);
        }
    }

    /// Removes an address from the counts of `identity`.
    pub(crate) fn count_out(&mut self, class: ClassId, evaluated: bool) {
        self.addresses -= 1;
        self.unsure_addresses -= usize::from(self.is_provisional(class));
        for class in self.views(class) {
            let class = &mut self.list[class as usize];
            class.addresses -= 1;
            class.evaluated -= u32::from(evaluated);
            self.inhabited -= usize::from(class.addresses == 0);
        }
    }

    /// The number of addresses of pods.
    pub(crate) fn addresses(&self) -> usize {
        self.addresses
    }

    /// Whether ANY pod has unknown labels that policies refer to.
    pub(crate) fn are_unsure(&self) -> bool {
        self.unsure_addresses > 0
    }

    /// The number of identities. Ids are consecutive from 0.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// The number of identities that have pods.
    pub(crate) fn inhabited(&self) -> usize {
        self.inhabited
    }

    /// Whether so few identities have pods that a full rebuild saves memory. Each of `rulesets` may have an
    /// entry for each identity.
    pub(crate) fn is_stale(&self, rulesets: usize) -> bool {
        /// The most entries for identities without pods. An entry takes about 50 bytes in a tier of up to 64
        /// rules, and at most 68 more for each further 512 rules.
        const SPARE_ENTRIES: usize = 1 << 17;
        let spare = self.list.len().saturating_sub(self.inhabited);
        self.list.len() > 2 * self.inhabited + 1024 || (spare > 64 && spare * rulesets > SPARE_ENTRIES)
    }

    /// All identities but those created since the last [`Classes::settle`].
    pub(crate) fn index(&self) -> &ClassIndex {
        &self.index
    }

    /// The identities created since the last [`Classes::settle`].
    pub(crate) fn fresh(&self) -> ClassIndex {
        let mut index = ClassIndex::default();
        self.fresh.iter().for_each(|class| index.add(*class, self));
        index
    }

    /// Adds the fresh identities to the index.
    pub(crate) fn settle(&mut self) {
        let mut index = std::mem::take(&mut self.index);
        std::mem::take(&mut self.fresh).into_iter().for_each(|class| index.add(class, self));
        self.index = index;
    }
}

/// Finds the identities that a selector matches, by set operations. The time depends on the selector's
/// requirements, not on the number of identities.
#[derive(Debug, Default)]
pub(crate) struct ClassIndex {
    all: RoaringBitmap,
    by_namespace: FxHashMap<u32, RoaringBitmap>,
    /// By labels of their namespaces.
    namespaces: LabelIndex,
    /// By labels of their pods.
    pods: LabelIndex,
}

/// Identities by labels.
#[derive(Debug, Default)]
struct LabelIndex {
    by_label: FxHashMap<(u32, u32), RoaringBitmap>,
    by_key: FxHashMap<u32, RoaringBitmap>,
    /// Identities that may have further keys, because labels are unknown.
    unknown: RoaringBitmap,
}

/// The identities that a selector matches.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct ChosenClasses {
    pub surely: RoaringBitmap,
    /// Potential matches: it depends on unknown labels (semantics 37).
    pub perhaps: RoaringBitmap,
}

impl ClassIndex {
    fn add(&mut self, class: ClassId, classes: &Classes) {
        let Class { namespace, labels, .. } = classes.get(class);
        let namespace = &classes.namespaces[*namespace as usize];
        self.all.insert(class);
        if let Some(name) = namespace.name {
            self.by_namespace.entry(name).or_default().insert(class);
        }
        self.namespaces.add(class, &namespace.labels);
        self.pods.add(class, labels);
    }

    /// The identities, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = ClassId> + '_ {
        self.all.iter()
    }

    /// Whether the index is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The identities that `selector` matches, or might. `identities` are all identities.
    pub(crate) fn chosen(&self, test: &Test, classes: &Classes) -> ChosenClasses {
        /// For fewer identities, testing each is faster than set operations.
        const FEW: u64 = 16;
        let chosen = if self.all.len() < FEW {
            self.chosen_one_by_one(test, classes)
        } else {
            self.chosen_by_sets(test)
        };
        debug_assert_eq!(chosen, self.chosen_one_by_one(test, classes));
        debug_assert_eq!(chosen, self.chosen_by_sets(test));
        chosen
    }

    fn chosen_by_sets(&self, test: &Test) -> ChosenClasses {
        let all = match &test.namespaces {
            NamespaceTest::Named(name) => self.by_namespace.get(name).cloned().unwrap_or_default(),
            NamespaceTest::Labels(_) => self.all.clone(),
        };
        let mut chosen = ChosenClasses { surely: all, perhaps: RoaringBitmap::new() };
        if let NamespaceTest::Labels(test) = &test.namespaces {
            chosen = self.namespaces.chosen(test, chosen);
        }
        self.pods.chosen(&test.pods, chosen)
    }

    fn chosen_one_by_one(&self, test: &Test, classes: &Classes) -> ChosenClasses {
        let mut chosen = ChosenClasses::default();
        for class in &self.all {
            match classes.is_chosen(class, test) {
                Match::Yes => drop(chosen.surely.insert(class)),
                Match::Unknown => drop(chosen.perhaps.insert(class)),
                Match::No => {}
            }
        }
        chosen
    }
}

impl LabelIndex {
    fn add(&mut self, class: ClassId, labels: &Facts) {
        for label in &labels.pairs {
            self.by_label.entry(*label).or_default().insert(class);
            self.by_key.entry(label.0).or_default().insert(class);
        }
        if !labels.are_known {
            self.unknown.insert(class);
        }
    }

    /// Those among `identities` with labels that ALL requirements of `selector` match, or might.
    fn chosen(&self, test: &LabelTest, classes: ChosenClasses) -> ChosenClasses {
        let LabelTest::All(needs) = test else { return ChosenClasses::default() };
        let ChosenClasses { mut surely, mut perhaps } = classes;
        for need in needs {
            let mut unknown = self.unknown.clone();
            if let Some(known) = self.by_key.get(&need.key()) {
                unknown -= known;
            }
            let doubtful = &surely & &unknown;
            let matching = self.matching(need);
            match need {
                Need::In(..) | Need::Exists(_) => {
                    surely &= &matching;
                    perhaps &= matching | unknown;
                }
                // For these, `matching` are the identities that do not match.
                Need::NotIn(..) | Need::Missing(_) => {
                    surely -= &matching;
                    surely -= unknown;
                    perhaps -= matching;
                }
            }
            perhaps |= doubtful;
        }
        ChosenClasses { surely, perhaps }
    }

    /// The identities that have the key of a requirement, with ANY of its values if it lists values.
    fn matching(&self, need: &Need) -> RoaringBitmap {
        match need {
            Need::In(key, values) | Need::NotIn(key, values) => {
                let with_value = values.iter().filter_map(|value| self.by_label.get(&(*key, *value)));
                with_value.fold(RoaringBitmap::new(), |all, classes| all | classes)
            }
            Need::Exists(key) | Need::Missing(key) => self.by_key.get(key).cloned().unwrap_or_default(),
        }
    }
}
