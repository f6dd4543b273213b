//! The short form of one direction's explanation, which `kube-verdict explain --packets` prints.

use std::borrow::Cow;
use std::sync::Arc;

use policy::{Explanation, PolicyName, Verdict};
use serde::{Serialize, Serializer};

/// The outcome of one direction.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Side {
    /// Whether this direction allows the packet.
    pub verdict: Verdict,
    /// Why: see [`Reason::code`](policy::Reason::code).
    pub reason: Cow<'static, str>,
    /// The policy that decided, as `namespace/name`, or `name` alone for a cluster-wide one; for a default
    /// deny, the first that isolates.
    #[serde(serialize_with = "name_or_null")]
    pub policy: Option<Arc<PolicyName>>,
    /// Index of the rule that decided, in the policy's list for this direction.
    pub rule: Option<usize>,
}

impl Side {
    /// The short form of an explanation.
    pub fn new(explanation: &Explanation) -> Self {
        let rule = explanation.rule.as_ref();
        Self {
            verdict: explanation.verdict,
            reason: Cow::Borrowed(explanation.reason),
            policy: rule.map(|rule| &rule.policy).or(explanation.isolated_by.first()).cloned(),
            rule: rule.map(|rule| rule.index),
        }
    }
}

fn name_or_null<S: Serializer>(name: &Option<Arc<PolicyName>>, serializer: S) -> Result<S::Ok, S::Error> {
    match name {
        Some(name) => serializer.collect_str(name),
        None => serializer.serialize_none(),
    }
}
