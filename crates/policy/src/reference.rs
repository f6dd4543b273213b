//! A naive implementation of the semantics, written from the API's text: slow and obvious. Property tests
//! check the compiled engine against it.
//!
//! From: an [`Inventory`], a [`Packet`]. To: what the engine must return, as [`Explanation`]s. Nothing is
//! precomputed, and nothing is shared with the compiler. Every verdict reads the whole inventory again, with
//! one loop for each "any" and "all".

mod addresses;
mod matching;
mod policies;
mod reading;

use std::net::IpAddr;
use std::sync::Arc;

use crate::compiler::Scope;
use crate::decision::{Direction, Outcome, Reason, RuleId, Verdict};
use crate::explanation::{Explanation, Miss, NearestMiss, RuleName, TierResult, TierStep};
use crate::inventory::{Inventory, Pod};
use crate::packet::Packet;
use crate::reference::addresses::{
    is_address_of_node, is_evaluated, is_unknown_peer, node_of_unknown_pod, pod_at,
};
use crate::reference::matching::{
    Connection, nodes_might_match, peers_match, peers_might_match, ports_match, ports_might_match,
};
use crate::reference::policies::{Applying, applying, isolating, rules};
use crate::reference::reading::Reading;
use crate::selector::Match;
use crate::snapshot::Directions;
use crate::spec::{Action, PolicySpec, RuleSpec, Tier};

/// The expected result for a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expected {
    /// The outcome for the source pod.
    pub egress: Explanation,
    /// The outcome for the destination pod.
    pub ingress: Explanation,
}

impl Expected {
    /// Whether the packet passes: only if BOTH directions allow it (semantics 8).
    pub fn verdict(&self) -> Verdict {
        match (self.egress.verdict, self.ingress.verdict) {
            (Verdict::Allow, Verdict::Allow) => Verdict::Allow,
            _ => Verdict::Deny,
        }
    }

    /// One direction.
    pub fn explanation(&self, direction: Direction) -> &Explanation {
        match direction {
            Direction::Egress => &self.egress,
            Direction::Ingress => &self.ingress,
        }
    }
}

/// The verdict on a packet that does not show which end opened its connection. It passes only if policy
/// allows BOTH packets that could have opened it (semantics 34).
pub fn verdict_unproven(
    inventory: &Inventory,
    scope: &Scope,
    on_unknown_pod: Verdict,
    packet: &Packet,
) -> Verdict {
    let openings = [*packet, packet.reversed()];
    let verdict = |packet| evaluate(inventory, scope, on_unknown_pod, packet, Directions::Both).verdict();
    if openings.iter().all(|packet| verdict(packet) == Verdict::Allow) {
        Verdict::Allow
    } else {
        Verdict::Deny
    }
}

/// Evaluates a packet.
pub fn evaluate(
    inventory: &Inventory,
    scope: &Scope,
    on_unknown_pod: Verdict,
    packet: &Packet,
    directions: Directions,
) -> Expected {
    let expected = evaluate_both(inventory, scope, on_unknown_pod, packet, directions);
    match directions {
        Directions::Both => expected,
        // A packet from a pod to its own node. The node is not a pod.
        Directions::Egress => {
            Expected { ingress: plain(Direction::Ingress, Outcome::allow(Reason::NotAPod)), ..expected }
        }
    }
}

/// The tiers in which a packet is evaluated in a direction, in order, up to the one that decides. Empty if
/// the packet passes because of who its ends are, or if this side is no pod that the scope evaluates.
pub fn tiers(
    inventory: &Inventory,
    scope: &Scope,
    packet: &Packet,
    directions: Directions,
    direction: Direction,
) -> Vec<TierStep> {
    let address = match direction {
        Direction::Ingress => packet.destination(),
        Direction::Egress => packet.source(),
    };
    let is_to_node = directions == Directions::Egress && direction == Direction::Ingress;
    let passes = is_from_own_node(inventory, scope, packet) || packet.source() == packet.destination();
    match pod_at(inventory, address).filter(|pod| is_evaluated(inventory, scope, pod)) {
        Some(pod) if !is_to_node && !passes => {
            let connection = Connection::new(inventory, packet, direction);
            tiers_of_pod(inventory, &applying(inventory, pod), &connection, direction, Reading::Strict)
        }
        _ => Vec::new(),
    }
}

/// Whether a packet comes from the node of the pod that it goes to.
fn is_from_own_node(inventory: &Inventory, scope: &Scope, packet: &Packet) -> bool {
    let node = match pod_at(inventory, packet.destination()) {
        Some(pod) => pod.node.as_ref().and_then(|node| inventory.nodes.get(node)),
        None => node_of_unknown_pod(inventory, scope, packet.destination()),
    };
    node.is_some_and(|node| is_address_of_node(inventory, node, packet.source()))
}

fn evaluate_both(
    inventory: &Inventory,
    scope: &Scope,
    on_unknown_pod: Verdict,
    packet: &Packet,
    directions: Directions,
) -> Expected {
    let sides = |egress: Outcome, ingress: Outcome| Expected {
        egress: plain(Direction::Egress, egress),
        ingress: plain(Direction::Ingress, ingress),
    };
    // Traffic from a pod's own node to the pod is always allowed (semantics 21), even if the pod is not known
    // yet.
    if is_from_own_node(inventory, scope, packet) {
        return sides(Outcome::allow(Reason::NotAPod), Outcome::allow(Reason::OwnNode));
    }
    // A pod may always reach its own address (semantics 21).
    if packet.source() == packet.destination() {
        let passes = Outcome::allow(Reason::OwnAddress);
        return sides(passes, passes);
    }
    let side =
        |direction, address| evaluate_side(inventory, scope, on_unknown_pod, packet, direction, address);
    let egress = side(Direction::Egress, packet.source());
    let ingress = side(Direction::Ingress, packet.destination());
    // The peer of a packet to the node itself is known: it is the node.
    let to_unknown = directions == Directions::Both && is_unknown_peer(inventory, packet.destination());
    let from_unknown = is_unknown_peer(inventory, packet.source());
    let pod = |address| pod_at(inventory, address).filter(|pod| is_evaluated(inventory, scope, pod));
    let provisional = |evaluated: Explanation, address, peer_is_unknown| match pod(address) {
        Some(pod) => provisional(inventory, on_unknown_pod, packet, pod, peer_is_unknown, evaluated),
        None => evaluated,
    };
    Expected {
        egress: provisional(egress, packet.source(), to_unknown),
        ingress: provisional(ingress, packet.destination(), from_unknown),
    }
}

/// The result for an evaluated pod, once what is not known (yet) is considered: which pod the peer is, and
/// labels of either end (semantics 37).
///
/// A denial is provisional if it depends on one of these. The rest of the explanation stays, because it holds
/// until then. An allowance is provisional if it depends on which pod the peer is.
fn provisional(
    inventory: &Inventory,
    on_unknown_pod: Verdict,
    packet: &Packet,
    pod: &Pod,
    peer_is_unknown: bool,
    evaluated: Explanation,
) -> Explanation {
    let direction = evaluated.direction;
    if evaluated.verdict == Verdict::Allow {
        return if peer_is_unknown && might_deny(inventory, packet, direction, pod) {
            plain(direction, Outcome { verdict: on_unknown_pod, reason: Reason::UnknownPeer })
        } else {
            evaluated
        };
    }
    let might_allow = |reading| might_allow(inventory, packet, direction, pod, reading);
    let reason = if peer_is_unknown && might_allow(Reading::Strict) {
        Reason::UnknownPeer
    } else if peer_is_unknown && might_allow(Reading::Permissive)
        || evaluate_pod(inventory, packet, direction, pod, Reading::Permissive).verdict == Verdict::Allow
    {
        Reason::UnknownLabels
    } else {
        return evaluated;
    };
    Explanation { verdict: on_unknown_pod, reason: reason.code(), ..evaluated }
}

fn evaluate_side(
    inventory: &Inventory,
    scope: &Scope,
    on_unknown_pod: Verdict,
    packet: &Packet,
    direction: Direction,
    address: IpAddr,
) -> Explanation {
    match pod_at(inventory, address) {
        None if node_of_unknown_pod(inventory, scope, address).is_some() => {
            plain(direction, Outcome { verdict: on_unknown_pod, reason: Reason::UnknownPod })
        }
        None => plain(direction, Outcome::allow(Reason::NotAPod)),
        Some(pod) if !is_evaluated(inventory, scope, pod) => {
            plain(direction, Outcome::allow(Reason::OtherNode))
        }
        Some(pod) => evaluate_pod(inventory, packet, direction, pod, Reading::Strict),
    }
}

/// Evaluates the policies of the pod on this side.
fn evaluate_pod(
    inventory: &Inventory,
    packet: &Packet,
    direction: Direction,
    pod: &Pod,
    reading: Reading,
) -> Explanation {
    let policies = applying(inventory, pod);
    let isolating: Vec<&PolicySpec> = isolating(&policies, direction, reading).collect();
    let connection = Connection::new(inventory, packet, direction);

    let steps = tiers_of_pod(inventory, &policies, &connection, direction, reading);
    let by_rule = |outcome, rule| Explanation { rule: Some(rule), ..plain(direction, outcome) };
    let rule_reason = Reason::Rule(RuleId(0));
    match steps.into_iter().next_back().map(|step| step.result) {
        Some(TierResult::Accepted(rule)) => return by_rule(Outcome::allow(rule_reason), rule),
        Some(TierResult::Denied(rule)) => return by_rule(Outcome::deny(rule_reason), rule),
        Some(TierResult::Isolated) => {}
        // No tier decided.
        _ => return plain(direction, Outcome::allow(Reason::NotIsolated)),
    }
    // The pod is isolated, and no rule allows the packet (semantics 2, 8).
    let mut isolated_by: Vec<_> = isolating.iter().map(|policy| Arc::new(policy.name.clone())).collect();
    isolated_by.sort();
    Explanation {
        isolated_by,
        nearest_miss: nearest_miss(inventory, &policies, &connection, direction),
        ..plain(direction, Outcome::deny(Reason::DefaultDeny))
    }
}

/// The effective action of a rule with peers that match, or might; `None` if the rule is ignored.
fn action(
    inventory: &Inventory,
    connection: &Connection<'_>,
    reading: Reading,
    applies: Match,
    rule: &RuleSpec,
) -> Option<Action> {
    let matches = peers_match(inventory, connection, rule);
    let by_labels = reading.action(rule.action, applies.min(matches));
    // A node with unknown labels is denied by a rule that might match it, in either reading (semantics 56).
    if matches != Match::Yes
        && rule.action != Action::Accept
        && nodes_might_match(inventory, connection, rule)
    {
        return reading.action(Action::Deny, applies).or(by_labels);
    }
    by_labels
}

/// The tiers in which a pod's packet is evaluated, in order, up to the one that decides.
fn tiers_of_pod(
    inventory: &Inventory,
    policies: &[Applying<'_>],
    connection: &Connection<'_>,
    direction: Direction,
    reading: Reading,
) -> Vec<TierStep> {
    let is_isolated = isolating(policies, direction, reading).next().is_some();
    let mut steps = Vec::new();
    for tier in [Tier::Admin, Tier::NetworkPolicy, Tier::Baseline] {
        // The FIRST rule with a policy that applies AND peers AND ports that match decides (semantics 3).
        let first = rules(policies, tier, direction).find_map(|(policy, applies, index, rule)| {
            let action = action(inventory, connection, reading, applies, rule)?;
            ports_match(connection, rule).then(|| (name_of(policy, index, rule), action))
        });
        let has_rules = rules(policies, tier, direction)
            .any(|(_, applies, _, rule)| reading.action(rule.action, applies).is_some());
        let result = match first {
            Some((rule, Action::Accept)) => TierResult::Accepted(rule),
            Some((rule, Action::Deny)) => TierResult::Denied(rule),
            // Skips the rest of its own tier.
            Some((rule, Action::Pass)) => TierResult::Passed(rule),
            // Isolation denies here, so Baseline is skipped in a direction if and only if a NetworkPolicy
            // isolates the pod in it (semantics 9).
            None if tier == Tier::NetworkPolicy && is_isolated => TierResult::Isolated,
            None if has_rules => TierResult::NoMatch,
            None => TierResult::NoRules,
        };
        let is_decided =
            matches!(result, TierResult::Accepted(_) | TierResult::Denied(_) | TierResult::Isolated);
        steps.push(TierStep { tier, result });
        if is_decided {
            break;
        }
    }
    steps
}

/// Whether ANY pod that might get the peer's address would be allowed, considering each rule alone: a pod of
/// any namespace, with any labels, and, if it is the destination, with any name for its port.
fn might_allow(
    inventory: &Inventory,
    packet: &Packet,
    direction: Direction,
    pod: &Pod,
    reading: Reading,
) -> bool {
    let policies = applying(inventory, pod);
    let isolated = isolating(&policies, direction, reading).next().is_some();
    let connection = Connection::new(inventory, packet, direction);
    for tier in [Tier::Admin, Tier::NetworkPolicy, Tier::Baseline] {
        if tier == Tier::Baseline && isolated {
            continue;
        }
        let mut might_pass = false;
        for (_, applies, _, rule) in rules(&policies, tier, direction) {
            let Some(action) = reading.action(rule.action, applies) else { continue };
            if !(peers_might_match(&connection, rule) && ports_might_match(&connection, rule)) {
                continue;
            }
            // Whatever pod it is, no later rule is evaluated.
            let certain =
                peers_match(inventory, &connection, rule) == Match::Yes && ports_match(&connection, rule);
            match action {
                Action::Accept => return true,
                Action::Deny if certain && !might_pass => return false,
                Action::Deny => {}
                Action::Pass => might_pass = true,
            }
            if certain {
                break;
            }
        }
    }
    !isolated
}

/// Whether ANY pod that might get the peer's address would be denied where what is known allows it,
/// considering each rule alone as in [`might_allow`]. A Pass rule that might match counts as a denial.
fn might_deny(inventory: &Inventory, packet: &Packet, direction: Direction, pod: &Pod) -> bool {
    let policies = applying(inventory, pod);
    let isolated = isolating(&policies, direction, Reading::Strict).next().is_some();
    let connection = Connection::new(inventory, packet, direction);
    for tier in [Tier::Admin, Tier::NetworkPolicy, Tier::Baseline] {
        if tier == Tier::Baseline && isolated {
            continue;
        }
        for (_, applies, _, rule) in rules(&policies, tier, direction) {
            let Some(action) = Reading::Strict.action(rule.action, applies) else { continue };
            if !(peers_might_match(&connection, rule) && ports_might_match(&connection, rule)) {
                continue;
            }
            let certain =
                peers_match(inventory, &connection, rule) == Match::Yes && ports_match(&connection, rule);
            match action {
                Action::Accept if certain => return false,
                Action::Accept => {}
                Action::Pass if certain => break,
                Action::Deny | Action::Pass => return true,
            }
        }
    }
    false
}

/// The first NetworkPolicy rule with a peer that matches, else the first with a port that matches. Considers
/// only policies that certainly apply.
fn nearest_miss(
    inventory: &Inventory,
    policies: &[Applying<'_>],
    connection: &Connection<'_>,
    direction: Direction,
) -> Option<NearestMiss> {
    let counting = || {
        let rules = rules(policies, Tier::NetworkPolicy, direction);
        rules.filter(|(_, applies, ..)| *applies == Match::Yes)
    };
    let by_peer = |rule| peers_match(inventory, connection, rule) == Match::Yes;
    if let Some((policy, _, index, rule)) = counting().find(|(.., rule)| by_peer(rule)) {
        return Some(NearestMiss { rule: name_of(policy, index, rule), miss: Miss::Port });
    }
    let (policy, _, index, rule) = counting().find(|(.., rule)| ports_match(connection, rule))?;
    Some(NearestMiss { rule: name_of(policy, index, rule), miss: Miss::Peer })
}

fn name_of(policy: &PolicySpec, index: usize, rule: &RuleSpec) -> RuleName {
    let priority = if policy.tier == Tier::NetworkPolicy { None } else { Some(policy.priority) };
    let (tier, name) = (policy.tier, rule.name.clone());
    RuleName { policy: Arc::new(policy.name.clone()), tier, priority, index, name }
}

/// An explanation without rule, policies or nearest miss.
fn plain(direction: Direction, outcome: Outcome) -> Explanation {
    Explanation {
        verdict: outcome.verdict,
        reason: outcome.reason.code(),
        direction,
        rule: None,
        isolated_by: Vec::new(),
        nearest_miss: None,
    }
}
