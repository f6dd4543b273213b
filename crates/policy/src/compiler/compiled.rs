//! The compiled state, which is updated from one snapshot to the next.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::admission::{Admission, Budget, Refusal};
use crate::affected::Affected;
use crate::compiler::claims::Claims;
use crate::compiler::classes::{Chosen, Class, Classes};
use crate::compiler::compiled_selector::SelectorId;
use crate::compiler::diff::Diff;
use crate::compiler::dirty::Dirty;
use crate::compiler::policies::{Applied, CompiledPolicy};
use crate::compiler::rulesets::Built;
use crate::compiler::scope::Scope;
use crate::compiler::selectors::Selectors;
use crate::compiler::shared::Shared;
use crate::compiler::vocabulary::{NewWords, Vocabulary};
use crate::decision::Verdict;
use crate::inventory::{Inventory, Pod};
use crate::names::{Generation, PolicyName};
use crate::snapshot::address::{AddressKey, address_of, key_of};
use crate::snapshot::cluster_cidrs::ClusterCidrs;
use crate::snapshot::hosts::{Host, HostPod, Hosts};
use crate::snapshot::ids::{ClassId, NodeId};
use crate::snapshot::ports::{PortSet, ResolvedPort};
use crate::snapshot::ruleset::Rulesets;
use crate::snapshot::{NumberedPolicy, PolicyTable, Size, Snapshot};
use crate::spec::{PolicySpec, Tier};

/// Rule ids are assigned in ascending order and not reused. Past this id, a full rebuild renumbers all rules.
const LAST_RULE: u32 = 1 << 31;

/// How many more symbols than twice those of the last full rebuild are allowed. A symbol takes about 100
/// bytes.
const SPARE_WORDS: usize = 1 << 16;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Compiled {
    admission: Admission,
    /// Policies for which the last update changed the admission.
    readmitted: BTreeSet<PolicyName>,
    here: Option<NodeId>,
    /// Whether pods of every node are evaluated.
    everywhere: bool,
    pod_cidrs: Arc<[IpNet]>,
    /// The pod CIDRs of all nodes.
    cluster_cidrs: Arc<ClusterCidrs>,
    vocabulary: Vocabulary,
    /// The number of symbols after the last full rebuild.
    words_at_start: usize,
    selectors: Selectors,
    classes: Classes,
    port_sets: Shared<PortSet>,
    policies: BTreeMap<PolicyName, CompiledPolicy>,
    /// By subject: the policies that have it. Holds no selectors that are not a subject.
    subjects: FxHashMap<SelectorId, Vec<PolicyName>>,
    next_rule: u32,
    /// The number of rules of all policies.
    rules: usize,
    /// The number of policies that can deny by a rule: those of the Admin and Baseline tiers.
    denying: usize,
    /// Cached rulesets, by the sorted subjects that select a pod.
    built: FxHashMap<Arc<[Chosen]>, Built>,
    /// Identities that have evaluated pods and may have no rulesets yet.
    wanting: Vec<ClassId>,
    /// By subject: the number of rulesets with its policies, as of the last count. Holds only counts above
    /// one.
    rulesets_of: FxHashMap<SelectorId, u32>,
    /// Whether identities have gained or lost rulesets since the last count.
    must_count: bool,
    hosts: Hosts,
    evaluated: imbl::OrdSet<IpAddr>,
    /// By identity: the rulesets of the next snapshot.
    rulesets: Vec<Option<Arc<Rulesets>>>,
    /// The rulesets of the last snapshot; `None` if they changed since.
    published_rulesets: Option<Arc<[Option<Arc<Rulesets>>]>>,
    published_policies: Option<Arc<PolicyTable>>,
    /// What the current update has changed.
    diff: Diff,
    /// Named ports of pods. Equal values are shared.
    resolved_ports: Shared<Vec<ResolvedPort>>,
}

impl Compiled {
    /// This node's pod CIDRs.
    pub(crate) fn pod_cidrs(&self) -> &[IpNet] {
        &self.pod_cidrs
    }

    /// Compiles what is dirty, and returns the affected connections. The inventory and the address owners are
    /// already up to date.
    pub(crate) fn update(
        &mut self,
        scope: &Scope,
        inventory: &Inventory,
        claims: &mut Claims,
        mut dirty: Dirty,
    ) -> Affected {
        self.diff = Diff::default();
        self.diff.cidrs = dirty.pod_cidrs || dirty.cluster_cidrs;
        if dirty.pod_cidrs {
            self.pod_cidrs = scope.pod_cidrs(inventory).into();
            // Which pods are evaluated depends on the pod CIDRs.
            dirty.addresses.extend(claims.addresses());
        }
        if dirty.cluster_cidrs {
            let cidrs = inventory.nodes.values().flat_map(|node| {
                let id = claims.node_id(&node.name);
                node.pod_cidrs.iter().map(move |cidr| (cidr, id))
            });
            self.cluster_cidrs = Arc::new(ClusterCidrs::new(cidrs));
        }
        self.everywhere = *scope == Scope::Cluster;
        self.here = match scope {
            Scope::Node(name) if inventory.nodes.contains_key(name) => Some(claims.node_id(name)),
            _ => None,
        };
        self.admission.begin();
        for name in &dirty.policies {
            match inventory.policies.get(name) {
                Some(spec) => self.admission.enter(name, spec.cost(), spec.omitted.is_none()),
                None => self.admission.leave(name),
            }
        }
        self.readmitted = self.admission.settle().into_iter().collect();
        dirty.policies.extend(self.readmitted.iter().cloned());
        self.compile_admitted(scope, inventory, claims, dirty);
        let diff = std::mem::take(&mut self.diff);
        let affected = self.affected(&diff);
        if self.must_rebuild() {
            self.clear();
            let policies = inventory.policies.keys().cloned().collect();
            let addresses = claims.addresses().collect();
            self.compile_admitted(
                scope,
                inventory,
                claims,
                Dirty { policies, addresses, ..Dirty::default() },
            );
            // The state is the same with other ids, so no connection is affected.
            self.diff = Diff::default();
        }
        affected
    }

    /// Compiles what is dirty, then the policies for which this changed the admission, until no admission
    /// changes.
    fn compile_admitted(&mut self, scope: &Scope, inventory: &Inventory, claims: &mut Claims, dirty: Dirty) {
        self.compile(scope, inventory, claims, dirty);
        // The number of rulesets of a policy depends only on subjects and pods, so the second round changes
        // nothing.
        loop {
            self.count_rulesets();
            let policies: BTreeSet<PolicyName> = self.admission.settle().into_iter().collect();
            if policies.is_empty() {
                break;
            }
            self.readmitted.extend(policies.iter().cloned());
            self.compile(scope, inventory, claims, Dirty { policies, ..Dirty::default() });
        }
        self.build_wanted();
    }

    /// Compiles what is dirty, except rulesets, which [`Compiled::build_wanted`] builds.
    fn compile(&mut self, scope: &Scope, inventory: &Inventory, claims: &mut Claims, mut dirty: Dirty) {
        let specs: BTreeMap<&PolicyName, Arc<PolicySpec>> = dirty
            .policies
            .iter()
            .filter_map(|name| {
                let spec = inventory.policies.get(name)?;
                let is_admitted = self.admission.is_admitted(name);
                Some((name, if is_admitted { Arc::clone(spec) } else { Arc::new(spec.without_rules()) }))
            })
            .collect();
        let mut new = NewWords::default();
        specs.values().for_each(|spec| self.vocabulary.learn(spec, &mut new));
        let changed_subjects = self.update_policies(&dirty.policies, &specs);
        drop(specs);
        self.mark_dirty_by_words(&new, inventory, &mut dirty);
        self.update_namespaces(inventory, &mut dirty);
        // Sorted, because neighbours share a page.
        let mut addresses: Vec<AddressKey> = dirty.addresses.into_iter().collect();
        addresses.sort_unstable();
        let hosts =
            addresses.into_iter().map(|key| (key, self.host(key, scope, inventory, claims))).collect();
        self.hosts.update(hosts);
        self.update_classes();
        self.find_subjects();
        self.detach(&changed_subjects);
        self.diff.subjects(&changed_subjects);
    }

    /// Whether pods of every node are evaluated.
    pub(crate) fn is_everywhere(&self) -> bool {
        self.everywhere
    }

    /// All compiled selectors.
    pub(crate) fn selectors(&self) -> &Selectors {
        &self.selectors
    }

    /// The ipcache.
    pub(crate) fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// Addresses of evaluated pods.
    pub(crate) fn evaluated(&self) -> &imbl::OrdSet<IpAddr> {
        &self.evaluated
    }

    /// The rulesets of evaluated pods, without duplicates.
    pub(crate) fn built(&self) -> impl Iterator<Item = &Built> {
        self.built.values()
    }

    /// The subjects that select the evaluated pods of an identity.
    pub(crate) fn selected_by(&self, class: ClassId) -> Option<Arc<[Chosen]>> {
        self.classes.get(class).rulesets.clone()
    }

    /// Sets the budget of policies. Must be called before the first update.
    pub(crate) fn set_budget(&mut self, budget: Budget) {
        self.admission = Admission::new(budget);
    }

    /// See [`Compiler::refusals`](crate::Compiler::refusals).
    pub(crate) fn refusals(&self) -> impl Iterator<Item = Refusal> + '_ {
        self.admission.refusals()
    }

    /// See [`Compiler::more_refusals`](crate::Compiler::more_refusals).
    pub(crate) fn more_refusals(&self) -> impl Iterator<Item = (&Arc<str>, usize)> + '_ {
        self.admission.more_refusals()
    }

    /// See [`Compiler::is_behind`](crate::Compiler::is_behind).
    pub(crate) fn is_behind(&self) -> bool {
        self.admission.is_behind()
    }

    /// See [`Compiler::readmitted`](crate::Compiler::readmitted).
    pub(crate) fn readmitted(&self) -> &BTreeSet<PolicyName> {
        &self.readmitted
    }

    /// The next snapshot.
    pub(crate) fn snapshot(&mut self, generation: Generation, on_unknown_pod: Verdict) -> Snapshot {
        let rulesets = self.published_rulesets.get_or_insert_with(|| self.rulesets.as_slice().into());
        let policies = self.published_policies.get_or_insert_with(|| {
            let numbered = |policy: &CompiledPolicy| {
                let (name, spec) = (Arc::clone(&policy.name), Arc::clone(&policy.spec));
                (policy.first_rule, NumberedPolicy { name, spec })
            };
            // Policies without rules have no ids. They are left out, so that they do not replace a policy
            // that has the same first id.
            Arc::new(self.policies.values().filter(|policy| policy.len() > 0).map(numbered).collect())
        });
        Snapshot {
            generation,
            on_unknown_pod,
            minds_unknown: self.everywhere || self.denying > 0 || self.classes.are_unsure(),
            here: self.here,
            everywhere: self.everywhere,
            pod_cidrs: Arc::clone(&self.pod_cidrs),
            cluster_cidrs: Arc::clone(&self.cluster_cidrs),
            hosts: self.hosts.clone(),
            evaluated: self.evaluated.clone(),
            rulesets: Arc::clone(rulesets),
            policies: Arc::clone(policies),
            size: Size {
                pod_addresses: self.classes.addresses(),
                evaluated_addresses: self.evaluated.len(),
                policies: self.policies.len(),
                rules: self.rules,
                classes: self.classes.inhabited(),
                rulesets: self.built.len(),
            },
        }
    }

    /// Whether to do a full rebuild, which reclaims ids that are no longer used.
    fn must_rebuild(&self) -> bool {
        self.classes.is_stale(self.built.len())
            || self.selectors.is_stale()
            || self.next_rule > LAST_RULE
            || self.vocabulary.words() > 2 * self.words_at_start + SPARE_WORDS
    }

    /// Discards everything that depends on policies and pods.
    fn clear(&mut self) {
        let before = std::mem::take(self);
        let Self { admission, readmitted, here, everywhere, pod_cidrs, cluster_cidrs, .. } = before;
        let kept =
            Self { admission, readmitted, here, everywhere, pod_cidrs, cluster_cidrs, ..Self::default() };
        *self = Self { must_count: true, ..kept };
    }

    /// Marks as dirty the pods and namespaces that have a new symbol.
    fn mark_dirty_by_words(&mut self, new: &NewWords, inventory: &Inventory, dirty: &mut Dirty) {
        if self.classes.len() == 0 {
            // No pod has an identity yet.
            self.words_at_start = self.vocabulary.words();
            return;
        }
        if new.concern_namespaces() {
            dirty.namespaces.extend(self.classes.namespaces().cloned());
        }
        if new.concern_pods() {
            let pods = inventory.pods.values().filter(|pod| new.concern(pod));
            dirty.addresses.extend(addresses_of(pods));
        }
    }

    /// Updates policies; those without a spec are removed. Returns the subjects with policies that changed.
    fn update_policies(
        &mut self,
        names: &BTreeSet<PolicyName>,
        specs: &BTreeMap<&PolicyName, Arc<PolicySpec>>,
    ) -> FxHashSet<SelectorId> {
        let mut changed = FxHashSet::default();
        if !names.is_empty() {
            self.published_policies = None;
            self.must_count = true;
        }
        for name in names {
            if let Some(before) = self.policies.remove(name) {
                before.leave(&mut self.selectors);
                self.rules -= before.len();
                self.denying -= usize::from(before.spec.tier != Tier::NetworkPolicy);
                changed.insert(before.subject);
                self.leave_subject(before.subject, name);
            }
            if let Some(spec) = specs.get(name) {
                let mut fresh = Vec::new();
                let Self { vocabulary, selectors, port_sets, .. } = self;
                let policy =
                    CompiledPolicy::new(spec, self.next_rule, vocabulary, selectors, port_sets, &mut fresh);
                for selector in fresh {
                    self.selectors.fill(selector, &self.classes, self.classes.index());
                }
                self.next_rule += policy.len() as u32;
                self.rules += policy.len();
                self.denying += usize::from(policy.spec.tier != Tier::NetworkPolicy);
                changed.insert(policy.subject);
                self.enter_subject(policy.subject, name);
                self.policies.insert(name.clone(), policy);
            }
        }
        changed
    }

    /// Counts the rulesets that contain each policy. Not done in scope `Cluster`: only an agent has rulesets
    /// for just the pods of its own node.
    fn count_rulesets(&mut self) {
        if self.everywhere || !std::mem::take(&mut self.must_count) {
            return;
        }
        let wanted = self.wanting.iter().map(|class| self.classes.get(*class));
        let wanted = wanted.filter(|class| class.evaluated > 0 && class.rulesets.is_none());
        let keys: FxHashSet<&[Chosen]> =
            wanted.map(Class::subjects).chain(self.built.keys().map(Arc::as_ref)).collect();
        let mut counts: FxHashMap<SelectorId, u32> = FxHashMap::default();
        keys.into_iter().flatten().for_each(|subject| *counts.entry(subject.by).or_default() += 1);
        counts.retain(|_, count| *count > 1);
        let before = std::mem::replace(&mut self.rulesets_of, counts);
        let changed = self.policies.values().filter_map(|policy| {
            let (before, now) = (before.get(&policy.subject), self.rulesets_of.get(&policy.subject));
            (before != now || now.is_some()).then_some((&policy.name, now.copied().unwrap_or(1)))
        });
        changed.for_each(|(name, rulesets)| self.admission.set_rulesets(name, rulesets));
    }

    fn enter_subject(&mut self, subject: SelectorId, policy: &PolicyName) {
        let policies = self.subjects.entry(subject).or_default();
        policies.push(policy.clone());
        if policies.len() == 1 {
            for (class, chosen) in self.selectors.of_subject(subject) {
                let Some(subjects) = &mut self.classes.get_mut(class).subjects else { continue };
                if let Err(place) = subjects.binary_search(&chosen) {
                    subjects.insert(place, chosen);
                }
            }
        }
    }

    fn leave_subject(&mut self, subject: SelectorId, policy: &PolicyName) {
        let Some(policies) = self.subjects.get_mut(&subject) else { return };
        policies.retain(|name| name != policy);
        if policies.is_empty() {
            self.subjects.remove(&subject);
            for (class, _) in self.selectors.of_subject(subject) {
                if let Some(subjects) = &mut self.classes.get_mut(class).subjects {
                    subjects.retain(|chosen| chosen.by != subject);
                }
            }
        }
    }

    /// Updates the dirty namespaces. If policies see a difference, all pods of the namespace become dirty.
    fn update_namespaces(&mut self, inventory: &Inventory, dirty: &mut Dirty) {
        let Self { classes, vocabulary, .. } = self;
        let namespaces = dirty.namespaces.iter();
        let changed: FxHashSet<&Arc<str>> =
            namespaces.filter(|name| classes.namespace_changed(vocabulary, inventory, name)).collect();
        if !changed.is_empty() {
            let pods = inventory.pods.values().filter(|pod| changed.contains(&pod.name.namespace));
            dirty.addresses.extend(addresses_of(pods));
        }
    }

    /// The new ipcache entry of an address. Also updates the identities' counts and the set of evaluated
    /// addresses.
    fn host(&mut self, key: AddressKey, scope: &Scope, inventory: &Inventory, claims: &mut Claims) -> Host {
        let pod = claims.owner(key).map(Arc::clone).map(|pod| {
            let class = self.classes.of_pod(&self.vocabulary, inventory, &pod);
            let node = pod.node.as_ref().map(|node| claims.node_id(node));
            let ports = self.vocabulary.resolved_ports(&pod).map(|ports| self.resolved_ports.share(ports));
            let evaluated = scope.evaluates(&pod, &self.pod_cidrs);
            HostPod::new(pod, class, self.classes.is_provisional(class), evaluated, node, ports)
        });
        let host = Host { nodes: claims.nodes(key, pod.is_some()), pod };
        let address = address_of(key);
        let before = self.hosts.get(address);
        self.diff.host(key, before, |class| self.classes.get(class).rulesets.clone());
        let before = before.and_then(|host| host.pod.as_ref());
        let before = before.map(|pod| (pod.class(), pod.is_evaluated()));
        let now = host.pod.as_ref().map(|pod| (pod.class(), pod.is_evaluated()));
        // Adds before it removes, so that an identity keeps its rulesets if its only pod changes.
        if let Some((class, evaluated)) = now {
            self.classes.count_in(class, evaluated);
            if evaluated && self.classes.get(class).evaluated == 1 {
                self.must_count = true;
                self.wanting.extend(self.classes.views(class));
            }
        }
        if let Some((class, evaluated)) = before {
            self.classes.count_out(class, evaluated);
            if evaluated && self.classes.get(class).evaluated == 0 {
                for class in self.classes.views(class) {
                    self.detach_class(class);
                    self.classes.get_mut(class).subjects = None;
                }
            }
        }
        let was_evaluated = before.is_some_and(|(_, evaluated)| evaluated);
        let is_evaluated = now.is_some_and(|(_, evaluated)| evaluated);
        if was_evaluated && !is_evaluated {
            self.evaluated.remove(&address);
        } else if is_evaluated && !was_evaluated {
            self.evaluated.insert(address);
        }
        host
    }

    /// Finds the subjects of identities that now have their first evaluated pod.
    fn find_subjects(&mut self) {
        for class in &self.wanting {
            let Class { evaluated, subjects, .. } = self.classes.get(*class);
            if *evaluated == 0 || subjects.is_some() {
                continue;
            }
            let chosen =
                self.subjects.keys().filter_map(|subject| self.selectors.as_subject(*subject, *class));
            let mut subjects: Vec<Chosen> = chosen.collect();
            subjects.sort_unstable();
            self.classes.get_mut(*class).subjects = Some(subjects);
        }
    }

    /// Adds new identities to selectors and to existing rulesets.
    fn update_classes(&mut self) {
        let index = self.classes.fresh();
        if index.is_empty() {
            return;
        }
        self.rulesets.resize(self.classes.len(), None);
        self.published_rulesets = None;
        let mut chosen_by: FxHashMap<ClassId, Vec<SelectorId>> = FxHashMap::default();
        let extend = !self.built.is_empty();
        let mut subjects: Vec<(ClassId, Chosen)> = Vec::new();
        self.selectors.add_classes(&self.classes, &index, |selector, as_a_peer, class, view| {
            if extend && as_a_peer {
                chosen_by.entry(class).or_default().push(selector);
            }
            if self.classes.get(class).evaluated > 0 && self.subjects.contains_key(&selector) {
                subjects.push((class, Chosen { by: selector, view }));
            }
        });
        for class in index.iter() {
            let class = self.classes.get_mut(class);
            if class.evaluated > 0 {
                class.subjects = Some(Vec::new());
            }
        }
        for (class, subject) in subjects {
            // Selectors come in ascending order, so the result is sorted.
            self.classes.get_mut(class).subjects.get_or_insert_default().push(subject);
        }
        self.classes.settle();
        for built in self.built.values_mut() {
            if built.add_classes(&chosen_by) {
                for user in &built.users {
                    self.rulesets[*user as usize] = Some(Arc::clone(&built.rulesets));
                }
            }
        }
    }

    /// Detaches the rulesets of all identities that a changed subject selects.
    fn detach(&mut self, changed: &FxHashSet<SelectorId>) {
        let classes: FxHashSet<ClassId> = changed
            .iter()
            .flat_map(|subject| self.selectors.of_subject(*subject))
            .map(|(class, _)| class)
            .collect();
        for class in classes {
            self.detach_class(class);
            if self.classes.get(class).evaluated > 0 {
                self.wanting.push(class);
            }
        }
    }

    fn detach_class(&mut self, class: ClassId) {
        let Some(key) = self.classes.get_mut(class).rulesets.take() else { return };
        self.must_count = true;
        if let Some(built) = self.built.get_mut(&key) {
            built.users.remove(&class);
            if built.users.is_empty() {
                self.built.remove(&key);
            }
        }
        self.rulesets[class as usize] = None;
        self.published_rulesets = None;
    }

    /// Finds or builds rulesets for every identity that has evaluated pods and no rulesets.
    fn build_wanted(&mut self) {
        for class in std::mem::take(&mut self.wanting) {
            let facts = self.classes.get(class);
            if facts.evaluated == 0 || facts.rulesets.is_some() {
                continue;
            }
            let key: Arc<[Chosen]> = facts.subjects().into();
            if !self.built.contains_key(&key) {
                let policies = key.iter().flat_map(|chosen| {
                    let names = self.subjects.get(&chosen.by).into_iter().flatten();
                    let policies = names.filter_map(|name| self.policies.get(name));
                    policies.map(|policy| Applied { policy, view: chosen.view })
                });
                self.built.insert(Arc::clone(&key), Built::new(policies.collect(), &self.selectors));
            }
            if let Some(built) = self.built.get_mut(&key) {
                built.users.insert(class);
                self.rulesets[class as usize] = Some(Arc::clone(&built.rulesets));
            }
            self.classes.get_mut(class).rulesets = Some(key);
            self.published_rulesets = None;
        }
    }
}

fn addresses_of<'a>(pods: impl Iterator<Item = &'a Arc<Pod>>) -> impl Iterator<Item = AddressKey> {
    pods.flat_map(|pod| &pod.addresses).map(|address| key_of(address.to_canonical()))
}
