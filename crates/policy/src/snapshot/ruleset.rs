//! A ruleset: the rules that apply to a pod in one direction. Pods selected by the same policies share one.
//!
//! A rule matches if its peer AND its port match. Two lookups find the rules with a matching peer: by the
//! peer's identity if it is a pod, and in any case by the longest prefix of its address. Each result is
//! looked up by port to find its first rule. The smaller of the two rules decides.

use std::sync::Arc;

use crate::decision::{Direction, Outcome, Reason, RuleId};
use crate::explanation::Miss;
use crate::names::PolicyName;
use crate::snapshot::address::Address;
use crate::snapshot::identity_table::IdentityTable;
use crate::snapshot::ids::IdentityId;
use crate::snapshot::ports::{NO_RULE, PortTable, PortsId, RuleIndex, Target};
use crate::snapshot::trie::Tries;
use crate::spec::{Action, Tier};

/// The rulesets of a pod, one for each direction.
#[derive(Clone, Debug)]
pub(crate) struct Rulesets {
    pub ingress: Ruleset,
    pub egress: Ruleset,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ruleset {
    /// In order of evaluation. Tiers without rules are omitted, and so is `Baseline` if a NetworkPolicy
    /// isolates (semantics 9). Rulesets with the same policies in a tier share its rules.
    pub tiers: Box<[Arc<TierRules>]>,
    /// The NetworkPolicies that isolate the pod in this direction, sorted by name.
    pub isolating: Arc<[Arc<PolicyName>]>,
    /// Whether ANY rule denies or passes. If none does and no policy isolates, every packet is allowed.
    pub might_deny: bool,
}

/// The rules of one tier, in order.
#[derive(Clone, Debug)]
pub(crate) struct TierRules {
    pub tier: Tier,
    /// The id and action of each rule.
    pub rules: Arc<[(RuleId, Action)]>,
    pub peers: PeerTable,
    /// The ports of the rules that a lookup by peer yields.
    pub ports: PortTable,
    /// The ports of all rules, regardless of their peers: finds the nearest miss.
    pub any_peer: PortsId,
    /// The potential matches: rules that might match an unknown peer.
    pub potential: PotentialRules,
}

/// Potential matches by action: rules that select pods, rules without peers, and rules that combine a block
/// with a named port, which the peer might have.
#[derive(Clone, Debug, Default)]
pub(crate) struct PotentialRules {
    pub accept: AddressTable,
    pub pass: AddressTable,
    /// Rules that deny, and rules that pass, since a Pass can lead to a denial by skipping rules.
    pub deny: AddressTable,
}

/// Maps a peer to the rules with a matching peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct PeerTable {
    /// By identity.
    pub identities: IdentityTable,
    /// Rules with a block that contains the address, and rules without peers.
    pub addresses: AddressTable,
}

/// Maps an address to rules.
#[derive(Clone, Debug, Default)]
pub(crate) struct AddressTable {
    /// The tries of the families for which some rule has a block.
    pub tries: Tries,
    /// The rules that match every address: for families without blocks.
    pub every_address: PortsId,
}

/// The other end of a connection.
#[derive(Clone, Copy)]
pub(crate) struct PacketPeer<A> {
    pub address: A,
    /// `None` if the address is not a pod's. No selector matches it then (semantics 7).
    pub identity: Option<IdentityId>,
}

impl Ruleset {
    /// Builds a ruleset from its tiers, in order, and the policies that isolate, sorted by name.
    pub(crate) fn new(tiers: Vec<Arc<TierRules>>, isolating: Vec<Arc<PolicyName>>) -> Self {
        // NetworkPolicies can only allow.
        let might_deny =
            tiers.iter().any(|tier| tier.rules.iter().any(|(_, action)| *action != Action::Accept));
        Self { tiers: tiers.into(), isolating: isolating.into(), might_deny }
    }

    /// Whether every packet is allowed in this direction: no policy isolates the pod, and every rule that
    /// applies to it accepts.
    pub(crate) fn is_open(&self) -> bool {
        self.isolating.is_empty() && !self.might_deny
    }

    /// Evaluates a connection with `peer`.
    #[inline(always)]
    pub(crate) fn evaluate(&self, peer: PacketPeer<impl Address>, target: Target<'_>) -> Outcome {
        // The first tier whose first matching rule is not a Pass decides.
        for tier in &self.tiers {
            if let Some((rule, action)) = tier.rules.get(tier.first_match(peer, target).index()) {
                match action {
                    Action::Accept => return Outcome::allow(Reason::Rule(*rule)),
                    Action::Deny => return Outcome::deny(Reason::Rule(*rule)),
                    Action::Pass => {}
                }
            }
        }
        // If no rule decided, isolation denies (semantics 2, 8). Without isolation the default is to allow.
        if self.isolating.is_empty() {
            Outcome::allow(Reason::NotIsolated)
        } else {
            Outcome::deny(Reason::DefaultDeny)
        }
    }

    /// Whether a connection with an unknown pod at `peer` might be allowed once the pod is known. Considers
    /// each rule alone, for any labels and, if the peer is the `target`, any names of its ports.
    pub(crate) fn might_allow(
        &self,
        peer: PacketPeer<impl Address>,
        target: Target<'_>,
        direction: Direction,
    ) -> bool {
        for tier in &self.tiers {
            let first = |potential: &AddressTable| tier.first_potential(potential, peer, target, direction);
            // The first rule that matches regardless of who the peer is.
            let certain = tier.first_match(peer, target);
            if first(&tier.potential.accept) < certain {
                return true;
            }
            match tier.rules.get(certain.index()) {
                Some((_, Action::Accept)) => return true,
                Some((_, Action::Deny)) if certain <= first(&tier.potential.pass) => return false,
                _ => {}
            }
        }
        self.isolating.is_empty()
    }

    /// Whether a connection with an unknown pod at `peer` that is allowed now might be denied once the pod is
    /// known. Considers each rule alone, as [`Ruleset::might_allow`] does. A Pass rule that might match
    /// counts as a denial.
    pub(crate) fn might_deny(
        &self,
        peer: PacketPeer<impl Address>,
        target: Target<'_>,
        direction: Direction,
    ) -> bool {
        for tier in &self.tiers {
            let certain = tier.first_match(peer, target);
            if tier.first_potential(&tier.potential.deny, peer, target, direction) < certain {
                return true;
            }
            match tier.rules.get(certain.index()) {
                Some((_, Action::Accept)) => return false,
                Some((_, Action::Deny)) => return true,
                _ => {}
            }
        }
        false
    }

    /// The NetworkPolicy rule that came nearest to matching, if none matched.
    pub(crate) fn nearest_miss(
        &self,
        peer: PacketPeer<impl Address>,
        target: Target<'_>,
    ) -> Option<(RuleId, Miss)> {
        let tier = self.tiers.iter().find(|tier| tier.tier == Tier::NetworkPolicy)?;
        // No rule matched both. So if the peer of a rule matches, its port does not, and vice versa.
        let by_peer = tier.first_by_peer(peer, |ports| tier.ports.first(ports));
        if let Some((rule, _)) = tier.rules.get(by_peer.index()) {
            return Some((*rule, Miss::Port));
        }
        let (rule, _) = tier.rules.get(tier.ports.first_match(tier.any_peer, target).index())?;
        Some((*rule, Miss::Peer))
    }
}

impl TierRules {
    /// The first of these rules that might match an unknown peer. If the peer is the `target`, it might have
    /// any port names.
    fn first_potential(
        &self,
        potential: &AddressTable,
        peer: PacketPeer<impl Address>,
        target: Target<'_>,
        direction: Direction,
    ) -> RuleIndex {
        let ports = potential.get(peer.address);
        match direction {
            Direction::Ingress => self.ports.first_match(ports, target),
            Direction::Egress => self.ports.first_possible(ports, target),
        }
    }

    /// The first rule with a peer AND a port that match, and its action.
    pub(crate) fn first(
        &self,
        peer: PacketPeer<impl Address>,
        target: Target<'_>,
    ) -> Option<(RuleId, Action)> {
        self.rules.get(self.first_match(peer, target).index()).copied()
    }

    /// The index of the first rule with a peer AND a port that match.
    #[inline(always)]
    fn first_match(&self, peer: PacketPeer<impl Address>, target: Target<'_>) -> RuleIndex {
        self.first_by_peer(peer, |ports| self.ports.first_match(ports, target))
    }

    /// The smaller result of `first` for the rules that match the peer by selector and by address.
    #[inline(always)]
    fn first_by_peer(
        &self,
        peer: PacketPeer<impl Address>,
        first: impl Fn(PortsId) -> RuleIndex,
    ) -> RuleIndex {
        let by_address = first(self.peers.addresses.get(peer.address));
        let by_identity =
            peer.identity.map_or(NO_RULE, |identity| first(self.peers.identities.get(identity)));
        by_address.min(by_identity)
    }
}

impl AddressTable {
    #[inline]
    fn get(&self, address: impl Address) -> PortsId {
        self.tries.longest_prefix(address).map_or(self.every_address, PortsId::from)
    }
}
