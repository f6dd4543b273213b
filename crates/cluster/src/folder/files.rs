//! The objects of each file, the precedence of files that hold the same object, and the updates for the
//! consumer.
//!
//! Independent of disks and clocks. Invariants: `holders` names exactly the files that hold an object,
//! sorted, and the object of the last one is in force.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use policy::{Budget, Change, Labels, PolicyKind, PolicyName};

use super::scan::Unread;
use crate::delta::Delta;
use crate::interner::Interner;
use crate::key::Key;
use crate::manifest::{FileContent, ManifestObject};
use crate::problem::{Problem, ReadCounts, Update};
use crate::rule_budget::RuleBudget;
use crate::stamp::Stamp;

mod problems;
mod rules;

pub(crate) use self::problems::is_of_missing_namespaces;

/// The effect of a file that breaks after it was good.
const KEPT: &str = "the last good objects of the file stay in force, and nothing that was changed since is";

/// The effect of a broken file that was good before this program started.
const RESTORED: &str = "the last good objects of the file, as the state on disk has them, stay in force, and \
                        nothing that was changed since is";

/// All files. See the module.
#[derive(Debug)]
pub(super) struct Files {
    interner: Arc<Interner>,
    files: BTreeMap<Arc<Path>, File>,
    holders: BTreeMap<Key, Vec<Arc<Path>>>,
    /// Objects with more than one holder.
    contested: BTreeSet<Key>,
    rule_budget: RuleBudget,
    /// Policies without their rules, whose rules fit the budget now.
    wanted: BTreeSet<PolicyName>,
    delta: Delta,
    /// Problems of folders, not of files.
    folders: Vec<Problem>,
    /// Files and broken links of the last walk that are not read.
    unread: Unread,
    /// The problems of the last update.
    reported: Arc<[Problem]>,
    /// Whether the problems may have changed since.
    new_problems: bool,
    /// The counts of the last update.
    counted: ReadCounts,
    /// Whether anything changed since the last update.
    is_dirty: bool,
    /// When the state on disk was written.
    saved: Option<SystemTime>,
    /// The restored state as of the last update.
    reported_restored: Option<SystemTime>,
}

/// One file.
#[derive(Debug, Default)]
struct File {
    /// The version of the file that was read last.
    stamp: Option<Stamp>,
    /// Its objects, sorted by key, each once. Shared with the writer of the state on disk.
    objects: Arc<Vec<ManifestObject>>,
    flaws: Vec<Problem>,
    failures: Vec<Problem>,
    /// Objects of kinds that verdicts do not depend on.
    others: usize,
    /// Whether it has content and no Kubernetes object.
    is_no_manifest: bool,
    /// Whether its objects are from a version that was understood as a whole.
    was_good: bool,
    /// Whether its objects are those of the state on disk, because no version of the file was understood
    /// since.
    is_restored: bool,
    /// Whether it may be gone. Then its rules do not count against the budget.
    is_in_doubt: bool,
}

impl File {
    fn has_problems(&self) -> bool {
        !self.flaws.is_empty() || !self.failures.is_empty()
    }
}

impl Files {
    /// No files. Rules beyond the budget are not kept.
    pub(super) fn new(budget: Budget, interner: Arc<Interner>) -> Self {
        Self {
            interner,
            files: BTreeMap::new(),
            holders: BTreeMap::new(),
            contested: BTreeSet::new(),
            rule_budget: RuleBudget::new(budget),
            wanted: BTreeSet::new(),
            delta: Delta::default(),
            folders: Vec::new(),
            unread: Unread::default(),
            reported: Arc::default(),
            new_problems: true,
            counted: ReadCounts::default(),
            is_dirty: false,
            saved: None,
            reported_restored: None,
        }
    }

    /// Restores the last good objects of each file. Must be called before any file is read.
    pub(super) fn restore(
        &mut self,
        files: impl Iterator<Item = (PathBuf, Arc<Vec<ManifestObject>>)>,
        saved: SystemTime,
    ) {
        self.saved = Some(saved);
        for (path, objects) in files {
            self.is_dirty = true;
            let path: Arc<Path> = path.into();
            self.files.insert(path.clone(), File { was_good: true, is_restored: true, ..File::default() });
            self.replace(&path, objects);
        }
    }

    /// Whether ANY file has its objects from the state on disk.
    pub(super) fn is_restored(&self) -> bool {
        self.files.values().any(|file| file.is_restored)
    }

    /// The last good objects of each file, by its path below `root`. Files without good objects are left out.
    pub(super) fn good(&self, root: &Path) -> Vec<(PathBuf, Arc<Vec<ManifestObject>>)> {
        let good = self.files.iter().filter(|(_, file)| file.was_good);
        let of_file = |(path, file): (&Arc<Path>, &File)| {
            Some((path.strip_prefix(root).ok()?.to_owned(), Arc::clone(&file.objects)))
        };
        good.filter_map(of_file).collect()
    }

    /// ALL broken files without any version that was understood.
    fn never_understood(&self) -> Vec<PathBuf> {
        let unknown = self.files.iter().filter(|(_, file)| !file.failures.is_empty() && !file.was_good);
        unknown.map(|(path, _)| path.to_path_buf()).collect()
    }

    /// Applies what a file holds now. A broken file keeps its last good objects. If it never was good, what
    /// could be understood of it is in force: a policy should be enforced even if another object in the file
    /// is broken.
    pub(super) fn read(&mut self, path: &Path, stamp: Option<Stamp>, mut reading: FileContent) {
        self.is_dirty = true;
        let path = match self.files.get_key_value(path) {
            Some((known, _)) => known.clone(),
            None => Arc::from(path),
        };
        let file = self.files.entry(path.clone()).or_default();
        file.stamp = stamp;
        let was_in_doubt = std::mem::take(&mut file.is_in_doubt);
        self.new_problems |= file.has_problems() || reading.has_problems();
        if !file.objects.is_empty() {
            // A manifest does not become something else by intent.
            reading.failures.append(&mut reading.no_manifest);
        }
        let broken = !reading.failures.is_empty();
        if broken && file.was_good {
            for problem in &mut reading.failures {
                problem.effect = if file.is_restored { RESTORED } else { KEPT }.into();
            }
            for flaw in &mut file.flaws {
                // The flaws of the objects in force remain, but their lines refer to a text that is gone.
                flaw.forget_line();
            }
            file.failures = reading.failures;
            if was_in_doubt {
                self.enter_rules_of(&path);
            }
            return;
        }
        file.is_restored = false;
        file.was_good = !broken && !reading.objects.is_empty();
        file.others = reading.others;
        file.is_no_manifest = !reading.no_manifest.is_empty();
        file.flaws = reading.flaws;
        file.failures = reading.failures;
        self.replace(&path, Arc::new(reading.objects));
    }

    /// Records that a file may be gone, or that it exists after all. Its objects stay.
    pub(super) fn doubt(&mut self, path: &Path, is_in_doubt: bool) {
        let Some(file) = self.files.get_mut(path) else { return };
        if std::mem::replace(&mut file.is_in_doubt, is_in_doubt) != is_in_doubt {
            self.enter_rules_of(path);
        }
    }

    /// Removes a file that is gone.
    pub(super) fn gone(&mut self, path: &Path) {
        let Some((path, _)) = self.files.get_key_value(path) else { return };
        let path = path.clone();
        self.is_dirty = true;
        self.replace(&path, Arc::default());
        let file = self.files.remove(&path);
        self.new_problems |= file.is_some_and(|file| file.has_problems());
    }

    /// Sets the current problems of folders.
    pub(super) fn folders(&mut self, problems: Vec<Problem>) {
        self.is_dirty |= self.folders != problems;
        self.new_problems |= self.folders != problems;
        self.folders = problems;
    }

    /// Sets which files are not read.
    pub(super) fn unread(&mut self, unread: &Unread) {
        self.is_dirty |= self.unread != *unread;
        self.unread.clone_from(unread);
    }

    /// The version of the file that was read last.
    pub(super) fn stamp(&self, path: &Path) -> Option<Stamp> {
        self.files.get(path)?.stamp
    }

    /// Whether this file is known.
    pub(super) fn is_known(&self, path: &Path) -> bool {
        self.files.contains_key(path)
    }

    /// Whether this file has known objects.
    pub(super) fn holds_objects(&self, path: &Path) -> bool {
        self.files.get(path).is_some_and(|file| !file.objects.is_empty())
    }

    /// The known files at or below `path`.
    pub(super) fn below<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = &'a Path> {
        let from = (std::ops::Bound::Included(path), std::ops::Bound::Unbounded);
        self.files
            .range::<Path, _>(from)
            .map(|(file, _)| &**file)
            .take_while(move |file| file.starts_with(path))
    }

    /// The update since the last one; `None` if no object changed, and no problem or file was added or
    /// removed.
    pub(super) fn update(&mut self, root: &Path) -> Option<Update> {
        if !std::mem::take(&mut self.is_dirty) {
            return None;
        }
        self.settle_rules();
        let Self { delta, files, holders, .. } = self;
        let changes = delta.take(|key| in_force(holders, files, key).cloned());
        self.sweep_interner();
        let new_problems = self.report(root);
        let read = self.count(root);
        let restored = self.saved.filter(|_| self.is_restored());
        if changes.is_empty() && !new_problems && read == self.counted && restored == self.reported_restored {
            return None;
        }
        self.reported_restored = restored;
        if read.skipped_files != self.counted.skipped_files {
            let files = read.skipped_files.join(", ");
            tracing::info!(skipped = read.skipped, files, "files without Kubernetes objects are skipped");
        }
        if read.unread_files != self.counted.unread_files {
            let files = read.unread_files.join(", ");
            tracing::info!(
                unread = read.unread,
                files,
                "files are not read: they are broken links or do not end in .yaml, .yml or .json"
            );
        }
        self.counted.clone_from(&read);
        let never_understood = self.never_understood();
        let problems = Arc::clone(&self.reported);
        Some(Update { changes, problems, read, restored, never_understood, ..Update::default() })
    }

    /// Replaces the objects of a known file.
    fn replace(&mut self, path: &Arc<Path>, objects: Arc<Vec<ManifestObject>>) {
        let old: Vec<Key> = self
            .files
            .get(path)
            .into_iter()
            .flat_map(|file| file.objects.iter().map(ManifestObject::key))
            .collect();
        let new: Vec<Key> = objects.iter().map(ManifestObject::key).collect();
        let is_contested = |contested: &BTreeSet<Key>| {
            !contested.is_empty() && old.iter().chain(&new).any(|key| contested.contains(key))
        };
        self.new_problems |= is_contested(&self.contested);
        let policies = old.iter().chain(&new).filter_map(|key| match key {
            Key::Policy(name) => Some(name.clone()),
            _ => None,
        });
        let policies: BTreeSet<PolicyName> = policies.collect();
        for key in old.iter().chain(&new) {
            self.delta.record_before(key, || in_force(&self.holders, &self.files, key).cloned());
        }
        for key in old {
            if let Some(holders) = self.holders.get_mut(&key) {
                holders.retain(|holder| holder != path);
                if holders.len() < 2 {
                    self.contested.remove(&key);
                }
                if holders.is_empty() {
                    self.holders.remove(&key);
                }
            }
        }
        for key in new {
            let holders = self.holders.entry(key.clone()).or_default();
            let at = holders.binary_search(path).unwrap_or_else(|at| at);
            holders.insert(at, path.clone());
            if holders.len() > 1 {
                self.new_problems = true;
                self.contested.insert(key);
            }
        }
        if let Some(file) = self.files.get_mut(path) {
            file.objects = objects;
        }
        self.enter_rules(&policies);
    }

    /// Counts files and objects.
    pub(super) fn count(&self, root: &Path) -> ReadCounts {
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        // Policies sort last, and NetworkPolicies first among them.
        let first = Key::Policy(PolicyName::first(PolicyKind::NetworkPolicy));
        let skipped = || self.files.iter().filter(|(_, file)| file.is_no_manifest).map(|(path, _)| path);
        let shown = |path: &Path| path.strip_prefix(root).unwrap_or(path).display().to_string();
        ReadCounts {
            files: Some(number(self.files.len())),
            objects: number(self.holders.len()),
            policies: number(self.holders.range(first..).count()),
            others: number(self.files.values().map(|file| file.others).sum()),
            skipped: number(skipped().count()),
            skipped_files: skipped().take(ReadCounts::NAMED).map(|path| shown(path)).collect(),
            unread: self.unread.count,
            unread_files: self.unread.first.iter().map(|path| shown(path)).collect(),
        }
    }

    /// Drops labels and strings that no object has any more, once there are many.
    fn sweep_interner(&self) {
        if self.interner.wants_sweep() {
            self.interner.sweep(self.labels());
        }
    }

    /// The label sets in use.
    fn labels(&self) -> impl Iterator<Item = &Labels> {
        let objects = self.files.values().flat_map(|file| file.objects.iter());
        let own = objects.filter_map(|object| match &object.change {
            Change::Pod(pod) => Some(&pod.labels),
            Change::Node(node) => Some(&node.labels),
            Change::Namespace(namespace) => Some(&namespace.labels),
            _ => None,
        });
        own.chain(self.delta.labels())
    }
}

/// The object in force: that of the file whose path sorts last.
fn in_force<'a>(
    holders: &BTreeMap<Key, Vec<Arc<Path>>>,
    files: &'a BTreeMap<Arc<Path>, File>,
    key: &Key,
) -> Option<&'a Change> {
    Some(&object_in(files, holders.get(key)?.last()?, key)?.change)
}

/// The object with this key in a file.
fn object_in<'a>(files: &'a BTreeMap<Arc<Path>, File>, path: &Path, key: &Key) -> Option<&'a ManifestObject> {
    let objects = &files.get(path)?.objects;
    objects.get(objects.binary_search_by(|object| object.key().cmp(key)).ok()?)
}
