//! Detects addresses that are reassigned to another pod (semantics 36): connections of the old pod end.
//!
//! From: changes, and the snapshots before and after them. To: the engine, which deletes the connections.
//! Invariant: when a pod is deleted, its addresses are kept in `vacated` until another pod has them, unless
//! their connections were deleted at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use policy::{Affected, Change, Inventory, PodUid, Snapshot};

/// How many vacated addresses are kept at most. Beyond that, connections are deleted when the pod is.
const MAX_VACATED: usize = 1 << 16;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct VacatedAddresses {
    /// The last pod of each address whose pod was deleted and whose connections stay. Deleting the pod
    /// affected no connection on this node.
    vacated: BTreeMap<IpAddr, PodUid>,
}

/// The addresses that changes may reassign, and their pods before the changes.
#[derive(Debug)]
pub(super) struct PreviousOwners {
    /// Addresses of changed and deleted pods, with the pods that had them.
    owners: Vec<(IpAddr, PodUid)>,
    /// Addresses of created and changed pods.
    claimed: Vec<IpAddr>,
}

impl PreviousOwners {
    /// Call this before the changes are applied.
    pub(super) fn new(changes: &[Change], inventory: &Inventory, snapshot: Option<&Snapshot>) -> Self {
        let old = changes.iter().filter_map(|change| match change {
            Change::Pod(pod) => inventory.pods.get(&pod.name),
            Change::PodGone(name) => inventory.pods.get(name),
            _ => None,
        });
        let owner = |address: IpAddr| Some((address, snapshot?.pod(address)?.uid));
        let new = changes.iter().filter_map(|change| match change {
            Change::Pod(pod) => Some(pod.addresses.iter().copied()),
            _ => None,
        });
        Self {
            owners: old.flat_map(|pod| pod.addresses.iter().copied()).filter_map(owner).collect(),
            claimed: new.flatten().collect(),
        }
    }
}

impl VacatedAddresses {
    /// Returns the addresses whose existing connections must be deleted.
    pub(super) fn reassigned(
        &mut self,
        before: PreviousOwners,
        snapshot: &Snapshot,
        affected: &Affected,
    ) -> BTreeSet<IpAddr> {
        let mut reassigned = BTreeSet::new();
        for (address, uid) in before.owners {
            match snapshot.pod(address) {
                Some(pod) if pod.uid == uid => {}
                None if !affected.has(address.to_canonical()) && self.vacated.len() < MAX_VACATED => {
                    self.vacated.insert(address, uid);
                }
                Some(_) | None => drop(reassigned.insert(address)),
            }
        }
        for address in before.claimed {
            if let Some(pod) = snapshot.pod(address)
                && let Some(uid) = self.vacated.remove(&address)
                // Without UIDs, it is unknown whether it is the same pod.
                && (pod.uid != uid || uid == PodUid::default())
            {
                reassigned.insert(address);
            }
        }
        reassigned
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use policy::{Compilation, Compiler, Labels, Node, Pod, PodName, Scope};

    use super::*;

    const ADDRESS: &str = "10.244.2.2";

    fn pod(name: &str, uid: u128) -> Change {
        Change::Pod(Pod {
            name: PodName::new("web", name),
            labels: Labels::none(),
            addresses: vec![ADDRESS.parse().expect("an address")],
            ports: Vec::new(),
            node: Some("elsewhere".into()),
            host_network: false,
            reported: uid as u64,
            created: 0,
            uid: PodUid(uid),
            workload: None,
        })
    }

    fn gone(name: &str) -> Change {
        Change::PodGone(PodName::new("web", name))
    }

    /// An agent without policies, whose connections are not affected by pods of another node.
    struct Scenario {
        compiler: Compiler,
        owners: VacatedAddresses,
        snapshot: Option<Arc<Snapshot>>,
    }

    impl Scenario {
        fn begin() -> Self {
            let mut compiler = Compiler::new(Scope::Node("here".into()));
            let node = Node {
                name: "here".into(),
                labels: Labels::none(),
                addresses: Vec::new(),
                has_all_addresses: false,
                reported_addresses: Vec::new(),
                pod_cidrs: vec!["10.244.1.0/24".parse().expect("a CIDR")],
            };
            let snapshot = Some(compiler.apply([Change::Node(node)]).snapshot);
            Self { compiler, owners: VacatedAddresses::default(), snapshot }
        }

        fn reassigns(&mut self, changes: &[Change]) -> bool {
            let before = PreviousOwners::new(changes, self.compiler.inventory(), self.snapshot.as_deref());
            let Compilation { snapshot, affected } = self.compiler.apply(changes.iter().cloned());
            let reassigned = self.owners.reassigned(before, &snapshot, &affected);
            self.snapshot = Some(snapshot);
            reassigned == BTreeSet::from([ADDRESS.parse().expect("an address")])
        }
    }

    #[test]
    fn s36_an_address_is_reassigned_when_another_pod_has_it() {
        let mut scenario = Scenario::begin();
        assert!(!scenario.reassigns(&[pod("a", 1)]));
        assert!(!scenario.reassigns(&[gone("a")]), "its connections stay until another pod has it");
        assert!(!scenario.reassigns(&[pod("a", 1)]), "the same pod was listed again");
        assert!(!scenario.reassigns(&[gone("a")]));
        assert!(scenario.reassigns(&[pod("b", 2)]));
        assert!(scenario.reassigns(&[gone("b"), pod("c", 3)]), "at once");
    }
}
