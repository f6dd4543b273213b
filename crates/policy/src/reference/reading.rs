//! The two readings of unknown labels (semantics 37).

use crate::selector::Match;
use crate::spec::Action;

/// How unknown labels are interpreted (semantics 37).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// Allows nothing that the labels might deny. This yields the verdict.
    Strict,
    /// Denies nothing that the labels might allow. If this reading allows, a denial is provisional.
    Permissive,
}

impl Reading {
    /// The effective action of a rule that matches, or might; `None` if the rule is ignored. A Pass that
    /// might match is not followed further: it counts as Deny in the strict reading and as Accept in the
    /// permissive reading.
    pub(super) fn action(self, action: Action, matches: Match) -> Option<Action> {
        match (matches, self, action) {
            (Match::No, _, _) => None,
            (Match::Yes, _, action) => Some(action),
            (Match::Unknown, Self::Strict, Action::Accept) => None,
            (Match::Unknown, Self::Strict, Action::Deny | Action::Pass) => Some(Action::Deny),
            (Match::Unknown, Self::Permissive, Action::Deny) => None,
            (Match::Unknown, Self::Permissive, Action::Accept | Action::Pass) => Some(Action::Accept),
        }
    }

    /// Whether a NetworkPolicy that applies, or might, isolates the pod.
    pub(super) fn isolates(self, applies: Match) -> bool {
        match self {
            Self::Strict => applies != Match::No,
            Self::Permissive => applies == Match::Yes,
        }
    }
}
