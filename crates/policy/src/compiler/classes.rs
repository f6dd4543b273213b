//! Classes of pods that no policy can tell apart as peers: same visible namespace, same visible labels.
//!
//! Pods of which policies ask for labels that are unknown have two classes, one after the other (semantics
//! 37): by the first, [`View::Cautious`], no rule allows them what the labels might deny them; by the second,
//! [`View::Hopeful`], no rule denies them what the labels might allow them. The first gives the verdict; the
//! second says whether a denial is provisional.

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

/// See the module. Numbers stay as they are until everything is compiled again.
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
    /// How many addresses pods have whose labels are unknown.
    unsure_addresses: usize,
    /// How many addresses pods have.
    addresses: usize,
    /// Of all classes but `fresh`.
    index: ClassIndex,
    /// Classes made since [`Classes::settle`].
    fresh: Vec<ClassId>,
}

/// How the unknown labels of a class are read: see the module.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum View {
    /// Nothing that policies ask for is unknown.
    Known,
    /// Nothing is allowed that the labels might deny.
    Cautious,
    /// Nothing is denied that the labels might allow. The class after the cautious one.
    Hopeful,
}

/// A subject that chooses a class, or might.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Chosen {
    pub by: SelectorId,
    /// [`View::Known`] if it surely does, else the view of the class.
    pub view: View,
}

/// One class.
#[derive(Debug)]
pub(crate) struct Class {
    namespace: u32,
    labels: Facts,
    pub view: View,
    /// Addresses of its pods.
    pub addresses: u32,
    /// Those of them that the snapshot evaluates.
    pub evaluated: u32,
    /// The subjects of policies that choose it, or might, sorted: of a class with evaluated pods alone.
    pub subjects: Option<Vec<Chosen>>,
    /// Under which subjects its rulesets are kept, once it has any.
    pub rulesets: Option<Arc<[Chosen]>>,
}

impl Class {
    /// The subjects of policies that choose it, or might; none if no pod of it is evaluated.
    pub(crate) fn subjects(&self) -> &[Chosen] {
        self.subjects.as_deref().unwrap_or_default()
    }
}

impl Classes {
    /// The class of a pod; of two the cautious one.
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

    /// Both classes of the pods of a cautious one; else the class alone.
    pub(crate) fn views(&self, class: ClassId) -> RangeInclusive<ClassId> {
        class..=class + ClassId::from(self.is_provisional(class))
    }

    /// Whether the pods of a class have unknown labels that policies ask for: then the class behind it is the
    /// hopeful one.
    pub(crate) fn is_provisional(&self, class: ClassId) -> bool {
        self.list[class as usize].view == View::Cautious
    }

    /// Takes note that a namespace changed. True if policies can see a difference, so that its pods need
    /// another class.
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
            // Not known (yet): so are its labels (semantics 37).
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

    /// The names of the namespaces of which a pod was looked at.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &Arc<str>> {
        self.namespace_of.keys()
    }

    /// Whether `test` chooses the pods of `class`: BOTH its parts must.
    pub(crate) fn is_chosen(&self, class: ClassId, test: &Test) -> Match {
        let class = &self.list[class as usize];
        let namespace = test.namespaces.holds(&self.namespaces[class.namespace as usize]);
        if namespace == Match::No { namespace } else { namespace.min(test.pods.holds(&class.labels)) }
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

    /// Counts an address of a pod of `class` out.
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

    /// How many addresses pods have.
    pub(crate) fn addresses(&self) -> usize {
        self.addresses
    }

    /// Whether ANY pod has labels that are unknown and that policies ask for.
    pub(crate) fn are_unsure(&self) -> bool {
        self.unsure_addresses > 0
    }

    /// How many classes there are, numbered from 0.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// How many classes have pods.
    pub(crate) fn inhabited(&self) -> usize {
        self.inhabited
    }

    /// Whether so few classes have pods that compiling again saves memory. Each of `rulesets` may have an
    /// entry for each class.
    pub(crate) fn is_stale(&self, rulesets: usize) -> bool {
        /// Entries for classes without pods, at most. One takes some 50 bytes in a tier of up to 64 rules,
        /// and at most 68 more for each further 512 rules.
        const SPARE_ENTRIES: usize = 1 << 17;
        let spare = self.list.len().saturating_sub(self.inhabited);
        self.list.len() > 2 * self.inhabited + 1024 || (spare > 64 && spare * rulesets > SPARE_ENTRIES)
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

/// Finds the classes that a choice means, by sets: in time for the requirements of the choice, not for the
/// classes.
#[derive(Debug, Default)]
pub(crate) struct ClassIndex {
    all: RoaringBitmap,
    by_namespace: FxHashMap<u32, RoaringBitmap>,
    /// By the labels of their namespaces.
    namespaces: LabelIndex,
    /// By the labels of their pods.
    pods: LabelIndex,
}

/// Classes by labels.
#[derive(Debug, Default)]
struct LabelIndex {
    by_label: FxHashMap<(u32, u32), RoaringBitmap>,
    by_key: FxHashMap<u32, RoaringBitmap>,
    /// Those that may have keys that they are not known to have.
    unknown: RoaringBitmap,
}

/// Classes that are chosen.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct ChosenClasses {
    pub surely: RoaringBitmap,
    /// Those of which that is unknown (semantics 37).
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

    /// The classes in it, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = ClassId> + '_ {
        self.all.iter()
    }

    /// Whether there are no classes in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The classes that `test` chooses, or might. `classes` are all there are.
    pub(crate) fn chosen(&self, test: &Test, classes: &Classes) -> ChosenClasses {
        /// Of fewer classes each is looked at sooner than sets are made.
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

    /// Those among `classes` whose labels ALL requirements of `test` choose, or might.
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
                // Matching are those that it does not choose.
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

    /// The classes that have the key of a requirement, with ANY of its values if it names some.
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
