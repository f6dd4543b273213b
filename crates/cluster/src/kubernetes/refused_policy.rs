//! A policy that is refused, to be reported to its author.

use policy::PolicyName;

/// A policy that the consumer enforces without its rules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RefusedPolicy {
    /// The policy's name.
    pub name: PolicyName,
    /// Why, and what to do, in one sentence for its author.
    pub message: String,
}
