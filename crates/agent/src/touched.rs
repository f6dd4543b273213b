//! Whose connections a change touches: those of the pods that a changed policy selects, and of pods whose labels change.
//!
//! From: the source's changes, and what was known before them. To: the engine, which has packets of these pods judged again at once,
//! before any sweep has come to their connections. It is about haste, never about what is allowed: what is missing here is swept a
//! little later.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use policy::{Change, Inventory, NamespaceMatch, Pod, PolicySpec};

/// More than this, and the workers would be asked about too much at once.
const MOST: usize = 1024;
/// More changes at once than this, and finding these pods would take as long as looking at all connections.
const MOST_CHANGES: usize = 64;

/// The addresses of pods on `node` that policies among the `changes` select, or selected before, and of pods anywhere whose labels,
/// or those of whose namespace, change: they may be the peers of this node's pods. Empty where there are none, or so many that
/// haste is no use. `before` is what was known before the changes.
pub fn pods(changes: &[Change], before: &Inventory, node: &str) -> BTreeSet<IpAddr> {
    if changes.len() > MOST_CHANGES {
        return BTreeSet::new();
    }
    let mut touched = BTreeSet::new();
    let mut add = |pods: &mut dyn Iterator<Item = &Pod>| {
        for pod in pods.filter(|pod| !pod.host_network) {
            touched.extend(&pod.addresses);
        }
        touched.len() <= MOST
    };
    for change in changes {
        let few = match change {
            Change::Policy(policy) => {
                let old = before.policies.get(&policy.name);
                let changed = old.is_none_or(|old| old != policy);
                let mut selected = selected_by(old.into_iter().chain([policy]), before, node);
                !changed || add(&mut selected)
            }
            Change::PolicyGone(name) => {
                add(&mut selected_by(before.policies.get(name).into_iter(), before, node))
            }
            Change::Pod(pod) => {
                add(&mut before.pods.get(&pod.name).into_iter().filter(|old| old.labels != pod.labels))
            }
            Change::Namespace(namespace) => {
                let old = before.namespaces.get(&namespace.name);
                let changed = old.is_some_and(|old| old.labels != namespace.labels);
                let is_in = |pod: &&Pod| pod.name.namespace == namespace.name;
                !changed || add(&mut before.pods.values().filter(is_in))
            }
            _ => true,
        };
        if !few {
            return BTreeSet::new();
        }
    }
    touched
}

/// The pods on `node` that ANY of the policies selects.
fn selected_by<'a>(
    policies: impl Iterator<Item = &'a Arc<PolicySpec>> + Clone + 'a,
    inventory: &'a Inventory,
    node: &'a str,
) -> impl Iterator<Item = &'a Pod> {
    let here = inventory.pods.values().filter(move |pod| pod.node.as_deref() == Some(node));
    here.filter(move |pod| policies.clone().any(|policy| selects(policy, pod, inventory)))
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

#[cfg(test)]
mod tests {
    use policy::{Labels, Namespace, PodName, PolicyName, Requirement, Selector, Subject, Tier};

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

    fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts.iter().map(|text| text.parse().expect("address")).collect()
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
        let changed = [Change::Policy(policy("new", true))];
        assert_eq!(pods(&changed, &before, "here"), addresses(&["10.0.0.1", "10.0.0.2"]));
        let gone = [Change::PolicyGone(PolicyName::network_policy("web", "p"))];
        assert_eq!(pods(&gone, &before, "here"), addresses(&["10.0.0.1"]));
        let said_again = [Change::Policy(policy("old", false))];
        assert_eq!(pods(&said_again, &before, "here"), addresses(&[]));
    }

    #[test]
    fn pods_whose_labels_or_namespace_change_wherever_they_are() {
        let namespace = |stage: &str| {
            let labels = [("stage", stage)].into_iter().collect();
            Change::Namespace(Namespace { name: "web".into(), labels })
        };
        let before = inventory([
            namespace("test"),
            pod("a", "client", "here", "10.0.0.1"),
            pod("b", "client", "elsewhere", "10.0.1.2"),
        ]);
        let relabelled = [pod("b", "guest", "elsewhere", "10.0.1.2")];
        assert_eq!(pods(&relabelled, &before, "here"), addresses(&["10.0.1.2"]));
        assert_eq!(pods(&[namespace("live")], &before, "here"), addresses(&["10.0.0.1", "10.0.1.2"]));
        // A pod that comes has no connections yet.
        assert_eq!(pods(&[pod("c", "client", "here", "10.0.0.3")], &before, "here"), addresses(&[]));
        assert_eq!(pods(&[pod("a", "client", "here", "10.0.0.1")], &before, "here"), addresses(&[]));
    }

    #[test]
    fn with_many_pods_or_changes_there_is_no_haste() {
        let many =
            (0..=MOST).map(|i| pod(&i.to_string(), "new", "here", &format!("10.0.{}.{}", i / 250, i % 250)));
        let before = inventory(many);
        assert_eq!(pods(&[Change::Policy(policy("new", false))], &before, "here"), addresses(&[]));
        let changes: Vec<Change> = (0..=MOST_CHANGES).map(|_| pod("1", "old", "here", "10.0.0.1")).collect();
        assert_eq!(pods(&changes, &before, "here"), addresses(&[]));
        assert_eq!(pods(&changes[1..], &before, "here"), addresses(&["10.0.0.1"]));
    }
}
