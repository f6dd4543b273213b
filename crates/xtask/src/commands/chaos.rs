//! `cargo xtask chaos`: builds the agent and the chaos run, and passes control of the terminal to it.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::commands::demo::build;
use crate::machine::Machine;
use crate::prerequisite::Purpose;
use crate::setup;
use crate::workspace::Workspace;

/// The run's arguments, which its own program declares.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// Passed to the run: `cargo xtask chaos --help` lists its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let help = arguments.rest.iter().any(|argument| argument == "--help" || argument == "-h");
    if !help && !Machine::this().root {
        bail!(
            "this needs root, since it makes network namespaces and nftables rules: sudo -E cargo xtask chaos"
        );
    }
    setup::ensure(workspace, &[Purpose::Build, Purpose::Namespaces])?;
    build(
        workspace,
        &["-p", "kube-verdict", "-p", "integration", "--bin", "kube-verdict", "--bin", "chaos"],
    )?;
    let status = Command::new(workspace.release_program("chaos"))
        .args(&arguments.rest)
        .env("KUBE_VERDICT_BIN", workspace.release_program("kube-verdict"))
        .current_dir(workspace.root())
        .status()
        .context("the run could not be started")?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn all_arguments_are_passed_on() {
        for line in [&["--seed", "7", "--only", "kill,damage"][..], &["--help"], &[]] {
            let parsed = Line::try_parse_from([&["chaos"], line].concat());
            let rest = parsed.map(|line| line.arguments.rest).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(rest, line);
        }
    }
}
