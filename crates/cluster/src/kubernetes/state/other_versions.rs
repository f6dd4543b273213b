//! Keeps the objects of a kind that the API server has in other versions only.

use std::sync::Arc;

use policy::PolicyName;

use super::{ObjectWarning, Reason, State};
use crate::convert::Kind;
use crate::key::Key;
use crate::problem::{Problem, ProblemLocation};

impl State {
    /// Handles that the API server has a kind only in versions that are not converted, as `sentence` says.
    /// The last known objects stay in force until a list of the kind is complete again: an administrator may
    /// want what they deny. Each of them gets an Event.
    pub(super) fn only_other_versions(&mut self, kind: Kind, sentence: String) {
        self.list(kind).is_known = true;
        let names: Vec<PolicyName> = self.policies_of(kind);
        let effect = match names.len() {
            0 => "such policies are not enforced: pods that they should isolate may be open".to_owned(),
            count => {
                format!("the last known policies ({count}) stay in force, and changes to them are not seen")
            }
        };
        let message =
            format!("{sentence}; its last known form stays in force, and changes to it are not seen");
        let problem = Problem {
            location: ProblemLocation::Api { resource_version: "".into() },
            object: Some(kind.to_string()),
            what: sentence,
            effect,
        };
        if self.problems.set_of_versions(kind, Some(problem)) {
            let warnings = names.iter().filter_map(|name| self.not_served(kind, name, &message));
            let warnings: Vec<ObjectWarning> = warnings.collect();
            self.warnings.extend(warnings);
        }
    }

    fn policies_of(&self, kind: Kind) -> Vec<PolicyName> {
        let policy = |key: &Key| match key {
            Key::Policy(name) if key.kind() == kind => Some(name.clone()),
            _ => None,
        };
        self.objects.keys().filter_map(policy).collect()
    }

    /// The warning for one policy; `None` if it is known only from the state on disk, which has no versions.
    fn not_served(&self, kind: Kind, name: &PolicyName, message: &str) -> Option<ObjectWarning> {
        Some(ObjectWarning {
            reason: Reason::OtherVersions,
            kind,
            namespace: name.namespace.to_string(),
            name: name.name.to_string(),
            uid: self.uids.get(&Key::Policy(name.clone()))?.to_string(),
            resource_version: Arc::clone(self.versions.get(name)?),
            message: message.to_owned(),
        })
    }
}
