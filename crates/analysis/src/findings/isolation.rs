//! Namespaces with workloads that are not isolated, and namespaces without an object.

use std::collections::BTreeMap;
use std::sync::Arc;

use cluster::Manifests;
use policy::{NamespaceMatch, Peer};

use super::finding::{Finding, names};
use super::rule::{Rule, Severity};
use super::walk::{policies, rules};
use crate::end::WorkloadName;
use crate::layout::Layout;
use crate::model::Model;

/// The label with a namespace's name (semantics 11).
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Reports each namespace with workloads that every connection reaches; and, as a note, each with workloads
/// that reach everything.
pub(super) fn find(manifests: &Manifests, model: &Model, layout: &Layout) -> Vec<Finding> {
    let mut open: BTreeMap<Arc<str>, [Vec<WorkloadName>; 2]> = BTreeMap::new();
    for (name, openness) in model.open(layout) {
        let [ingress, egress] = open.entry(name.namespace.clone()).or_default();
        if openness.ingress {
            ingress.push(name.clone());
        }
        if openness.egress {
            egress.push(name);
        }
    }
    let mut findings = Vec::new();
    for (namespace, [ingress, egress]) in open {
        let place = manifests.place_of_namespace(&namespace);
        let mut add = |severity, what: String, remedy: &str| {
            findings.push(Finding {
                id: Rule::NamespaceNotIsolated,
                severity,
                object: Some(format!("Namespace {namespace}")),
                field: None,
                file: place.map(|place| place.file.clone()),
                line: place.map(|place| place.line),
                what,
                remedy: remedy.to_owned(),
            });
        };
        if !ingress.is_empty() {
            add(
                Severity::Warning,
                format!("policy allows every connection to {}", names(&ingress)),
                "add a NetworkPolicy with an empty podSelector and policyTypes [Ingress], and allow what is \
                 needed",
            );
        }
        if !egress.is_empty() {
            add(
                Severity::Note,
                format!("policy allows every connection from {}", names(&egress)),
                "add a NetworkPolicy with an empty podSelector and policyTypes [Egress], and allow what is \
                 needed, DNS included",
            );
        }
    }
    findings
}

/// Reports namespaces that no file describes: as a warning if ANY policy depends on labels of namespaces
/// other than their names.
pub(super) fn undescribed(manifests: &Manifests) -> Option<Finding> {
    let missing: Vec<Arc<str>> = manifests.undescribed().into_iter().collect();
    let depends = |namespaces: &NamespaceMatch| match namespaces {
        NamespaceMatch::Named(_) => false,
        NamespaceMatch::Labels(selector) => selector.keys().any(|key| **key != *NAMESPACE_NAME),
    };
    let is_needed = policies(manifests).any(|policy| {
        let peers = rules(policy).flat_map(|rule| rule.rule.peers.iter().flatten());
        let mut selectors = peers.filter_map(|peer| match peer {
            Peer::Pods { namespaces, .. } => Some(namespaces),
            Peer::Block(_) | Peer::Nodes(_) | Peer::Nothing => None,
        });
        depends(&policy.subject.namespaces) || selectors.any(depends)
    });
    (!missing.is_empty()).then(|| Finding {
        id: Rule::NamespaceNotDescribed,
        severity: if is_needed { Severity::Warning } else { Severity::Note },
        object: None,
        field: None,
        file: None,
        line: None,
        what: format!("no file has a Namespace for {}, so their labels are unknown", names(&missing)),
        remedy: "add the Namespaces with their labels, here or in a folder for --with".to_owned(),
    })
}
