//! `cargo xtask bench`: measures verdicts, changes, connections, memory and scale on this machine, and writes
//! a report.
//!
//! Results are kept in target/bench/results, one file per measurement. The report is generated from these
//! files.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::commands::demo::build;
use crate::commands::image;
use crate::components;
use crate::machine::Machine;
use crate::prerequisite::Purpose;
use crate::setup;
use crate::workspace::Workspace;

/// What to measure.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask bench all\n  cargo xtask bench policy --quick\n  \
                  cargo xtask bench connections --help\n  cargo xtask bench report --into docs\n  \
                  cargo xtask bench export --case 10000-pods-1000-policies-5-rules-selector target/case")]
pub(crate) struct Arguments {
    /// Which measurement or report.
    #[arg(value_enum, default_value = "all")]
    what: What,
    /// Passed to the benchmark: `cargo xtask bench connections --help` lists its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum What {
    /// One verdict over a grid of clusters: nanoseconds, allocations, verdicts a second.
    Policy,
    /// A full compile and single changes over the same grid: time and memory.
    Compile,
    /// New connections between two pods, on one node and on two: rate, latency and processor time (as root).
    Connections,
    /// Bytes and packets a second of long flows (as root).
    Flows,
    /// Connections of one pod while another floods the same server with packets that policy denies (as root).
    Floods,
    /// Time from an edited file to the last byte, and the last new connection, that it forbids (as root).
    Apply,
    /// Time from a change of a cluster-wide policy that selects every pod of 10,000 to its effect (as root).
    ClusterPolicy,
    /// Time from a new pod's address being set to its binding being in force, and its first connection (as
    /// root).
    Ports,
    /// Resident memory of an agent with 10,000 pods and 1,000 policies (as root).
    Memory,
    /// Queries of `kube-verdict log` over an audit log of 1 GB: uncompressed megabytes a second.
    Audit,
    /// One agent with up to 50,000 pods in a real API server: start, memory, bytes, events (as root).
    Scale,
    /// All of these, one after the other, and then the report. `--quick` only checks that they work.
    All,
    /// Instructions of one verdict, compared with the committed figures; `--renew` updates these.
    Instructions,
    /// A point of the grid as manifests and packets with the expected verdicts: `--case NAME DIR`.
    Export,
    /// performance.md with plots, from the results of earlier runs: `--into DIR`.
    Report,
}

/// The environment variable with the program that evaluates under callgrind.
pub(crate) const COUNTED: &str = "KUBE_VERDICT_COUNTED";

/// The measurements of `all`.
const MEASUREMENTS: [What; 11] = [
    What::Policy,
    What::Compile,
    What::Connections,
    What::Flows,
    What::Floods,
    What::Apply,
    What::ClusterPolicy,
    What::Ports,
    What::Memory,
    What::Audit,
    What::Scale,
];

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let Arguments { what, rest } = arguments;
    let chosen: &[What] = if *what == What::All { &MEASUREMENTS } else { std::slice::from_ref(what) };
    let quick = *what == What::All && rest.iter().any(|argument| argument == "--quick");
    let help = rest.iter().any(|argument| argument == "--help" || argument == "-h");
    if !help && chosen.iter().any(|what| what.needs_root()) && !Machine::this().root {
        bail!(
            "{} needs root, since it makes network namespaces: sudo -E cargo xtask bench {}",
            what.name(),
            what.name()
        );
    }
    setup::ensure(workspace, purposes(*what))?;
    build_for(workspace, chosen)?;
    if !help && chosen.contains(&What::Scale) {
        components::build(workspace)?;
    }
    let mut code = ExitCode::SUCCESS;
    for what in chosen {
        let mut command = program(workspace, *what)?;
        if quick {
            command.args(what.quick());
        }
        // For `all`, `--quick` is translated to each measurement's own arguments.
        command.args(rest.iter().filter(|argument| !(quick && *argument == "--quick")));
        if !command.status().context("the benchmark did not start")?.success() {
            code = ExitCode::FAILURE;
        }
    }
    if *what == What::All && !help {
        let into = workspace.bench().join("report");
        let status = program(workspace, What::Report)?.arg("--into").arg(&into).status()?;
        if !status.success() {
            return Ok(ExitCode::FAILURE);
        }
        anstream::eprintln!("the report: {}", into.join("performance.md").display());
    }
    Ok(code)
}

/// Builds the programs that the chosen benchmarks run.
fn build_for(workspace: &Workspace, chosen: &[What]) -> Result<()> {
    let mut what = vec!["-p", "benches", "--bin", "benches"];
    if chosen.iter().any(|what| what.needs_root() || *what == What::Audit) {
        what.extend(["-p", "kube-verdict", "--bin", "kube-verdict"]);
    }
    build(workspace, &what)?;
    if chosen.contains(&What::Instructions) {
        let built = image::own_build(workspace)?.status().context("cargo could not be started")?;
        ensure!(built.success(), "the build failed: see its errors above");
    }
    Ok(())
}

fn purposes(what: What) -> &'static [Purpose] {
    match what {
        What::Instructions => &[Purpose::Build, Purpose::Instructions],
        What::All | What::Scale => &[Purpose::Build, Purpose::Namespaces, Purpose::Cluster],
        _ if what.needs_root() => &[Purpose::Build, Purpose::Namespaces],
        _ => &[Purpose::Build],
    }
}

/// The program of a benchmark, without further arguments; [`build_for`] must have built it.
fn program(workspace: &Workspace, what: What) -> Result<Command> {
    let results = workspace.bench().join("results");
    let mut command = Command::new(workspace.release_program("benches"));
    command.arg(what.name()).env("KUBE_VERDICT_BIN", workspace.release_program("kube-verdict"));
    match what {
        What::Report => drop(command.arg("--from").arg(results)),
        // Paths in its arguments are relative to the caller's folder.
        What::Export => {}
        What::Instructions => drop(command.env(COUNTED, image::counted_program(workspace)?)),
        What::Scale => {
            command.env("KUBE_VERDICT_RESULTS", results);
            command.arg("--folder").arg(workspace.bench().join("cluster"));
            command.arg("--components").arg(workspace.components());
        }
        _ => drop(command.env("KUBE_VERDICT_RESULTS", results)),
    }
    Ok(command)
}

impl What {
    /// The name on the command line.
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn needs_root(self) -> bool {
        matches!(
            self,
            Self::Connections
                | Self::Flows
                | Self::Floods
                | Self::Apply
                | Self::ClusterPolicy
                | Self::Ports
                | Self::Memory
                | Self::Scale
        )
    }

    /// Arguments with which a measurement takes seconds, to check that it works.
    fn quick(self) -> &'static [&'static str] {
        match self {
            Self::Policy | Self::Compile => &["--quick"],
            Self::Connections => &[
                "--clients=1",
                "--policies=1",
                "--busy=1",
                "--uncached=1",
                "--routes=same-node",
                "--rounds=1",
                "--seconds=0.2",
                "--warm-up=0.1",
            ],
            Self::Flows => &["--policies=1", "--rounds=1", "--seconds=0.2", "--warm-up=0.1"],
            Self::Apply => &["--entries=1000", "--rounds=1"],
            Self::ClusterPolicy => &["--pods=100", "--policies=10", "--cluster-policies=2", "--changes=1"],
            Self::Floods => &["--seconds=1"],
            Self::Ports => &["--starts=2"],
            Self::Audit => &["--megabytes=20", "--rounds=1"],
            Self::Memory => &["--pods=100", "--policies=10", "--edits=2"],
            Self::Scale => &["--pods=100,200", "--policies=10", "--pod-bytes=100", "--rounds=1"],
            Self::All | Self::Instructions | Self::Export | Self::Report => &[],
        }
    }
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
    fn arguments_after_the_measurement_are_passed_on() {
        let read =
            |line: &[&str]| Line::try_parse_from(["bench"].iter().chain(line)).map(|line| line.arguments);
        for line in
            [&["apply", "--entries", "0,10", "--help"][..], &["apply", "--", "--entries", "0,10", "--help"]]
        {
            let arguments = read(line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
            assert_eq!(
                (arguments.what, arguments.rest),
                (What::Apply, ["--entries", "0,10", "--help"].map(Into::into).to_vec())
            );
        }
        let all = read(&[]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((all.what, all.rest.len()), (What::All, 0));
        assert!(read(&["speed"]).is_err(), "an unknown measurement is an error");
    }

    #[test]
    fn every_measurement_of_all_has_quick_arguments() {
        assert!(MEASUREMENTS.iter().all(|what| !what.quick().is_empty()));
    }
}
