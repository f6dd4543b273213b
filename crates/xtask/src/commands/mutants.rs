//! `cargo xtask mutants`: changes one operator or value at a time in the code of a crate, and runs its tests.
//! They must fail.
//!
//! Takes hours for a whole crate, so it is not part of `cargo xtask test`. A shard is a sample of them all.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::prerequisite::{CARGO_MUTANTS, Purpose, cargo_tool};
use crate::setup;
use crate::workspace::Workspace;

/// Which mutants.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask mutants --package policy --shard 0/40\n  \
                  cargo xtask mutants --package audit\n\n\
                  Exit codes: 0 all were caught, 2 some were missed and are listed, 3 some did not end in time.")]
pub(crate) struct Arguments {
    /// The crate whose code is changed.
    #[arg(long, value_enum)]
    package: Package,
    /// Only this part of all mutants, such as 0/40.
    #[arg(long, value_name = "K/N")]
    shard: Option<String>,
    /// Only files that match this glob.
    #[arg(long, value_name = "GLOB")]
    file: Option<String>,
    /// List the mutants, and change nothing.
    #[arg(long)]
    list: bool,
}

/// The crates whose tests need no root.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Package {
    Policy,
    Cluster,
    Audit,
    /// Its unit tests alone: the others need root.
    Dataplane,
}

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    setup::ensure(workspace, &[Purpose::Build, Purpose::Mutants])?;
    cargo_tool(workspace, CARGO_MUTANTS).context("cargo-mutants is missing")?;
    let mut command = workspace.cargo("mutants");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = [workspace.tools().join("bin")].into_iter().chain(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(folders)?);
    let package =
        arguments.package.to_possible_value().map_or_else(String::new, |name| name.get_name().to_owned());
    command.args(["--package", &package, "--output"]).arg(workspace.target().join("mutants").join(&package));
    for (flag, value) in [("--shard", &arguments.shard), ("--file", &arguments.file)] {
        if let Some(value) = value {
            command.args([flag, value]);
        }
    }
    if arguments.list {
        command.arg("--list");
    }
    if arguments.package == Package::Dataplane {
        command.args(["--cargo-test-arg", "--lib"]);
    }
    let status = command.status().context("cargo-mutants could not be started")?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}
