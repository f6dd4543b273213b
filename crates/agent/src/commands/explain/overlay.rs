//! `--policies`: a folder of policies laid over the source, to see what they would change before they are
//! applied.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Context;
use cluster::{Folder, Problem, ProblemLocation};
use policy::{Budget, Change, PolicyName};
use serde::Serialize;

use crate::exit::Usage;
use crate::terminal::{Text, text};

/// How many policies a line names at most.
const NAMED: usize = 5;

/// What the folder changed. Policies are named as `NetworkPolicy db/allow-shop`.
#[derive(Debug, Default, Serialize)]
pub(super) struct Overlay {
    /// Policies that the source does not have.
    pub(super) added: Vec<String>,
    /// Policies that the source has in another form.
    pub(super) changed: Vec<String>,
    /// Policies that the source has in the same form.
    pub(super) unchanged: Vec<String>,
    /// The number of other objects in the folder, which are not used.
    pub(super) not_used: usize,
}

impl Overlay {
    /// Replaces policies among the source's objects by those of the folder with the same kind, namespace and
    /// name, and adds the others. The problems of replaced policies are removed, and those of the folder
    /// added.
    pub(super) fn lay(
        folder: &Path,
        budget: Budget,
        changes: &mut Vec<Change>,
        problems: &mut Vec<Problem>,
    ) -> anyhow::Result<Self> {
        match std::fs::metadata(folder) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(Usage(format!("--policies {}: not a folder", folder.display())).into()),
            Err(error) => return Err(Usage(format!("--policies {}: {error}", folder.display())).into()),
        }
        let read = Folder::read(folder, budget);
        let (_, update) = read.with_context(|| format!("reading the policies in {}", folder.display()))?;
        let mut overlay = Self::default();
        let mut known: HashMap<PolicyName, usize> = HashMap::new();
        for (position, change) in changes.iter().enumerate() {
            if let Change::Policy(policy) = change {
                known.insert(policy.name.clone(), position);
            }
        }
        for change in update.changes {
            let Change::Policy(policy) = &change else {
                overlay.not_used += usize::from(!is_placeholder(&change));
                continue;
            };
            let name = full_name(&policy.name);
            let Some(replaced) = known.get(&policy.name).and_then(|position| changes.get_mut(*position))
            else {
                overlay.added.push(name);
                changes.push(change);
                continue;
            };
            if *replaced == change {
                overlay.unchanged.push(name);
                continue;
            }
            problems.retain(|problem| problem.object.as_ref() != Some(&name));
            overlay.changed.push(name);
            *replaced = change;
        }
        // A problem of the folder as a whole is that it lacks Namespaces, which the source has.
        let is_whole = |problem: &&Problem| {
            let is_folder = matches!(&problem.location, ProblemLocation::File { path, .. } if path == folder);
            problem.object.is_none() && is_folder
        };
        problems.extend(update.problems.iter().filter(|problem| !is_whole(problem)).cloned());
        Ok(overlay)
    }

    /// `1 policy added (NetworkPolicy db/a), 1 changed (NetworkPolicy db/b), 2 unchanged`.
    pub(super) fn summary(&self) -> Text {
        let named = |names: &[String]| match names.len() {
            0 => String::new(),
            number if number > NAMED => format!(" ({}, ...)", names[..NAMED].join(", ")),
            _ => format!(" ({})", names.join(", ")),
        };
        let Self { added, changed, unchanged, not_used } = self;
        let policies = if added.len() == 1 { "policy" } else { "policies" };
        let others = match not_used {
            0 => String::new(),
            1 => "; 1 object that is no policy is not used".to_owned(),
            number => format!("; {number} objects that are no policies are not used"),
        };
        text!(
            "{} {policies} added{}, {} changed{}, {} unchanged{others}",
            added.len(),
            named(added),
            changed.len(),
            named(changed),
            unchanged.len()
        )
    }
}

/// As problems name it.
fn full_name(name: &PolicyName) -> String {
    format!("{} {name}", name.kind.name())
}

/// Whether a folder's reader made up the object, because others name it.
fn is_placeholder(change: &Change) -> bool {
    matches!(change, Change::Namespace(namespace) if !namespace.labels.are_known())
}
