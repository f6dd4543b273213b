//! `ipBlock`s that select pods by their addresses.

use cluster::Manifests;
use policy::Peer;

use super::finding::{Finding, of_policy};
use super::rule::{Rule, Severity};
use super::walk::{policies, rules};
use crate::layout::Layout;

pub(super) fn find(manifests: &Manifests, layout: &Layout) -> Vec<Finding> {
    let mut findings = Vec::new();
    for rule in policies(manifests).flat_map(|policy| rules(policy)) {
        for (index, peer) in rule.rule.peers.iter().flatten().enumerate() {
            let Peer::Block(block) = peer else { continue };
            if layout.blocks_of_pods().contains(&block.cidr.trunc()) {
                let what = format!("{} is a part of the pod network, where addresses change", block.cidr);
                let remedy = "select the pods by their labels".to_owned();
                let severity = (Rule::BlockOfPods, Severity::Warning);
                let (name, field) = (&rule.policy.name, rule.path_of_peer(index));
                findings.push(of_policy(manifests, name, field, severity, what, remedy));
            }
        }
    }
    findings
}
