//! What the API server has said so far, and what the consumer must be told of it.
//!
//! Knows nothing of connections and clocks. Invariants: `objects` holds exactly what is in force, so the objects of the API server
//! with the addresses that the CNI cache gives; nothing is told before the first list of every kind is complete.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use imbl::OrdMap;
use policy::{Budget, Change, Labels, PodName, PodUid, PolicyName};

use self::problems::Problems;
use self::standby::Standby;
use self::wanted::Wanted;
use super::RefusedPolicy;
use super::follow::Event;
use super::object::{Identity, Object};
use crate::cni::{Claim, LocalPod, LocalPods};
use crate::convert::{Flaw, Kind};
use crate::differences::Differences;
use crate::interner::Interner;
use crate::key::Key;
use crate::problem::{CniPorts, Origin, Problem, ReadCounts, ResourceVersion, Update};
use crate::rule_budget::RuleBudget;

mod problems;
mod reread;
mod standby;
mod wanted;

/// See the module.
#[derive(Debug)]
pub(super) struct State {
    node: Arc<str>,
    interner: Arc<Interner>,
    lists: BTreeMap<Kind, List>,
    /// Cheap to clone, for the state on disk.
    objects: OrdMap<Key, Change>,
    differences: Differences,
    versions: BTreeMap<PolicyName, ResourceVersion>,
    rule_budget: RuleBudget,
    wanted: Wanted,
    /// `metadata.uid` of objects other than pods, which have it themselves.
    uids: BTreeMap<Key, Box<str>>,
    /// What the consumer knows of those that changed since the last update.
    told_versions: BTreeMap<PolicyName, Option<ResourceVersion>>,
    local: LocalPods,
    /// What the CNI cache says that the API server doesn't.
    given: BTreeMap<PodName, Vec<IpAddr>>,
    claims: Vec<Claim>,
    /// Whether they have changed since the last update.
    new_claims: bool,
    /// What the last update said of interfaces.
    cni_ports: CniPorts,
    /// Whether `given` must be looked at again.
    unsettled: bool,
    problems: Problems,
    /// Objects that were not understood since the last update.
    misunderstood: Vec<Misunderstood>,
    /// The version of each policy for which an over-budget Event was created: one Event per version is enough.
    said_over_budget: BTreeMap<PolicyName, ResourceVersion>,
    /// Whether there has been an update.
    begun: bool,
    /// Of the state on disk, while not every list is complete.
    restored: Option<Standby>,
    /// What the last update said of it.
    told_restored: Option<SystemTime>,
}

/// An object that is not enforced as it stands, for the Event that says so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Misunderstood {
    pub reason: Reason,
    pub kind: Kind,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub resource_version: ResourceVersion,
    /// What and to what effect.
    pub message: String,
}

/// Why an object is not enforced as it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reason {
    /// Something in it is not understood.
    NotUnderstood,
    /// The policies of its namespace exceed their budget.
    OverBudget,
}

/// Whether what was not understood of an object stays so until its author changes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lasting {
    Yes,
    Unknown,
}

/// How far the list of a kind is.
#[derive(Debug, Default)]
struct List {
    /// What was listed so far, while a list is under way.
    seen: Option<BTreeSet<Key>>,
    /// Whether a list was complete, or will not be had.
    is_known: bool,
}

impl State {
    /// Nothing is known yet; pods of `node` are local. Rules beyond the budget are not kept.
    pub fn new(node: Arc<str>, budget: Budget) -> Self {
        Self {
            node,
            interner: Arc::new(Interner::new()),
            lists: Kind::ALL.into_iter().map(|kind| (kind, List::default())).collect(),
            objects: OrdMap::new(),
            differences: Differences::default(),
            versions: BTreeMap::new(),
            rule_budget: RuleBudget::new(budget),
            wanted: Wanted::default(),
            uids: BTreeMap::new(),
            told_versions: BTreeMap::new(),
            local: LocalPods::default(),
            given: BTreeMap::new(),
            claims: Vec::new(),
            new_claims: false,
            cni_ports: CniPorts::default(),
            unsettled: false,
            problems: Problems::default(),
            misunderstood: Vec::new(),
            said_over_budget: BTreeMap::new(),
            begun: false,
            restored: None,
            told_restored: None,
        }
    }

    /// The interner of all objects.
    pub fn interner(&self) -> &Arc<Interner> {
        &self.interner
    }

    /// Takes in what was heard of a kind.
    pub fn take_in(&mut self, kind: Kind, event: Event) {
        match event {
            Event::Began => {
                let before = self.list(kind).seen.replace(BTreeSet::new());
                // After a list that broke off, what that one had still counts.
                if kind == Kind::NetworkPolicy && before.is_none() {
                    self.rule_budget.begin();
                }
            }
            Event::Listed(object) => {
                if let Some(key) = key(kind, &object.identity, &self.interner)
                    && let Some(seen) = &mut self.list(kind).seen
                {
                    seen.insert(key);
                }
                self.put(kind, object);
            }
            Event::Complete => {
                let list = self.list(kind);
                list.is_known = true;
                let seen = list.seen.take().unwrap_or_default();
                // What vanished while nobody was listening.
                let of_kind =
                    self.objects.keys().chain(self.problems.objects()).filter(|key| key.kind() == kind);
                let gone: Vec<Key> = of_kind.filter(|key| !seen.contains(key)).cloned().collect();
                gone.iter().for_each(|key| self.remove(key));
            }
            Event::Applied(object) => self.put(kind, object),
            Event::Large { identity, isolation } => self.large(kind, identity, isolation),
            Event::Deleted(identity) => {
                let key = key(kind, &identity, &self.interner);
                if let Some(key) = key.filter(|key| self.is_same(key, &identity)) {
                    self.remove(&key);
                }
            }
            Event::Refused if kind == Kind::Node => self.without_nodes(),
            Event::Refused => {}
        }
    }

    /// Takes in all that the CNI cache says now, the oldest first.
    pub fn claims(&mut self, claims: Vec<Claim>) {
        let is_news = self.claims != claims;
        self.unsettled |= is_news;
        self.new_claims |= is_news;
        self.claims = claims;
    }

    /// What differs from the last update; `None` if nothing does, or not everything is known yet.
    pub fn update(&mut self) -> Option<Update> {
        if self.lists.values().all(|list| list.is_known) {
            self.restored = None;
        } else if self.restored.is_none_or(|standby| !standby.is_released) {
            return None;
        }
        self.settle();
        self.settle_rules();
        let objects = &self.objects;
        let changes = self.differences.take(|key| objects.get(key).cloned());
        self.sweep_interner();
        let new_problems = self.problems.report();
        let versions: Vec<_> = std::mem::take(&mut self.told_versions)
            .into_iter()
            .map(|(name, told)| (self.versions.get(&name).cloned(), told, name))
            .filter(|(version, told, _)| version != told)
            .map(|(version, _, name)| (name, version))
            .collect();
        let is_first = !std::mem::replace(&mut self.begun, true);
        let cni_ports = self.new_cni_ports();
        let restored = self.restored.map(|standby| standby.saved);
        let is_other = std::mem::replace(&mut self.told_restored, restored) != restored;
        let is_news =
            is_other || new_problems || cni_ports.is_some() || !changes.is_empty() || !versions.is_empty();
        (is_first || is_news).then(|| Update {
            changes,
            problems: self.problems.reported(),
            read: self.count(),
            versions,
            cni_ports,
            restored,
            never_understood: Vec::new(),
        })
    }

    /// What the CNI cache says of interfaces, if that differs from the last update: of one that several files name, the newest file
    /// counts.
    fn new_cni_ports(&mut self) -> Option<CniPorts> {
        if !std::mem::take(&mut self.new_claims) {
            return None;
        }
        let claims = self.claims.iter();
        let named = claims.filter_map(|claim| Some((claim.host_interface.clone()?, claim.addresses.clone())));
        let ports = CniPorts::new(named.collect());
        (ports != self.cni_ports).then(|| {
            self.cni_ports = Arc::clone(&ports);
            ports
        })
    }

    /// The objects that were not understood since this was last asked.
    pub fn misunderstood(&mut self) -> Vec<Misunderstood> {
        std::mem::take(&mut self.misunderstood)
    }

    /// A policy that is enforced without its rules; `None` if it is gone, or if this version has its Event.
    pub fn over_budget(&mut self, refused: RefusedPolicy) -> Option<Misunderstood> {
        let RefusedPolicy { name, message } = refused;
        let resource_version = self.versions.get(&name)?.clone();
        let uid = self.uids.get(&Key::Policy(name.clone()))?.to_string();
        let before = self.said_over_budget.insert(name.clone(), Arc::clone(&resource_version));
        (before.as_ref() != Some(&resource_version)).then(|| Misunderstood {
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

    /// An object is there, in this form now.
    fn put(&mut self, kind: Kind, object: Object) {
        let Object { identity, is_finished, converted } = object;
        let converted = match converted {
            Ok(converted) => converted,
            Err(unusable) => {
                let Some(key) = key(kind, &identity, &self.interner) else {
                    tracing::warn!(kind = %kind, error = %unusable, "an object without a name is not understood");
                    return;
                };
                let effect = match kind {
                    Kind::NetworkPolicy => "it is not in force: pods that it was to isolate may be open",
                    _ => "it is not in force",
                };
                self.drop_object(&key);
                self.problems(kind, &identity, key, vec![(unusable.to_string(), effect)], Lasting::Yes);
                return;
            }
        };
        let key = Key::of(&converted.change);
        // A new Node gets its pod CIDR a moment later, but an Event would stay.
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
                // Its addresses may be the CNI cache's until now: settled before the consumer is told.
                self.unsettled |= self.given.contains_key(&pod.name);
            }
            _ => {}
        }
        self.wanted.remove(&key);
        self.replace(key, change);
    }

    /// An object has this form now.
    fn replace(&mut self, key: Key, change: Change) {
        let objects = &mut self.objects;
        self.differences.touch(&key, || objects.get(&key));
        objects.insert(key, change);
    }

    /// When a pod's addresses were reported first: not when they were repeated in a later version, or one of them was taken back.
    fn reported(&self, pod: &policy::Pod) -> u64 {
        match self.objects.get(&Key::Pod(pod.name.clone())) {
            Some(Change::Pod(before)) if before.uid == pod.uid => {
                let known = self.local.reported(&pod.name).unwrap_or(&before.addresses);
                let is_known = |address| known.contains(address);
                // ALL of them.
                if pod.addresses.iter().all(is_known) { before.reported } else { pod.reported }
            }
            _ => pod.reported,
        }
    }

    /// Whether an object that is gone is the one that is known, and not an earlier one of the same name. An unknown UID may be either.
    fn is_same(&self, key: &Key, gone: &Identity) -> bool {
        let gone = &*gone.uid;
        match self.objects.get(key) {
            _ if gone.is_empty() => true,
            Some(Change::Pod(pod)) => pod.uid == PodUid::default() || pod.uid == PodUid::of(gone),
            _ => self.uids.get(key).is_none_or(|uid| **uid == *gone),
        }
    }

    /// An object is gone.
    fn remove(&mut self, key: &Key) {
        self.problems.remove(key);
        self.drop_object(key);
    }

    fn drop_object(&mut self, key: &Key) {
        self.uids.remove(key);
        self.wanted.remove(key);
        match key {
            Key::Policy(name) => {
                self.version(name, None);
                self.rule_budget.leave(name);
            }
            Key::Pod(name) => self.unsettled |= self.local.remove(name),
            _ => {}
        }
        let objects = &mut self.objects;
        self.differences.touch(key, || objects.get(key));
        objects.remove(key);
    }

    /// A policy has this version now; `None`: it is gone.
    fn version(&mut self, name: &PolicyName, version: Option<&str>) {
        let old = match version {
            Some(version) => self.versions.insert(name.clone(), version.into()),
            None => {
                self.said_over_budget.remove(name);
                self.versions.remove(name)
            }
        };
        self.told_versions.entry(name.clone()).or_insert(old);
    }

    /// What of an object was not understood: what and to what effect.
    fn problems(
        &mut self,
        kind: Kind,
        identity: &Identity,
        key: Key,
        flaws: Vec<(String, &str)>,
        lasting: Lasting,
    ) {
        if flaws.is_empty() {
            self.problems.remove(&key);
            return;
        }
        let resource_version: ResourceVersion = identity.resource_version.as_str().into();
        let origin = Origin::Api { resource_version: Arc::clone(&resource_version) };
        let name = key.to_string();
        let message =
            flaws.iter().map(|(what, effect)| format!("{what}; {effect}")).collect::<Vec<_>>().join(". ");
        let problem = |(what, effect): (String, &str)| Problem {
            origin: origin.clone(),
            object: Some(name.clone()),
            what,
            effect: effect.to_owned(),
        };
        let problems: Vec<Problem> = flaws.into_iter().map(problem).collect();
        if !self.problems.set(&key, &resource_version, problems) || lasting == Lasting::Unknown {
            return;
        }
        self.misunderstood.push(Misunderstood {
            reason: Reason::NotUnderstood,
            kind,
            namespace: identity.namespace.clone(),
            name: identity.name.clone(),
            uid: identity.uid.clone(),
            resource_version,
            message,
        });
    }

    /// Brings the addresses of this node's pods to what API server and CNI cache say together.
    fn settle(&mut self) {
        if !std::mem::take(&mut self.unsettled) {
            return;
        }
        let given = self.local.given(&self.claims);
        let old = std::mem::replace(&mut self.given, given);
        for name in old.keys().chain(self.given.keys()) {
            let key = Key::Pod(name.clone());
            let addresses = self.given.get(name).map(Vec::as_slice).or_else(|| self.local.reported(name));
            let (Some(Change::Pod(pod)), Some(addresses)) = (self.objects.get(&key), addresses) else {
                continue;
            };
            if pod.addresses != addresses {
                let pod = policy::Pod { addresses: addresses.to_vec(), ..pod.clone() };
                let objects = &mut self.objects;
                self.differences.touch(&key, || objects.get(&key));
                objects.insert(key, Change::Pod(pod));
            }
        }
    }

    /// How much there is now.
    fn count(&self) -> ReadCounts {
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let (objects, policies) = (number(self.objects.len()), number(self.versions.len()));
        ReadCounts { objects, policies, ..ReadCounts::default() }
    }

    /// Drops labels and texts that no object has any more, once there are many.
    fn sweep_interner(&self) {
        if self.interner.wants_sweep() {
            self.interner.sweep(self.labels());
        }
    }

    /// The label sets in use.
    fn labels(&self) -> impl Iterator<Item = &Labels> {
        let own = self.objects.values().filter_map(|change| match change {
            Change::Pod(pod) => Some(&pod.labels),
            Change::Namespace(namespace) => Some(&namespace.labels),
            _ => None,
        });
        own.chain(self.differences.labels())
    }
}

/// What identifies an object, also one of which nothing else is understood; `None` if it has no name.
fn key(kind: Kind, identity: &Identity, interner: &Interner) -> Option<Key> {
    let name = Some(&*identity.name).filter(|name| !name.is_empty())?;
    let namespace = || interner.text(&identity.namespace);
    Some(match kind {
        Kind::Namespace => Key::Namespace(interner.text(name)),
        Kind::Node => Key::Node(interner.text(name)),
        Kind::Pod => Key::Pod(PodName::new(namespace(), name)),
        Kind::NetworkPolicy => Key::Policy(PolicyName::network_policy(namespace(), name)),
    })
}

#[cfg(test)]
mod tests;
