//! `cargo xtask demo`: builds the agent and the demonstration, and passes control of the terminal to it.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::machine::Machine;
use crate::prerequisite::Purpose;
use crate::setup;
use crate::workspace::Workspace;

/// The demonstration's arguments.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Passed to the demonstration.
    #[arg(last = true)]
    rest: Vec<OsString>,
}

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    if !Machine::this().root {
        bail!(
            "the demo needs root, since it makes network namespaces and nftables rules: sudo -E cargo xtask \
             demo"
        );
    }
    setup::ensure(workspace, &[Purpose::Build, Purpose::Namespaces])?;
    build(workspace, &["-p", "kube-verdict", "-p", "integration", "--bin", "kube-verdict", "--bin", "demo"])?;
    let status = Command::new(workspace.release_program("demo"))
        .args(&arguments.rest)
        .env("KUBE_VERDICT_BIN", workspace.release_program("kube-verdict"))
        .current_dir(workspace.root())
        .status()
        .context("the demo could not be started")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// An optimised build with cargo's own progress on the screen.
pub(crate) fn build(workspace: &Workspace, what: &[&str]) -> Result<()> {
    let status = workspace
        .cargo("build")
        .arg("--release")
        .args(what)
        .status()
        .context("cargo could not be started")?;
    if status.success() { Ok(()) } else { bail!("the build failed: see its errors above") }
}
