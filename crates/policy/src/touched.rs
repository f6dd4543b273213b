//! Whose connections a change touches: those of the pods that a changed policy selects, and of pods that change themselves.
//!
//! From: changes, and what was known before them. To: whoever puts a snapshot in force, and has packets of these pods judged again
//! at once, before any sweep has come to their connections. Invariant: a connection whose verdict differs after the changes has one
//! of these addresses at an end.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::inventory::{Change, Inventory, Pod};
use crate::labels::Labels;
use crate::names::PolicyName;
use crate::selector::Match;
use crate::spec::{NamespaceMatch, PolicySpec};

/// More than this, and the workers would be asked about too much at once.
pub const MOST: usize = 1024;
/// More changes at once than this, and finding these pods would take as long as looking at all connections.
const MOST_CHANGES: usize = 64;

/// Who is touched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Touched {
    /// Anybody may be.
    All,
    /// Pods at these addresses, at most [`MOST`], and nobody else.
    Pods(BTreeSet<IpAddr>),
}

impl Touched {
    /// These and those.
    pub fn and(self, others: &BTreeSet<IpAddr>) -> Self {
        match self {
            Self::Pods(pods) => Self::few(&pods | others),
            Self::All => Self::All,
        }
    }

    /// Those that are touched in either way.
    pub fn or(self, other: Self) -> Self {
        match other {
            Self::Pods(others) => self.and(&others),
            Self::All => Self::All,
        }
    }

    fn few(pods: BTreeSet<IpAddr>) -> Self {
        if pods.len() <= MOST { Self::Pods(pods) } else { Self::All }
    }
}

/// Whom the `changes` touch: pods on `node` that policies among them select, or selected before; and pods anywhere that come, go,
/// or change, or whose namespace changes, since they may be peers of this node's pods. `before` is what was known before them.
pub fn by(changes: &[Change], before: &Inventory, node: &str) -> Touched {
    if changes.len() > MOST_CHANGES {
        return Touched::All;
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
                let old = before.pods.get(&pod.name).map(Arc::as_ref);
                old == Some(pod) || add(&mut old.into_iter().chain([pod]))
            }
            Change::PodGone(name) => add(&mut before.pods.get(name).map(Arc::as_ref).into_iter()),
            Change::Namespace(namespace) => {
                let is_same = before.namespaces.get(&namespace.name) == Some(namespace);
                is_same || add(&mut before.pods_in(&namespace.name))
            }
            Change::NamespaceGone(name) => add(&mut before.pods_in(name)),
            Change::Node(node) => before.nodes.get(&node.name) == Some(node),
            Change::NodeGone(_) => false,
        };
        if !few {
            return Touched::All;
        }
    }
    Touched::Pods(touched)
}

/// Pods affected by a change of admission: those on `node` that ANY of these policies selects, by the current `inventory`.
pub fn by_admission(policies: &BTreeSet<PolicyName>, inventory: &Inventory, node: &str) -> Touched {
    let specs = policies.iter().filter_map(|name| inventory.policies.get(name));
    let pods = selected_by(specs, inventory, node).filter(|pod| !pod.host_network);
    Touched::few(pods.flat_map(|pod| &pod.addresses).copied().collect())
}

/// The pods on `node` that ANY of the policies selects.
fn selected_by<'a>(
    policies: impl Iterator<Item = &'a Arc<PolicySpec>> + Clone + 'a,
    inventory: &'a Inventory,
    node: &'a str,
) -> impl Iterator<Item = &'a Pod> {
    // Where a pod runs that does not say so, its address tells.
    let pod_cidrs = inventory.nodes.get(node).map_or(&[][..], |node| &node.pod_cidrs);
    let is_here = move |pod: &&Pod| match &pod.node {
        Some(its) => **its == *node,
        None => pod.addresses.iter().any(|address| pod_cidrs.iter().any(|cidr| cidr.contains(address))),
    };
    let here = inventory.pods.values().map(Arc::as_ref).filter(is_here);
    here.filter(move |pod| policies.clone().any(|policy| selects(policy, pod, inventory)))
}

/// Whether the policy applies to the pod, or might: BOTH selectors of its subject must match (semantics 4, 37).
fn selects(policy: &PolicySpec, pod: &Pod, inventory: &Inventory) -> bool {
    let name = &pod.name.namespace;
    let namespace = match &policy.subject.namespaces {
        NamespaceMatch::Named(chosen) => Match::from(chosen == name),
        NamespaceMatch::Labels(selector) => {
            let labels = inventory.namespaces.get(name).map(|namespace| &namespace.labels);
            selector.matches_namespace(name, labels.unwrap_or(&Labels::unknown()))
        }
    };
    namespace.min(policy.subject.pods.matches(&pod.labels)) != Match::No
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Namespace, PodName, PolicyName, Requirement, Selector, Subject, Tier};

    fn pod(name: &str, app: &str, node: &str, address: &str) -> Change {
        Change::Pod(Pod {
            name: PodName::new("web", name),
            labels: [("app", app)].into_iter().collect::<Labels>(),
            addresses: vec![address.parse().expect("address")],
            ports: Vec::new(),
            node: Some(node.into()),
            host_network: false,
            reported: 0,
            created: 0,
            uid: Default::default(),
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
            omitted: None,
        })
    }

    fn inventory(changes: impl IntoIterator<Item = Change>) -> Inventory {
        let mut inventory = Inventory::default();
        changes.into_iter().for_each(|change| inventory.apply(change));
        inventory
    }

    fn pods(texts: &[&str]) -> Touched {
        Touched::Pods(texts.iter().map(|text| text.parse().expect("address")).collect())
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
        assert_eq!(by(&changed, &before, "here"), pods(&["10.0.0.1", "10.0.0.2"]));
        let gone = [Change::PolicyGone(PolicyName::network_policy("web", "p"))];
        assert_eq!(by(&gone, &before, "here"), pods(&["10.0.0.1"]));
        let said_again = [Change::Policy(policy("old", false))];
        assert_eq!(by(&said_again, &before, "here"), pods(&[]));
    }

    #[test]
    fn pods_that_come_go_or_change_wherever_they_are_and_all_of_a_namespace() {
        let namespace = |stage: &str| {
            let labels = [("stage", stage)].into_iter().collect();
            Change::Namespace(Namespace { name: "web".into(), labels })
        };
        let before = inventory([
            namespace("test"),
            pod("a", "client", "here", "10.0.0.1"),
            pod("b", "client", "elsewhere", "10.0.1.2"),
        ]);
        let by = |change: Change| by(&[change], &before, "here");
        assert_eq!(by(pod("b", "guest", "elsewhere", "10.0.1.2")), pods(&["10.0.1.2"]));
        assert_eq!(by(pod("b", "client", "elsewhere", "10.0.1.7")), pods(&["10.0.1.2", "10.0.1.7"]));
        assert_eq!(by(pod("c", "client", "here", "10.0.0.3")), pods(&["10.0.0.3"]));
        assert_eq!(by(Change::PodGone(PodName::new("web", "b"))), pods(&["10.0.1.2"]));
        assert_eq!(by(Change::PodGone(PodName::new("web", "c"))), pods(&[]));
        assert_eq!(by(namespace("live")), pods(&["10.0.0.1", "10.0.1.2"]));
        assert_eq!(by(Change::NamespaceGone("web".into())), pods(&["10.0.0.1", "10.0.1.2"]));
        assert_eq!(by(pod("a", "client", "here", "10.0.0.1")), pods(&[]));
        assert_eq!(by(namespace("test")), pods(&[]));
        assert_eq!(by(Change::NodeGone("elsewhere".into())), Touched::All);
    }

    #[test]
    fn of_many_pods_or_changes_any_may_be_touched() {
        let many =
            (0..=MOST).map(|i| pod(&i.to_string(), "new", "here", &format!("10.0.{}.{}", i / 250, i % 250)));
        let before = inventory(many);
        assert_eq!(by(&[Change::Policy(policy("new", false))], &before, "here"), Touched::All);
        let changes: Vec<Change> = (0..=MOST_CHANGES).map(|_| pod("1", "old", "here", "10.0.0.1")).collect();
        assert_eq!(by(&changes, &before, "here"), Touched::All);
        assert_eq!(by(&changes[1..], &before, "here"), pods(&["10.0.0.1"]));
    }
}
