//! `cargo xtask e2e`: the upstream NetworkPolicy suite and this project's scenarios on a real cluster.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::commands::cluster::{Way, finish, image, prepare};
use crate::workspace::Workspace;

/// What to run.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run the suite and all scenarios with this installation method only. Default: the suite and the quick
    /// scenarios with Flannel's chart, and two scenarios with each of the other two methods.
    #[arg(long, value_enum, conflicts_with = "all_ways")]
    way: Option<Way>,
    /// Run the suite with all three installation methods.
    #[arg(long)]
    all_ways: bool,
    /// How many times in a row the suite must pass.
    #[arg(long, default_value_t = 1)]
    runs: u32,
    /// Run the scenarios with these names, or all of them if no name follows.
    #[arg(long, num_args = 0.., value_name = "SCENARIO")]
    scenarios: Option<Vec<String>>,
    /// Run only scenarios, without the suite.
    #[arg(long)]
    no_suite: bool,
    /// Use this image of kube-verdict instead of building one.
    #[arg(long)]
    image: Option<PathBuf>,
    /// Leave the last cluster running.
    #[arg(long)]
    keep: bool,
}

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let mut command = prepare(workspace, "e2e")?;
    let image = image(workspace, arguments.image.as_deref())?;
    command.arg("--image").arg(image);
    command.args(["--runs", &arguments.runs.to_string()]);
    if let Some(way) = arguments.way {
        command.args(["--way", &way.name()]);
    }
    for (flag, given) in
        [("--all-ways", arguments.all_ways), ("--no-suite", arguments.no_suite), ("--keep", arguments.keep)]
    {
        if given {
            command.arg(flag);
        }
    }
    if let Some(scenarios) = &arguments.scenarios {
        command.arg("--scenarios").args(scenarios.iter().map(OsString::from));
    }
    finish(workspace, command)
}
