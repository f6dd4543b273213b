//! `cargo xtask bench`: measures verdicts, connections, changes and memory on this machine.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::commands::demo::build;
use crate::machine::Machine;
use crate::need::Purpose;
use crate::setup;
use crate::workspace::Workspace;

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// What to measure.
    #[arg(value_enum, default_value = "all")]
    what: What,
    /// Handed on to the benchmark: `cargo xtask bench connections -- --help` lists what it takes.
    #[arg(last = true)]
    rest: Vec<OsString>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// One verdict: nanoseconds, with few and with many policies.
    Policy,
    /// New connections between two pods of one node: rate and latency (as root).
    Connections,
    /// From an edited file to the last byte of a connection that it forbids (as root).
    Apply,
    /// Resident memory of an agent with 10,000 pods and 1,000 policies (as root).
    Memory,
    /// All of these, one after the other.
    All,
}

/// Runs the command.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let chosen: &[What] = match &arguments.what {
        What::All => &[What::Policy, What::Connections, What::Apply, What::Memory],
        one => std::slice::from_ref(one),
    };
    let in_the_kernel = chosen.iter().any(|what| *what != What::Policy);
    if in_the_kernel && !Machine::this().root {
        bail!(
            "all but `bench policy` need root, since they make network namespaces: sudo -E cargo xtask bench"
        );
    }
    setup::ensure(workspace, &[Purpose::Build, Purpose::Namespaces])?;
    if in_the_kernel {
        build(
            workspace,
            &["-p", "kube-verdict", "-p", "benches", "--bin", "kube-verdict", "--bin", "benches"],
        )?;
    }
    let mut code = ExitCode::SUCCESS;
    for what in chosen {
        let status =
            measurement(workspace, *what, &arguments.rest).status().context("the benchmark did not start")?;
        if !status.success() {
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

fn measurement(workspace: &Workspace, what: What, rest: &[OsString]) -> Command {
    let name = what.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
    let mut command;
    if what == What::Policy {
        command = workspace.cargo("bench");
        command.args(["-p", "benches", "--bench", &name, "--"]);
    } else {
        command = Command::new(workspace.release_program("benches"));
        command
            .arg(name)
            .env("KUBE_VERDICT_BIN", workspace.release_program("kube-verdict"))
            .current_dir(workspace.root());
    }
    command.args(rest);
    command
}
