//! The problems of the objects: listed for some objects of each namespace, and counted for the others.
//!
//! Invariant: beyond [`NAMED`] faulty objects, each further object of a namespace costs its keys and a hash,
//! and all of them together one reported problem.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::convert::Kind;
use crate::key::Key;
use crate::problem::{Problem, ProblemLocation, ResourceVersion};

/// The most objects of a namespace whose problems are listed. They take up to 30 kB each.
const NAMED: usize = 100;

/// The problems of all objects. See the module.
#[derive(Debug, Default)]
pub(super) struct Problems {
    by_object: BTreeMap<Key, Faults>,
    namespaces: BTreeMap<Box<str>, Namespace>,
    /// Problems of no object: kinds that are not enforced.
    of_kinds: Vec<Problem>,
    /// Problems of kinds that the API server has in other versions only.
    of_versions: BTreeMap<Kind, Problem>,
    /// Problems of policies that select nodes while Nodes may not be listed.
    of_nodes: BTreeMap<Key, Problem>,
    /// The problems as of the last [`Problems::report`], sorted.
    reported: Arc<[Problem]>,
    /// Whether `reported` is out of date.
    is_outdated: bool,
}

/// The problems of an object, at least one.
#[derive(Debug)]
enum Faults {
    Named(Vec<Problem>),
    /// The problems are counted only. The hash detects whether they change.
    Counted {
        hash: u64,
    },
}

/// The faulty objects of a namespace.
#[derive(Debug, Default)]
struct Namespace {
    named: usize,
    counted: BTreeSet<Key>,
    /// The version of the object that was counted last.
    version: Option<ResourceVersion>,
}

impl Problems {
    /// Sets the problems of an object. Returns whether they differ from before.
    pub(super) fn set(&mut self, key: &Key, version: &ResourceVersion, problems: Vec<Problem>) -> bool {
        if problems.is_empty() {
            self.remove(key);
            return true;
        }
        let is_same = match self.by_object.get(key) {
            Some(Faults::Named(before)) => *before == problems,
            Some(Faults::Counted { hash }) => *hash == hash_of(&problems),
            None => false,
        };
        if is_same {
            return false;
        }
        self.remove(key);
        self.is_outdated = true;
        let namespace = self.namespaces.entry(key.namespace().into()).or_default();
        let faults = if namespace.named < NAMED {
            namespace.named += 1;
            Faults::Named(problems)
        } else {
            namespace.counted.insert(key.clone());
            namespace.version = Some(Arc::clone(version));
            Faults::Counted { hash: hash_of(&problems) }
        };
        self.by_object.insert(key.clone(), faults);
        true
    }

    /// Removes the problems of an object that has none now or is gone.
    pub(super) fn remove(&mut self, key: &Key) {
        let Some(faults) = self.by_object.remove(key) else { return };
        self.is_outdated = true;
        let name = key.namespace();
        let Some(namespace) = self.namespaces.get_mut(name) else { return };
        match faults {
            Faults::Named(_) => namespace.named -= 1,
            Faults::Counted { .. } => drop(namespace.counted.remove(key)),
        }
        if namespace.named == 0 && namespace.counted.is_empty() {
            self.namespaces.remove(name);
        }
    }

    /// Sets the problems of kinds that are not enforced.
    pub(super) fn set_of_kinds(&mut self, problems: Vec<Problem>) {
        self.is_outdated |= problems != self.of_kinds;
        self.of_kinds = problems;
    }

    /// Sets the problem of a kind that the API server has in other versions only. Returns whether it differs
    /// from before.
    pub(super) fn set_of_versions(&mut self, kind: Kind, problem: Option<Problem>) -> bool {
        let is_new = set(&mut self.of_versions, kind, problem);
        self.is_outdated |= is_new;
        is_new
    }

    /// Sets the problem of a policy that selects nodes while Nodes may not be listed. Returns whether it
    /// differs from before.
    pub(super) fn set_of_nodes(&mut self, key: &Key, problem: Option<Problem>) -> bool {
        let is_new = set(&mut self.of_nodes, key.clone(), problem);
        self.is_outdated |= is_new;
        is_new
    }

    /// The objects that have problems.
    pub(super) fn objects(&self) -> impl Iterator<Item = &Key> {
        self.by_object.keys()
    }

    /// Updates the reported problems. Returns whether they changed.
    pub(super) fn report(&mut self) -> bool {
        if !std::mem::take(&mut self.is_outdated) {
            return false;
        }
        let named = self.by_object.values().flat_map(|faults| match faults {
            Faults::Named(problems) => problems.as_slice(),
            Faults::Counted { .. } => &[],
        });
        let mut problems: Vec<Problem> = named.chain(self.others()).cloned().collect();
        problems.extend(self.namespaces.iter().filter_map(|(name, namespace)| namespace.summary(name)));
        problems.sort();
        let changed = *problems != *self.reported;
        if changed {
            self.reported = problems.into();
        }
        changed
    }

    /// The problems that are not flaws of objects.
    fn others(&self) -> impl Iterator<Item = &Problem> {
        self.of_kinds.iter().chain(self.of_versions.values()).chain(self.of_nodes.values())
    }

    /// The problems as of the last [`Problems::report`].
    pub(super) fn reported(&self) -> Arc<[Problem]> {
        Arc::clone(&self.reported)
    }
}

impl Namespace {
    /// The problem that stands for the counted objects; `None` if there are none.
    fn summary(&self, name: &str) -> Option<Problem> {
        let first = self.counted.first()?;
        let count = self.counted.len();
        let of = if name.is_empty() { String::new() } else { format!(" of the namespace {name}") };
        Some(Problem {
            location: ProblemLocation::Api {
                resource_version: self.version.clone().unwrap_or_else(|| "".into()),
            },
            object: Some(first.to_string()),
            what: format!(
                "{count} objects{of} are not fully understood, in addition to those that are listed"
            ),
            effect: "an Event on each object says what is wrong and what follows".into(),
        })
    }
}

/// Sets or removes an entry. Returns whether it differs from before.
fn set<K: Ord>(problems: &mut BTreeMap<K, Problem>, key: K, problem: Option<Problem>) -> bool {
    if problems.get(&key) == problem.as_ref() {
        return false;
    }
    match problem {
        Some(problem) => problems.insert(key, problem),
        None => problems.remove(&key),
    };
    true
}

fn hash_of(problems: &[Problem]) -> u64 {
    let mut hasher = DefaultHasher::new();
    problems.hash(&mut hasher);
    hasher.finish()
}
