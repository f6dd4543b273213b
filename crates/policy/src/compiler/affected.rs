//! Derives which connections an update of the compiled state affects: those of addresses with another pod or
//! node, and those of pods with other policies.
//!
//! From: [`Compiled`] after the update, and the [`Diff`] that the update recorded. To: [`Affected`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::affected::{Affected, MAX_ADDRESSES, Peers};
use crate::compiler::compiled::Compiled;
use crate::compiler::diff::{Diff, HostBefore, Views, views};
use crate::compiler::rulesets::Built;
use crate::snapshot::address::address_of;
use crate::snapshot::hosts::{Host, HostPod};
use crate::snapshot::ids::ClassId;

impl Compiled {
    /// The connections that an update affects, from its `diff`. The compiled state is already up to date.
    pub(crate) fn affected(&self, diff: &Diff) -> Affected {
        if self.is_everywhere() || diff.cidrs {
            return Affected::All;
        }
        let mut affected: BTreeMap<IpAddr, Peers> = BTreeMap::new();
        let subjects = diff.subjects.iter().flat_map(|subject| self.selectors().of_subject(*subject));
        let classes: FxHashSet<ClassId> = subjects.map(|(class, _)| class).collect();
        affected.extend(self.evaluated_of(&classes).map(|address| (address, Peers::Any)));
        let mut known = PeersByChange::default();
        for (key, before) in &diff.hosts {
            let address = address_of(*key);
            let now = self.hosts().get(address);
            let peers = self.affected_peers(address, before, now.unwrap_or(&Host::default()), &mut known);
            if let Some(peers) = peers {
                affected.entry(address).or_insert(peers);
            }
            if affected.len() > MAX_ADDRESSES {
                return Affected::All;
            }
        }
        Affected::Addresses(affected)
    }

    /// The peers for which the change of an address's entry affects connections; `None` if there are none.
    fn affected_peers(
        &self,
        address: IpAddr,
        before: &HostBefore,
        now: &Host,
        known: &mut PeersByChange,
    ) -> Option<Peers> {
        if before.host.nodes != now.nodes || self.is_changed_as_subject(address, before, now) {
            return Some(Peers::Any);
        }
        let (before, now) = (before.host.pod.as_ref(), now.pod.as_ref());
        let ports_differ = before.map(|pod| &pod.ports) != now.map(|pod| &pod.ports);
        let (before, now) = (before.map(views), now.map(views));
        let peers = || self.peers_that_tell_apart(before, now, ports_differ);
        known.entry((before, now, ports_differ)).or_insert_with(peers).clone()
    }

    /// The pods of this node with rulesets that match the peer differently after its change; `None` if there
    /// are none.
    fn peers_that_tell_apart(
        &self,
        before: Option<Views>,
        now: Option<Views>,
        ports_differ: bool,
    ) -> Option<Peers> {
        let differs =
            |built: &&Built| (ports_differ && built.has_port_names()) || self.tells_apart(built, before, now);
        let users = self.built().filter(differs).flat_map(|built| built.users.iter().copied()).collect();
        let peers: BTreeSet<IpAddr> = self.evaluated_of(&users).collect();
        (!peers.is_empty()).then(|| Peers::Only(Arc::new(peers)))
    }

    /// Whether a pod of this node is, was, or might have been at the address, and it is a different pod now,
    /// or different rules apply to it.
    fn is_changed_as_subject(&self, address: IpAddr, before: &HostBefore, now: &Host) -> bool {
        let (was, is) = match (&before.host.pod, &now.pod) {
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
            || views(is).map(|class| self.selected_by(class)) != before.selected_by
    }

    /// Whether rules match a peer differently after its identities changed. `None` stands for a peer that is
    /// not a known pod.
    fn tells_apart(&self, built: &Built, before: Option<Views>, now: Option<Views>) -> bool {
        match (before, now) {
            (None, None) => false,
            // As long as an address has no pod, ANY rule that selects pods might match it (semantics 37).
            (None, Some(_)) | (Some(_), None) => built.selects_peers() || built.has_port_names(),
            (Some(before), Some(now)) => {
                // ANY view.
                before
                    .into_iter()
                    .zip(now)
                    .any(|(before, now)| built.tells_apart(before, now, self.selectors()))
            }
        }
    }

    /// The addresses of this node's pods that have ANY of the identities.
    fn evaluated_of<'a>(&'a self, classes: &'a FxHashSet<ClassId>) -> impl Iterator<Item = IpAddr> + 'a {
        let has_class = |pod: &HostPod| views(pod).iter().any(|class| classes.contains(class));
        let evaluated = if classes.is_empty() { None } else { Some(self.evaluated().iter().copied()) };
        evaluated.into_iter().flatten().filter(move |address| {
            self.hosts().get(*address).and_then(|host| host.pod.as_ref()).is_some_and(has_class)
        })
    }
}

/// The peers that a change of a pod's identities affects, by the identities before and after and by whether
/// its named ports differ. Caches results, because thousands of pods change alike when a policy begins to
/// refer to a label.
type PeersByChange = FxHashMap<(Option<Views>, Option<Views>, bool), Option<Peers>>;
