//! `cargo xtask test`: every check of the project, in an order in which builds are shared.
//!
//! All steps run even if one fails; the list at the end shows which failed.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::commands::{bench, image};
use crate::machine::Machine;
use crate::prerequisite::{CARGO_DENY, Purpose, cargo_tool};
use crate::setup;
use crate::task::{Done, Output, Task, report};
use crate::workspace::Workspace;

/// Which steps to run.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run only this step, and its prerequisites. May be given several times.
    #[arg(long, value_enum)]
    only: Vec<Step>,
}

/// One step. Steps run in this order: the cheap ones first, and the agent before those that need it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Step {
    /// rustfmt.
    Format,
    /// Licences, sources and versions of dependencies.
    Licences,
    /// clippy, with warnings as errors.
    Clippy,
    /// The agent as in an image, and the program that evaluates under callgrind, for the steps that run them.
    Agent,
    /// Unit, property, golden and conversion tests of every member.
    Unit,
    /// The documentation builds without warnings.
    Docs,
    /// No verdict takes over 3 % more instructions than the committed figure.
    Instructions,
    /// Scenarios between network namespaces (as root).
    Namespaces,
    /// The smoke scenario on another kernel, in a virtual machine (as root).
    Vm,
}

/// A step that hangs must end before the caller's own time limit for the whole run.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// Runs the command.
pub(crate) fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let steps = chosen(&arguments.only);
    setup::ensure(workspace, &purposes(&steps))?;
    let started = Instant::now();
    let mut results: Vec<(String, Done)> = Vec::new();
    let mut agent_built = true;
    for step in steps {
        let name = step.name();
        let done = if step.needs_root() && !Machine::this().root {
            not_run("needs root, since it makes network namespaces: sudo -E cargo xtask test")
        } else if step.needs_agent() && !agent_built {
            not_run("not run: the agent did not build")
        } else {
            let task =
                Task { name: &name, command: step.command(workspace)?, limit: LIMIT, output: Output::Copied };
            task.run(&workspace.logs())?
        };
        if step == Step::Agent {
            agent_built = done.failure.is_none();
        }
        results.push((name, done));
    }
    Ok(sum_up(&results, started.elapsed()))
}

/// The requested steps, or all, in their order, with the agent if one of them needs it.
fn chosen(only: &[Step]) -> Vec<Step> {
    let wanted = |step: &Step| {
        only.is_empty()
            || only.contains(step)
            || (*step == Step::Agent && only.iter().any(|step| step.needs_agent()))
    };
    Step::value_variants().iter().copied().filter(wanted).collect()
}

fn purposes(steps: &[Step]) -> Vec<Purpose> {
    let mut purposes = Vec::new();
    for step in steps {
        purposes.extend_from_slice(match step {
            Step::Format | Step::Licences => &[Purpose::Checks],
            Step::Clippy => &[Purpose::Checks, Purpose::Build],
            Step::Docs | Step::Agent => &[Purpose::Build],
            Step::Instructions => &[Purpose::Build, Purpose::Instructions],
            Step::Unit | Step::Namespaces => &[Purpose::Build, Purpose::Namespaces],
            Step::Vm => &[Purpose::Build, Purpose::Namespaces, Purpose::VirtualMachine],
        });
    }
    purposes
}

fn not_run(why: &str) -> Done {
    Done { failure: Some(why.to_owned()), elapsed: Duration::ZERO, panics: Vec::new() }
}

fn sum_up(results: &[(String, Done)], elapsed: Duration) -> ExitCode {
    anstream::println!("\n==== all steps, {:.0} s", elapsed.as_secs_f64());
    for (name, done) in results {
        anstream::println!("{}", report(name, done.failure.as_deref(), done.elapsed));
    }
    let failed: Vec<&str> =
        results.iter().filter(|(_, done)| done.failure.is_some()).map(|(name, _)| name.as_str()).collect();
    if failed.is_empty() {
        anstream::println!("all passed");
        return ExitCode::SUCCESS;
    }
    for panic in results.iter().flat_map(|(_, done)| &done.panics) {
        anstream::println!("\n{panic}");
    }
    anstream::println!("\nfailed: {}", failed.join(", "));
    ExitCode::FAILURE
}

impl Step {
    /// The name that `--only` takes.
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn needs_agent(self) -> bool {
        matches!(self, Self::Unit | Self::Instructions | Self::Namespaces | Self::Vm)
    }

    fn needs_root(self) -> bool {
        matches!(self, Self::Namespaces | Self::Vm)
    }

    fn command(self, workspace: &Workspace) -> Result<Command> {
        let mut command = match self {
            Self::Format => {
                let mut command = workspace.cargo("fmt");
                command.args(["--all", "--check"]);
                command
            }
            Self::Licences => {
                let mut command =
                    Command::new(cargo_tool(workspace, CARGO_DENY).context("cargo-deny is missing")?);
                command.args(["check", "--hide-inclusion-graph", "licenses", "bans", "sources"]);
                command.current_dir(workspace.root());
                command
            }
            Self::Clippy => {
                let mut command = workspace.cargo("clippy");
                command.args(["--workspace", "--all-targets", "--", "-D", "warnings"]);
                command
            }
            Self::Unit => {
                let mut command = cargo_test(workspace)?;
                command.args(["--lib", "--bins"]);
                select(&mut command, unit_tests(workspace)?);
                command
            }
            Self::Docs => {
                let mut command = workspace.cargo("doc");
                command.args(["--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
                command
            }
            Self::Instructions => {
                let mut command = cargo_test(workspace)?;
                command.env(bench::COUNTED, image::counted_program(workspace)?);
                // Shows the counted figures.
                select(&mut command, [INSTRUCTIONS.to_owned()]);
                command.args(["--", "--nocapture"]);
                command
            }
            Self::Agent => image::own_build(workspace)?,
            Self::Namespaces => {
                let mut command = cargo_test(workspace)?;
                select(&mut command, scenarios(workspace)?);
                command
            }
            Self::Vm => {
                let mut command = cargo_test(workspace)?;
                select(&mut command, [VM.to_owned()]);
                command
            }
        };
        if io::stdout().is_terminal() {
            // People read the log and its end on the screen.
            command.env("CARGO_TERM_COLOR", "always");
        }
        Ok(command)
    }
}

/// The file in integration/tests with the virtual machine's scenario.
const VM: &str = "vm";
/// The file in benches/tests that compares instructions with the committed figures.
const INSTRUCTIONS: &str = "instructions";

/// `cargo test` over the whole workspace. With only some members, dependencies would have fewer features and
/// be compiled once more.
fn cargo_test(workspace: &Workspace) -> Result<Command> {
    let mut command = workspace.cargo("test");
    command.args(["--workspace", "--no-fail-fast"]).env("KUBE_VERDICT_BIN", image::own_program(workspace)?);
    Ok(command)
}

fn select(command: &mut Command, tests: impl IntoIterator<Item = String>) {
    for test in tests {
        command.args(["--test", &test]);
    }
}

/// The integration tests of all members except those with their own step.
fn unit_tests(workspace: &Workspace) -> Result<BTreeSet<String>> {
    let mut tests = BTreeSet::new();
    for member in members(workspace)? {
        tests.extend(tests_of(&member)?);
    }
    tests.remove(INSTRUCTIONS);
    Ok(tests)
}

/// The folders of all members except `integration`.
fn members(workspace: &Workspace) -> Result<Vec<PathBuf>> {
    let crates = workspace.root().join("crates");
    let entries = fs::read_dir(&crates).with_context(|| format!("{} can't be read", crates.display()))?;
    let mut members: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    members.extend(["benches", "benches/workload"].map(|member| workspace.root().join(member)));
    Ok(members)
}

/// The integration tests of a member, by name: files, and folders with a `main.rs`.
fn tests_of(member: &Path) -> Result<BTreeSet<String>> {
    let folder = member.join("tests");
    if !folder.is_dir() {
        return Ok(BTreeSet::new());
    }
    let entries = fs::read_dir(&folder).with_context(|| format!("{} can't be read", folder.display()))?;
    let name = |path: PathBuf| {
        let is_test = path.extension().is_some_and(|end| end == "rs") || path.join("main.rs").is_file();
        is_test.then(|| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()))?
    };
    Ok(entries.flatten().filter_map(|entry| name(entry.path())).collect())
}

/// The scenarios between network namespaces: the tests of `integration` without the virtual machine's.
fn scenarios(workspace: &Workspace) -> Result<BTreeSet<String>> {
    let mut scenarios = tests_of(&workspace.root().join("integration"))?;
    scenarios.remove(VM);
    Ok(scenarios)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_choice_every_step_runs_in_order() {
        assert_eq!(chosen(&[]), Step::value_variants());
    }

    #[test]
    fn a_step_includes_its_prerequisites() {
        assert_eq!(chosen(&[Step::Vm, Step::Format]), [Step::Format, Step::Agent, Step::Vm]);
        assert_eq!(chosen(&[Step::Unit]), [Step::Agent, Step::Unit]);
    }

    #[test]
    fn the_virtual_machine_has_its_own_step() {
        let workspace = Workspace::locate().unwrap();
        let folder = workspace.root().join("integration/tests");
        assert!(folder.join(format!("{VM}.rs")).is_file(), "{} holds it", folder.display());
        assert!(!scenarios(&workspace).unwrap().contains(VM));
    }

    #[test]
    fn the_instructions_of_a_verdict_have_their_own_step() {
        let workspace = Workspace::locate().unwrap();
        let folder = workspace.root().join("benches/tests");
        assert!(folder.join(format!("{INSTRUCTIONS}.rs")).is_file(), "{} holds it", folder.display());
        assert!(!unit_tests(&workspace).unwrap().contains(INSTRUCTIONS));
    }

    #[test]
    fn every_test_belongs_to_one_step() {
        let workspace = Workspace::locate().unwrap();
        let scenarios = scenarios(&workspace).unwrap();
        assert!(scenarios.contains("smoke"), "{scenarios:?}");
        let unit = unit_tests(&workspace).unwrap();
        for name in ["kernel", "table", "api", "property", "explain", "counted"] {
            assert!(unit.contains(name), "{name} in {unit:?}");
        }
        // A name selects every test with that name, in any member.
        assert!(
            unit.is_disjoint(&scenarios) && !unit.contains(VM) && !scenarios.contains(INSTRUCTIONS),
            "{unit:?} {scenarios:?}"
        );
    }

    #[test]
    fn one_failure_fails_the_run() {
        let done = |failure: Option<&str>| Done {
            failure: failure.map(str::to_owned),
            elapsed: Duration::ZERO,
            panics: Vec::new(),
        };
        let code = |results: &[(String, Done)]| format!("{:?}", sum_up(results, Duration::ZERO));
        let good = ("format".to_owned(), done(None));
        let bad = ("unit".to_owned(), done(Some("exit status: 101")));
        assert_eq!(code(&[good]), format!("{:?}", ExitCode::SUCCESS));
        assert_eq!(code(&[("format".to_owned(), done(None)), bad]), format!("{:?}", ExitCode::FAILURE));
    }
}
