//! The policies of a folder, their rules, and the paths of their fields.

use std::sync::Arc;

use cluster::{FieldPath, Manifests, Step};
use policy::{Change, Direction, PolicyKind, PolicySpec, RuleSpec};

/// The policies of a folder.
pub(super) fn policies(manifests: &Manifests) -> impl Iterator<Item = &Arc<PolicySpec>> {
    manifests.changes.iter().filter_map(|change| match change {
        Change::Policy(policy) => Some(policy),
        _ => None,
    })
}

/// A rule of a policy.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlacedRule<'a> {
    pub policy: &'a PolicySpec,
    pub direction: Direction,
    /// Index in the list of its direction.
    pub index: usize,
    pub rule: &'a RuleSpec,
}

/// The rules of a policy that have an effect: those of a NetworkPolicy in directions that it is about
/// (semantics 8).
pub(super) fn rules(policy: &PolicySpec) -> impl Iterator<Item = PlacedRule<'_>> {
    let is_about = |direction| match direction {
        _ if policy.name.kind != PolicyKind::NetworkPolicy => true,
        Direction::Ingress => policy.isolates_ingress,
        Direction::Egress => policy.isolates_egress,
    };
    let lists = [(Direction::Ingress, &policy.ingress), (Direction::Egress, &policy.egress)];
    lists.into_iter().filter(move |(direction, _)| is_about(*direction)).flat_map(
        move |(direction, rules)| {
            let rules = rules.iter().enumerate();
            rules.map(move |(index, rule)| PlacedRule { policy, direction, index, rule })
        },
    )
}

impl PlacedRule<'_> {
    /// `spec.ingress[0]`.
    pub(super) fn path(&self) -> FieldPath {
        let list = match self.direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        };
        FieldPath(vec![field("spec"), field(list), Step::Item(self.index)])
    }

    /// `spec.ingress[0].from[1]`; the list as a whole for a cluster-wide policy, whose peers can stand for
    /// several.
    pub(super) fn path_of_peer(&self, peer: usize) -> FieldPath {
        let list = match self.direction {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        };
        self.path_of_item(list, peer)
    }

    /// `spec.ingress[0].ports[1]`, likewise.
    pub(super) fn path_of_port(&self, port: usize) -> FieldPath {
        self.path_of_item("ports", port)
    }

    fn path_of_item(&self, list: &str, item: usize) -> FieldPath {
        let FieldPath(mut steps) = self.path();
        if self.policy.name.kind == PolicyKind::NetworkPolicy {
            steps.extend([field(list), Step::Item(item)]);
        }
        FieldPath(steps)
    }

    /// `ingress[0]`.
    pub(super) fn name(&self) -> String {
        match self.direction {
            Direction::Ingress => format!("ingress[{}]", self.index),
            Direction::Egress => format!("egress[{}]", self.index),
        }
    }
}

/// The path of a policy's own selector.
pub(super) fn path_of_subject(policy: &PolicySpec) -> FieldPath {
    let own = if policy.name.kind == PolicyKind::NetworkPolicy { "podSelector" } else { "subject" };
    FieldPath(vec![field("spec"), field(own)])
}

/// A field of a mapping.
pub(super) fn field(name: &str) -> Step {
    Step::Field(name.to_owned())
}
