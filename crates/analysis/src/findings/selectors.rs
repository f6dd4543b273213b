//! Selectors that match nothing.

use cluster::Manifests;
use policy::{NamespaceMatch, Peer, PolicySpec, Selector};

use super::finding::{Finding, of_policy};
use super::rule::{Rule, Severity};
use super::walk::{path_of_subject, policies, rules};
use crate::selection::Selection;

const RULE: Rule = Rule::SelectorMatchesNothing;

pub(super) fn find(manifests: &Manifests) -> Vec<Finding> {
    let selection = Selection::new(manifests);
    let mut findings = Vec::new();
    for policy in policies(manifests) {
        findings.extend(subject(manifests, &selection, policy));
        for rule in rules(policy) {
            for (index, peer) in rule.rule.peers.iter().flatten().enumerate() {
                let Peer::Pods { namespaces, pods } = peer else { continue };
                if let Some((severity, what, remedy)) = selector(&selection, namespaces, pods, "the peer") {
                    let field = rule.path_of_peer(index);
                    let name = &policy.name;
                    findings.push(of_policy(manifests, name, field, (RULE, severity), what, remedy));
                }
            }
        }
    }
    findings
}

fn subject(manifests: &Manifests, selection: &Selection<'_>, policy: &PolicySpec) -> Option<Finding> {
    let (namespaces, pods) = (&policy.subject.namespaces, &policy.subject.pods);
    let (severity, what, remedy) = selector(selection, namespaces, pods, "the policy")?;
    Some(of_policy(manifests, &policy.name, path_of_subject(policy), (RULE, severity), what, remedy))
}

/// Why these selectors match nothing, and what to do; `None` if they match something, or are not understood,
/// which is another finding.
fn selector(
    selection: &Selection<'_>,
    namespaces: &NamespaceMatch,
    pods: &Selector,
    whose: &str,
) -> Option<(Severity, String, String)> {
    let is_understood =
        *pods != Selector::Nothing && *namespaces != NamespaceMatch::Labels(Selector::Nothing);
    if !is_understood || !selection.pods(namespaces, pods).is_empty() {
        return None;
    }
    if selection.matches_only_host_network(namespaces, pods) {
        let what = format!("{whose} selects only pods with hostNetwork, to which no policy applies");
        let remedy = "select nodes by ipBlock, or give the pods a network of their own".to_owned();
        return Some((Severity::Warning, what, remedy));
    }
    if !selection.has_workloads_in(namespaces) {
        let what =
            format!("{whose} selects pods of namespaces without workloads here, so it can't be checked");
        let remedy =
            "if the namespace is not misspelt, add the folder with its workloads by --with".to_owned();
        return Some((Severity::Note, what, remedy));
    }
    let what = format!("{whose} selects no workload: none in these namespaces has such labels");
    let remedy = "compare the labels with those of the pod templates".to_owned();
    Some((Severity::Warning, what, remedy))
}
