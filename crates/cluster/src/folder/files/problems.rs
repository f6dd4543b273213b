//! The problems of a folder's files, and of the objects in them.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::{Files, object_in};
use crate::problem::{Problem, ProblemLocation};

impl Files {
    /// Updates the reported problems. Returns whether they changed. There may be very many, and few updates
    /// change any.
    pub(super) fn report(&mut self, root: &Path) -> bool {
        let missing_changed = self.delta.take_missing_changed();
        if !std::mem::take(&mut self.new_problems) && !missing_changed {
            return false;
        }
        let problems = self.problems(root);
        let is_new = *problems != *self.reported;
        if is_new {
            self.reported = problems.into();
        }
        is_new
    }

    /// All current problems, sorted.
    fn problems(&self, root: &Path) -> Vec<Problem> {
        let mut problems = self.folders.clone();
        problems.extend(missing_namespaces(root, &self.delta.missing_namespaces()));
        for file in self.files.values() {
            problems.extend(file.flaws.iter().chain(&file.failures).cloned());
        }
        for key in &self.contested {
            let Some((last, others)) = self.holders.get(key).and_then(|holders| holders.split_last()) else {
                continue;
            };
            for other in others {
                let object = object_in(&self.files, other, key);
                problems.push(Problem {
                    location: ProblemLocation::File {
                        path: other.to_path_buf(),
                        document: object.map_or(0, |object| object.document as usize),
                        line: object.map(|object| object.line as usize).filter(|line| *line > 0),
                    },
                    object: Some(key.to_string()),
                    what: format!("the same object is in {} too", last.display()),
                    effect: "the object of that file is in force, because its path sorts last".into(),
                });
            }
        }
        problems.sort();
        problems
    }
}

/// The effect of one namespace without an object.
const ITS_LABELS: &str = "its labels are unknown: a namespaceSelector on a label other than \
                          kubernetes.io/metadata.name selects none of its pods: add the Namespace";
/// The effect of several namespaces without objects.
const THEIR_LABELS: &str = "their labels are unknown: a namespaceSelector on a label other than \
                            kubernetes.io/metadata.name selects none of their pods: add the Namespaces";

/// Whether the problem is that of namespaces that no file describes.
pub(crate) fn is_of_missing_namespaces(problem: &Problem) -> bool {
    problem.object.is_none() && [ITS_LABELS, THEIR_LABELS].contains(&problem.effect.as_str())
}

/// The problem of namespaces that have pods or policies and that no file describes; `None` if there are none.
fn missing_namespaces(root: &Path, missing: &BTreeSet<&Arc<str>>) -> Option<Problem> {
    /// The most namespaces that are listed.
    const NAMED: usize = 5;
    let named: Vec<&str> = missing.iter().take(NAMED).map(|name| &***name).collect();
    let more = missing.len() - named.len();
    let names = named.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() };
    let (what, effect) = match missing.len() {
        0 => return None,
        1 => (
            format!(
                "pods or policies are in the namespace {names}, and no file has a Namespace of that name"
            ),
            ITS_LABELS,
        ),
        count => (
            format!("pods or policies are in {count} namespaces that no file has a Namespace for: {names}"),
            THEIR_LABELS,
        ),
    };
    Some(Problem { location: ProblemLocation::whole_file(root), object: None, what, effect: effect.into() })
}
