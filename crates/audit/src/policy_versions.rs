//! The versions of policies, by the generation from which on they are in force.
//!
//! From: the agent, before it publishes a snapshot. To: records. Invariant: a record names the version that
//! its own generation has compiled, or none.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use policy::{Generation, PolicyName};
use rustc_hash::FxBuildHasher;

/// How many versions of a policy are kept: records are written some hundredths of a second after their
/// verdicts, so few versions are in use.
const KEPT: usize = 8;

/// For how many generations the versions of a deleted policy are kept.
const KEPT_GENERATIONS: u64 = 64;

/// The version of a policy object.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PolicyVersion {
    /// `metadata.uid`; `None` if it is not known.
    pub uid: Option<Arc<str>>,
    /// `metadata.resourceVersion`; `None` if it is not known.
    pub resource_version: Option<Arc<str>>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct PolicyVersions {
    /// The versions of each policy, oldest first.
    by_policy: HashMap<Arc<PolicyName>, Vec<VersionFrom>, FxBuildHasher>,
    /// Deleted policies, oldest first, and the first generation without them.
    deleted: VecDeque<(Generation, Arc<PolicyName>)>,
}

/// A version, and the first generation that has it; `None` if the policy has no version or is gone.
type VersionFrom = (Generation, Option<Arc<PolicyVersion>>);

impl PolicyVersions {
    /// Sets the version of a policy from this generation on; `None` if it has none or is gone.
    pub fn set(&mut self, name: &Arc<PolicyName>, from: Generation, version: Option<Arc<PolicyVersion>>) {
        let versions = self.by_policy.entry(Arc::clone(name)).or_default();
        versions.retain(|(generation, _)| *generation < from);
        if versions.len() >= KEPT {
            versions.remove(0);
        }
        if version.is_none() {
            self.deleted.push_back((from, Arc::clone(name)));
        }
        versions.push((from, version));
        while let Some((since, name)) = self.deleted.front()
            && since.0 + KEPT_GENERATIONS <= from.0
        {
            // It may have been created again.
            let is_deleted = self.by_policy.get(name).and_then(|versions| versions.last());
            if is_deleted.is_some_and(|(_, version)| version.is_none()) {
                self.by_policy.remove(name);
            }
            self.deleted.pop_front();
        }
    }

    /// The version of a policy in this generation; `None` if it is not known.
    pub fn at(&self, name: &Arc<PolicyName>, generation: Generation) -> Option<Arc<PolicyVersion>> {
        let versions = self.by_policy.get(name)?;
        let (_, version) = versions.iter().rev().find(|(from, _)| *from <= generation)?;
        version.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_has_the_version_that_it_compiled() {
        let name = Arc::new(PolicyName::network_policy("web", "a"));
        let version =
            |text: &str| Some(Arc::new(PolicyVersion { uid: None, resource_version: Some(text.into()) }));
        let mut versions = PolicyVersions::default();
        assert_eq!(versions.at(&name, Generation(1)), None);
        versions.set(&name, Generation(2), version("10"));
        versions.set(&name, Generation(4), version("11"));
        versions.set(&name, Generation(4), version("12"));
        versions.set(&name, Generation(6), None);
        let at = |versions: &PolicyVersions, number| versions.at(&name, Generation(number));
        assert_eq!(
            [1, 2, 3, 4, 5, 6].map(|number| at(&versions, number)),
            [None, version("10"), version("10"), version("12"), version("12"), None]
        );
        for number in 0..2 * KEPT as u64 {
            versions.set(&name, Generation(10 + number), version(&number.to_string()));
        }
        assert_eq!(at(&versions, 10), None, "not known any more, rather than a wrong one");
        assert_eq!(at(&versions, 100), version("15"));
    }

    #[test]
    fn a_deleted_policy_takes_no_memory_after_some_generations() {
        let name = |number: u64| Arc::new(PolicyName::network_policy("web", number.to_string()));
        let mut versions = PolicyVersions::default();
        for number in 0..1_000 {
            versions.set(&name(number), Generation(2 * number), Some(Arc::default()));
            versions.set(&name(number), Generation(2 * number + 1), None);
        }
        assert_eq!(versions.at(&name(999), Generation(1_998)), Some(Arc::default()));
        assert_eq!(versions.at(&name(999), Generation(1_999)), None);
        assert!(versions.by_policy.len() <= 33 && versions.deleted.len() <= 33);
    }
}
