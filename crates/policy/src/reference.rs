//! The semantics written naively from the API's text: slow, obvious, and the measure of the compiled engine.
//!
//! From: an [`Inventory`], a [`Packet`]. To: what the engine must say of it, as [`Explanation`]s. Nothing is prepared and
//! nothing shared with the compiler: every verdict reads the whole inventory again, one loop for each "any" and "all".

mod matching;

use std::net::IpAddr;
use std::sync::Arc;

use crate::compiler::Scope;
use crate::decision::{Direction, Outcome, Reason, RuleId, Verdict};
use crate::explanation::{Explanation, Miss, NearestMiss, RuleName};
use crate::inventory::{Inventory, Node, Pod};
use crate::packet::Packet;
use crate::reference::matching::{
    Connection, peers_match, peers_might_match, ports_match, ports_might_match, selects,
};
use crate::snapshot::Directions;
use crate::spec::{Action, PolicySpec, RuleSpec, Tier};

/// What must come out for a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expected {
    /// From the view of the source.
    pub egress: Explanation,
    /// From the view of the destination.
    pub ingress: Explanation,
}

impl Expected {
    /// Whether the packet passes: only if BOTH directions let it (semantics 8).
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

/// The verdict on a packet that does not show which end opened its connection: it passes only if BOTH packets that could have opened
/// it would (semantics 34).
pub fn verdict_unproven(
    inventory: &Inventory,
    scope: &Scope,
    when_unsure: Verdict,
    packet: &Packet,
) -> Verdict {
    let ways = [*packet, packet.reversed()];
    let verdict = |packet| judge(inventory, scope, when_unsure, packet, Directions::Both).verdict();
    if ways.iter().all(|packet| verdict(packet) == Verdict::Allow) { Verdict::Allow } else { Verdict::Deny }
}

/// Judges a packet.
pub fn judge(
    inventory: &Inventory,
    scope: &Scope,
    when_unsure: Verdict,
    packet: &Packet,
    directions: Directions,
) -> Expected {
    let expected = judge_both(inventory, scope, when_unsure, packet, directions);
    match directions {
        Directions::Both => expected,
        // A packet from a pod to its own node: the node is not a pod.
        Directions::Egress => {
            Expected { ingress: plain(Direction::Ingress, Outcome::allow(Reason::NotAPod)), ..expected }
        }
    }
}

fn judge_both(
    inventory: &Inventory,
    scope: &Scope,
    when_unsure: Verdict,
    packet: &Packet,
    directions: Directions,
) -> Expected {
    let sides = |egress: Outcome, ingress: Outcome| Expected {
        egress: plain(Direction::Egress, egress),
        ingress: plain(Direction::Ingress, ingress),
    };
    // Traffic from the pod's own node to the pod is always allowed (semantics 21), also to a pod that is not known yet.
    let node = match pod_at(inventory, packet.destination()) {
        Some(pod) => pod.node.as_ref().and_then(|node| inventory.nodes.get(node)),
        None if is_unknown_pod(inventory, scope, packet.destination()) => own_node(inventory, scope),
        None => None,
    };
    if node.is_some_and(|node| is_address_of_node(inventory, node, packet.source())) {
        return sides(Outcome::allow(Reason::NotAPod), Outcome::allow(Reason::OwnNode));
    }
    // A pod reaching its own address is allowed (semantics 21).
    if packet.source() == packet.destination() {
        let passes = Outcome::allow(Reason::OwnAddress);
        return sides(passes, passes);
    }
    let side = |direction, address| judge_side(inventory, scope, when_unsure, packet, direction, address);
    let egress = side(Direction::Egress, packet.source());
    let ingress = side(Direction::Ingress, packet.destination());
    // What goes to the node itself has a peer that is known: the node.
    let to_unknown = directions == Directions::Both && is_unknown_peer(inventory, packet.destination());
    let from_unknown = is_unknown_peer(inventory, packet.source());
    let unsure = |judged: Explanation, address| match pod_at(inventory, address) {
        // Denied only because the peer is not known (yet). The rest of the explanation stays: it holds until then.
        Some(pod)
            if judged.verdict == Verdict::Deny && might_allow(inventory, packet, judged.direction, pod) =>
        {
            Explanation { verdict: when_unsure, reason: Reason::UnknownPeer.code(), ..judged }
        }
        _ => judged,
    };
    Expected {
        egress: if to_unknown { unsure(egress, packet.source()) } else { egress },
        ingress: if from_unknown { unsure(ingress, packet.destination()) } else { ingress },
    }
}

fn judge_side(
    inventory: &Inventory,
    scope: &Scope,
    when_unsure: Verdict,
    packet: &Packet,
    direction: Direction,
    address: IpAddr,
) -> Explanation {
    match pod_at(inventory, address) {
        None if is_unknown_pod(inventory, scope, address) => {
            plain(direction, Outcome { verdict: when_unsure, reason: Reason::UnknownPod })
        }
        None => plain(direction, Outcome::allow(Reason::NotAPod)),
        Some(pod) if !is_judged(inventory, scope, pod) => plain(direction, Outcome::allow(Reason::OtherNode)),
        Some(pod) => judge_pod(inventory, packet, direction, pod),
    }
}

/// Judges a packet by the policies of the pod on this side.
fn judge_pod(inventory: &Inventory, packet: &Packet, direction: Direction, pod: &Pod) -> Explanation {
    let policies = applying(inventory, pod);
    let isolating: Vec<&PolicySpec> =
        policies.iter().copied().filter(|policy| isolates(policy, direction)).collect();
    let connection = Connection::new(inventory, packet, direction);

    for tier in [Tier::Admin, Tier::NetworkPolicy, Tier::Baseline] {
        // Baseline is skipped in a direction exactly when a NetworkPolicy isolates the pod in it (semantics 9).
        if tier == Tier::Baseline && !isolating.is_empty() {
            continue;
        }
        // The FIRST rule whose peers AND ports match decides (semantics 3).
        let first = rules(&policies, tier, direction)
            .find(|(_, _, rule)| peers_match(inventory, &connection, rule) && ports_match(&connection, rule));
        let Some((policy, index, rule)) = first else { continue };
        let verdict = match rule.action {
            Action::Accept => Verdict::Allow,
            Action::Deny => Verdict::Deny,
            // Skips the rest of its own tier.
            Action::Pass => continue,
        };
        let outcome = Outcome { verdict, reason: Reason::Rule(RuleId(0)) };
        return Explanation { rule: Some(name_of(policy, index, rule)), ..plain(direction, outcome) };
    }
    if isolating.is_empty() {
        return plain(direction, Outcome::allow(Reason::NotIsolated));
    }
    // Isolated, and no rule allows it (semantics 2, 8).
    let mut isolated_by: Vec<_> = isolating.iter().map(|policy| Arc::new(policy.name.clone())).collect();
    isolated_by.sort();
    Explanation {
        isolated_by,
        nearest_miss: nearest_miss(inventory, &policies, &connection, direction),
        ..plain(direction, Outcome::deny(Reason::DefaultDeny))
    }
}

/// Whether ANY pod that might come to have the other end's address would be allowed, as far as each rule alone can tell: a pod
/// of any namespace, with any labels, and, where it is the destination, with any name for its port.
fn might_allow(inventory: &Inventory, packet: &Packet, direction: Direction, pod: &Pod) -> bool {
    let policies = applying(inventory, pod);
    let isolated = policies.iter().any(|policy| isolates(policy, direction));
    let connection = Connection::new(inventory, packet, direction);
    for tier in [Tier::Admin, Tier::NetworkPolicy, Tier::Baseline] {
        if tier == Tier::Baseline && isolated {
            continue;
        }
        let mut might_pass = false;
        for (_, _, rule) in rules(&policies, tier, direction) {
            if !(peers_might_match(&connection, rule) && ports_might_match(&connection, rule)) {
                continue;
            }
            // Whoever the pod is, nothing after this rule is looked at.
            let surely = peers_match(inventory, &connection, rule) && ports_match(&connection, rule);
            match rule.action {
                Action::Accept => return true,
                Action::Deny if surely && !might_pass => return false,
                Action::Deny => {}
                Action::Pass => might_pass = true,
            }
            if surely {
                break;
            }
        }
    }
    !isolated
}

/// The policies that apply to a pod, in order.
fn applying<'a>(inventory: &'a Inventory, pod: &Pod) -> Vec<&'a PolicySpec> {
    // ALL policies that select the pod apply (semantics 4).
    let mut policies: Vec<&PolicySpec> = inventory
        .policies
        .values()
        .map(|policy| &**policy)
        .filter(|policy| selects(inventory, policy, pod))
        .collect();
    // Admin by priority and then by name, NetworkPolicy by name, Baseline by priority and then by name.
    policies.sort_by_key(|policy| {
        let priority = if policy.tier == Tier::NetworkPolicy { 0 } else { policy.priority };
        (policy.tier, priority, policy.name.clone())
    });
    policies
}

/// The first NetworkPolicy rule whose peer matches; if there is none, the first whose port does.
fn nearest_miss(
    inventory: &Inventory,
    policies: &[&PolicySpec],
    connection: &Connection<'_>,
    direction: Direction,
) -> Option<NearestMiss> {
    let mut by_peer = rules(policies, Tier::NetworkPolicy, direction);
    if let Some((policy, index, rule)) = by_peer.find(|(_, _, rule)| peers_match(inventory, connection, rule))
    {
        return Some(NearestMiss { rule: name_of(policy, index, rule), miss: Miss::Port });
    }
    let mut by_port = rules(policies, Tier::NetworkPolicy, direction);
    let (policy, index, rule) = by_port.find(|(_, _, rule)| ports_match(connection, rule))?;
    Some(NearestMiss { rule: name_of(policy, index, rule), miss: Miss::Peer })
}

/// The rules of a tier in a direction, in order, each with its policy and its index there.
fn rules<'a>(
    policies: &'a [&'a PolicySpec],
    tier: Tier,
    direction: Direction,
) -> impl Iterator<Item = (&'a PolicySpec, usize, &'a RuleSpec)> {
    policies
        .iter()
        .filter(move |policy| policy.tier == tier)
        // `policyTypes` decide in which directions a NetworkPolicy counts, whatever rules it lists (semantics 1).
        .filter(move |policy| tier != Tier::NetworkPolicy || isolates(policy, direction))
        .flat_map(move |policy| {
            let rules = match direction {
                Direction::Ingress => &policy.ingress,
                Direction::Egress => &policy.egress,
            };
            rules.iter().enumerate().map(move |(index, rule)| (*policy, index, rule))
        })
}

fn name_of(policy: &PolicySpec, index: usize, rule: &RuleSpec) -> RuleName {
    RuleName { policy: Arc::new(policy.name.clone()), index, name: rule.name.clone() }
}

/// Isolation is per direction, and only NetworkPolicies isolate (semantics 8).
fn isolates(policy: &PolicySpec, direction: Direction) -> bool {
    policy.tier == Tier::NetworkPolicy
        && match direction {
            Direction::Ingress => policy.isolates_ingress,
            Direction::Egress => policy.isolates_egress,
        }
}

/// The newest pod that claims the address (semantics 22). hostNetwork pods are the node and claim none (semantics 20).
fn pod_at(inventory: &Inventory, address: IpAddr) -> Option<&Pod> {
    inventory
        .pods
        .values()
        .map(Arc::as_ref)
        .filter(|pod: &&Pod| !pod.host_network)
        // Every address counts, both families (semantics 26).
        .filter(|pod| pod.addresses.iter().any(|a| a.to_canonical() == address))
        .max_by_key(|pod| (pod.created, pod.name.clone()))
}

/// Whether the pod is one that this scope judges.
fn is_judged(inventory: &Inventory, scope: &Scope, pod: &Pod) -> bool {
    match (scope, &pod.node) {
        (Scope::Cluster, _) => true,
        (Scope::Node(here), Some(node)) => node == here,
        (Scope::Node(_), None) => {
            pod.addresses.iter().any(|address| is_in_pod_cidrs(inventory, scope, *address))
        }
    }
}

fn own_node<'a>(inventory: &'a Inventory, scope: &Scope) -> Option<&'a Node> {
    match scope {
        Scope::Cluster => None,
        Scope::Node(name) => inventory.nodes.get(name),
    }
}

fn is_in_pod_cidrs(inventory: &Inventory, scope: &Scope, address: IpAddr) -> bool {
    own_node(inventory, scope).is_some_and(|node| node.pod_cidrs.iter().any(|cidr| cidr.contains(&address)))
}

/// Whether an address that no pod has is one of this node's pods' all the same.
fn is_unknown_pod(inventory: &Inventory, scope: &Scope, address: IpAddr) -> bool {
    is_in_pod_cidrs(inventory, scope, address)
        && !own_node(inventory, scope).is_some_and(|node| is_address_of_node(inventory, node, address))
}

/// Whether the address is one that ANY node gives to pods, and neither a pod nor a node is known to have it.
fn is_unknown_peer(inventory: &Inventory, address: IpAddr) -> bool {
    let nodes = || inventory.nodes.values();
    nodes().any(|node| node.pod_cidrs.iter().any(|cidr| cidr.contains(&address)))
        && pod_at(inventory, address).is_none()
        && !nodes().any(|node| is_address_of_node(inventory, node, address))
}

/// Whether the address is one that the node reports, or the network address or the one after it of one of its pod CIDRs,
/// which are its own unless a pod has them.
fn is_address_of_node(inventory: &Inventory, node: &Node, address: IpAddr) -> bool {
    let reports = node.addresses.iter().any(|a| a.to_canonical() == address);
    let implied = !node.has_all_addresses
        && node.pod_cidrs.iter().any(|cidr| {
            let offset = match (address, cidr.network()) {
                (IpAddr::V4(address), IpAddr::V4(network)) => {
                    u128::from(u32::from(address)).checked_sub(u32::from(network).into())
                }
                (IpAddr::V6(address), IpAddr::V6(network)) => u128::from(address).checked_sub(network.into()),
                _ => None,
            };
            cidr.contains(&address) && matches!(offset, Some(0 | 1))
        });
    reports || (implied && pod_at(inventory, address).is_none())
}

/// An explanation that needs no names.
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
