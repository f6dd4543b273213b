//! CNI resolution: whether the API server's or the CNI cache's addresses count for a pod of this node.
//!
//! Pure: no files and no connections. The rules, in order:
//!
//! 1. A file counts for a pod only if the API server says that the pod is on this node, runs, and has the UID
//!    in the file. Of several files, the newest counts; the older ones are of sandboxes that are gone.
//! 2. If several files have one address, it belongs to the newest file. If the pod of the newest file is
//!    gone, the pod of an older file keeps the address if the API server reports it for that pod too.
//! 3. A pod has the addresses of its file. The file exists before the API server can know the addresses, and
//!    what the API server reports is of an earlier sandbox until it has ALL of them.
//! 4. A pod without a file has the addresses that the API server reports.
//! 5. An address that rule 3 gives to a pod is taken from other pods of this node, whatever the API server
//!    still reports for them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use policy::{PodName, PodUid};

use super::cached_result::CachedResult;

/// A pod of this node with its own network, as the API server has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct LocalPod {
    /// `metadata.uid`.
    pub uid: PodUid,
    /// Whether it has finished, and so released its addresses.
    pub finished: bool,
    /// `status.podIPs`; empty while the API server has none.
    pub reported: Vec<IpAddr>,
}

/// The pods of this node with their own networks.
#[derive(Debug, Default)]
pub(crate) struct LocalPods {
    pods: BTreeMap<PodName, LocalPod>,
}

impl LocalPods {
    /// Stores what the API server has about a pod of this node. Returns whether it changed.
    pub(crate) fn put(&mut self, name: &PodName, pod: LocalPod) -> bool {
        if self.pods.get(name) == Some(&pod) {
            return false;
        }
        self.pods.insert(name.clone(), pod);
        true
    }

    /// Removes a pod that is gone or no longer on this node. Returns whether it was there.
    pub(crate) fn remove(&mut self, name: &PodName) -> bool {
        self.pods.remove(name).is_some()
    }

    /// The finished pods.
    pub(crate) fn finished(&self) -> impl Iterator<Item = &PodName> {
        self.pods.iter().filter(|(_, pod)| pod.finished).map(|(name, _)| name)
    }

    /// The addresses that the API server reports for a pod; `None` for a pod of another node.
    pub(crate) fn reported(&self, name: &PodName) -> Option<&[IpAddr]> {
        Some(&self.pods.get(name)?.reported)
    }

    /// The pods whose addresses differ from those that the API server reports, with their addresses.
    /// `results` are in order, oldest first.
    ///
    /// The cost is linear in the number of files and of this node's pods.
    pub(crate) fn overrides<'a>(
        &self,
        results: impl IntoIterator<Item = &'a CachedResult>,
    ) -> BTreeMap<PodName, Vec<IpAddr>> {
        let results: Vec<&CachedResult> = results.into_iter().collect();
        // The newest file of each pod (rule 1), and the owner of each address in a file (rule 2): `None` if
        // the owner is gone.
        let mut newest: BTreeMap<&PodName, &CachedResult> = BTreeMap::new();
        let mut owners: BTreeMap<IpAddr, Option<&PodName>> = BTreeMap::new();
        for result in results.iter().rev() {
            let pod = self.pods.get(&result.pod);
            let is_here = pod.is_some_and(|pod| pod.uid == result.uid && !pod.finished);
            let counts = is_here && !newest.contains_key(&result.pod);
            if counts {
                newest.insert(&result.pod, result);
            }
            for address in &result.addresses {
                owners.entry(*address).or_insert(counts.then_some(&result.pod));
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
                let its = newest.get(name).map(|result| &result.addresses);
                let addresses: Vec<IpAddr> = match its {
                    // The API server knows this sandbox, or there is no sandbox: the API server's addresses
                    // count (rule 4), except for rule 5.
                    Some(its) if its.iter().all(|address| pod.reported.contains(address)) => {
                        pod.reported.iter().filter(is_its_own).copied().collect()
                    }
                    None => pod.reported.iter().filter(|address| has_no_owner(address)).copied().collect(),
                    // Rule 3.
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

    /// The API server's pods, as (name, uid, finished, addresses), and the files, oldest first, as (name,
    /// uid, addresses); then the expected overrides, as (name, addresses).
    type Pods<'a> = &'a [(&'a str, &'a str, bool, &'a [&'a str])];
    type Files<'a> = &'a [(&'a str, &'a str, &'a [&'a str])];
    type Overrides<'a> = &'a [(&'a str, &'a [&'a str])];

    #[test]
    fn pods_get_the_addresses_of_the_right_source() {
        let cases: &[(&str, Pods, Files, Overrides)] = &[
            (
                "a new pod has its file's addresses",
                &[("a", "1", false, &[])],
                &[("a", "1", &["10.0.0.2", "fd00::2"])],
                &[("a", &["10.0.0.2", "fd00::2"])],
            ),
            (
                "a new sandbox after a reboot that the API server doesn't know yet",
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
                "a reported address that is also in a newer file of a pod that is gone",
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
            ("a finished pod", &[("a", "1", true, &[])], &[("a", "1", &["10.0.0.2"])], &[]),
            ("no file", &[("a", "1", false, &[])], &[], &[]),
            (
                "an address that a newer sandbox has",
                &[("a", "1", false, &[]), ("b", "2", false, &[])],
                &[("a", "1", &["10.0.0.2"]), ("b", "2", &["10.0.0.2"])],
                &[("b", &["10.0.0.2"])],
            ),
            (
                "an address that a newer sandbox of a pod that is gone had",
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
                "a Job's address reused at once, before the API server knows that the Job has finished",
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
                assert!(!local.put(&name(pod), pod_of), "{scenario}: unchanged");
            }
            let results: Vec<CachedResult> = files
                .iter()
                .map(|(pod, uid, claimed)| CachedResult {
                    pod: name(pod),
                    uid: PodUid::of(uid),
                    addresses: addresses(claimed),
                    host_interface: None,
                })
                .collect();
            let overrides: Vec<_> = local.overrides(&results).into_iter().collect();
            let expected: Vec<_> =
                expected.iter().map(|(pod, overrides)| (name(pod), addresses(overrides))).collect();
            assert_eq!(overrides, expected, "{scenario}");
        }
    }

    #[test]
    fn an_override_ends_when_the_api_server_reports_the_address_or_the_pod_is_gone() {
        let mut local = LocalPods::default();
        let result = CachedResult {
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
        assert_eq!(local.overrides([&result]).len(), 1);
        local.put(&name("a"), pod(&["10.0.0.2"]));
        assert!(local.overrides([&result]).is_empty());
        assert_eq!(local.reported(&name("a")), Some(&addresses(&["10.0.0.2"])[..]));
        local.put(&name("a"), pod(&[]));
        assert!(local.remove(&name("a")) && !local.remove(&name("a")));
        assert!(local.overrides([&result]).is_empty());
    }
}
