//! Whose word counts about the addresses of this node's pods: the API server's or the CNI cache's.
//!
//! Pure: knows nothing of files and connections. The rules, in order:
//!
//! 1. A file counts for a pod only if the API server says that the pod is here, runs, and has the UID in the file. Of several the
//!    newest counts: the older ones are of sandboxes that are gone.
//! 2. Of several files that claim one address the newest has it. If what that one is for is gone, the pod of an older file keeps an
//!    address that the API server reports for it, too.
//! 3. A pod has the addresses of its file: the file is there before the API server can know them, and what the API server says is
//!    of an earlier sandbox until it names ALL of them.
//! 4. A pod without a file has the addresses that the API server reports.
//! 5. An address that rule 3 gives to a pod is no longer that of another pod here, whatever the API server still says of that one.

use std::collections::BTreeMap;
use std::net::IpAddr;

use policy::{PodName, PodUid};

use super::entry::Claim;

/// A pod of this node in its own network, as the API server has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct LocalPod {
    /// `metadata.uid`.
    pub uid: PodUid,
    /// Whether it has ended, and so released its addresses.
    pub finished: bool,
    /// `status.podIPs`; empty while the API server doesn't know them.
    pub reported: Vec<IpAddr>,
}

/// The pods of this node in their own networks.
#[derive(Debug, Default)]
pub(crate) struct LocalPods {
    pods: BTreeMap<PodName, LocalPod>,
}

impl LocalPods {
    /// Takes in what the API server says of a pod of this node. Whether that is news.
    pub fn put(&mut self, name: &PodName, pod: LocalPod) -> bool {
        if self.pods.get(name) == Some(&pod) {
            return false;
        }
        self.pods.insert(name.clone(), pod);
        true
    }

    /// A pod is gone, or is none of this node any more. Whether that is news.
    pub fn remove(&mut self, name: &PodName) -> bool {
        self.pods.remove(name).is_some()
    }

    /// The pods that have ended.
    pub fn finished(&self) -> impl Iterator<Item = &PodName> {
        self.pods.iter().filter(|(_, pod)| pod.finished).map(|(name, _)| name)
    }

    /// What the API server says of a pod's addresses; `None` for one that is not of this node.
    pub fn reported(&self, name: &PodName) -> Option<&[IpAddr]> {
        Some(&self.pods.get(name)?.reported)
    }

    /// The pods whose addresses are others than the API server says, with these. `claims` come oldest first.
    ///
    /// Costs as much as there are files, and pods of this node.
    pub fn given<'a>(&self, claims: impl IntoIterator<Item = &'a Claim>) -> BTreeMap<PodName, Vec<IpAddr>> {
        let claims: Vec<&Claim> = claims.into_iter().collect();
        // The newest file of each pod (rule 1), and whose each claimed address is (rule 2): `None` where that one is gone.
        let mut newest: BTreeMap<&PodName, &Claim> = BTreeMap::new();
        let mut owners: BTreeMap<IpAddr, Option<&PodName>> = BTreeMap::new();
        for claim in claims.iter().rev() {
            let pod = self.pods.get(&claim.pod);
            let is_here = pod.is_some_and(|pod| pod.uid == claim.uid && !pod.finished);
            let counts = is_here && !newest.contains_key(&claim.pod);
            if counts {
                newest.insert(&claim.pod, claim);
            }
            for address in &claim.addresses {
                owners.entry(*address).or_insert(counts.then_some(&claim.pod));
            }
        }
        let owner = |address: &IpAddr| owners.get(address).copied().flatten();
        let has_no_owner = |address: &IpAddr| owner(address).is_none();
        self.pods
            .iter()
            .filter_map(|(name, pod)| {
                let is_its_own = |address: &&IpAddr| {
                    owner(address).map_or(pod.reported.contains(*address), |owner| owner == name)
                };
                let its = newest.get(name).map(|claim| &claim.addresses);
                let addresses: Vec<IpAddr> = match its {
                    // The API server knows this sandbox, or there is none: its word counts (rule 4), but for rule 5.
                    Some(its) if its.iter().all(|address| pod.reported.contains(address)) => {
                        pod.reported.iter().filter(is_its_own).copied().collect()
                    }
                    None => pod.reported.iter().filter(|address| has_no_owner(address)).copied().collect(),
                    // (rule 3)
                    Some(its) => its.iter().filter(is_its_own).copied().collect(),
                };
                (addresses != pod.reported).then(|| (name.clone(), addresses))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().expect("address")).collect()
    }

    fn name(name: &str) -> PodName {
        PodName::new("web", name)
    }

    /// The API server's pods, as (name, uid, finished, addresses), and the files, oldest first, as (name, uid, addresses);
    /// what comes of them, as (name, addresses).
    type Pods<'a> = &'a [(&'a str, &'a str, bool, &'a [&'a str])];
    type Files<'a> = &'a [(&'a str, &'a str, &'a [&'a str])];
    type Given<'a> = &'a [(&'a str, &'a [&'a str])];

    #[test]
    fn whose_word_counts() {
        let cases: &[(&str, Pods, Files, Given)] = &[
            (
                "a new pod has its file's addresses",
                &[("a", "1", false, &[])],
                &[("a", "1", &["10.0.0.2", "fd00::2"])],
                &[("a", &["10.0.0.2", "fd00::2"])],
            ),
            (
                "a new sandbox after a reboot, of which the API server doesn't know yet",
                &[("a", "1", false, &["10.0.0.9", "fd00::9"])],
                &[("a", "1", &["10.0.0.9", "fd00::9"]), ("a", "1", &["10.0.0.2"])],
                &[("a", &["10.0.0.2"])],
            ),
            (
                "an address of the other family that the API server knows, and the file does not",
                &[("a", "1", false, &["10.0.0.2", "fd00::2"])],
                &[("a", "1", &["10.0.0.2"])],
                &[],
            ),
            (
                "two pods whose addresses a reboot has swapped",
                &[("a", "1", false, &["10.0.0.2"]), ("b", "2", false, &["10.0.0.3"])],
                &[
                    ("a", "1", &["10.0.0.2"]),
                    ("b", "2", &["10.0.0.3"]),
                    ("b", "2", &["10.0.0.2"]),
                    ("a", "1", &["10.0.0.3"]),
                ],
                &[("a", &["10.0.0.3"]), ("b", &["10.0.0.2"])],
            ),
            (
                "a new sandbox has the address that the API server still reports for another pod",
                &[("a", "1", false, &["10.0.0.2"]), ("b", "2", false, &["10.0.0.3"])],
                &[("b", "2", &["10.0.0.2"])],
                &[("a", &[]), ("b", &["10.0.0.2"])],
            ),
            (
                "a reported address that a newer file of a pod that is gone claims, too",
                &[("a", "1", false, &["10.0.0.2"])],
                &[("a", "1", &["10.0.0.2"]), ("b", "2", &["10.0.0.2"])],
                &[],
            ),
            ("a pod that the API server doesn't know", &[], &[("a", "1", &["10.0.0.2"])], &[]),
            (
                "a dead sandbox of an earlier pod of that name",
                &[("a", "2", false, &[])],
                &[("a", "1", &["10.0.0.2"])],
                &[],
            ),
            ("a pod that has ended", &[("a", "1", true, &[])], &[("a", "1", &["10.0.0.2"])], &[]),
            ("no file", &[("a", "1", false, &[])], &[], &[]),
            (
                "an address that a newer sandbox has",
                &[("a", "1", false, &[]), ("b", "2", false, &[])],
                &[("a", "1", &["10.0.0.2"]), ("b", "2", &["10.0.0.2"])],
                &[("b", &["10.0.0.2"])],
            ),
            (
                "an address that a newer sandbox had, of a pod that is gone",
                &[("a", "1", false, &[])],
                &[("a", "1", &["10.0.0.2"]), ("b", "2", &["10.0.0.2"])],
                &[],
            ),
            (
                "a second sandbox of the same pod",
                &[("a", "1", false, &[])],
                &[("a", "1", &["10.0.0.2"]), ("a", "1", &["10.0.0.3"])],
                &[("a", &["10.0.0.3"])],
            ),
            (
                "a Job's address reused at once, before the API server knows that the Job has ended",
                &[("job", "1", false, &["10.0.0.2", "fd00::2"]), ("b", "2", false, &[])],
                &[("b", "2", &["10.0.0.2"])],
                &[("b", &["10.0.0.2"]), ("job", &["fd00::2"])],
            ),
            (
                "both have reported one address, and one of them has a file",
                &[("job", "1", false, &["10.0.0.2"]), ("b", "2", false, &["10.0.0.2"])],
                &[("b", "2", &["10.0.0.2"])],
                &[("job", &[])],
            ),
        ];
        for (scenario, pods, files, expected) in cases {
            let mut local = LocalPods::default();
            for (pod, uid, finished, reported) in *pods {
                let pod_of =
                    LocalPod { uid: PodUid::of(uid), finished: *finished, reported: addresses(reported) };
                assert!(local.put(&name(pod), pod_of.clone()), "{scenario}");
                assert!(!local.put(&name(pod), pod_of), "{scenario}: no news");
            }
            let claims: Vec<Claim> = files
                .iter()
                .map(|(pod, uid, claimed)| Claim {
                    pod: name(pod),
                    uid: PodUid::of(uid),
                    addresses: addresses(claimed),
                    host_interface: None,
                })
                .collect();
            let given: Vec<_> = local.given(&claims).into_iter().collect();
            let expected: Vec<_> =
                expected.iter().map(|(pod, given)| (name(pod), addresses(given))).collect();
            assert_eq!(given, expected, "{scenario}");
        }
    }

    #[test]
    fn a_pod_stops_waiting_when_it_is_known_or_gone() {
        let mut local = LocalPods::default();
        let claim = Claim {
            pod: name("a"),
            uid: PodUid::of("1"),
            addresses: addresses(&["10.0.0.2"]),
            host_interface: None,
        };
        let pod = |reported: &[&str]| LocalPod {
            uid: PodUid::of("1"),
            finished: false,
            reported: addresses(reported),
        };
        local.put(&name("a"), pod(&[]));
        assert_eq!(local.given([&claim]).len(), 1);
        local.put(&name("a"), pod(&["10.0.0.2"]));
        assert!(local.given([&claim]).is_empty());
        assert_eq!(local.reported(&name("a")), Some(&addresses(&["10.0.0.2"])[..]));
        local.put(&name("a"), pod(&[]));
        assert!(local.remove(&name("a")) && !local.remove(&name("a")));
        assert!(local.given([&claim]).is_empty());
    }
}
