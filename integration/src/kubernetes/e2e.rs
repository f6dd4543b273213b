//! A whole run: clusters one after the other, the suites and scenarios on each, and a table of the results.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;

use super::components::Components;
use super::install::InstallMethod;
use super::progress::Step;
use super::scenarios::{ClusterScenario, LEAVING, ORIGINS, QUICK, SCENARIOS, SMOKE};
use super::suite::Outcome;
use super::workdir::Workdir;
use super::{Cluster, companion_policies, conformance, evidence, install, suite};

/// What to run on a cluster with one installation method.
#[derive(Clone, Debug)]
pub struct RunPlan {
    /// How kube-verdict is installed.
    pub method: InstallMethod,
    /// How many times in a row the suite must pass.
    pub suites: u32,
    /// Whether cluster-wide policies that change no verdict of the suite are in force while it runs.
    pub with_cluster_policies: bool,
    /// How many times in a row the ClusterNetworkPolicy suite must pass.
    pub conformances: u32,
    /// The file to which the last report of the ClusterNetworkPolicy suite is written.
    pub report: Option<PathBuf>,
    /// The scenarios to run.
    pub scenarios: Vec<ClusterScenario>,
}

/// A row of the table: a test and its result.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Row {
    method: InstallMethod,
    what: String,
    passed: bool,
    summary: String,
    took: Duration,
}

impl RunPlan {
    /// The plans for every change: the suite, the quick scenarios and `leaving` with Flannel's chart, and
    /// three scenarios with each other method.
    pub fn standard(runs: u32) -> Vec<Self> {
        let basics = |method| Self::new(method, 0, vec![SMOKE, ORIGINS, LEAVING]);
        vec![
            Self::new(InstallMethod::Chart, runs, [&SCENARIOS[..QUICK], &[LEAVING]].concat()),
            basics(InstallMethod::Overlay),
            basics(InstallMethod::Daemonset),
        ]
    }

    /// The suite with every method.
    pub fn all_methods(runs: u32) -> Vec<Self> {
        InstallMethod::ENFORCING.map(|method| Self::new(method, runs, vec![SMOKE, ORIGINS, LEAVING])).to_vec()
    }

    /// The suite and all scenarios with one method.
    pub fn with_method(method: InstallMethod, runs: u32) -> Self {
        Self::new(method, runs, SCENARIOS.to_vec())
    }

    /// Only the ClusterNetworkPolicy suite, with one method.
    pub fn conformance(method: InstallMethod, runs: u32, report: Option<PathBuf>) -> Self {
        Self { conformances: runs, report, ..Self::new(method, 0, Vec::new()) }
    }

    fn suite_name(&self, number: u32) -> String {
        let with = if self.with_cluster_policies { " with cluster-wide policies" } else { "" };
        format!("suite{with}, run {number}")
    }

    fn new(method: InstallMethod, suites: u32, scenarios: Vec<ClusterScenario>) -> Self {
        Self { method, suites, with_cluster_policies: false, conformances: 0, report: None, scenarios }
    }
}

/// Runs plans one after the other and prints the results. Returns whether everything passed. With `keep`, the
/// last cluster is not removed.
pub fn run(
    workdir: &Workdir,
    components: &Components,
    image: &Path,
    plans: &[RunPlan],
    keep: bool,
) -> Result<bool> {
    let mut rows = Vec::new();
    for plan in plans {
        let method = plan.method;
        let began = Instant::now();
        let cluster = match Cluster::up(workdir, components.clone(), method, Some(image)) {
            Ok(cluster) => cluster,
            Err(error) => {
                let folder = evidence_folder(workdir, method, "cluster");
                // A part of the cluster is running, and its state may show the reason.
                let kept = Cluster::running(workdir, components.clone())
                    .and_then(|cluster| evidence::keep(&cluster, method, &folder));
                let summary = format!(
                    "{error:#}\nsee {}",
                    kept.map_or_else(|_| workdir.root().to_owned(), |()| folder).display()
                );
                rows.push(Row {
                    method,
                    what: "cluster up".to_owned(),
                    passed: false,
                    summary,
                    took: began.elapsed(),
                });
                continue;
            }
        };
        for number in 1..=plan.suites {
            rows.push(one(&cluster, method, &plan.suite_name(number), || suite_row(&cluster, plan, number)));
        }
        for number in 1..=plan.conformances {
            rows.push(one(&cluster, method, &format!("ClusterNetworkPolicy suite, run {number}"), || {
                conformance_row(&cluster, method, number, plan.report.as_deref())
            }));
        }
        for scenario in &plan.scenarios {
            rows.push(one(&cluster, method, &format!("scenario {}", scenario.name), || {
                scenario.run(&cluster, method)
            }));
        }
    }
    if !keep {
        Cluster::down(workdir)?;
    }
    anstream::println!("\n{}", table(&rows));
    Ok(!rows.is_empty() && rows.iter().all(|row| row.passed))
}

/// Runs one test. If it fails, saves the state of the cluster before the next test changes it.
fn one(cluster: &Cluster, method: InstallMethod, what: &str, run: impl FnOnce() -> Result<String>) -> Row {
    let began = Instant::now();
    let result = Step::run(&format!("{}: {what}", method.name()), |_| run());
    let took = began.elapsed();
    let (passed, summary) = match result {
        Ok(summary) => (true, summary),
        Err(error) => {
            let folder = evidence_folder(&cluster.workdir, method, what);
            let kept = evidence::keep(cluster, method, &folder);
            let workdir = kept.map_or_else(
                |error| format!("no evidence kept: {error:#}"),
                |()| format!("evidence in {}", folder.display()),
            );
            anstream::println!("{error:#}\n{workdir}");
            (false, format!("{error:#}"))
        }
    };
    Row { method, what: what.to_owned(), passed, summary, took }
}

fn suite_row(cluster: &Cluster, plan: &RunPlan, number: u32) -> Result<String> {
    let folder = cluster.workdir.join(&format!("suite/{}-{number}", plan.method.name()));
    if plan.with_cluster_policies {
        companion_policies::install(cluster, plan.method)?;
    }
    let outcome = suite::run(cluster, &folder)?;
    let mut summary = summary(&outcome, suite::CASES, &folder)?;
    for case in &outcome.skipped {
        anstream::println!("       skipped, since it needs SCTP: {case}");
    }
    let _ = write!(summary, "; {} skipped, which need SCTP", outcome.skipped.len());
    if plan.with_cluster_policies {
        let decided = companion_policies::decided(cluster, plan.method)?;
        let _ = write!(summary, "; cluster-wide policies decided {decided} verdicts");
        companion_policies::remove(cluster)?;
    }
    Ok(summary)
}

fn conformance_row(
    cluster: &Cluster,
    method: InstallMethod,
    number: u32,
    report: Option<&Path>,
) -> Result<String> {
    install::define_cluster_policies(&cluster.kubectl)?;
    method.grant_cluster_policies(&cluster.kubectl)?;
    method.wait_for_cluster_policies(&cluster.kubectl, &cluster.nodes)?;
    let folder = cluster.workdir.join(&format!("conformance/{}-{number}", method.name()));
    let outcome = conformance::run(cluster, &folder)?;
    for test in &outcome.ran {
        let result = if test.failure.is_none() { "passed" } else { "FAILED" };
        anstream::println!("       {result} {:<42} {:>6.1} s", test.name, test.took.as_secs_f64());
    }
    for test in &outcome.skipped {
        anstream::println!("       skipped {test}");
    }
    if let Some(to) = report {
        conformance::copy_report(&folder, to)?;
    }
    summary(&outcome, conformance::TESTS, &folder)
}

/// The result of a suite in one line. Fails unless the suite is complete.
fn summary(outcome: &Outcome, cases: usize, folder: &Path) -> Result<String> {
    let passed = format!("{} of {} cases passed", outcome.passed(), outcome.ran.len());
    if outcome.complete(cases) {
        let slowest = outcome.ran.iter().max_by_key(|case| case.took).context("no case ran")?;
        return Ok(format!("{passed}, the slowest in {:.0} s", slowest.took.as_secs_f64()));
    }
    let failed: Vec<String> = outcome
        .ran
        .iter()
        .filter_map(|case| Some(format!("{}: {}", case.name, case.failure.as_ref()?.lines().next()?)))
        .collect();
    anyhow::bail!(
        "{passed}; the suite has {cases}\n{}\nfull output in {}",
        failed.join("\n"),
        folder.display()
    )
}

fn evidence_folder(workdir: &Workdir, method: InstallMethod, what: &str) -> PathBuf {
    workdir.join(&format!("failed/{}-{}", method.name(), what.replace([' ', ','], "-")))
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(["method", "what", "result", "seconds", "summary"]);
    for row in rows {
        let result = if row.passed { "passed" } else { "FAILED" };
        let seconds = format!("{:.0}", row.took.as_secs_f64());
        table.add_row([row.method.name(), &row.what, result, &seconds, &row.summary]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::suite::Case;

    #[test]
    fn the_suite_runs_with_flannels_chart_and_smoke_with_every_method() {
        let plans = RunPlan::standard(1);
        assert_eq!(plans.iter().map(|plan| plan.suites).collect::<Vec<_>>(), [1, 0, 0]);
        assert!(plans.iter().all(|plan| plan.scenarios.iter().any(|scenario| scenario.name == SMOKE.name)));
        assert!(RunPlan::all_methods(3).iter().all(|plan| plan.suites == 3));
    }

    #[test]
    fn the_cluster_network_policy_suite_runs_alone() {
        let plan = RunPlan::conformance(InstallMethod::Chart, 3, None);
        assert_eq!((plan.suites, plan.conformances, plan.scenarios.len()), (0, 3, 0));
        assert!(RunPlan::standard(1).iter().all(|plan| plan.conformances == 0));
    }

    #[test]
    fn a_suite_with_failures_or_missing_cases_has_no_summary() {
        let case = |failure: Option<&str>| Case {
            name: "one".to_owned(),
            took: Duration::from_secs(7),
            failure: failure.map(str::to_owned),
        };
        let folder = Path::new("/folder");
        let passed = Outcome { ran: vec![case(None)], skipped: Vec::new() };
        assert_eq!(summary(&passed, 1, folder).unwrap(), "1 of 1 cases passed, the slowest in 7 s");
        assert!(summary(&passed, 2, folder).unwrap_err().to_string().contains("the suite has 2"));
        let failed = Outcome { ran: vec![case(Some("timed out"))], skipped: Vec::new() };
        assert!(summary(&failed, 1, folder).unwrap_err().to_string().contains("one: timed out"));
    }
}
