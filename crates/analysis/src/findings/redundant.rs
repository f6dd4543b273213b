//! Rules that another rule makes redundant.
//!
//! This depends on the policies alone, not on the workloads of the folder: whatever pods the cluster has, the
//! rule changes no verdict. So a rule is not reported because its pods are not here.

use cluster::Manifests;
use policy::{
    IpBlock, NamespaceMatch, Peer, PolicyKind, PolicySpec, PortMatch, PortNumbers, Requirement, RuleSpec,
    Selector,
};

use super::finding::{Finding, of_policy};
use super::rule::{Rule, Severity};
use super::walk::{PlacedRule, policies, rules};

/// The label with a namespace's name (semantics 11).
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

pub(super) fn find(manifests: &Manifests) -> Vec<Finding> {
    let all: Vec<PlacedRule<'_>> = policies(manifests).flat_map(|policy| rules(policy)).collect();
    let mut findings = Vec::new();
    for rule in &all {
        let Some(other) = all.iter().find(|other| makes_redundant(other, rule)) else { continue };
        let whose = match other.policy.name == rule.policy.name {
            true => other.name(),
            false => format!("{} {}", other.policy.name, other.name()),
        };
        let what = match rule.policy.name.kind {
            PolicyKind::NetworkPolicy => format!("{whose} allows all that this rule allows"),
            _ => format!("{whose} matches all that this rule matches, and comes first"),
        };
        let id = (Rule::RedundantRule, Severity::Note);
        let remedy = "remove the rule, or correct the one that covers it".to_owned();
        findings.push(of_policy(manifests, &rule.policy.name, rule.path(), id, what, remedy));
    }
    findings
}

/// Whether `rule` changes no verdict, because of `other`. Of two equal rules, the later one is redundant.
fn makes_redundant(other: &PlacedRule<'_>, rule: &PlacedRule<'_>) -> bool {
    let position = |rule: &PlacedRule<'_>| (rule.policy.name.clone(), rule.index);
    if position(other) == position(rule) || other.direction != rule.direction {
        return false;
    }
    if rule.policy.name.kind != PolicyKind::NetworkPolicy {
        // The first rule that matches decides, so only the order within one policy is certain (semantics 53).
        return other.policy.name == rule.policy.name
            && other.index < rule.index
            && covers(other.rule, rule.rule);
    }
    other.policy.name.kind == PolicyKind::NetworkPolicy
        && covers_subject(other.policy, rule.policy)
        && covers(other.rule, rule.rule)
        && (position(other) < position(rule)
            || !covers_subject(rule.policy, other.policy)
            || !covers(rule.rule, other.rule))
}

/// Whether `outer` applies to every pod to which `inner` applies.
fn covers_subject(outer: &PolicySpec, inner: &PolicySpec) -> bool {
    covers_namespaces(&outer.subject.namespaces, &inner.subject.namespaces)
        && covers_selector(&outer.subject.pods, &inner.subject.pods)
}

/// Whether `outer` matches all that `inner` matches: EACH peer and EACH port of `inner` is within ONE of
/// `outer`.
fn covers(outer: &RuleSpec, inner: &RuleSpec) -> bool {
    let peers = match (&outer.peers, &inner.peers) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(outer), Some(inner)) => {
            inner.iter().all(|inner| outer.iter().any(|outer| covers_peer(outer, inner)))
        }
    };
    let ports = match (&outer.ports, &inner.ports) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(outer), Some(inner)) => {
            inner.iter().all(|inner| outer.iter().any(|outer| covers_port(outer, inner)))
        }
    };
    peers && ports && is_understood(inner)
}

/// Whether a rule can match something. What is not understood is another finding.
fn is_understood(rule: &RuleSpec) -> bool {
    let matches_nothing = |peer: &Peer| match peer {
        Peer::Nothing | Peer::Nodes(Selector::Nothing) => true,
        Peer::Pods { namespaces, pods } => {
            *pods == Selector::Nothing || *namespaces == NamespaceMatch::Labels(Selector::Nothing)
        }
        Peer::Block(_) | Peer::Nodes(Selector::All(_)) => false,
    };
    let peers =
        rule.peers.as_ref().is_none_or(|peers| !peers.is_empty() && !peers.iter().any(matches_nothing));
    let ports = rule.ports.as_ref().is_none_or(|ports| {
        !ports.is_empty() && !ports.iter().any(|port| port.numbers == PortNumbers::Nothing)
    });
    peers && ports
}

fn covers_peer(outer: &Peer, inner: &Peer) -> bool {
    match (outer, inner) {
        (
            Peer::Pods { namespaces: outer_namespaces, pods: outer },
            Peer::Pods { namespaces: inner_namespaces, pods: inner },
        ) => covers_namespaces(outer_namespaces, inner_namespaces) && covers_selector(outer, inner),
        (Peer::Block(outer), Peer::Block(inner)) => covers_block(outer, inner),
        (Peer::Nodes(outer), Peer::Nodes(inner)) => covers_selector(outer, inner),
        _ => false,
    }
}

/// EACH exception of `outer` is outside of `inner`, or within ONE of its exceptions.
fn covers_block(outer: &IpBlock, inner: &IpBlock) -> bool {
    let is_disjoint = |except: &ipnet::IpNet| !except.contains(&inner.cidr) && !inner.cidr.contains(except);
    outer.cidr.contains(&inner.cidr)
        && outer
            .except
            .iter()
            .all(|except| is_disjoint(&except) || inner.except.iter().any(|own| own.contains(&except)))
}

fn covers_namespaces(outer: &NamespaceMatch, inner: &NamespaceMatch) -> bool {
    let named = |name: &std::sync::Arc<str>| {
        Selector::All([Requirement::In(NAMESPACE_NAME.into(), [name.clone()].into())].into())
    };
    match (outer, inner) {
        (NamespaceMatch::Named(outer), NamespaceMatch::Named(inner)) => outer == inner,
        (NamespaceMatch::Labels(outer), NamespaceMatch::Labels(inner)) => covers_selector(outer, inner),
        // A namespace's name is a label of it, so the name implies requirements on that label only.
        (NamespaceMatch::Labels(outer), NamespaceMatch::Named(inner)) => {
            covers_selector(outer, &named(inner))
        }
        (NamespaceMatch::Named(outer), NamespaceMatch::Labels(inner)) => {
            covers_selector(&named(outer), inner)
        }
    }
}

/// EACH requirement of `outer` follows from ONE of `inner`.
fn covers_selector(outer: &Selector, inner: &Selector) -> bool {
    match (outer, inner) {
        (Selector::All(outer), Selector::All(inner)) => {
            outer.iter().all(|outer| inner.iter().any(|inner| implies(inner, outer)))
        }
        _ => false,
    }
}

/// Whether labels that satisfy `a` satisfy `b` too.
fn implies(a: &Requirement, b: &Requirement) -> bool {
    if a.key() != b.key() {
        return false;
    }
    match (a, b) {
        (Requirement::In(_, a), Requirement::In(_, b)) => a.iter().all(|value| b.contains(value)),
        (Requirement::NotIn(_, a), Requirement::NotIn(_, b)) => b.iter().all(|value| a.contains(value)),
        (Requirement::In(_, a), Requirement::NotIn(_, b)) => !a.iter().any(|value| b.contains(value)),
        (Requirement::In(..) | Requirement::Exists(_), Requirement::Exists(_)) => true,
        (Requirement::DoesNotExist(_), Requirement::DoesNotExist(_) | Requirement::NotIn(..)) => true,
        _ => false,
    }
}

fn covers_port(outer: &PortMatch, inner: &PortMatch) -> bool {
    let protocol = outer.protocol.is_none() || outer.protocol == inner.protocol;
    protocol
        && match (&outer.numbers, &inner.numbers) {
            (PortNumbers::Nothing, _) | (_, PortNumbers::Nothing) => false,
            (PortNumbers::Any, _) => true,
            (PortNumbers::Range(first, last), PortNumbers::Range(inner_first, inner_last)) => {
                first <= inner_first && inner_last <= last
            }
            (PortNumbers::Named(outer), PortNumbers::Named(inner)) => outer == inner,
            _ => false,
        }
}
