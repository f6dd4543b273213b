//! Whose word counts about the addresses of this node's pods: the API server's or the CNI cache's.
//!
//! Pure: knows nothing of files and connections. The rules, in order:
//!
//! 1. A file counts for a pod only if the API server says that the pod is here, runs, and has the UID in the file.
//! 2. Of several files that claim one address only the newest counts, even if what it is for is gone.
//! 3. A pod whose addresses the API server knows has these: files add nothing to them.
//! 4. A pod whose addresses the API server does not know yet has those of its files.
//! 5. An address that rule 4 gives to a pod is no longer that of another pod here, whatever the API server still says of that one.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use policy::PodName;

use super::entry::Claim;

/// A pod of this node in its own network, as the API server has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct LocalPod {
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// Whether it has ended, and so released its addresses.
    pub finished: bool,
    /// `status.podIPs`; empty while the API server doesn't know them.
    pub reported: Vec<IpAddr>,
}

/// The pods of this node in their own networks.
#[derive(Debug, Default)]
pub(crate) struct LocalPods {
    pods: BTreeMap<PodName, LocalPod>,
    /// How many of them may be given an address.
    waiting: usize,
}

impl LocalPods {
    /// Takes in what the API server says of a pod of this node. Whether that is news.
    pub fn put(&mut self, name: &PodName, pod: LocalPod) -> bool {
        let waits = pod.waits();
        let old = match self.pods.entry(name.clone()) {
            Entry::Occupied(entry) if *entry.get() == pod => return false,
            Entry::Occupied(mut entry) => Some(entry.insert(pod)),
            Entry::Vacant(entry) => {
                entry.insert(pod);
                None
            }
        };
        self.waiting += usize::from(waits);
        self.waiting -= usize::from(old.is_some_and(|old| old.waits()));
        true
    }

    /// A pod is gone, or is none of this node any more. Whether that is news.
    pub fn remove(&mut self, name: &PodName) -> bool {
        let Some(old) = self.pods.remove(name) else { return false };
        self.waiting -= usize::from(old.waits());
        true
    }

    /// What the API server says of a pod's addresses; `None` for one that is not of this node.
    pub fn reported(&self, name: &PodName) -> Option<&[IpAddr]> {
        Some(&self.pods.get(name)?.reported)
    }

    /// The pods whose addresses are others than the API server says, with these. `claims` come oldest first.
    ///
    /// Costs nothing while every pod has its addresses; else as much as there are files, and pods of this node.
    pub fn given<'a>(&self, claims: impl IntoIterator<Item = &'a Claim>) -> BTreeMap<PodName, Vec<IpAddr>> {
        let mut given: BTreeMap<PodName, Vec<IpAddr>> = BTreeMap::new();
        if self.waiting == 0 {
            return given;
        }
        let claims: Vec<&Claim> = claims.into_iter().collect();
        let mut claimed = BTreeSet::new();
        let mut taken = BTreeSet::new();
        // Newest first: what an address has been claimed by is settled at its first claim (rule 2).
        for claim in claims.iter().rev() {
            for address in &claim.addresses {
                if !claimed.insert(*address) {
                    continue;
                }
                let pod = self.pods.get(&claim.pod).filter(|pod| pod.uid == claim.uid);
                if pod.is_some_and(LocalPod::waits) {
                    given.entry(claim.pod.clone()).or_default().push(*address);
                    taken.insert(*address);
                }
            }
        }
        if taken.is_empty() {
            return given;
        }
        for (name, pod) in &self.pods {
            // ANY of its addresses.
            if pod.reported.iter().any(|address| taken.contains(address)) {
                let left = pod.reported.iter().filter(|address| !taken.contains(*address)).copied();
                given.insert(name.clone(), left.collect());
            }
        }
        given
    }
}

impl LocalPod {
    /// Whether it runs, or will, and the API server doesn't know its addresses.
    fn waits(&self) -> bool {
        !self.finished && self.reported.is_empty()
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
                "the API server's word wins",
                &[("a", "1", false, &["10.0.0.9"])],
                &[("a", "1", &["10.0.0.2"])],
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
                &[("a", &["10.0.0.3", "10.0.0.2"])],
            ),
            (
                "a Job's address reused at once, before the API server knows that the Job has ended",
                &[("job", "1", false, &["10.0.0.2", "fd00::2"]), ("b", "2", false, &[])],
                &[("b", "2", &["10.0.0.2"])],
                &[("b", &["10.0.0.2"]), ("job", &["fd00::2"])],
            ),
            (
                "both have reported one address: that is for the API server to settle",
                &[("job", "1", false, &["10.0.0.2"]), ("b", "2", false, &["10.0.0.2"])],
                &[("b", "2", &["10.0.0.2"])],
                &[],
            ),
        ];
        for (story, pods, files, expected) in cases {
            let mut local = LocalPods::default();
            for (pod, uid, finished, reported) in *pods {
                let pod_of =
                    LocalPod { uid: (*uid).into(), finished: *finished, reported: addresses(reported) };
                assert!(local.put(&name(pod), pod_of.clone()), "{story}");
                assert!(!local.put(&name(pod), pod_of), "{story}: no news");
            }
            let claims: Vec<Claim> = files
                .iter()
                .map(|(pod, uid, claimed)| Claim {
                    pod: name(pod),
                    uid: (*uid).into(),
                    addresses: addresses(claimed),
                    host_interface: None,
                })
                .collect();
            let given: Vec<_> = local.given(&claims).into_iter().collect();
            let expected: Vec<_> =
                expected.iter().map(|(pod, given)| (name(pod), addresses(given))).collect();
            assert_eq!(given, expected, "{story}");
        }
    }

    #[test]
    fn a_pod_stops_waiting_when_it_is_known_or_gone() {
        let mut local = LocalPods::default();
        let claim = Claim {
            pod: name("a"),
            uid: "1".into(),
            addresses: addresses(&["10.0.0.2"]),
            host_interface: None,
        };
        let pod =
            |reported: &[&str]| LocalPod { uid: "1".into(), finished: false, reported: addresses(reported) };
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
