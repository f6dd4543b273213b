//! `cargo xtask e2e`: upstream's NetworkPolicy suite and our own scenarios on a real cluster.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::commands::cluster::{Way, finish, image, prepare};
use crate::workspace::Workspace;

/// What to run.
#[derive(clap::Args)]
pub struct Arguments {
    /// The suite and all scenarios through this way alone. Without it: the suite and the quick scenarios through Flannel's chart,
    /// and two scenarios through each of the other two ways.
    #[arg(long, value_enum, conflicts_with = "all_ways")]
    way: Option<Way>,
    /// The suite through all three ways.
    #[arg(long)]
    all_ways: bool,
    /// How many times in a row the suite must pass.
    #[arg(long, default_value_t = 1)]
    runs: u32,
    /// Which of our own scenarios: those whose names follow, or without a name all of them.
    #[arg(long, num_args = 0.., value_name = "SCENARIO")]
    scenarios: Option<Vec<String>>,
    /// Only scenarios, without the suite.
    #[arg(long)]
    no_suite: bool,
    /// Our image, instead of one that is built now.
    #[arg(long)]
    image: Option<PathBuf>,
    /// Leave the last cluster up.
    #[arg(long)]
    keep: bool,
}

/// Runs the command.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
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
