//! `cargo xtask chaos`: builds the agent and the chaos run, and passes control of the terminal to it.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::commands::demo::build;
use crate::machine::Machine;
use crate::prerequisite::Purpose;
use crate::setup;
use crate::workspace::Workspace;

/// What to run.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask chaos\n  cargo xtask chaos --seed 7 --minutes 10\n  \
                  cargo xtask chaos --seed 7 --minutes 2 --only kill,damage,edit\n\n\
                  The seed determines which faults are injected and when. Timing, and so the outcome, also \
                  depends on the machine.\n\n\
                  Exit codes: 0 every outcome was right, 1 one was wrong and is printed.")]
pub struct Arguments {
    /// Seed of all random choices. Default: a random seed, which is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// How long faults are injected, in minutes: a number from 0.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Inject only these faults, such as kill,damage,edit; an unknown name lists all. Default: all.
    #[arg(long, value_name = "FAULT,...")]
    only: Option<String>,
}

/// Runs the command.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    if !Machine::this().root {
        bail!(
            "this needs root, since it makes network namespaces and nftables rules: sudo -E cargo xtask chaos"
        );
    }
    setup::ensure(workspace, &[Purpose::Build, Purpose::Namespaces])?;
    build(
        workspace,
        &["-p", "kube-verdict", "-p", "integration", "--bin", "kube-verdict", "--bin", "chaos"],
    )?;
    let mut command = Command::new(workspace.release_program("chaos"));
    command.args(["--minutes", &arguments.minutes.to_string()]);
    if let Some(seed) = arguments.seed {
        command.args(["--seed", &seed.to_string()]);
    }
    if let Some(only) = &arguments.only {
        command.args(["--only", only]);
    }
    let status = command
        .env("KUBE_VERDICT_BIN", workspace.release_program("kube-verdict"))
        .current_dir(workspace.root())
        .status()
        .context("the run could not be started")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
