//! Whose connections a change touches first of all: those of the pods that a changed policy selects.
//!
//! From: the source's changes, and what was known before them. To: the sweep, which looks at these pods' connections before it
//! looks at all. It is about haste, never about what is allowed: a pod that is missing here is swept a little later.

use std::net::IpAddr;

use policy::{Change, Direction, Inventory, NamespaceMatch, Pod, PolicySpec};

/// More than this, and looking at all connections at once is as fast.
const MOST: usize = 4;

/// The addresses of pods on `node` that policies among the `changes` select, or selected before, with the direction in which
/// they do. Empty where no policy changed, or so many that haste is no use. `before` is what was known before the changes.
pub fn pods(changes: &[Change], before: &Inventory, node: &str) -> Vec<(Direction, IpAddr)> {
    let mut touched = Vec::new();
    for change in changes {
        let (new, name) = match change {
            Change::Policy(policy) => (Some(policy), &policy.name),
            Change::PolicyGone(name) => (None, name),
            _ => continue,
        };
        for policy in new.into_iter().chain(before.policies.get(name)) {
            for pod in before.pods.values().filter(|pod| pod.node.as_deref() == Some(node)) {
                if selects(policy, pod, before) {
                    touched.extend(directions(policy).flat_map(|direction| {
                        pod.addresses.iter().map(move |address| (direction, *address))
                    }));
                }
            }
            touched.sort_unstable();
            touched.dedup();
            if touched.len() > MOST {
                return Vec::new();
            }
        }
    }
    touched
}

/// BOTH selectors of the subject must match.
fn selects(policy: &PolicySpec, pod: &Pod, inventory: &Inventory) -> bool {
    let namespace = match &policy.subject.namespaces {
        NamespaceMatch::Named(name) => *name == pod.name.namespace,
        NamespaceMatch::Labels(selector) => inventory
            .namespaces
            .get(&pod.name.namespace)
            .is_some_and(|namespace| selector.matches(&namespace.labels)),
    };
    namespace && policy.subject.pods.matches(&pod.labels)
}

/// Where the policy says anything.
fn directions(policy: &PolicySpec) -> impl Iterator<Item = Direction> {
    let ingress = policy.isolates_ingress || !policy.ingress.is_empty();
    let egress = policy.isolates_egress || !policy.egress.is_empty();
    [(ingress, Direction::Ingress), (egress, Direction::Egress)]
        .into_iter()
        .filter_map(|(says, direction)| says.then_some(direction))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use policy::{Labels, PodName, PolicyName, Requirement, Selector, Subject, Tier};

    use super::*;

    fn pod(name: &str, app: &str, node: &str, address: &str) -> Change {
        Change::Pod(Pod {
            name: PodName::new("web", name),
            labels: [("app", app)].into_iter().collect::<Labels>(),
            addresses: vec![address.parse().expect("address")],
            ports: Vec::new(),
            node: Some(node.into()),
            host_network: false,
            created: 0,
        })
    }

    fn policy(app: &str, egress: bool) -> Arc<PolicySpec> {
        let pods = Selector::All([Requirement::In("app".into(), [Arc::from(app)].into())].into());
        Arc::new(PolicySpec {
            name: PolicyName::network_policy("web", "p"),
            tier: Tier::NetworkPolicy,
            priority: 0,
            subject: Subject { namespaces: NamespaceMatch::Named("web".into()), pods },
            isolates_ingress: !egress,
            isolates_egress: egress,
            ingress: Vec::new(),
            egress: Vec::new(),
        })
    }

    fn inventory(changes: impl IntoIterator<Item = Change>) -> Inventory {
        let mut inventory = Inventory::default();
        changes.into_iter().for_each(|change| inventory.apply(change));
        inventory
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    #[test]
    fn pods_that_a_changed_policy_selects_now_or_did_before() {
        let before = inventory([
            pod("a", "old", "here", "10.0.0.1"),
            pod("b", "new", "here", "10.0.0.2"),
            pod("c", "new", "elsewhere", "10.0.1.3"),
            pod("d", "other", "here", "10.0.0.4"),
            Change::Policy(policy("old", false)),
        ]);
        let expected =
            vec![(Direction::Ingress, address("10.0.0.1")), (Direction::Egress, address("10.0.0.2"))];
        assert_eq!(pods(&[Change::Policy(policy("new", true))], &before, "here"), expected);
        let gone = [Change::PolicyGone(PolicyName::network_policy("web", "p"))];
        assert_eq!(pods(&gone, &before, "here"), [(Direction::Ingress, address("10.0.0.1"))]);
    }

    #[test]
    fn a_change_of_pods_or_of_a_policy_with_many_pods_is_in_no_haste() {
        let many = (1..=5).map(|i| pod(&i.to_string(), "new", "here", &format!("10.0.0.{i}")));
        let before = inventory(many);
        assert_eq!(pods(&[Change::Policy(policy("new", false))], &before, "here"), []);
        assert_eq!(pods(&[pod("9", "new", "here", "10.0.0.9")], &before, "here"), []);
    }
}
