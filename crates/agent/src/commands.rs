//! The command line, with one file for each command.

use std::ffi::OsString;

use clap::{Parser, Subcommand, ValueEnum};

mod budget;
mod cleanup;
mod doctor;
mod explain;
mod netpol;
mod probe;
mod run;
mod status;
mod table;
mod wait;

/// Enforces Kubernetes NetworkPolicy on nodes whose CNI does not: with nftables, NFQUEUE and compiled
/// policies.
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
    Probe(probe::Probe),
    Cleanup(cleanup::Cleanup),
    Wait(wait::Wait),
}

/// Output format of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Output {
    /// Text for people.
    #[default]
    Text,
    /// JSON for programs.
    Json,
}

/// Runs the command of a command line, which begins with the program's name, and returns the exit code.
pub fn run(arguments: impl Iterator<Item = OsString>) -> anyhow::Result<u8> {
    let arguments: Vec<OsString> = arguments.collect();
    match arguments.split_first() {
        Some((program, flags)) if netpol::is_name_of(program) => netpol::run(flags),
        _ => Cli::parse_from(arguments).run(),
    }
}

impl Cli {
    fn run(self) -> anyhow::Result<u8> {
        match self.command {
            Command::Run(run) => run.run(),
            Command::Explain(explain) => explain.run(),
            Command::Doctor(doctor) => doctor.run(),
            Command::Status(status) => status.run(),
            Command::Probe(probe) => probe.run(),
            Command::Cleanup(cleanup) => cleanup.run(),
            Command::Wait(wait) => wait.run(),
        }
    }
}
