//! What a change of policies opens and closes, without any traffic.
//!
//! From: the models of two folders over one layout. To: the pairs of ends whose verdict differs on some
//! ports, each with the rules that decide before and after.
//!
//! No pair and no port is missed, because the layout has a representative for each: see [`crate::layout`].
//! Every one of them is evaluated by both models, in both directions between workloads, between workloads
//! and nodes, and between workloads and regions of outside addresses. Connections between two outside
//! addresses pass no pod, so no policy applies to them.
//!
//! A workload that only one folder has is listed, and its connections are not: there is nothing to compare
//! them with.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use cluster::Manifests;
use policy::{Change, Direction, Verdict};
use serde::Serialize;

use crate::end::{End, WorkloadName};
use crate::layout::{Addresses, Layout, WorkloadClass};
use crate::model::{Model, Openness};
use crate::partition::addresses::RegionId;
use crate::partition::ports::PortClass;
use crate::ports::{PortRange, ranges};
use crate::selection::Selection;
use crate::side::Side;

/// One of the two folders.
#[derive(Clone, Copy, Debug)]
pub struct Folder<'a> {
    /// What its manifests say.
    pub manifests: &'a Manifests,
    /// Its policies, compiled.
    pub model: &'a Model,
}

/// How two folders differ.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Difference {
    /// Pairs with another verdict, sorted: what opens first.
    pub changes: Vec<VerdictChange>,
    /// Workloads that only the new folder has.
    pub added: Vec<WorkloadState>,
    /// Workloads that only the old folder has.
    pub removed: Vec<WorkloadState>,
    /// What was not compared, and why.
    pub not_compared: Vec<String>,
}

/// Whether connections become allowed or denied.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Denied before, allowed after.
    Opens,
    /// Allowed before, denied after.
    Closes,
}

/// Connections between two ends whose verdict differs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct VerdictChange {
    /// What becomes of them.
    pub effect: Effect,
    /// Where they come from.
    pub from: End,
    /// Where they go to.
    pub to: End,
    /// The IP family, if the other one that both ends have is different: 4 or 6.
    pub ip_version: Option<u8>,
    /// Their destination ports.
    pub ports: Vec<PortRange>,
    /// What decided before, in each direction that denied or denies.
    pub before: Vec<Side>,
    /// What decides after, in the same directions.
    pub after: Vec<Side>,
}

/// A workload that only one folder has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct WorkloadState {
    /// The workload.
    pub workload: WorkloadName,
    /// Whether policy allows every connection to it.
    pub ingress_open: bool,
    /// Whether policy allows every connection from it.
    pub egress_open: bool,
}

impl Difference {
    /// Whether neither verdicts nor workloads differ.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.added.is_empty() && self.removed.is_empty()
    }
}

/// The effect on a connection, and what decides it before and after.
type Reason = (Effect, Vec<Side>, Vec<Side>);
/// By effect and rules: the ports.
type ByReason = BTreeMap<Reason, BTreeSet<PortClass>>;

/// Compares the verdicts of two folders. Both models must be of this layout.
pub fn compare(old: Folder<'_>, new: Folder<'_>, layout: &Layout) -> Difference {
    let classes = layout.classes(&[old.manifests, new.manifests]);
    let comparison = Comparison { old: old.model, new: new.model, layout };
    let mut changes = Vec::new();
    for from in &classes {
        for to in &classes {
            comparison.workloads(from, to, &mut changes);
        }
        comparison.nodes(from, &mut changes);
        comparison.outside(from, &mut changes);
    }
    changes.sort();
    let (before, after) = (old.model.open(layout), new.model.open(layout));
    let only = |all: &BTreeMap<WorkloadName, Openness>, other: &BTreeMap<WorkloadName, Openness>| {
        let only = all.iter().filter(|(name, _)| !other.contains_key(*name));
        only.map(|(name, open)| WorkloadState {
            workload: name.clone(),
            ingress_open: open.ingress,
            egress_open: open.egress,
        })
        .collect()
    };
    Difference {
        changes,
        added: only(&after, &before),
        removed: only(&before, &after),
        not_compared: not_compared(old.manifests, new.manifests, layout),
    }
}

struct Comparison<'a> {
    old: &'a Model,
    new: &'a Model,
    layout: &'a Layout,
}

impl Comparison<'_> {
    /// The ports between two addresses on which the verdicts differ.
    fn ports(&self, from: IpAddr, to: IpAddr, found: &mut ByReason) {
        for port in self.layout.ports() {
            let (packet, before) = self.old.evaluate(from, to, *port);
            let (_, after) = self.new.evaluate(from, to, *port);
            let (effect, denies) = match (before.verdict(), after.verdict()) {
                (Verdict::Deny, Verdict::Allow) => (Effect::Opens, before),
                (Verdict::Allow, Verdict::Deny) => (Effect::Closes, after),
                (Verdict::Allow, Verdict::Allow) | (Verdict::Deny, Verdict::Deny) => continue,
            };
            let directions = [Direction::Egress, Direction::Ingress]
                .into_iter()
                .filter(|direction| denies.outcome(*direction).verdict == Verdict::Deny);
            let (mut was, mut is) = (Vec::new(), Vec::new());
            for direction in directions {
                was.push(self.old.side(&packet, &before, direction));
                is.push(self.new.side(&packet, &after, direction));
            }
            found.entry((effect, was, is)).or_default().insert(*port);
        }
    }

    /// The changes between two ends, by reason and then by family.
    fn between(&self, from: &Addresses, to: &Addresses) -> Vec<(Reason, Option<u8>, BTreeSet<PortClass>)> {
        let mut families = [ByReason::new(), ByReason::new()];
        let mut has_family = [false; 2];
        for family in [0, 1] {
            if let (Some(from), Some(to)) = (from[family], to[family]) {
                has_family[family] = true;
                self.ports(from, to, &mut families[family]);
            }
        }
        let [ipv4, mut ipv6] = families;
        let mut changes = Vec::new();
        for (reason, ports) in ipv4 {
            let is_same = !has_family[1] || ipv6.get(&reason) == Some(&ports);
            if is_same {
                ipv6.remove(&reason);
            }
            changes.push((reason, (!is_same).then_some(4), ports));
        }
        let rest = ipv6.into_iter().map(|(reason, ports)| (reason, has_family[0].then_some(6), ports));
        changes.extend(rest);
        changes
    }

    fn workloads(&self, from: &WorkloadClass, to: &WorkloadClass, changes: &mut Vec<VerdictChange>) {
        let Some((source, destination)) = self.pair(from, to) else { return };
        for (reason, family, ports) in self.between(&source, &destination) {
            for from in &from.members {
                for to in to.members.iter().filter(|to| *to != from || to.kind.has_several_pods()) {
                    let ends = (End::Workload(from.clone()), End::Workload(to.clone()));
                    changes.push(change(ends, family, &reason, &ports));
                }
            }
        }
    }

    /// The addresses of two different pods of the classes; `None` if both classes are the same single pod.
    fn pair(&self, from: &WorkloadClass, to: &WorkloadClass) -> Option<(Addresses, Addresses)> {
        let pods = |class: &WorkloadClass, number: usize| {
            self.layout.pods().get(class.members.get(number)?).cloned()
        };
        let first = pods(from, 0)?;
        let second = if from == to {
            pods(from, 1).map(|pods| pods[0]).or_else(|| first.get(1).copied())?
        } else {
            pods(to, 0)?[0]
        };
        Some((first[0], second))
    }

    fn nodes(&self, class: &WorkloadClass, changes: &mut Vec<VerdictChange>) {
        let Some(pod) = self.layout.pods().get(&class.members[0]).map(|pods| pods[0]) else { return };
        for (node, addresses) in self.layout.nodes() {
            let mut found = [ByReason::new(), ByReason::new()];
            for address in addresses {
                if let Some(pod) = pod[usize::from(address.is_ipv6())] {
                    self.ports(*address, pod, &mut found[0]);
                    self.ports(pod, *address, &mut found[1]);
                }
            }
            let [to_pod, from_pod] = found;
            for member in &class.members {
                let (workload, node) = (End::Workload(member.clone()), End::Node(node.clone()));
                let to_pod = to_pod.iter();
                changes
                    .extend(to_pod.map(|(reason, ports)| {
                        change((node.clone(), workload.clone()), None, reason, ports)
                    }));
                let from_pod = from_pod.iter();
                changes
                    .extend(from_pod.map(|(reason, ports)| {
                        change((workload.clone(), node.clone()), None, reason, ports)
                    }));
            }
        }
    }

    fn outside(&self, class: &WorkloadClass, changes: &mut Vec<VerdictChange>) {
        let Some(pod) = self.layout.pods().get(&class.members[0]).map(|pods| pods[0]) else { return };
        for is_to_pod in [true, false] {
            // Regions with the same ports for the same reason are one end.
            let mut found: BTreeMap<(Reason, BTreeSet<PortClass>), BTreeSet<RegionId>> = BTreeMap::new();
            for (region, address) in self.layout.outside() {
                let Some(pod) = pod[usize::from(address.is_ipv6())] else { continue };
                let mut by_reason = ByReason::new();
                match is_to_pod {
                    true => self.ports(address, pod, &mut by_reason),
                    false => self.ports(pod, address, &mut by_reason),
                }
                for reason in by_reason {
                    found.entry(reason).or_default().insert(region);
                }
            }
            for ((reason, ports), regions) in found {
                let outside = End::Outside(self.layout.regions().blocks(&regions));
                for member in &class.members {
                    let workload = End::Workload(member.clone());
                    let ends = match is_to_pod {
                        true => (outside.clone(), workload),
                        false => (workload, outside.clone()),
                    };
                    changes.push(change(ends, None, &reason, &ports));
                }
            }
        }
    }
}

fn change(
    (from, to): (End, End),
    ip_version: Option<u8>,
    (effect, before, after): &Reason,
    ports: &BTreeSet<PortClass>,
) -> VerdictChange {
    let (before, after) = (before.clone(), after.clone());
    VerdictChange { effect: *effect, from, to, ip_version, ports: ranges(ports), before, after }
}

/// What the folders do not say enough about: parts of policies that differ and concern no workload here.
fn not_compared(old: &Manifests, new: &Manifests, layout: &Layout) -> Vec<String> {
    let policies = |manifests: &'_ Manifests| -> BTreeMap<_, _> {
        let policies = manifests.changes.iter().filter_map(|change| match change {
            Change::Policy(policy) => Some((policy.name.clone(), policy.clone())),
            _ => None,
        });
        policies.collect()
    };
    let (before, after) = (policies(old), policies(new));
    let mut notes = BTreeSet::new();
    if layout.classes(&[old, new]).is_empty() {
        notes.insert(
            "no workload is in both folders, so no connection was compared: add the folder with the \
             workloads by --with"
                .to_owned(),
        );
    }
    for (this, other, manifests) in [(&before, &after, old), (&after, &before, new)] {
        let selection = Selection::new(manifests);
        for (name, policy) in this.iter().filter(|(name, policy)| other.get(*name) != Some(*policy)) {
            let kind = name.kind;
            if selection.subjects(policy).is_empty() {
                notes.insert(format!("{kind} {name}: it selects no workload of the folder"));
            }
            for (list, rules) in [("ingress", &policy.ingress), ("egress", &policy.egress)] {
                for (index, rule) in rules.iter().enumerate() {
                    let mut peers = rule.peers.iter().flatten().filter_map(|peer| selection.peers(peer));
                    if peers.any(|peers| peers.is_empty()) {
                        notes.insert(format!(
                            "{kind} {name} {list}[{index}]: a peer of it selects no workload of the folder"
                        ));
                    }
                }
            }
        }
    }
    for block in layout.blocks_of_pods() {
        notes.insert(format!(
            "the ipBlock {block} is a part of the pod network: the addresses of workloads are not known, so \
             none counts as within it"
        ));
    }
    notes.into_iter().collect()
}
