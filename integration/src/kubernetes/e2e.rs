//! A whole run: clusters one after the other, the suite and scenarios on each, and a table of the results.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;

use super::components::Components;
use super::install::InstallMethod;
use super::progress::Step;
use super::scenarios::{ClusterScenario, LEAVING, ORIGINS, QUICK, SCENARIOS, SMOKE};
use super::workdir::Workdir;
use super::{Cluster, evidence, suite};

/// What to run on a cluster with one installation method.
#[derive(Clone, Debug)]
pub struct RunPlan {
    /// How kube-verdict is installed.
    pub method: InstallMethod,
    /// How many times in a row the suite must pass.
    pub suites: u32,
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
        let basics = |method| Self { method, suites: 0, scenarios: vec![SMOKE, ORIGINS, LEAVING] };
        vec![
            Self {
                method: InstallMethod::Chart,
                suites: runs,
                scenarios: [&SCENARIOS[..QUICK], &[LEAVING]].concat(),
            },
            basics(InstallMethod::Overlay),
            basics(InstallMethod::Daemonset),
        ]
    }

    /// The suite with every method.
    pub fn all_methods(runs: u32) -> Vec<Self> {
        InstallMethod::ENFORCING
            .map(|method| Self { method, suites: runs, scenarios: vec![SMOKE, ORIGINS, LEAVING] })
            .to_vec()
    }

    /// The suite and all scenarios with one method.
    pub fn with_method(method: InstallMethod, runs: u32) -> Self {
        Self { method, suites: runs, scenarios: SCENARIOS.to_vec() }
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
            rows.push(one(&cluster, method, &format!("suite, run {number}"), || {
                suite_row(&cluster, method, number)
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

fn suite_row(cluster: &Cluster, method: InstallMethod, number: u32) -> Result<String> {
    let folder = cluster.workdir.join(&format!("suite/{}-{number}", method.name()));
    let outcome = suite::run(cluster, &folder)?;
    let summary = format!("{} of {} cases passed", outcome.passed(), outcome.ran.len());
    if outcome.complete() {
        let slowest = outcome.ran.iter().max_by_key(|case| case.took).context("no case ran")?;
        for case in &outcome.skipped {
            anstream::println!("       skipped, since it needs SCTP: {case}");
        }
        return Ok(format!(
            "{summary}, the slowest in {:.0} s; {} skipped, which need SCTP",
            slowest.took.as_secs_f64(),
            outcome.skipped.len()
        ));
    }
    let failed: Vec<String> = outcome
        .ran
        .iter()
        .filter_map(|case| Some(format!("{}: {}", case.name, case.failure.as_ref()?.lines().next()?)))
        .collect();
    anyhow::bail!("{summary}\n{}\nfull output in {}", failed.join("\n"), folder.display())
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

    #[test]
    fn the_suite_runs_with_flannels_chart_and_smoke_with_every_method() {
        let plans = RunPlan::standard(1);
        assert_eq!(plans.iter().map(|plan| plan.suites).collect::<Vec<_>>(), [1, 0, 0]);
        assert!(plans.iter().all(|plan| plan.scenarios.iter().any(|scenario| scenario.name == SMOKE.name)));
        assert!(RunPlan::all_methods(3).iter().all(|plan| plan.suites == 3));
    }
}
