//! The command line, with one file for each command.

use std::ffi::OsString;

use clap::Parser;

mod budget;
mod cleanup;
mod cli;
mod cores;
mod doctor;
mod explain;
mod log;
mod netpol;
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
        _ => Cli::parse_from(arguments).run(),
    }
}
