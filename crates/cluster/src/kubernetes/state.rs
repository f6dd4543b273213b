//! The objects of the API server, and the updates for the consumer.
//!
//! Independent of connections and clocks. Invariants: `objects` holds exactly what is in force, that is the
//! objects of the API server with the addresses from the CNI result cache. Nothing is published before the
//! first list of every kind is complete.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use imbl::OrdMap;
use policy::{Budget, Change, PodName, PodUid, PolicyKind, PolicyName};

use self::closed_policy::published;
use self::problems::Problems;
use self::reread_queue::RereadQueue;
use self::standby::Standby;
pub(super) use self::warning::{ObjectWarning, Reason};
use super::object::{Object, ObjectIdentity};
use super::refused_policy::RefusedPolicy;
use super::watcher_event::WatcherEvent;
use crate::cni::{CachedResult, LocalPod, LocalPods};
use crate::convert::{Flaw, Kind};
use crate::delta::Delta;
use crate::interner::Interner;
use crate::key::Key;
use crate::problem::{CniPorts, Problem, ProblemLocation, ResourceVersion};
use crate::rule_budget::RuleBudget;

mod addresses;
mod closed_policy;
mod other_versions;
mod problems;
mod reread;
mod reread_queue;
mod restore;
mod standby;
mod unlisted_nodes;
mod update;
mod warning;

/// The state. See the module.
#[derive(Debug)]
pub(super) struct State {
    node: Arc<str>,
    interner: Arc<Interner>,
    lists: BTreeMap<Kind, List>,
    /// The objects in force. Cheap to clone, for the state on disk.
    objects: OrdMap<Key, Change>,
    delta: Delta,
    versions: BTreeMap<PolicyName, ResourceVersion>,
    rule_budget: RuleBudget,
    reread_queue: RereadQueue,
    /// `metadata.uid` of objects other than pods; pods have it as a field.
    uids: BTreeMap<Key, Box<str>>,
    /// For policies that changed since the last update: the version that the consumer has.
    reported_versions: BTreeMap<PolicyName, Option<ResourceVersion>>,
    local: LocalPods,
    /// Addresses of pods that differ from the API server's, from the CNI result cache.
    overrides: BTreeMap<PodName, Vec<IpAddr>>,
    cni_results: Vec<CachedResult>,
    /// Whether `cni_results` changed since the last update.
    cni_results_changed: bool,
    /// The interfaces as of the last update.
    cni_ports: CniPorts,
    /// Whether `overrides` must be computed again.
    unsettled: bool,
    problems: Problems,
    /// Whether Nodes may not be listed, so that the addresses of other nodes are unknown.
    are_nodes_unlisted: bool,
    /// Whether the kinds of policies that are not enforced are known, or can't be known.
    is_discovered: bool,
    /// Objects that need an Event, since the last call of [`State::take_warnings`].
    warnings: Vec<ObjectWarning>,
    /// The version of each policy for which an over-budget Event was created. One Event per version is
    /// enough.
    over_budget_reported: BTreeMap<PolicyName, ResourceVersion>,
    /// Whether an update has been published.
    begun: bool,
    /// The state on disk, while not every list is complete.
    restored: Option<Standby>,
    /// The restored state as of the last update.
    reported_restored: Option<SystemTime>,
}

/// Whether a flaw of an object stays until its author changes the object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lasting {
    Yes,
    Unknown,
}

/// The progress of a kind's list.
#[derive(Debug, Default)]
struct List {
    /// The objects listed so far, while a list is in progress.
    seen: Option<BTreeSet<Key>>,
    /// Whether a list was complete, or the kind is unavailable.
    is_known: bool,
}

impl State {
    /// An empty state. Pods of `node` are local. Rules beyond the budget are not kept.
    pub(super) fn new(node: Arc<str>, budget: Budget) -> Self {
        Self {
            node,
            interner: Arc::new(Interner::new()),
            lists: Kind::ALL.into_iter().map(|kind| (kind, List::default())).collect(),
            objects: OrdMap::new(),
            delta: Delta::default(),
            versions: BTreeMap::new(),
            rule_budget: RuleBudget::new(budget),
            reread_queue: RereadQueue::default(),
            uids: BTreeMap::new(),
            reported_versions: BTreeMap::new(),
            local: LocalPods::default(),
            overrides: BTreeMap::new(),
            cni_results: Vec::new(),
            cni_results_changed: false,
            cni_ports: CniPorts::default(),
            unsettled: false,
            problems: Problems::default(),
            are_nodes_unlisted: false,
            is_discovered: false,
            warnings: Vec::new(),
            over_budget_reported: BTreeMap::new(),
            begun: false,
            restored: None,
            reported_restored: None,
        }
    }

    /// The interner of all objects.
    pub(super) fn interner(&self) -> &Arc<Interner> {
        &self.interner
    }

    /// The kinds of the objects in force.
    pub(super) fn kinds(&self) -> BTreeSet<Kind> {
        self.objects.keys().map(Key::kind).collect()
    }

    /// Applies an event of a kind's watcher.
    pub(super) fn apply(&mut self, kind: Kind, event: WatcherEvent) {
        match event {
            WatcherEvent::Init => {
                let before = self.list(kind).seen.replace(BTreeSet::new());
                // After a list that broke off, the policies of that list still count.
                if kind == Kind::NetworkPolicy && before.is_none() {
                    self.rule_budget.begin();
                }
            }
            WatcherEvent::InitApply(object) => {
                if let Some(key) = key(kind, &object.identity, &self.interner)
                    && let Some(seen) = &mut self.list(kind).seen
                {
                    seen.insert(key);
                }
                self.put(kind, object);
            }
            WatcherEvent::InitDone => {
                self.problems.set_of_versions(kind, None);
                if kind == Kind::Node {
                    self.set_nodes_unlisted(false);
                }
                let list = self.list(kind);
                list.is_known = true;
                let seen = list.seen.take().unwrap_or_default();
                // Objects that were deleted while there was no watch.
                let of_kind =
                    self.objects.keys().chain(self.problems.objects()).filter(|key| key.kind() == kind);
                let gone: Vec<Key> = of_kind.filter(|key| !seen.contains(key)).cloned().collect();
                gone.iter().for_each(|key| self.remove(key));
            }
            WatcherEvent::Apply(object) => self.put(kind, object),
            WatcherEvent::ApplyLarge { identity, isolation } => self.large(kind, identity, isolation),
            WatcherEvent::Delete(identity) => {
                let key = key(kind, &identity, &self.interner);
                if let Some(key) = key.filter(|key| self.is_same(key, &identity)) {
                    self.remove(&key);
                }
            }
            WatcherEvent::Unavailable if kind == Kind::Node => self.without_nodes(),
            WatcherEvent::Unavailable if kind.is_custom() => self.without_permission(kind),
            WatcherEvent::Unavailable => {}
            WatcherEvent::OtherVersions(sentence) => self.only_other_versions(kind, sentence),
        }
    }

    /// Sets the kinds of policies that the API server has and that are not enforced, a sentence for each.
    pub(super) fn set_unenforced(&mut self, sentences: Vec<String>) {
        self.is_discovered = true;
        let problem = |what| Problem {
            location: ProblemLocation::Api { resource_version: "".into() },
            object: None,
            what,
            effect: "pods that such policies should isolate may be open".into(),
        };
        self.problems.set_of_kinds(sentences.into_iter().map(problem).collect());
    }

    /// Takes the objects that need an Event.
    pub(super) fn take_warnings(&mut self) -> Vec<ObjectWarning> {
        std::mem::take(&mut self.warnings)
    }

    /// The warning for a policy that is enforced without its rules; `None` if the policy is gone, or if this
    /// version has its Event.
    pub(super) fn over_budget(&mut self, refused: RefusedPolicy) -> Option<ObjectWarning> {
        let RefusedPolicy { name, message } = refused;
        let resource_version = self.versions.get(&name)?.clone();
        let uid = self.uids.get(&Key::Policy(name.clone()))?.to_string();
        let before = self.over_budget_reported.insert(name.clone(), Arc::clone(&resource_version));
        (before.as_ref() != Some(&resource_version)).then(|| ObjectWarning {
            reason: Reason::OverBudget,
            kind: Kind::NetworkPolicy,
            namespace: name.namespace.to_string(),
            name: name.name.to_string(),
            uid,
            resource_version,
            message,
        })
    }

    fn list(&mut self, kind: Kind) -> &mut List {
        self.lists.entry(kind).or_default()
    }

    /// Stores an object in its current form.
    fn put(&mut self, kind: Kind, object: Object) {
        let Object { identity, is_finished, converted } = object;
        let converted = match converted {
            Ok(converted) => converted,
            Err(unusable) => {
                let Some(key) = key(kind, &identity, &self.interner) else {
                    tracing::warn!(kind = %kind, error = %unusable, "object without a name ignored");
                    return;
                };
                let effect = match kind {
                    kind if kind.policy().is_some() => {
                        "it is not in force: pods that it should isolate may be open"
                    }
                    _ => "it is not in force",
                };
                self.drop_object(&key);
                self.problems(kind, &identity, key, vec![(unusable.to_string(), effect)], Lasting::Yes);
                return;
            }
        };
        let key = Key::of(&converted.change);
        // A new Node gets its pod CIDR a moment later, and an Event could not be taken back.
        let lasting =
            if converted.flaws.iter().all(Flaw::is_of_new_node) { Lasting::Unknown } else { Lasting::Yes };
        let flaws =
            converted.flaws.into_iter().map(|flaw| (format!("{}: {}", flaw.at, flaw.what), flaw.effect));
        self.problems(kind, &identity, key.clone(), flaws.collect(), lasting);
        if !matches!(key, Key::Pod(_)) && !identity.uid.is_empty() {
            self.uids.insert(key.clone(), identity.uid.into());
        }
        let mut change = converted.change;
        match &mut change {
            Change::Policy(policy) => {
                self.version(&policy.name, Some(&identity.resource_version));
                self.enter_rules(policy);
            }
            Change::Pod(pod) => {
                pod.reported = self.reported(pod);
                let is_local = !pod.host_network && pod.node.as_ref() == Some(&self.node);
                let local = LocalPod { uid: pod.uid, finished: is_finished, reported: pod.addresses.clone() };
                self.unsettled |=
                    if is_local { self.local.put(&pod.name, local) } else { self.local.remove(&pod.name) };
                // Its addresses may have been those of the CNI results until now. They are resolved before
                // the next update.
                self.unsettled |= self.overrides.contains_key(&pod.name);
            }
            _ => {}
        }
        self.reread_queue.remove(&key);
        self.replace(key.clone(), change);
        self.check_nodes(kind, &key);
    }

    /// Replaces the form of an object that is in force.
    fn replace(&mut self, key: Key, change: Change) {
        self.record_before(&key);
        self.objects.insert(key, change);
    }

    /// Must be called before the form of an object that the consumer gets changes.
    fn record_before(&mut self, key: &Key) {
        let (objects, closed) = (&self.objects, self.are_nodes_unlisted);
        self.delta.record_before(key, || objects.get(key).map(|change| published(change, closed)));
    }

    /// Whether a deleted object is the known one and not an earlier one of the same name. An unknown UID may
    /// be either.
    fn is_same(&self, key: &Key, gone: &ObjectIdentity) -> bool {
        let gone = &*gone.uid;
        match self.objects.get(key) {
            _ if gone.is_empty() => true,
            Some(Change::Pod(pod)) => pod.uid == PodUid::default() || pod.uid == PodUid::of(gone),
            _ => self.uids.get(key).is_none_or(|uid| **uid == *gone),
        }
    }

    /// Removes an object that is gone, and its problems.
    fn remove(&mut self, key: &Key) {
        self.problems.remove(key);
        self.drop_object(key);
    }

    /// Removes an object from what is in force, and keeps its problems.
    fn drop_object(&mut self, key: &Key) {
        self.uids.remove(key);
        self.reread_queue.remove(key);
        match key {
            Key::Policy(name) => {
                self.version(name, None);
                self.rule_budget.leave(name);
                self.problems.set_of_nodes(key, None);
            }
            Key::Pod(name) => self.unsettled |= self.local.remove(name),
            _ => {}
        }
        self.record_before(key);
        self.objects.remove(key);
    }

    /// Sets the version of a policy; `None` if it is gone.
    fn version(&mut self, name: &PolicyName, version: Option<&str>) {
        let old = match version {
            Some(version) => self.versions.insert(name.clone(), version.into()),
            None => {
                self.over_budget_reported.remove(name);
                self.versions.remove(name)
            }
        };
        self.reported_versions.entry(name.clone()).or_insert(old);
    }

    /// Sets the problems of an object: each flaw with its effect.
    fn problems(
        &mut self,
        kind: Kind,
        identity: &ObjectIdentity,
        key: Key,
        flaws: Vec<(String, &str)>,
        lasting: Lasting,
    ) {
        if flaws.is_empty() {
            self.problems.remove(&key);
            return;
        }
        let resource_version: ResourceVersion = identity.resource_version.as_str().into();
        let location = ProblemLocation::Api { resource_version: Arc::clone(&resource_version) };
        let name = key.to_string();
        let message =
            flaws.iter().map(|(what, effect)| format!("{what}; {effect}")).collect::<Vec<_>>().join(". ");
        let problem = |(what, effect): (String, &str)| Problem {
            location: location.clone(),
            object: Some(name.clone()),
            what,
            effect: effect.to_owned(),
        };
        let problems: Vec<Problem> = flaws.into_iter().map(problem).collect();
        if !self.problems.set(&key, &resource_version, problems) || lasting == Lasting::Unknown {
            return;
        }
        self.warnings.push(ObjectWarning {
            reason: Reason::NotUnderstood,
            kind,
            namespace: identity.namespace.clone(),
            name: identity.name.clone(),
            uid: identity.uid.clone(),
            resource_version,
            message,
        });
    }
}

/// The key of an object, even if nothing else of it is understood; `None` if it has no name.
fn key(kind: Kind, identity: &ObjectIdentity, interner: &Interner) -> Option<Key> {
    let name = Some(&*identity.name).filter(|name| !name.is_empty())?;
    let namespace = || interner.text(&identity.namespace);
    let wide = |kind| Key::Policy(PolicyName::cluster_wide(kind, name));
    Some(match kind {
        Kind::Namespace => Key::Namespace(interner.text(name)),
        Kind::Node => Key::Node(interner.text(name)),
        Kind::Pod => Key::Pod(PodName::new(namespace(), name)),
        Kind::NetworkPolicy => Key::Policy(PolicyName::network_policy(namespace(), name)),
        Kind::ClusterNetworkPolicy => wide(PolicyKind::ClusterNetworkPolicy),
        Kind::AdminNetworkPolicy => wide(PolicyKind::AdminNetworkPolicy),
        Kind::BaselineAdminNetworkPolicy => wide(PolicyKind::BaselineAdminNetworkPolicy),
    })
}

#[cfg(test)]
mod tests;
