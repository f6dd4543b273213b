//! The compiled state, which is updated from one snapshot to the next.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::admission::{Admission, Budget, Refusal};
use crate::affected::Affected;
use crate::compiler::address_owners::AddressOwners;
use crate::compiler::cached_rulesets::CachedRulesets;
use crate::compiler::compiled_selector::SelectorId;
use crate::compiler::diff::Diff;
use crate::compiler::dirty::Dirty;
use crate::compiler::identities::{Identities, Identity, SubjectMatch};
use crate::compiler::policies::{Applied, CompiledPolicy};
use crate::compiler::scope::Scope;
use crate::compiler::selector_cache::SelectorCache;
use crate::compiler::shared::Shared;
use crate::compiler::symbol_table::{NewSymbols, SymbolTable};
use crate::decision::Verdict;
use crate::inventory::{Inventory, Pod};
use crate::names::{Generation, PolicyName};
use crate::snapshot::address::{AddressKey, address_of, key_of};
use crate::snapshot::cluster_cidrs::ClusterCidrs;
use crate::snapshot::ids::{IdentityId, NodeId};
use crate::snapshot::ipcache::{IpCache, IpCacheEntry, PodEntry};
use crate::snapshot::ports::{PortSet, ResolvedPort};
use crate::snapshot::ruleset::Rulesets;
use crate::snapshot::{NumberedPolicy, PolicyTable, Size, Snapshot};
use crate::spec::{PolicySpec, Tier};

/// Rule ids are assigned in ascending order and not reused. Past this id, a full rebuild renumbers all rules.
const LAST_RULE: u32 = 1 << 31;

/// How many more symbols than twice those of the last full rebuild are allowed. A symbol takes about 100
/// bytes.
const SPARE_SYMBOLS: usize = 1 << 16;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct CompiledState {
    admission: Admission,
    /// Policies for which the last update changed the admission.
    readmitted: BTreeSet<PolicyName>,
    own_node: Option<NodeId>,
    /// Whether pods of every node are evaluated.
    cluster_scope: bool,
    pod_cidrs: Arc<[IpNet]>,
    /// The pod CIDRs of all nodes.
    cluster_cidrs: Arc<ClusterCidrs>,
    symbols: SymbolTable,
    /// The number of symbols after the last full rebuild.
    symbols_after_rebuild: usize,
    selectors: SelectorCache,
    identities: Identities,
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
    cached_rulesets: FxHashMap<Arc<[SubjectMatch]>, CachedRulesets>,
    /// Identities that have evaluated pods and may have no rulesets yet.
    pending: Vec<IdentityId>,
    /// By subject: the number of rulesets with its policies, as of the last count. Holds only counts above
    /// one.
    ruleset_counts: FxHashMap<SelectorId, u32>,
    /// Whether identities have gained or lost rulesets since the last count.
    ruleset_counts_stale: bool,
    ipcache: IpCache,
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

impl CompiledState {
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
        owners: &mut AddressOwners,
        mut dirty: Dirty,
    ) -> Affected {
        self.diff = Diff::default();
        self.diff.cidrs = dirty.pod_cidrs || dirty.cluster_cidrs;
        if dirty.pod_cidrs {
            self.pod_cidrs = scope.pod_cidrs(inventory).into();
            // Which pods are evaluated depends on the pod CIDRs.
            dirty.addresses.extend(owners.addresses());
        }
        if dirty.cluster_cidrs {
            let cidrs = inventory.nodes.values().flat_map(|node| {
                let id = owners.node_id(&node.name);
                node.pod_cidrs.iter().map(move |cidr| (cidr, id))
            });
            self.cluster_cidrs = Arc::new(ClusterCidrs::new(cidrs));
        }
        self.cluster_scope = *scope == Scope::Cluster;
        self.own_node = match scope {
            Scope::Node(name) if inventory.nodes.contains_key(name) => Some(owners.node_id(name)),
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
        self.compile_admitted(scope, inventory, owners, dirty);
        let diff = std::mem::take(&mut self.diff);
        let affected = self.affected(&diff);
        if self.must_rebuild() {
            self.clear();
            let policies = inventory.policies.keys().cloned().collect();
            let addresses = owners.addresses().collect();
            self.compile_admitted(
                scope,
                inventory,
                owners,
                Dirty { policies, addresses, ..Dirty::default() },
            );
            // The state is the same with other ids, so no connection is affected.
            self.diff = Diff::default();
        }
        affected
    }

    /// Compiles what is dirty, then the policies for which this changed the admission, until no admission
    /// changes.
    fn compile_admitted(
        &mut self,
        scope: &Scope,
        inventory: &Inventory,
        owners: &mut AddressOwners,
        dirty: Dirty,
    ) {
        self.compile(scope, inventory, owners, dirty);
        // The number of rulesets of a policy depends only on subjects and pods, so the second round changes
        // nothing.
        loop {
            self.count_rulesets();
            let policies: BTreeSet<PolicyName> = self.admission.settle().into_iter().collect();
            if policies.is_empty() {
                break;
            }
            self.readmitted.extend(policies.iter().cloned());
            self.compile(scope, inventory, owners, Dirty { policies, ..Dirty::default() });
        }
        self.build_pending();
    }

    /// Compiles what is dirty, except rulesets, which [`CompiledState::build_pending`] builds.
    fn compile(
        &mut self,
        scope: &Scope,
        inventory: &Inventory,
        owners: &mut AddressOwners,
        mut dirty: Dirty,
    ) {
        let specs: BTreeMap<&PolicyName, Arc<PolicySpec>> = dirty
            .policies
            .iter()
            .filter_map(|name| {
                let spec = inventory.policies.get(name)?;
                let is_admitted = self.admission.is_admitted(name);
                Some((name, if is_admitted { Arc::clone(spec) } else { Arc::new(spec.without_rules()) }))
            })
            .collect();
        let mut new = NewSymbols::default();
        specs.values().for_each(|spec| self.symbols.intern(spec, &mut new));
        let changed_subjects = self.update_policies(&dirty.policies, &specs);
        drop(specs);
        self.mark_dirty_by_symbols(&new, inventory, &mut dirty);
        self.update_namespaces(inventory, &mut dirty);
        // Sorted, because neighbours share a page.
        let mut addresses: Vec<AddressKey> = dirty.addresses.into_iter().collect();
        addresses.sort_unstable();
        let entries = addresses
            .into_iter()
            .map(|key| (key, self.ipcache_entry(key, scope, inventory, owners)))
            .collect();
        self.ipcache.update(entries);
        self.update_identities();
        self.find_subjects();
        self.detach(&changed_subjects);
        self.diff.record_subjects(&changed_subjects);
    }

    /// Whether pods of every node are evaluated.
    pub(crate) fn is_cluster_scope(&self) -> bool {
        self.cluster_scope
    }

    /// All compiled selectors.
    pub(crate) fn selectors(&self) -> &SelectorCache {
        &self.selectors
    }

    /// The ipcache.
    pub(crate) fn ipcache(&self) -> &IpCache {
        &self.ipcache
    }

    /// Addresses of evaluated pods.
    pub(crate) fn evaluated(&self) -> &imbl::OrdSet<IpAddr> {
        &self.evaluated
    }

    /// The rulesets of evaluated pods, without duplicates.
    pub(crate) fn cached_rulesets(&self) -> impl Iterator<Item = &CachedRulesets> {
        self.cached_rulesets.values()
    }

    /// The subjects that select the evaluated pods of an identity.
    pub(crate) fn selected_by(&self, identity: IdentityId) -> Option<Arc<[SubjectMatch]>> {
        self.identities.get(identity).rulesets.clone()
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
            handles_unknown: self.cluster_scope || self.denying > 0 || self.identities.has_provisional(),
            own_node: self.own_node,
            cluster_scope: self.cluster_scope,
            pod_cidrs: Arc::clone(&self.pod_cidrs),
            cluster_cidrs: Arc::clone(&self.cluster_cidrs),
            ipcache: self.ipcache.clone(),
            evaluated: self.evaluated.clone(),
            rulesets: Arc::clone(rulesets),
            policies: Arc::clone(policies),
            size: Size {
                pod_addresses: self.identities.addresses(),
                evaluated_addresses: self.evaluated.len(),
                policies: self.policies.len(),
                rules: self.rules,
                identities: self.identities.populated(),
                rulesets: self.cached_rulesets.len(),
            },
        }
    }

    /// Whether to do a full rebuild, which reclaims ids that are no longer used.
    fn must_rebuild(&self) -> bool {
        self.identities.is_stale(self.cached_rulesets.len())
            || self.selectors.is_stale()
            || self.next_rule > LAST_RULE
            || self.symbols.symbol_count() > 2 * self.symbols_after_rebuild + SPARE_SYMBOLS
    }

    /// Discards everything that depends on policies and pods.
    fn clear(&mut self) {
        let before = std::mem::take(self);
        let Self { admission, readmitted, own_node, cluster_scope, pod_cidrs, cluster_cidrs, .. } = before;
        let kept = Self {
            admission,
            readmitted,
            own_node,
            cluster_scope,
            pod_cidrs,
            cluster_cidrs,
            ..Self::default()
        };
        *self = Self { ruleset_counts_stale: true, ..kept };
    }

    /// Marks as dirty the pods and namespaces that have a new symbol.
    fn mark_dirty_by_symbols(&mut self, new: &NewSymbols, inventory: &Inventory, dirty: &mut Dirty) {
        if self.identities.len() == 0 {
            // No pod has an identity yet.
            self.symbols_after_rebuild = self.symbols.symbol_count();
            return;
        }
        if new.affects_namespaces() {
            dirty.namespaces.extend(self.identities.namespaces().cloned());
        }
        if new.affects_pods() {
            let pods = inventory.pods.values().filter(|pod| new.affects(pod));
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
            self.ruleset_counts_stale = true;
        }
        for name in names {
            if let Some(before) = self.policies.remove(name) {
                before.release(&mut self.selectors);
                self.rules -= before.len();
                self.denying -= usize::from(before.spec.tier != Tier::NetworkPolicy);
                changed.insert(before.subject);
                self.remove_subject(before.subject, name);
            }
            if let Some(spec) = specs.get(name) {
                let mut fresh = Vec::new();
                let Self { symbols, selectors, port_sets, .. } = self;
                let policy =
                    CompiledPolicy::new(spec, self.next_rule, symbols, selectors, port_sets, &mut fresh);
                for selector in fresh {
                    self.selectors.fill(selector, &self.identities, self.identities.index());
                }
                self.next_rule += policy.len() as u32;
                self.rules += policy.len();
                self.denying += usize::from(policy.spec.tier != Tier::NetworkPolicy);
                changed.insert(policy.subject);
                self.add_subject(policy.subject, name);
                self.policies.insert(name.clone(), policy);
            }
        }
        changed
    }

    /// Counts the rulesets that contain each policy. Not done in scope `Cluster`: only an agent has rulesets
    /// for only the pods of its node.
    fn count_rulesets(&mut self) {
        if self.cluster_scope || !std::mem::take(&mut self.ruleset_counts_stale) {
            return;
        }
        let pending = self.pending.iter().map(|identity| self.identities.get(*identity));
        let pending = pending.filter(|identity| identity.evaluated > 0 && identity.rulesets.is_none());
        let keys: FxHashSet<&[SubjectMatch]> =
            pending.map(Identity::subjects).chain(self.cached_rulesets.keys().map(Arc::as_ref)).collect();
        let mut counts: FxHashMap<SelectorId, u32> = FxHashMap::default();
        keys.into_iter().flatten().for_each(|subject| *counts.entry(subject.selector).or_default() += 1);
        counts.retain(|_, count| *count > 1);
        let before = std::mem::replace(&mut self.ruleset_counts, counts);
        let changed = self.policies.values().filter_map(|policy| {
            let (before, now) = (before.get(&policy.subject), self.ruleset_counts.get(&policy.subject));
            (before != now || now.is_some()).then_some((&policy.name, now.copied().unwrap_or(1)))
        });
        changed.for_each(|(name, rulesets)| self.admission.set_rulesets(name, rulesets));
    }

    fn add_subject(&mut self, subject: SelectorId, policy: &PolicyName) {
        let policies = self.subjects.entry(subject).or_default();
        policies.push(policy.clone());
        if policies.len() == 1 {
            for (identity, selected) in self.selectors.of_subject(subject) {
                let Some(subjects) = &mut self.identities.get_mut(identity).subjects else { continue };
                if let Err(position) = subjects.binary_search(&selected) {
                    subjects.insert(position, selected);
                }
            }
        }
    }

    fn remove_subject(&mut self, subject: SelectorId, policy: &PolicyName) {
        let Some(policies) = self.subjects.get_mut(&subject) else { return };
        policies.retain(|name| name != policy);
        if policies.is_empty() {
            self.subjects.remove(&subject);
            for (identity, _) in self.selectors.of_subject(subject) {
                if let Some(subjects) = &mut self.identities.get_mut(identity).subjects {
                    subjects.retain(|found| found.selector != subject);
                }
            }
        }
    }

    /// Updates the dirty namespaces. If policies see a difference, all pods of the namespace become dirty.
    fn update_namespaces(&mut self, inventory: &Inventory, dirty: &mut Dirty) {
        let Self { identities, symbols, .. } = self;
        let namespaces = dirty.namespaces.iter();
        let changed: FxHashSet<&Arc<str>> =
            namespaces.filter(|name| identities.namespace_changed(symbols, inventory, name)).collect();
        if !changed.is_empty() {
            let pods = inventory.pods.values().filter(|pod| changed.contains(&pod.name.namespace));
            dirty.addresses.extend(addresses_of(pods));
        }
    }

    /// The new ipcache entry of an address. Also updates the identities' counts and the set of evaluated
    /// addresses.
    fn ipcache_entry(
        &mut self,
        key: AddressKey,
        scope: &Scope,
        inventory: &Inventory,
        owners: &mut AddressOwners,
    ) -> IpCacheEntry {
        let pod = owners.owner(key).map(Arc::clone).map(|pod| {
            let identity = self.identities.of_pod(&self.symbols, inventory, &pod);
            let node = pod.node.as_ref().map(|node| owners.node_id(node));
            let ports = self.symbols.resolved_ports(&pod).map(|ports| self.resolved_ports.share(ports));
            let evaluated = scope.evaluates(&pod, &self.pod_cidrs);
            PodEntry::new(pod, identity, self.identities.is_provisional(identity), evaluated, node, ports)
        });
        let entry = IpCacheEntry { nodes: owners.nodes(key, pod.is_some()), pod };
        let address = address_of(key);
        let before = self.ipcache.get(address);
        self.diff.record_entry(key, before, |identity| self.identities.get(identity).rulesets.clone());
        let before = before.and_then(|entry| entry.pod.as_ref());
        let before = before.map(|pod| (pod.identity(), pod.is_evaluated()));
        let now = entry.pod.as_ref().map(|pod| (pod.identity(), pod.is_evaluated()));
        // Adds before it removes, so that an identity keeps its rulesets if its only pod changes.
        if let Some((identity, evaluated)) = now {
            self.identities.add_address(identity, evaluated);
            if evaluated && self.identities.get(identity).evaluated == 1 {
                self.ruleset_counts_stale = true;
                self.pending.extend(self.identities.views(identity));
            }
        }
        if let Some((identity, evaluated)) = before {
            self.identities.remove_address(identity, evaluated);
            if evaluated && self.identities.get(identity).evaluated == 0 {
                for identity in self.identities.views(identity) {
                    self.detach_identity(identity);
                    self.identities.get_mut(identity).subjects = None;
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
        entry
    }

    /// Finds the subjects of identities that now have their first evaluated pod.
    fn find_subjects(&mut self) {
        for identity in &self.pending {
            let Identity { evaluated, subjects, .. } = self.identities.get(*identity);
            if *evaluated == 0 || subjects.is_some() {
                continue;
            }
            let selected =
                self.subjects.keys().filter_map(|subject| self.selectors.as_subject(*subject, *identity));
            let mut subjects: Vec<SubjectMatch> = selected.collect();
            subjects.sort_unstable();
            self.identities.get_mut(*identity).subjects = Some(subjects);
        }
    }

    /// Adds new identities to selectors and to existing rulesets.
    fn update_identities(&mut self) {
        let index = self.identities.fresh();
        if index.is_empty() {
            return;
        }
        self.rulesets.resize(self.identities.len(), None);
        self.published_rulesets = None;
        let mut selected_by: FxHashMap<IdentityId, Vec<SelectorId>> = FxHashMap::default();
        let has_rulesets = !self.cached_rulesets.is_empty();
        let mut subjects: Vec<(IdentityId, SubjectMatch)> = Vec::new();
        self.selectors.add_identities(&self.identities, &index, |selector, as_peer, identity, view| {
            if has_rulesets && as_peer {
                selected_by.entry(identity).or_default().push(selector);
            }
            if self.identities.get(identity).evaluated > 0 && self.subjects.contains_key(&selector) {
                subjects.push((identity, SubjectMatch { selector, view }));
            }
        });
        for identity in index.iter() {
            let identity = self.identities.get_mut(identity);
            if identity.evaluated > 0 {
                identity.subjects = Some(Vec::new());
            }
        }
        for (identity, subject) in subjects {
            // Selectors come in ascending order, so the result is sorted.
            self.identities.get_mut(identity).subjects.get_or_insert_default().push(subject);
        }
        self.identities.index_fresh();
        for cached in self.cached_rulesets.values_mut() {
            if cached.add_identities(&selected_by) {
                for user in &cached.users {
                    self.rulesets[*user as usize] = Some(Arc::clone(&cached.rulesets));
                }
            }
        }
    }

    /// Detaches the rulesets of all identities that a changed subject selects.
    fn detach(&mut self, changed: &FxHashSet<SelectorId>) {
        let identities: FxHashSet<IdentityId> = changed
            .iter()
            .flat_map(|subject| self.selectors.of_subject(*subject))
            .map(|(identity, _)| identity)
            .collect();
        for identity in identities {
            self.detach_identity(identity);
            if self.identities.get(identity).evaluated > 0 {
                self.pending.push(identity);
            }
        }
    }

    fn detach_identity(&mut self, identity: IdentityId) {
        let Some(key) = self.identities.get_mut(identity).rulesets.take() else { return };
        self.ruleset_counts_stale = true;
        if let Some(cached) = self.cached_rulesets.get_mut(&key) {
            cached.users.remove(&identity);
            if cached.users.is_empty() {
                self.cached_rulesets.remove(&key);
            }
        }
        self.rulesets[identity as usize] = None;
        self.published_rulesets = None;
    }

    /// Finds or builds rulesets for every identity that has evaluated pods and no rulesets.
    fn build_pending(&mut self) {
        for identity in std::mem::take(&mut self.pending) {
            let found = self.identities.get(identity);
            if found.evaluated == 0 || found.rulesets.is_some() {
                continue;
            }
            let key: Arc<[SubjectMatch]> = found.subjects().into();
            if !self.cached_rulesets.contains_key(&key) {
                let policies = key.iter().flat_map(|subject| {
                    let names = self.subjects.get(&subject.selector).into_iter().flatten();
                    let policies = names.filter_map(|name| self.policies.get(name));
                    policies.map(|policy| Applied { policy, view: subject.view })
                });
                self.cached_rulesets
                    .insert(Arc::clone(&key), CachedRulesets::new(policies.collect(), &self.selectors));
            }
            if let Some(cached) = self.cached_rulesets.get_mut(&key) {
                cached.users.insert(identity);
                self.rulesets[identity as usize] = Some(Arc::clone(&cached.rulesets));
            }
            self.identities.get_mut(identity).rulesets = Some(key);
            self.published_rulesets = None;
        }
    }
}

fn addresses_of<'a>(pods: impl Iterator<Item = &'a Arc<Pod>>) -> impl Iterator<Item = AddressKey> {
    pods.flat_map(|pod| &pod.addresses).map(|address| key_of(address.to_canonical()))
}
