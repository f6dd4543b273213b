//! What applies to one pod in one direction; pods that are selected by the same policies share one.
//!
//! A rule matches when its peer AND its port match. Who the peer is leads to the rules whose peer matches: by
//! its class if it is a pod, by the longest prefix of its address in any case. Each of the two leads on by
//! port to the first rule, and the smaller of the two decides.

use std::sync::Arc;

use crate::decision::{Direction, Outcome, Reason, RuleId};
use crate::explanation::Miss;
use crate::names::PolicyName;
use crate::snapshot::address::Address;
use crate::snapshot::class_table::ClassTable;
use crate::snapshot::ids::ClassId;
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
    /// In order of evaluation; tiers without rules are left out, and so is `Baseline` where a NetworkPolicy
    /// isolates (semantics 9).
    pub tiers: Box<[TierRules]>,
    /// The NetworkPolicies that isolate the pod in this direction, sorted by name.
    pub isolating: Arc<[Arc<PolicyName>]>,
    /// Whether some rule that denies, or passes, might match a peer that is not known.
    pub might_deny: bool,
}

/// The rules of one tier, in order.
#[derive(Clone, Debug)]
pub(crate) struct TierRules {
    pub tier: Tier,
    /// What each rule does, and its name in the snapshot.
    pub rules: Arc<[(RuleId, Action)]>,
    pub peers: Peers,
    /// Ports by who matched.
    pub ports: PortTable,
    /// Ports of all rules, whoever the peer: finds the nearest miss.
    pub any_peer: PortsId,
    /// The rules that a peer who is not known might match.
    pub hopes: Hopes,
}

/// By action: rules that choose pods, of which the peer might be one, rules without peers, and those by block
/// that ask for a named port, which the peer might have.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hopes {
    pub accept: Addresses,
    pub pass: Addresses,
    /// Rules that deny, and those that pass: by what they skip they might.
    pub deny: Addresses,
}

/// From a peer to the rules whose peer matches.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peers {
    /// By class.
    pub classes: ClassTable,
    /// Rules with a block that holds the address, and rules without peers.
    pub addresses: Addresses,
}

/// From an address to rules.
#[derive(Clone, Debug, Default)]
pub(crate) struct Addresses {
    /// Of the families of which some rule has a block.
    pub tries: Tries,
    /// Rules that ask for no block: for families without blocks.
    pub everyone: PortsId,
}

/// The other end of a connection.
#[derive(Clone, Copy)]
pub(crate) struct PeerFacts<A> {
    pub address: A,
    /// `None` if the address is not a pod's: no selector matches it (semantics 7).
    pub class: Option<ClassId>,
}

impl Ruleset {
    /// Of these tiers, which come in order, and of the policies that isolate, sorted by name.
    pub(crate) fn new(tiers: Vec<TierRules>, isolating: Vec<Arc<PolicyName>>) -> Self {
        // NetworkPolicies only allow.
        let might_deny =
            tiers.iter().any(|tier| tier.rules.iter().any(|(_, action)| *action != Action::Accept));
        Self { tiers: tiers.into(), isolating: isolating.into(), might_deny }
    }

    /// Whether no policy applies: the pod is open in this direction.
    pub(crate) fn is_open(&self) -> bool {
        self.tiers.is_empty() && self.isolating.is_empty()
    }

    /// Evaluates a connection with `peer`.
    #[inline(always)]
    pub(crate) fn evaluate(&self, peer: PeerFacts<impl Address>, target: Target<'_>) -> Outcome {
        // The first tier whose first matching rule is not a Pass decides.
        for tier in &self.tiers {
            if let Some((rule, action)) = tier.rules.get(tier.first_match(peer, target) as usize) {
                match action {
                    Action::Accept => return Outcome::allow(Reason::Rule(*rule)),
                    Action::Deny => return Outcome::deny(Reason::Rule(*rule)),
                    Action::Pass => {}
                }
            }
        }
        // Isolation is what remains when no rule decided (semantics 2, 8); without it the default is to
        // allow.
        if self.isolating.is_empty() {
            Outcome::allow(Reason::NotIsolated)
        } else {
            Outcome::deny(Reason::DefaultDeny)
        }
    }

    /// Whether a connection with `peer`, an address of a pod that is not known, might be allowed once it is:
    /// as far as each rule alone can tell, for any labels and, where the peer is the `target`, any names of
    /// its ports.
    pub(crate) fn might_allow(
        &self,
        peer: PeerFacts<impl Address>,
        target: Target<'_>,
        direction: Direction,
    ) -> bool {
        for tier in &self.tiers {
            let first = |hope: &Addresses| tier.first_hope(hope, peer, target, direction);
            // What matches whoever the peer is.
            let certain = tier.first_match(peer, target);
            if first(&tier.hopes.accept) < certain {
                return true;
            }
            match tier.rules.get(certain as usize) {
                Some((_, Action::Accept)) => return true,
                Some((_, Action::Deny)) if certain <= first(&tier.hopes.pass) => return false,
                _ => {}
            }
        }
        self.isolating.is_empty()
    }

    /// Whether a connection with `peer`, an address of a pod that is not known, that is allowed as far as is
    /// known, might be denied once it is: likewise. A rule that might match and passes is taken for one that
    /// denies.
    pub(crate) fn might_deny(
        &self,
        peer: PeerFacts<impl Address>,
        target: Target<'_>,
        direction: Direction,
    ) -> bool {
        for tier in &self.tiers {
            let certain = tier.first_match(peer, target);
            if tier.first_hope(&tier.hopes.deny, peer, target, direction) < certain {
                return true;
            }
            match tier.rules.get(certain as usize) {
                Some((_, Action::Accept)) => return false,
                Some((_, Action::Deny)) => return true,
                _ => {}
            }
        }
        false
    }

    /// The NetworkPolicy rule that came nearest to matching, when none did.
    pub(crate) fn nearest_miss(
        &self,
        peer: PeerFacts<impl Address>,
        target: Target<'_>,
    ) -> Option<(RuleId, Miss)> {
        let tier = self.tiers.iter().find(|tier| tier.tier == Tier::NetworkPolicy)?;
        // No rule matched both, so the first whose peer matches misses by its port, and the other way round.
        let by_peer = tier.first_by_peer(peer, |ports| tier.ports.first(ports));
        if let Some((rule, _)) = tier.rules.get(by_peer as usize) {
            return Some((*rule, Miss::Port));
        }
        let (rule, _) = tier.rules.get(tier.ports.first_match(tier.any_peer, target) as usize)?;
        Some((*rule, Miss::Peer))
    }
}

impl TierRules {
    /// Of these rules, the first that a peer who is not known might match. Where it is the `target`, it might
    /// have any names of ports.
    fn first_hope(
        &self,
        hope: &Addresses,
        peer: PeerFacts<impl Address>,
        target: Target<'_>,
        direction: Direction,
    ) -> RuleIndex {
        let ports = hope.get(peer.address);
        match direction {
            Direction::Ingress => self.ports.first_match(ports, target),
            Direction::Egress => self.ports.first_possible(ports, target),
        }
    }

    /// The first rule whose peer AND port match.
    #[inline(always)]
    fn first_match(&self, peer: PeerFacts<impl Address>, target: Target<'_>) -> RuleIndex {
        self.first_by_peer(peer, |ports| self.ports.first_match(ports, target))
    }

    /// Of the rules whose peer matches, by selector or by address, the first that `first` finds.
    #[inline(always)]
    fn first_by_peer(
        &self,
        peer: PeerFacts<impl Address>,
        first: impl Fn(PortsId) -> RuleIndex,
    ) -> RuleIndex {
        let by_address = first(self.peers.addresses.get(peer.address));
        let by_class = peer.class.map_or(NO_RULE, |class| first(self.peers.classes.get(class)));
        by_address.min(by_class)
    }
}

impl Addresses {
    #[inline]
    fn get(&self, address: impl Address) -> PortsId {
        self.tries.longest_prefix(address).unwrap_or(self.everyone)
    }
}
