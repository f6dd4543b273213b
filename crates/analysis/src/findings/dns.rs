//! Egress isolation without DNS.

use std::collections::BTreeMap;

use cluster::{FieldPath, Manifests};
use policy::{Action, Direction, PolicyName, PolicySpec, PortNumbers, Protocol, RuleSpec};

use super::finding::{Finding, names, of_policy};
use super::rule::{Rule, Severity};
use super::walk::{field, policies, rules};
use crate::end::WorkloadName;
use crate::selection::Selection;

/// The port of DNS (RFC 1035, 4.2).
const DNS: u16 = 53;

/// Reports workloads that are isolated for egress and for which no rule accepts UDP port 53 to any peer. Once
/// for all workloads that the same policies isolate.
pub(super) fn find(manifests: &Manifests) -> Vec<Finding> {
    let selection = Selection::new(manifests);
    let mut isolated: BTreeMap<WorkloadName, Vec<&PolicySpec>> = BTreeMap::new();
    let mut with_dns: Vec<WorkloadName> = Vec::new();
    for policy in policies(manifests) {
        let allows = rules(policy).any(|rule| rule.direction == Direction::Egress && allows_dns(rule.rule));
        for workload in selection.subjects(policy) {
            let name = WorkloadName::from(workload);
            if policy.isolates_egress {
                isolated.entry(name.clone()).or_default().push(policy);
            }
            if allows {
                with_dns.push(name);
            }
        }
    }
    let mut by_policies: BTreeMap<Vec<&PolicyName>, Vec<WorkloadName>> = BTreeMap::new();
    for (name, policies) in isolated.into_iter().filter(|(name, _)| !with_dns.contains(name)) {
        by_policies.entry(policies.iter().map(|policy| &policy.name).collect()).or_default().push(name);
    }
    let of = |(isolating, workloads): (Vec<&PolicyName>, Vec<WorkloadName>)| {
        let policy = *isolating.first()?;
        let others = match isolating.len() {
            1 => String::new(),
            _ => format!(" (with {})", names(&isolating[1..])),
        };
        let what = format!(
            "it isolates {} for egress{others}, and no rule allows DNS, so no name can be resolved there",
            names(&workloads)
        );
        let remedy = "if they resolve names, allow UDP and TCP port 53 to the pods of the cluster's DNS";
        let at = FieldPath(vec![field("spec"), field("egress")]);
        let rule = (Rule::EgressWithoutDns, Severity::Warning);
        Some(of_policy(manifests, policy, at, rule, what, remedy.to_owned()))
    };
    by_policies.into_iter().filter_map(of).collect()
}

/// Whether a rule accepts UDP port 53 to some peer. A port name may be that of DNS.
fn allows_dns(rule: &RuleSpec) -> bool {
    let has_peer = rule.peers.as_ref().is_none_or(|peers| !peers.is_empty());
    let is_dns = |port: &policy::PortMatch| {
        port.protocol.is_none_or(|protocol| protocol == Protocol::UDP)
            && match &port.numbers {
                PortNumbers::Any | PortNumbers::Named(_) => true,
                PortNumbers::Range(first, last) => (*first..=*last).contains(&DNS),
                PortNumbers::Nothing => false,
            }
    };
    let has_port = rule.ports.as_ref().is_none_or(|ports| ports.iter().any(is_dns));
    rule.action == Action::Accept && has_peer && has_port
}
