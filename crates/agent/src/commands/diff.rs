//! `kube-verdict diff`: what a change of policies opens and closes, without any traffic.

use std::path::PathBuf;

use analysis::layout::Distinguished;
use analysis::{Difference, Layout, Model, compare, difference};
use clap::Args;
use cluster::Manifests;
use serde::Serialize;

use super::offline::OfflineArguments;
use super::output::Output;
use super::table;
use crate::status::ProblemStatus;
use crate::terminal::text;
use crate::{exit, paint};

mod render;

use render::render;

const EXAMPLES: &str = "\
Examples:
  What does the branch change, compared with main?
    git worktree add /tmp/main main
    kube-verdict diff /tmp/main/manifests manifests
  The policies and the workloads are in different folders:
    kube-verdict diff --with workloads old-policies new-policies
  Only what opens, as JSON:
    kube-verdict diff old new --output json | jq '.changes[] | select(.effect == \"opens\")'

Exit codes: 0 no verdict and no workload differs, 1 failure, 2 usage error (also: a folder does not
exist), 3 verdicts or workloads differ.";

/// Compares the policies of two folders: all pairs of workloads, nodes and outside addresses, and all ports.
///
/// Every verdict is the engine's. Workloads are Pods, and the pods of Deployments, StatefulSets, DaemonSets,
/// ReplicaSets, ReplicationControllers, Jobs and CronJobs. A workload that only one folder has is listed
/// without its connections.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Diff {
    /// The manifests before the change: a folder or a file.
    #[arg(value_name = "OLD")]
    old: PathBuf,

    /// The manifests after the change, likewise.
    #[arg(value_name = "NEW")]
    new: PathBuf,

    #[command(flatten)]
    offline: OfflineArguments,

    /// Output format.
    #[arg(long, value_name = "text|json", value_enum, default_value_t)]
    output: Output,
}

/// What the command prints as JSON.
#[derive(Debug, Serialize)]
struct Answer {
    #[serde(flatten)]
    difference: Difference,
    /// Invalid objects of each folder, and policies over their budget. Verdicts may depend on them.
    problems: Problems,
}

#[derive(Debug, Serialize)]
struct Problems {
    old: Vec<ProblemStatus>,
    new: Vec<ProblemStatus>,
}

impl Diff {
    /// Compares and prints.
    pub(super) fn run(self) -> anyhow::Result<u8> {
        let networks = self.offline.networks()?;
        let (old, new) = (self.offline.read(&self.old)?, self.offline.read(&self.new)?);
        let layout = Layout::new(&[&old, &new], &networks, &Distinguished::default())
            .map_err(|error| exit::Usage(error.to_string()))?;
        let model = |manifests| Model::new(manifests, &layout, self.offline.budget());
        let (before, after) = (model(&old), model(&new));
        let difference = compare(
            difference::Folder { manifests: &old, model: &before },
            difference::Folder { manifests: &new, model: &after },
            &layout,
        );
        let problems = Problems { old: problems(&old, &before), new: problems(&new, &after) };
        let mut shown = problems.old.clone();
        shown.extend(problems.new.iter().filter(|problem| !problems.old.contains(problem)).cloned());
        for problem in &shown {
            (paint::warning("warning:") + text!(" {}", problem.text)).print_error();
        }
        let code = if difference.is_empty() { exit::SUCCESS } else { exit::DIFFERENT };
        let answer = Answer { difference, problems };
        self.output.print(&answer, || render(&answer.difference, table::width()))?;
        Ok(code)
    }
}

fn problems(manifests: &Manifests, model: &Model) -> Vec<ProblemStatus> {
    let own = manifests.problems.iter().map(ProblemStatus::from);
    let undescribed = manifests.undescribed().into_iter().map(|namespace| ProblemStatus {
        kind: "Namespace".to_owned(),
        text: format!(
            "Namespace {namespace}: no file describes it, so its labels are unknown; add it, here or in a \
             folder for --with"
        ),
    });
    own.chain(undescribed).chain(ProblemStatus::beyond_budget(model.compiler())).collect()
}
