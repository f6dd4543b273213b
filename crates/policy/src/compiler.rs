//! Compiles changes into snapshots. Keeps the inventory, and recompiles only what a change makes dirty.
//!
//! From: a source (`cluster`), as [`Change`]s. To: [`Snapshot`]s. The cost of a change:
//!
//! - a pod with an existing identity: updates its addresses in a persistent map;
//! - a pod with a new identity: also updates the rulesets that select the identity as a peer;
//! - a policy: builds the rulesets of the pods that it selects; for each new symbol (a label key, a value, a
//!   port name) also updates the pods that have it;
//! - a node: updates its addresses, and compiles the policies that select it as a peer.
//!
//! A full rebuild compiles everything again when most ids are no longer used.

pub(crate) mod address_owners;
mod affected;
pub(crate) mod cached_rulesets;
pub(crate) mod compiled_selector;
pub(crate) mod compiled_state;
mod diff;
mod dirty;
pub(crate) mod identities;
pub(crate) mod identity_index;
pub(crate) mod node_peers;
pub(crate) mod policies;
mod scope;
pub(crate) mod selector_cache;
pub(crate) mod shared;
pub(crate) mod shared_tiers;
pub(crate) mod symbol_table;
pub(crate) mod tier_rules_builder;

use std::collections::BTreeSet;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use crate::admission::{Budget, Refusal};
use crate::affected::Affected;
use crate::compiler::address_owners::AddressOwners;
use crate::compiler::compiled_state::CompiledState;
use crate::compiler::dirty::Dirty;
use crate::decision::Verdict;
use crate::inventory::{Change, Inventory, Pod};
use crate::names::{Generation, PolicyName};
use crate::snapshot::Snapshot;

pub use self::scope::Scope;

/// Compiles snapshots.
#[derive(Debug)]
pub struct Compiler {
    scope: Scope,
    on_unknown_pod: Verdict,
    generation: Generation,
    inventory: Inventory,
    owners: AddressOwners,
    compiled: CompiledState,
}

/// A snapshot, and how it differs from the one before.
#[derive(Clone, Debug)]
pub struct Compilation {
    /// The new snapshot.
    pub snapshot: Arc<Snapshot>,
    /// The connections with a decision that may differ from that of the previous snapshot.
    pub affected: Affected,
}

impl Compiler {
    /// A compiler with an empty inventory.
    pub fn new(scope: Scope) -> Self {
        Self {
            scope,
            on_unknown_pod: Verdict::Deny,
            generation: Generation::default(),
            inventory: Inventory::default(),
            owners: AddressOwners::default(),
            compiled: CompiledState::default(),
        }
    }

    /// Sets the verdict on packets that depend on a pod or labels that are not known (yet). The default is to
    /// deny.
    #[must_use]
    pub fn on_unknown_pod(mut self, verdict: Verdict) -> Self {
        self.on_unknown_pod = verdict;
        self
    }

    /// Sets the budget for the policies of a namespace: see [`admission`](crate::admission). The default is
    /// no limit.
    #[must_use]
    pub fn budget(mut self, budget: Budget) -> Self {
        self.compiled.set_budget(budget);
        self
    }

    /// Applies the changes, in order, and compiles the next snapshot. Its generation is one higher than the
    /// last.
    ///
    /// In scope [`Scope::Cluster`], and in the first compilation, all connections are affected.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> Compilation {
        let mut dirty = Dirty::default();
        for change in changes {
            self.apply_change(change, &mut dirty);
        }
        let pod_cidrs = self.scope.pod_cidrs(&self.inventory);
        dirty.pod_cidrs = pod_cidrs != self.compiled.pod_cidrs();
        self.generation = self.generation.next();
        let Self { scope, inventory, owners, compiled, .. } = self;
        let affected = compiled.update(scope, inventory, owners, dirty);
        let affected = if self.generation == Generation::default().next() { Affected::All } else { affected };
        Compilation { snapshot: Arc::new(compiled.snapshot(self.generation, self.on_unknown_pod)), affected }
    }

    /// The policies that are enforced without their rules, by namespace, the cheapest first. At most 20 per
    /// namespace.
    pub fn refusals(&self) -> impl Iterator<Item = Refusal> + '_ {
        self.compiled.refusals()
    }

    /// The namespaces with more refused policies than [`Compiler::refusals`] returns, and how many more.
    pub fn more_refusals(&self) -> impl Iterator<Item = (&Arc<str>, usize)> + '_ {
        self.compiled.more_refusals()
    }

    /// The policies for which the last [`Compiler::apply`] changed the admission, whether or not they were
    /// among its changes.
    pub fn readmitted(&self) -> &BTreeSet<PolicyName> {
        self.compiled.readmitted()
    }

    /// Whether refused policies fit into their budget now. Another [`Compiler::apply`], with or without
    /// changes, readmits them.
    pub fn is_behind(&self) -> bool {
        self.compiled.is_behind()
    }

    /// The inventory, with all changes applied.
    pub fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// Applies a change to the inventory and the address owners, and marks what it makes dirty.
    fn apply_change(&mut self, change: Change, dirty: &mut Dirty) {
        let Self { inventory, owners, .. } = self;
        match &change {
            Change::Pod(_) => {}
            Change::PodGone(name) => {
                dirty
                    .addresses
                    .extend(inventory.pods.get(name).into_iter().flat_map(|pod| owners.remove_pod(pod)));
            }
            Change::Node(node) => {
                let before = inventory.nodes.get(&node.name);
                dirty.cluster_cidrs |= before.map(|node| &node.pod_cidrs) != Some(&node.pod_cidrs);
                if before != Some(node) {
                    dirty.nodes = true;
                    dirty.addresses.extend(before.into_iter().flat_map(|node| owners.remove_node(node)));
                    dirty.addresses.extend(owners.add_node(node));
                }
            }
            Change::NodeGone(name) => {
                dirty.cluster_cidrs |= inventory.nodes.contains_key(name);
                dirty.nodes = true;
                dirty
                    .addresses
                    .extend(inventory.nodes.get(name).into_iter().flat_map(|node| owners.remove_node(node)));
            }
            Change::Namespace(namespace) => {
                if inventory.namespaces.get(&namespace.name) != Some(namespace) {
                    dirty.namespaces.insert(Arc::clone(&namespace.name));
                }
            }
            Change::NamespaceGone(name) => drop(dirty.namespaces.insert(Arc::clone(name))),
            Change::Policy(policy) => {
                if inventory.policies.get(&policy.name) != Some(policy) {
                    dirty.policies.insert(policy.name.clone());
                }
            }
            Change::PolicyGone(name) => drop(dirty.policies.insert(name.clone())),
        }
        match change {
            Change::Pod(pod) => self.apply_pod(pod, dirty),
            change => inventory.apply(change),
        }
    }

    /// Applies a change of a pod. Pods are numerous, so this looks up their map only once.
    fn apply_pod(&mut self, pod: Pod, dirty: &mut Dirty) {
        let Self { inventory, owners, .. } = self;
        let pod = match inventory.pods.entry(pod.name.clone()) {
            Entry::Occupied(before) if **before.get() == pod => return,
            Entry::Occupied(mut before) => {
                let pod = Arc::new(pod);
                dirty.addresses.extend(owners.remove_pod(&before.insert(Arc::clone(&pod))));
                pod
            }
            Entry::Vacant(entry) => Arc::clone(entry.insert(Arc::new(pod))),
        };
        dirty.addresses.extend(owners.add_pod(&pod));
    }
}
