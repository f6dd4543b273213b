//! The compiled state, which is updated from one snapshot to the next.
//!
//! From: [`Compiler`](crate::Compiler), which marks what is dirty. To: [`Snapshot`]s, and the [`Affected`]
//! connections of each update.

mod node_peers;
mod pods;
mod policies;
mod rulesets;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use rustc_hash::FxHashMap;

use crate::admission::{Admission, Budget, Refusal};
use crate::affected::Affected;
use crate::compiler::address_owners::AddressOwners;
use crate::compiler::cached_rulesets::CachedRulesets;
use crate::compiler::compiled_selector::SelectorId;
use crate::compiler::diff::Diff;
use crate::compiler::dirty::Dirty;
use crate::compiler::identities::{Identities, SubjectMatch};
use crate::compiler::node_peers::NodePeers;
use crate::compiler::policies::CompiledPolicy;
use crate::compiler::scope::Scope;
use crate::compiler::selector_cache::SelectorCache;
use crate::compiler::shared::Shared;
use crate::compiler::shared_tiers::SharedTiers;
use crate::compiler::symbol_table::{NewSymbols, SymbolTable};
use crate::decision::{RuleId, Verdict};
use crate::inventory::Inventory;
use crate::names::{Generation, PolicyName};
use crate::snapshot::address::AddressKey;
use crate::snapshot::cluster_cidrs::ClusterCidrs;
use crate::snapshot::ids::{IdentityId, NodeId};
use crate::snapshot::ipcache::IpCache;
use crate::snapshot::ports::{PortSet, ResolvedPort};
use crate::snapshot::ruleset::Rulesets;
use crate::snapshot::{NumberedPolicy, PolicyTable, Size, Snapshot};
use crate::spec::PolicySpec;

/// Rule ids are assigned in ascending order and not reused. Past this id, a full rebuild renumbers all rules.
const LAST_RULE: RuleId = RuleId(1 << 31);

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
    /// The nodes that policies select as peers.
    node_peers: NodePeers,
    policies: BTreeMap<PolicyName, CompiledPolicy>,
    /// By subject: the policies that have it. Holds no selectors that are not a subject.
    subjects: FxHashMap<SelectorId, Vec<PolicyName>>,
    next_rule: RuleId,
    /// The number of rules of all policies.
    rules: usize,
    /// The number of policies that can deny by a rule: those of the Admin and Baseline tiers.
    denying: usize,
    /// Cached rulesets, by the sorted subjects that select a pod.
    cached_rulesets: FxHashMap<Arc<[SubjectMatch]>, CachedRulesets>,
    shared_tiers: SharedTiers,
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
        let by_nodes = self.update_node_peers(&dirty, inventory, owners);
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
        let changed_subjects = self.update_policies(&dirty.policies, &specs, inventory, owners);
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
        self.detach(&(&changed_subjects | &by_nodes));
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

    /// The rules of the rulesets' tiers.
    pub(crate) fn shared_tiers(&self) -> &SharedTiers {
        &self.shared_tiers
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
}
