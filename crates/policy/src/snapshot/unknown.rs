//! The steps of a verdict that apply only to unknown pods and labels (semantics 37).

use crate::decision::{Direction, Outcome, Reason, Verdict};
use crate::packet::Packet;
use crate::snapshot::Snapshot;
use crate::snapshot::address::Address;
use crate::snapshot::ends::{Ends, is_provisional};
use crate::snapshot::ids::NodeId;
use crate::snapshot::ipcache::{IpCacheEntry, PodEntry};
use crate::snapshot::ruleset::{PacketPeer, Ruleset};

impl Snapshot {
    /// The last step of [`Snapshot::evaluate_rules`] if labels are unknown, or if some rule might deny an
    /// unknown peer.
    pub(super) fn evaluate_unknown(
        &self,
        outcome: Outcome,
        ruleset: &Ruleset,
        ends: &Ends<'_, impl Address>,
        packet: &Packet,
        direction: Direction,
        peer_is_known: bool,
    ) -> Outcome {
        let (peer, target) = (ends.peer(direction), ends.target(packet));
        if outcome.verdict == Verdict::Allow && (peer.identity.is_some() || !ruleset.might_deny) {
            return outcome;
        }
        let peer_entry = ends.peer_entry(direction);
        let unknown_peer = !peer_is_known && self.is_unknown_peer(peer.address, peer_entry);
        let might_differ = unknown_peer
            && match outcome.verdict {
                Verdict::Deny => ruleset.might_allow(peer, target, direction),
                Verdict::Allow => ruleset.might_deny(peer, target, direction),
            };
        if might_differ {
            return Outcome { verdict: self.on_unknown_pod, reason: Reason::UnknownPeer };
        }
        if outcome.verdict == Verdict::Deny
            && (is_provisional(peer_entry) || is_provisional(ends.subject_entry(direction)))
        {
            return self.evaluate_permissive(outcome, ends, packet, direction, unknown_peer);
        }
        outcome
    }

    /// Evaluates a packet that the strict view of unknown labels denies in the permissive view. If that
    /// allows it, the denial is provisional.
    #[cold]
    fn evaluate_permissive(
        &self,
        denied: Outcome,
        ends: &Ends<'_, impl Address>,
        packet: &Packet,
        direction: Direction,
        unknown_peer: bool,
    ) -> Outcome {
        let permissive =
            |entry: Option<&IpCacheEntry>| entry?.pod.as_ref().map(PodEntry::permissive_identity);
        let rulesets = permissive(ends.subject_entry(direction))
            .and_then(|identity| self.rulesets.get(identity.index())?.as_deref());
        let Some(rulesets) = rulesets else { return denied };
        let ruleset = match direction {
            Direction::Ingress => &rulesets.ingress,
            Direction::Egress => &rulesets.egress,
        };
        let peer = PacketPeer { identity: permissive(ends.peer_entry(direction)), ..ends.peer(direction) };
        let target = ends.target(packet);
        let might_allow = if unknown_peer {
            ruleset.might_allow(peer, target, direction)
        } else {
            ruleset.evaluate(peer, target).verdict == Verdict::Allow
        };
        if might_allow {
            Outcome { verdict: self.on_unknown_pod, reason: Reason::UnknownLabels }
        } else {
            denied
        }
    }

    /// In scope `Cluster`: the node with the pod CIDR of an address that no known pod has.
    #[cold]
    pub(super) fn node_of_unknown_pod(
        &self,
        address: impl Address,
        entry: Option<&IpCacheEntry>,
    ) -> Option<NodeId> {
        let node = self.cluster_cidrs.node(address)?;
        (!entry.is_some_and(|entry| entry.is_of(Some(node)))).then_some(node)
    }
}
