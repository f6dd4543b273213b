//! The cost of a policy, and its reduced forms, which cost less.
//!
//! From: a spec. To: [`admission`](crate::admission), and the sources, which omit the rules of policies that
//! are not admitted. Invariant: a reduced form isolates at least the pods that the policy isolates, and
//! allows nothing.

use crate::selector::{Requirement, Selector};
use crate::spec::{Cost, NamespaceMatch, Peer, PolicySpec, RuleSpec};

/// The entries of a policy without rules.
const POLICY: Cost = 16;

/// The entries of a peer that selects pods, without its keys and values.
const SELECTOR: Cost = 16;

/// A podSelector with more entries than this is replaced when its policy's rules are omitted.
const KEPT_SUBJECT: Cost = 16;

/// A label's key is one entry, and one more for each full 64 bytes. Keys have up to 317 bytes.
const KEY: usize = 64;

impl PolicySpec {
    /// The entries of the policy in one ruleset, at least 16. Its rules count even if they were omitted.
    pub fn cost(&self) -> Cost {
        if let Some(omitted) = self.omitted {
            return omitted;
        }
        let rules = self.ingress.iter().chain(&self.egress).map(cost_of_rule).sum::<Cost>();
        POLICY + self.cost_of_subject() + rules
    }

    fn cost_of_subject(&self) -> Cost {
        cost_of_pods(&self.subject.namespaces, &self.subject.pods)
    }

    /// The policy with the isolation that it causes, and without what it allows.
    pub(crate) fn without_rules(&self) -> Self {
        let Self { name, tier, priority, subject, isolates_ingress, isolates_egress, omitted, .. } = self;
        Self {
            name: name.clone(),
            tier: *tier,
            priority: *priority,
            subject: subject.clone(),
            isolates_ingress: *isolates_ingress,
            isolates_egress: *isolates_egress,
            ingress: Vec::new(),
            egress: Vec::new(),
            omitted: *omitted,
        }
    }

    /// The policy without its rules, but with their cost. It takes up to 2 kB of memory, whatever the
    /// policy's size. If the podSelector has more than 16 entries, the result isolates every pod of the
    /// namespace.
    #[must_use]
    pub fn omit_rules(&self) -> Self {
        let mut policy = Self { omitted: Some(self.cost()), ..self.without_rules() };
        if self.cost_of_subject() > KEPT_SUBJECT {
            policy.subject.pods = Selector::All([].into());
        }
        policy
    }
}

fn cost_of_rule(rule: &RuleSpec) -> Cost {
    let peers = rule.peers.iter().flatten().map(|peer| match peer {
        Peer::Pods { namespaces, pods } => SELECTOR + cost_of_pods(namespaces, pods),
        Peer::Block(block) => 1 + block.except.len() as Cost,
        Peer::Nodes(nodes) => SELECTOR + cost_of_selector(nodes),
        Peer::Nothing => 1,
    });
    let ports = rule.ports.as_ref().map_or(0, Vec::len) as Cost;
    1 + peers.sum::<Cost>() + ports
}

fn cost_of_pods(namespaces: &NamespaceMatch, pods: &Selector) -> Cost {
    let namespaces = match namespaces {
        NamespaceMatch::Named(_) => 0,
        NamespaceMatch::Labels(selector) => cost_of_selector(selector),
    };
    namespaces + cost_of_selector(pods)
}

fn cost_of_key(key: &str) -> Cost {
    1 + (key.len() / KEY) as Cost
}

fn cost_of_selector(selector: &Selector) -> Cost {
    let Selector::All(requirements) = selector else { return 0 };
    let values = requirements.iter().map(|requirement| match requirement {
        Requirement::In(key, values) | Requirement::NotIn(key, values) => {
            cost_of_key(key) + values.len() as Cost
        }
        Requirement::Exists(key) | Requirement::DoesNotExist(key) => cost_of_key(key),
    });
    values.sum()
}
