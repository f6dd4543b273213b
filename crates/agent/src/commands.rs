//! The command line: one file for each command.

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
    Probe(probe::Probe),
    Cleanup(cleanup::Cleanup),
    Wait(wait::Wait),
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

/// Does what the words of a command line ask, of which the first is the program's name; the answer is the exit code.
pub fn run(words: impl Iterator<Item = OsString>) -> anyhow::Result<u8> {
    let words: Vec<OsString> = words.collect();
    match words.split_first() {
        Some((program, flags)) if netpol::is_name_of(program) => netpol::run(flags),
        _ => Cli::parse_from(words).run(),
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
