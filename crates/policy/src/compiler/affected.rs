//! Derives which connections an update of the compiled state affects: those of addresses with another pod or
//! node, and those of pods with other policies.
//!
//! From: [`CompiledState`] after the update, and the [`Diff`] that the update recorded. To: [`Affected`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::affected::{Affected, AffectedPeers, MAX_ADDRESSES};
use crate::compiler::cached_rulesets::CachedRulesets;
use crate::compiler::compiled_selector::SelectorId;
use crate::compiler::compiled_state::CompiledState;
use crate::compiler::diff::{Diff, EntryBefore, IdentityPair, identity_pair};
use crate::compiler::shared_tiers::SharedTier;
use crate::snapshot::address::address_of;
use crate::snapshot::ids::IdentityId;
use crate::snapshot::ipcache::{IpCacheEntry, PodEntry};

impl CompiledState {
    /// The connections that an update affects, from its `diff`. The compiled state is already up to date.
    pub(crate) fn affected(&self, diff: &Diff) -> Affected {
        if self.is_cluster_scope() || diff.cidrs {
            return Affected::All;
        }
        let mut affected: BTreeMap<IpAddr, AffectedPeers> = BTreeMap::new();
        let selected = self.selected_by_any(&diff.subjects);
        affected.extend(self.evaluated_of(&selected).map(|address| (address, AffectedPeers::Any)));
        let mut known = PeersByChange::default();
        for (key, before) in &diff.entries {
            let address = address_of(*key);
            let now = self.ipcache().get(address);
            let peers =
                self.affected_peers(address, before, now.unwrap_or(&IpCacheEntry::default()), &mut known);
            if let Some(peers) = peers {
                affected.entry(address).or_insert(peers);
            }
            if affected.len() > MAX_ADDRESSES {
                return Affected::All;
            }
        }
        Affected::Addresses(affected).or(self.affected_by_nodes(diff))
    }

    /// The connections to nodes that policies select differently as peers.
    fn affected_by_nodes(&self, diff: &Diff) -> Affected {
        let (addresses, subjects) = &diff.nodes;
        let peers: BTreeSet<IpAddr> = self.evaluated_of(&self.selected_by_any(subjects)).collect();
        if peers.is_empty() {
            return Affected::NONE;
        }
        let peers = Arc::new(peers);
        let affected = addresses.iter().map(|address| (*address, AffectedPeers::Only(Arc::clone(&peers))));
        Affected::Addresses(affected.collect()).or(Affected::NONE)
    }

    /// The identities that ANY of these subjects selects.
    fn selected_by_any(&self, subjects: &FxHashSet<SelectorId>) -> FxHashSet<IdentityId> {
        let selected = subjects.iter().flat_map(|subject| self.selectors().of_subject(*subject));
        selected.map(|(identity, _)| identity).collect()
    }

    /// The peers for which the change of an address's entry affects connections; `None` if there are none.
    fn affected_peers(
        &self,
        address: IpAddr,
        before: &EntryBefore,
        now: &IpCacheEntry,
        known: &mut PeersByChange,
    ) -> Option<AffectedPeers> {
        if before.entry.nodes != now.nodes || self.is_changed_as_subject(address, before, now) {
            return Some(AffectedPeers::Any);
        }
        let (before, now) = (before.entry.pod.as_ref(), now.pod.as_ref());
        let ports_differ = before.map(|pod| &pod.ports) != now.map(|pod| &pod.ports);
        let (before, now) = (before.map(identity_pair), now.map(identity_pair));
        let peers = || self.peers_that_distinguish(before, now, ports_differ);
        known.entry((before, now, ports_differ)).or_insert_with(peers).clone()
    }

    /// The pods of this node with rulesets that match the peer differently after its change; `None` if there
    /// are none.
    fn peers_that_distinguish(
        &self,
        before: Option<IdentityPair>,
        now: Option<IdentityPair>,
        ports_differ: bool,
    ) -> Option<AffectedPeers> {
        let tiers = self
            .shared_tiers()
            .find(|tier| (ports_differ && tier.has_port_names()) || self.distinguishes(tier, before, now));
        let differs = |cached: &&CachedRulesets| cached.tiers().any(|tier| tiers.contains(&tier));
        let users =
            self.cached_rulesets().filter(differs).flat_map(|cached| cached.users.iter().copied()).collect();
        let peers: BTreeSet<IpAddr> = self.evaluated_of(&users).collect();
        (!peers.is_empty()).then(|| AffectedPeers::Only(Arc::new(peers)))
    }

    /// Whether a pod of this node is, was, or might have been at the address, and it is a different pod now,
    /// or different rules apply to it.
    fn is_changed_as_subject(&self, address: IpAddr, before: &EntryBefore, now: &IpCacheEntry) -> bool {
        let (was, is) = match (&before.entry.pod, &now.pod) {
            (None, None) => return false,
            // An address in ANY of this node's pod CIDRs without a pod counts as that of an unknown pod.
            (Some(pod), None) | (None, Some(pod)) => {
                return pod.is_evaluated() || self.pod_cidrs().iter().any(|cidr| cidr.contains(&address));
            }
            (Some(was), Some(is)) => (was, is),
        };
        if !was.is_evaluated() && !is.is_evaluated() {
            return false;
        }
        // A pod's own node always reaches it; named ports are resolved at the destination (semantics 17, 21).
        was.is_evaluated() != is.is_evaluated()
            || was.node() != is.node()
            || was.ports != is.ports
            || was.name() != is.name()
            || was.pod().uid != is.pod().uid
            || was.is_provisional() != is.is_provisional()
            || identity_pair(is).map(|identity| self.selected_by(identity)) != before.selected_by
    }

    /// Whether rules match a peer differently after its identities changed. `None` stands for a peer that is
    /// not a known pod.
    fn distinguishes(
        &self,
        tier: &SharedTier,
        before: Option<IdentityPair>,
        now: Option<IdentityPair>,
    ) -> bool {
        match (before, now) {
            (None, None) => false,
            // As long as an address has no pod, ANY rule that selects pods might match it (semantics 37).
            (None, Some(_)) | (Some(_), None) => tier.selects_peers() || tier.has_port_names(),
            (Some(before), Some(now)) => {
                // ANY view.
                before
                    .into_iter()
                    .zip(now)
                    .any(|(before, now)| tier.distinguishes(before, now, self.selectors()))
            }
        }
    }

    /// The addresses of this node's pods that have ANY of the identities.
    fn evaluated_of<'a>(
        &'a self,
        identities: &'a FxHashSet<IdentityId>,
    ) -> impl Iterator<Item = IpAddr> + 'a {
        let has_identity =
            |pod: &PodEntry| identity_pair(pod).iter().any(|identity| identities.contains(identity));
        let evaluated = if identities.is_empty() { None } else { Some(self.evaluated().iter().copied()) };
        evaluated.into_iter().flatten().filter(move |address| {
            self.ipcache().get(*address).and_then(|entry| entry.pod.as_ref()).is_some_and(has_identity)
        })
    }
}

/// The peers that a change of a pod's identities affects, by the identities before and after and by whether
/// its named ports differ. Caches results, because thousands of pods change alike when a policy begins to
/// refer to a label.
type PeersByChange = FxHashMap<(Option<IdentityPair>, Option<IdentityPair>, bool), Option<AffectedPeers>>;
