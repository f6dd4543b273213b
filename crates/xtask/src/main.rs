//! The entry point for developers:
//! `cargo xtask demo|test|chaos|bench|fuzz|mutants|image|manifests|cluster|e2e|setup`.
//!
//! ```text
//!  [ command ] -> [ setup ] checks each [ Prerequisite ], installs what the [ Machine ] lacks
//!       |
//!       +-------> [ Task ]s: a child process each, its output in a log, its time and result reported
//! ```
//!
//! It builds without the system libraries that the other crates need, so it can report which of them are
//! missing.
#![forbid(unsafe_code)]

mod commands;
mod components;
mod machine;
mod prerequisite;
mod processes;
mod setup;
mod task;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::commands::{bench, chaos, cluster, demo, e2e, fuzz, image, manifests, mutants, test};
use crate::workspace::Workspace;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Try, test and measure kube-verdict. Missing prerequisites are listed, and installed if run as \
             root on Debian or Ubuntu.",
    after_help = "Examples:\n  cargo xtask demo\n  cargo xtask test\n  \
                  cargo xtask test --only unit --only clippy\n  \
                  cargo xtask chaos --seed 7 --minutes 10\n  \
                  cargo xtask bench connections\n  cargo xtask fuzz --seconds 60\n  \
                  cargo xtask image --all\n  \
                  cargo xtask cluster up\n  cargo xtask e2e --all-ways --runs 3"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Watch NetworkPolicies being enforced between network namespaces (as root).
    Demo(demo::Arguments),
    /// Run every check: format, licences, lints, tests, namespaces, virtual machine, documentation.
    Test(test::Arguments),
    /// Inject random faults under load and check every outcome against policy (as root).
    Chaos(chaos::Arguments),
    /// Measure the cost of verdicts, connections and changes.
    Bench(bench::Arguments),
    /// Change the code, one operator at a time, to see whether a test fails.
    Mutants(mutants::Arguments),
    /// Feed random packets and manifests to the parsers.
    Fuzz(fuzz::Arguments),
    /// Start or stop a real Kubernetes cluster, or open a shell in it (as root).
    Cluster(cluster::Arguments),
    /// Run the upstream NetworkPolicy suite and this project's scenarios on a real cluster (as root).
    E2e(e2e::Arguments),
    /// Build the container image, without a container engine.
    Image(image::Arguments),
    /// Render manifests/base and manifests/cleanup from the Helm chart.
    Manifests(manifests::Arguments),
    /// Show the prerequisites of all commands, and install what is missing.
    Setup,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = Workspace::locate().and_then(|workspace| match arguments.command {
        Command::Demo(arguments) => demo::run(&workspace, &arguments),
        Command::Test(arguments) => test::run(&workspace, &arguments),
        Command::Chaos(arguments) => chaos::run(&workspace, &arguments),
        Command::Bench(arguments) => bench::run(&workspace, &arguments),
        Command::Fuzz(arguments) => fuzz::run(&workspace, &arguments),
        Command::Cluster(arguments) => cluster::run(&workspace, &arguments),
        Command::E2e(arguments) => e2e::run(&workspace, &arguments),
        Command::Image(arguments) => image::run(&workspace, &arguments),
        Command::Manifests(arguments) => manifests::run(&workspace, &arguments),
        Command::Mutants(arguments) => mutants::run(&workspace, &arguments),
        Command::Setup => setup::show_and_ensure(&workspace),
    });
    match result {
        Ok(code) => code,
        Err(error) => {
            anstream::eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
