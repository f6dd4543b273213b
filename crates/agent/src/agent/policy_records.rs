//! The agent's methods about policies in the audit log: their versions, and records of what is in force.
//!
//! From: the source's updates, and the compiler. To: the audit log. Invariant: a version is sent before the
//! first snapshot that has compiled it is published.

use std::collections::BTreeMap;
use std::sync::Arc;

use audit::{AppliedPolicy, PolicyChange, PolicyRef, PolicyUpdate, PolicyVersion};
use jiff::Timestamp;
use policy::{Generation, PolicyName};

use super::state::Agent;
use crate::health::PolicyState;

/// How many policies one record names at most.
const MOST_IN_RECORD: usize = 256;

impl Agent {
    /// Sends the versions of changed policies that the newest snapshot has compiled: all but those in the
    /// backlog.
    pub(super) fn send_policy_versions(&mut self) {
        let generation = self.newest_generation();
        for (name, state) in self.policy_states.iter().filter(|(name, _)| !self.backlog.holds(name)) {
            if matches!(state, PolicyState::Removed) {
                self.policy_uids.remove(name);
            }
            let version = version(state, self.policy_uids.get(name)).map(Arc::new);
            self.audit.set_policy_version(Arc::new(name.clone()), generation, version);
        }
    }

    /// Records policies that are in force now.
    pub(super) fn record_policies(&self, policies: &BTreeMap<PolicyName, PolicyState>) {
        let (time, generation) = (Timestamp::now(), self.newest_generation());
        let policies: Vec<_> =
            policies.iter().map(|(name, state)| applied(name, state, self.policy_uids.get(name))).collect();
        for policies in policies.chunks(MOST_IN_RECORD) {
            self.audit.record_policies(time, PolicyUpdate { generation, policies: policies.to_vec() });
        }
    }

    fn newest_generation(&self) -> Generation {
        self.snapshot.as_ref().map_or(Generation::default(), |snapshot| snapshot.generation())
    }
}

fn applied(name: &PolicyName, state: &PolicyState, uid: Option<&Arc<str>>) -> AppliedPolicy {
    AppliedPolicy {
        change: match state {
            PolicyState::Present(_) => PolicyChange::Applied,
            PolicyState::Removed => PolicyChange::Deleted,
        },
        policy: PolicyRef { name: Arc::new(name.clone()), version: version(state, uid).map(Arc::new) },
    }
}

/// The version of a policy in this state; `None` if it is not known.
fn version(state: &PolicyState, uid: Option<&Arc<str>>) -> Option<PolicyVersion> {
    let PolicyState::Present(version) = state else { return None };
    let version = PolicyVersion { uid: uid.cloned(), resource_version: version.clone() };
    (version != PolicyVersion::default()).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_recorded_with_the_version_that_is_known() {
        let name = PolicyName::network_policy("web", "a");
        let line = |state, uid: Option<&str>| {
            let applied = applied(&name, &state, uid.map(Arc::from).as_ref());
            serde_json::to_string(&applied).expect("JSON")
        };
        let policy = r#""kind":"NetworkPolicy","namespace":"web","name":"a""#;
        assert_eq!(
            line(PolicyState::Present(Some("7".into())), Some("u")),
            format!(r#"{{"change":"applied",{policy},"uid":"u","resource_version":"7"}}"#)
        );
        assert_eq!(line(PolicyState::Present(None), None), format!(r#"{{"change":"applied",{policy}}}"#));
        assert_eq!(line(PolicyState::Removed, Some("u")), format!(r#"{{"change":"deleted",{policy}}}"#));
    }
}
