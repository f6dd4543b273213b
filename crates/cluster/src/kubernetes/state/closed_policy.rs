//! Closes the rules that select nodes while Nodes may not be listed (semantics 56).
//!
//! From: the policies in force, as the API server has them. To: the form that the consumer gets. Then only
//! the addresses of the agent's own node are known. A rule that accepts nodes matches that node alone. One
//! that denies or passes nodes denies every destination: any may be a node, and the rule's ports still count.

use std::sync::Arc;

use policy::{Action, Change, Peer, PolicySpec, RuleSpec};

/// The form of an object that the consumer gets.
pub(super) fn published(change: &Change, are_nodes_unlisted: bool) -> Change {
    let closed = if are_nodes_unlisted { closed(change) } else { None };
    closed.unwrap_or_else(|| change.clone())
}

/// A policy with its rules that deny or pass nodes closed; `None` for any other object.
pub(super) fn closed(change: &Change) -> Option<Change> {
    let Change::Policy(policy) = change else { return None };
    let is_open = |rule: &RuleSpec| rule.action != Action::Accept && selects_nodes(rule);
    if !rules(policy).any(is_open) {
        return None;
    }
    let close = |rule: &RuleSpec| match is_open(rule) {
        true => RuleSpec { action: Action::Deny, peers: None, ..rule.clone() },
        false => rule.clone(),
    };
    let [ingress, egress] = [&policy.ingress, &policy.egress].map(|rules| rules.iter().map(close).collect());
    Some(Change::Policy(Arc::new(PolicySpec { ingress, egress, ..(**policy).clone() })))
}

/// Whether it is a policy that selects nodes.
pub(super) fn is_of_nodes(change: &Change) -> bool {
    matches!(change, Change::Policy(policy) if rules(policy).any(selects_nodes))
}

fn rules(policy: &PolicySpec) -> impl Iterator<Item = &RuleSpec> {
    policy.ingress.iter().chain(&policy.egress)
}

fn selects_nodes(rule: &RuleSpec) -> bool {
    rule.peers.iter().flatten().any(|peer| matches!(peer, Peer::Nodes(_)))
}
