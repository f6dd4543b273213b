//! The effects of parts of a cluster-wide policy that are not understood (semantics 59).

use policy::Action;

/// Of a field of the policy as a whole, which might narrow all of it.
pub(super) const RESTRICTED: &str = "the policy's rules that accept match nothing, and those that pass deny";
/// Of a tier that is not understood.
pub(super) const FIRST_TIER: &str = "the policy comes first in tier Admin; its rules that accept match nothing, \
                                     and those that pass deny";
/// Of a priority that is not understood.
pub(super) const FIRST: &str = "the policy comes first in its tier; its rules that accept match nothing, and \
                                those that pass deny";
/// Of a subject that is not understood.
pub(super) const EVERY_POD: &str = "the policy applies to every pod that the rest of its subject selects; its \
                                    rules that accept match nothing, and those that pass deny";
/// Of rules that are not understood at all.
pub(super) const ALL_DENIED: &str = "the policy denies its pods everything in this direction";
/// Of an unknown field that may hold rules.
pub(super) const HIDDEN_RULES: &str =
    "rules may be in it: the policy denies its pods everything, in both directions";
/// Of a spec that is not understood as a whole.
pub(super) const EVERYTHING_DENIED: &str =
    "the policy denies everything, in both directions, to every pod that it might select";
/// Of an action that is not understood.
pub(super) const DENIES: &str = "the rule denies what its peers and ports match";

/// The effect of a part of a rule that is not understood.
pub(super) fn of_rule(action: Action) -> &'static str {
    match action {
        Action::Accept => "the rule matches nothing",
        Action::Deny | Action::Pass => "the rule denies everything",
    }
}
