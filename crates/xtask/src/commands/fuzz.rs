//! `cargo xtask fuzz`: random packets for the parser and random manifests for the YAML reader, for a limited
//! time each.

use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::machine::program;
use crate::prerequisite::Purpose;
use crate::setup;
use crate::workspace::Workspace;

/// The fuzz targets, as fuzz/Cargo.toml names them.
const TARGETS: [&str; 2] = ["packet", "manifest"];

/// The time limit and the targets.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long each target runs, in seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Run only this target.
    #[arg(long, value_parser = TARGETS)]
    only: Option<String>,
}

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    setup::ensure(workspace, &[Purpose::Build])?;
    let rustup = program("rustup")
        .context("fuzzing needs a nightly compiler, which rustup manages: https://rustup.rs")?;
    let nightly = Command::new(&rustup).args(["run", "nightly", "rustc", "--version"]).output()?;
    if !nightly.status.success() {
        bail!("fuzzing needs a nightly compiler: rustup toolchain install nightly --profile minimal");
    }
    if program("cargo-fuzz").is_none() {
        bail!("fuzzing needs cargo-fuzz: cargo install cargo-fuzz --locked");
    }
    let mut found = Vec::new();
    for target in
        TARGETS.into_iter().filter(|target| arguments.only.as_deref().is_none_or(|only| only == *target))
    {
        let limit = format!("-max_total_time={}", Duration::from_secs(arguments.seconds).as_secs());
        let status = Command::new(&rustup)
            .args(["run", "nightly", "cargo", "fuzz", "run", target, "--", &limit])
            .current_dir(workspace.root())
            .status()
            .context("cargo-fuzz could not be started")?;
        if !status.success() {
            found.push(target);
        }
    }
    if found.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    bail!(
        "{} ended early: add the input in fuzz/artifacts as a data file with a sentence (fuzz/README.md)",
        found.join(", ")
    )
}
