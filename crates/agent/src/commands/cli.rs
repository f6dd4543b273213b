//! The program's subcommands.

use clap::{Parser, Subcommand};

use super::{cleanup, doctor, explain, log, probe, run, status, wait};
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
    Doctor(doctor::Doctor),
    Status(status::StatusCommand),
    Probe(probe::Probe),
    Cleanup(cleanup::Cleanup),
    Wait(wait::Wait),
}

impl Cli {
    /// Runs the subcommand, and returns the exit code.
    pub(super) fn run(self) -> anyhow::Result<u8> {
        match self.command {
            Command::Run(run) => run.run(),
            Command::Explain(explain) => explain.run(),
            Command::Log(log) => log.run(),
            Command::Doctor(doctor) => doctor.run(),
            Command::Status(status) => status.run(),
            Command::Probe(probe) => probe.run(),
            Command::Cleanup(cleanup) => cleanup.run(),
            Command::Wait(wait) => wait.run(),
        }
    }
}
