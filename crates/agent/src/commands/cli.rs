//! The program's subcommands.

use clap::{CommandFactory, Parser, Subcommand};

use super::{check, cleanup, completions, diff, doctor, explain, log, man, probe, run, status, wait};
use crate::exit;

/// Enforces Kubernetes NetworkPolicy on nodes whose CNI does not: with nftables, NFQUEUE and compiled
/// policies.
#[derive(Debug, Parser)]
#[command(name = "kube-verdict", version, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = exit::HELP)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Run(Box<run::Run>),
    Explain(explain::Explain),
    Log(Box<log::Log>),
    Check(check::Check),
    Diff(diff::Diff),
    Doctor(doctor::Doctor),
    Status(status::StatusCommand),
    Probe(probe::Probe),
    Cleanup(cleanup::Cleanup),
    Wait(wait::Wait),
    Completions(completions::Completions),
    Man(man::Man),
}

impl Cli {
    /// Runs the subcommand, and returns the exit code.
    pub(super) fn run(self) -> anyhow::Result<u8> {
        match self.command {
            Command::Run(run) => run.run(),
            Command::Explain(explain) => explain.run(),
            Command::Log(log) => log.run(),
            Command::Check(check) => check.run(),
            Command::Diff(diff) => diff.run(),
            Command::Doctor(doctor) => doctor.run(),
            Command::Status(status) => status.run(),
            Command::Probe(probe) => probe.run(),
            Command::Cleanup(cleanup) => cleanup.run(),
            Command::Wait(wait) => wait.run(),
            Command::Completions(completions) => completions.run(Self::command()),
            Command::Man(man) => man.run(Self::command()),
        }
    }
}
