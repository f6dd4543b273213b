//! `kube-verdict check`: mistakes in the policies of a folder, and whether they do what is expected.

use std::path::PathBuf;

use analysis::layout::Distinguished;
use analysis::{Assertions, Finding, Layout, Model, Rule, Severity, assertions, findings};
use clap::{Args, ValueEnum};

use super::offline::OfflineArguments;
use super::table;
use crate::exit;
use crate::status::ProblemStatus;
use crate::terminal;

mod junit;
mod render;
mod report;
mod sarif;

use report::Report;

const EXAMPLES: &str = "\
Examples:
  Look for mistakes in the policies of a folder:
    kube-verdict check manifests
  Test what they allow:
    kube-verdict check manifests --assertions reachability.yaml
  The workloads are in another folder, and two rules do not matter here:
    kube-verdict check policies --with workloads --skip block-of-pods,redundant-rule
  For a pipeline, with annotations at the lines of a pull request:
    kube-verdict check manifests --output sarif > check.sarif
  Fail only for errors:
    kube-verdict check manifests --fail-on error

Assertions are a list in YAML, each with from, to and expect (allowed, denied, nothing-else):
    - from: web/frontend
      to: db/postgres:5432
      expect: allowed
    - to: db/*
      expect: nothing-else

Exit codes: 0 no finding of --fail-on and all assertions hold, 1 failure, 2 usage error (also: a folder
does not exist, or a file of assertions is not understood), 3 findings, or an assertion fails.";

/// Looks for mistakes in the policies of a folder, and tests what they allow.
///
/// Needs no cluster. Workloads are Pods, and the pods of Deployments, StatefulSets, DaemonSets, ReplicaSets,
/// ReplicationControllers, Jobs and CronJobs.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Check {
    /// The manifests: a folder or a file.
    #[arg(value_name = "DIR")]
    path: PathBuf,

    /// A file of assertions. Repeatable.
    #[arg(long, value_name = "FILE")]
    assertions: Vec<PathBuf>,

    /// Rules that are not checked, by their ids.
    #[arg(long, value_name = "ID", value_delimiter = ',', value_parser = rule)]
    skip: Vec<Rule>,

    /// The least severity that makes the command fail.
    #[arg(long, value_name = "note|warning|error", value_enum, default_value_t = FailOn::Warning)]
    fail_on: FailOn,

    #[command(flatten)]
    offline: OfflineArguments,

    /// Output format: text for people, JSON, JUnit XML, or SARIF 2.1.0.
    #[arg(long, value_name = "text|json|junit|sarif", value_enum, default_value_t)]
    output: Format,
}

/// A value of `--output`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
enum Format {
    #[default]
    Text,
    Json,
    Junit,
    Sarif,
}

/// A value of `--fail-on`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum FailOn {
    Note,
    Warning,
    Error,
}

impl FailOn {
    fn severity(self) -> Severity {
        match self {
            Self::Note => Severity::Note,
            Self::Warning => Severity::Warning,
            Self::Error => Severity::Error,
        }
    }
}

/// Parses a value of `--skip`.
fn rule(id: &str) -> Result<Rule, String> {
    Rule::named(id).ok_or_else(|| {
        let known: Vec<&str> = Rule::ALL.into_iter().map(Rule::id).collect();
        format!("there is no such rule; the rules are {}", known.join(", "))
    })
}

impl Check {
    /// Checks and prints.
    pub(super) fn run(self) -> anyhow::Result<u8> {
        let report = self.report()?;
        let fails = |finding: &Finding| finding.severity >= self.fail_on.severity();
        let is_fine = !report.findings.iter().any(fails) && report.assertions.iter().all(|one| one.holds);
        match self.output {
            Format::Text => render::render(&report, table::width()).print()?,
            Format::Json => terminal::print_json(&report)?,
            Format::Junit => junit::render(&report, &self.skip, self.fail_on.severity())?.print()?,
            Format::Sarif => terminal::print_json(&sarif::log(&report))?,
        }
        Ok(if is_fine { exit::SUCCESS } else { exit::FINDINGS })
    }

    fn report(&self) -> anyhow::Result<Report> {
        let files = self.assertions.iter().map(|file| Assertions::read(file));
        // Only the chain of an error is printed, and a usage error has none.
        let files: Vec<Assertions> = files
            .collect::<Result<_, _>>()
            .map_err(|error| exit::Usage(cluster::error_chain::chain(&error).to_string()))?;
        let mut more = Distinguished::default();
        files.iter().for_each(|file| file.distinguish(&mut more));
        let manifests = self.offline.read(&self.path)?;
        let layout = Layout::new(&[&manifests], &self.offline.networks()?, &more)
            .map_err(|error| exit::Usage(error.to_string()))?;
        let model = Model::new(&manifests, &layout, self.offline.budget());
        let mut findings = findings::find(&manifests, &model, &layout);
        findings.splice(0..0, over_budget(&model));
        findings.retain(|finding| !self.skip.contains(&finding.id));
        let check = |file| assertions::check(file, &manifests, &model, &layout);
        Ok(Report { findings, assertions: files.iter().flat_map(check).collect() })
    }
}

/// Policies that isolate their pods and allow nothing, because they exceed their namespace's budget.
fn over_budget(model: &Model) -> Vec<Finding> {
    let problems = ProblemStatus::beyond_budget(model.compiler());
    problems
        .map(|problem| Finding {
            id: Rule::NotUnderstood,
            severity: Severity::Error,
            object: None,
            field: None,
            file: None,
            line: None,
            what: problem.text,
            remedy: "give it fewer entries, or check with the budget of the agents".to_owned(),
        })
        .collect()
}
