//! What went wrong with a request, in a sentence that says what to do.

use std::error::Error;

use kube::core::Status;

use crate::connection::FailureClass;
use crate::convert::Kind;

/// A request that failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Failure {
    pub class: FailureClass,
    pub sentence: String,
}

impl Failure {
    /// Of a request that should `verb` (list, watch) the objects of `kind`.
    pub fn of(error: &kube::Error, verb: &str, kind: Kind) -> Self {
        match error {
            kube::Error::Api(status) => Self::answered(status, verb, kind),
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => {
                Self::malformed(&chain(error), verb, kind)
            }
            _ => Self {
                class: FailureClass::Unreachable,
                sentence: format!("the API server can't be reached: {}", chain(error)),
            },
        }
    }

    /// The API server said no.
    pub fn answered(status: &Status, verb: &str, kind: Kind) -> Self {
        let said = if status.message.is_empty() { &status.reason } else { &status.message };
        let (group, plural) = (kind.group(), kind.plural());
        let (class, sentence) = match status.code {
            401 => (
                FailureClass::Unauthorized,
                format!(
                    "the API server does not accept this agent's credentials ({said}): a renewed token is read within a minute; \
                     if this lasts, look at its service account or kubeconfig"
                ),
            ),
            403 => (
                FailureClass::Forbidden,
                format!(
                    "the API server does not let this agent {verb} {plural} ({said}): add to its ClusterRole the rule \
                     apiGroups [{group:?}], resources [{plural:?}], verbs [\"list\", \"watch\"]"
                ),
            ),
            404 => {
                (FailureClass::Missing, format!("the API server has no {plural} in group {group:?} ({said})"))
            }
            410 => (
                FailureClass::Gone,
                format!(
                    "the API server no longer knows what changed among the {plural} ({said}): listing them anew"
                ),
            ),
            code => (
                FailureClass::Refused,
                format!("the API server answers {code} when asked to {verb} {plural}: {said}"),
            ),
        };
        Self { class, sentence }
    }

    /// Nothing came.
    pub fn hung(verb: &str, kind: Kind, seconds: f64) -> Self {
        Self {
            class: FailureClass::Hung,
            sentence: format!(
                "nothing came from the API server for {seconds} s when asked to {verb} {}: asking anew",
                kind.plural()
            ),
        }
    }

    /// A watch that ended as soon as it had begun.
    pub fn cut_short(verb: &str, kind: Kind) -> Self {
        let plural = kind.plural();
        Self {
            class: FailureClass::Unreachable,
            sentence: format!(
                "the connection ended as soon as the API server was asked to {verb} {plural}: asking anew"
            ),
        }
    }

    /// An answer that can't be read.
    pub fn malformed(what: &str, verb: &str, kind: Kind) -> Self {
        Self {
            class: FailureClass::Malformed,
            sentence: format!(
                "what the API server answers when asked to {verb} {} can't be read: {what}; is there a proxy in between?",
                kind.plural()
            ),
        }
    }
}

/// An error and all that it came from, in one line.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        // Some errors' texts hold that of their source already.
        if !text.contains(&next) {
            text += ": ";
            text += &next;
        }
        source = error.source();
    }
    text
}
