//! What a source got wrong, and the update in which a source reports it beside the changes.
//!
//! From: a source. To: the agent's log, metrics, `doctor` and `explain`. Invariant: whatever is named here never
//! widened what is allowed (semantics 28).

use std::fmt;
use std::path::PathBuf;

use policy::Change;
use serde::Serialize;

/// One step of a source: from what stood before to what stands now.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Update {
    /// What differs from the update before, in an order that can be applied as it is.
    pub changes: Vec<Change>,
    /// ALL problems that stand now, old ones too, sorted.
    pub problems: Vec<Problem>,
}

/// Something in a manifest that could not be understood, and what follows from that.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
pub struct Problem {
    /// The file, or the folder itself.
    pub file: PathBuf,
    /// The document in the file, from 1; 0 where the problem is the file's as a whole.
    pub document: usize,
    /// The line in the file, from 1, where it can be told.
    pub line: Option<usize>,
    /// The object, for example `NetworkPolicy web/a`, where it can be told.
    pub object: Option<String>,
    /// What is wrong, with the field where there is one.
    pub what: String,
    /// What follows, for example "the peer matches nothing".
    pub effect: String,
}

impl Problem {
    /// Writes the problem to the log: one warning, its fields under stable names.
    pub(crate) fn log(&self) {
        tracing::warn!(
            file = %self.file.display(),
            document = self.document,
            line = self.line,
            object = self.object.as_deref(),
            error = %self.what,
            effect = %self.effect,
            "a manifest was not understood"
        );
    }
}

impl fmt::Display for Problem {
    /// One line: `policies/web.yaml:12 (document 2): NetworkPolicy web/a: ...; the peer matches nothing`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.file.display().to_string();
        if let Some(line) = self.line {
            text += &format!(":{line}");
        }
        if self.document > 1 {
            text += &format!(" (document {})", self.document);
        }
        if let Some(object) = &self.object {
            text += &format!(": {object}");
        }
        text += &format!(": {}; {}", self.what, self.effect);
        // Names and values come from outside: a line break in one must not look like a second problem.
        text.chars().try_for_each(|c| {
            if c.is_control() { write!(f, "{}", c.escape_default()) } else { write!(f, "{c}") }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_one_line() {
        let problem = Problem {
            file: PathBuf::from("dir/web.yaml"),
            document: 2,
            line: Some(12),
            object: Some("NetworkPolicy web/a\nb".into()),
            what: "spec.ingress[0].from[0].ipBlock.cidr: \"x\" is no CIDR".into(),
            effect: "the peer matches nothing".into(),
        };
        assert_eq!(
            problem.to_string(),
            "dir/web.yaml:12 (document 2): NetworkPolicy web/a\\nb: \
             spec.ingress[0].from[0].ipBlock.cidr: \"x\" is no CIDR; the peer matches nothing"
        );
    }
}
