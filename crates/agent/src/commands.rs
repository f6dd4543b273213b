//! The command line: one file for each command.

use clap::{Parser, Subcommand, ValueEnum};

mod cleanup;
mod doctor;
mod explain;
mod run;
mod status;
mod table;

/// Where an agent serves HTTP on 127.0.0.1 unless told otherwise.
pub const DEFAULT_HTTP_PORT: u16 = 9476;

/// Network policy for clusters whose CNI has none: nftables, NFQUEUE, and policies compiled into tries.
#[derive(Debug, Parser)]
#[command(name = "kube-verdict", version, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = crate::exit::HELP)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
    Explain(explain::Explain),
    Doctor(doctor::Doctor),
    Status(status::StatusCommand),
    Cleanup(cleanup::Cleanup),
}

/// How a command prints what it found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

impl Cli {
    /// Does what was asked; the answer is the exit code.
    pub fn run(self) -> anyhow::Result<u8> {
        match self.command {
            Command::Run(run) => run.run(),
            Command::Explain(explain) => explain.run(),
            Command::Doctor(doctor) => doctor.run(),
            Command::Status(status) => status.run(),
            Command::Cleanup(cleanup) => cleanup.run(),
        }
    }
}
