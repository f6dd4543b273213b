//! Failed requests: the class of each failure, and a sentence that says what to do.

use kube::core::Status;

use crate::convert::Kind;
use crate::error_chain::chain;
use crate::watch_status::FailureClass;

/// A failed request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Failure {
    pub class: FailureClass,
    pub sentence: String,
}

impl Failure {
    /// The failure of a request to `verb` (list, watch) the objects of `kind`.
    pub(super) fn of(error: &kube::Error, verb: &str, kind: Kind) -> Self {
        match error {
            kube::Error::Api(status) => Self::answered(status, verb, kind),
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => {
                Self::malformed(&chain(error), verb, kind)
            }
            _ => Self {
                class: FailureClass::Unreachable,
                sentence: format!("the API server is unreachable: {}", chain(error)),
            },
        }
    }

    /// The API server answered with an error status.
    pub(super) fn answered(status: &Status, verb: &str, kind: Kind) -> Self {
        let said = if status.message.is_empty() { &status.reason } else { &status.message };
        let (group, plural) = (kind.group(), kind.plural());
        let (class, sentence) = match status.code {
            401 => (
                FailureClass::Unauthorized,
                format!(
                    "the API server does not accept this agent's credentials ({said}); they are read again; \
                     if this persists, check its service account or kubeconfig"
                ),
            ),
            403 => (
                FailureClass::Forbidden,
                format!(
                    "the API server does not let this agent {verb} {plural} ({said}): add to its ClusterRole \
                     the rule apiGroups [{group:?}], resources [{plural:?}], verbs [\"list\", \"watch\"]"
                ),
            ),
            404 => {
                (FailureClass::Missing, format!("the API server has no {plural} in group {group:?} ({said})"))
            }
            410 => (
                FailureClass::Gone,
                format!(
                    "the API server no longer has the changes of {plural} since the last version seen \
                     ({said}); listing them again"
                ),
            ),
            code => (
                FailureClass::Refused,
                format!("the API server answered the request to {verb} {plural} with {code}: {said}"),
            ),
        };
        Self { class, sentence }
    }

    /// The API server has the kind in these versions, and not in the one that is converted.
    pub(super) fn other_versions(kind: Kind, versions: &[String]) -> Self {
        Self {
            class: FailureClass::Missing,
            sentence: format!(
                "the API server has {} only in {}, and this agent reads {}: serve that version too, or install \
                 an agent that reads the other one",
                kind.plural(),
                versions.join(", "),
                kind.api_version()
            ),
        }
    }

    /// No response, or no line of a watch, was received in time.
    pub(super) fn hung(verb: &str, kind: Kind, seconds: f64) -> Self {
        Self {
            class: FailureClass::Hung,
            sentence: format!(
                "no data from the API server for {seconds} s on the request to {verb} {}; retrying",
                kind.plural()
            ),
        }
    }

    /// A watch that ended right after its start.
    pub(super) fn cut_short(verb: &str, kind: Kind) -> Self {
        let plural = kind.plural();
        Self {
            class: FailureClass::Unreachable,
            sentence: format!(
                "the API server ended the request to {verb} {plural} right after its start; retrying"
            ),
        }
    }

    /// A response that can't be parsed.
    pub(super) fn malformed(what: &str, verb: &str, kind: Kind) -> Self {
        Self {
            class: FailureClass::Malformed,
            sentence: format!(
                "the response to the request to {verb} {} can't be parsed: {what}; \
                 check whether a proxy modifies it",
                kind.plural()
            ),
        }
    }
}
