//! The command line, with one file for each command.

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches, Parser};

mod budget;
mod check;
mod cleanup;
mod cli;
mod completions;
mod cores;
mod diff;
mod doctor;
mod explain;
mod kubectl;
mod log;
mod man;
mod netpol;
mod offline;
mod output;
mod probe;
mod run;
mod served_queue;
mod status;
mod table;
mod wait;

use cli::Cli;

/// Runs the command of a command line, which begins with the program's name, and returns the exit code.
pub(crate) fn run(arguments: impl Iterator<Item = OsString>) -> anyhow::Result<u8> {
    let arguments: Vec<OsString> = arguments.collect();
    match arguments.split_first() {
        Some((program, flags)) if netpol::is_name_of(program) => netpol::run(flags),
        Some((program, _)) if kubectl::is_name_of(program) => {
            let matches = kubectl::as_plugin(Cli::command()).get_matches_from(&arguments);
            Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()).run()
        }
        _ => Cli::parse_from(arguments).run(),
    }
}
