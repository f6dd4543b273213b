//! A whole run: clusters brought up one after the other, the suite and scenarios on each, a table at the end.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;

use super::scenarios::{LEAVING, ORIGINS, QUICK, SCENARIOS, SMOKE, Scenario};
use super::{Cluster, Parts, Place, Step, Way, evidence, suite};

/// What to run on the cluster of one way.
#[derive(Clone, Debug)]
pub struct Programme {
    /// How kube-verdict is installed.
    pub way: Way,
    /// How many times in a row the suite must pass.
    pub suites: u32,
    /// Which scenarios.
    pub scenarios: Vec<Scenario>,
}

/// What ran, and how it ended.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Row {
    way: Way,
    what: String,
    passed: bool,
    said: String,
    took: Duration,
}

impl Programme {
    /// What runs on every change: the suite and the quick scenarios through Flannel's chart, three of them through the others.
    pub fn standard(runs: u32) -> Vec<Self> {
        let basics = |way| Self { way, suites: 0, scenarios: vec![SMOKE, ORIGINS, LEAVING] };
        vec![
            Self { way: Way::Chart, suites: runs, scenarios: [&SCENARIOS[..QUICK], &[LEAVING]].concat() },
            basics(Way::Overlay),
            basics(Way::Daemonset),
        ]
    }

    /// The suite through every way.
    pub fn all_ways(runs: u32) -> Vec<Self> {
        Way::ENFORCING
            .map(|way| Self { way, suites: runs, scenarios: vec![SMOKE, ORIGINS, LEAVING] })
            .to_vec()
    }

    /// The suite and all scenarios through one way.
    pub fn one_way(way: Way, runs: u32) -> Self {
        Self { way, suites: runs, scenarios: SCENARIOS.to_vec() }
    }
}

/// Runs programmes one after the other and prints what came of them. Returns whether all of it passed. The last cluster
/// stays up if `keep`.
pub fn run(place: &Place, parts: &Parts, image: &Path, programmes: &[Programme], keep: bool) -> Result<bool> {
    let mut rows = Vec::new();
    for programme in programmes {
        let way = programme.way;
        let began = Instant::now();
        let cluster = match Cluster::up(place, parts.clone(), way, Some(image)) {
            Ok(cluster) => cluster,
            Err(error) => {
                let folder = evidence_folder(place, way, "cluster");
                // The cluster is there in part: what it says is what is wanted.
                let kept = Cluster::running(place, parts.clone())
                    .and_then(|cluster| evidence::keep(&cluster, way, &folder));
                let said = format!(
                    "{error:#}\nmore in {}",
                    kept.map_or_else(|_| place.root().to_owned(), |()| folder).display()
                );
                rows.push(Row {
                    way,
                    what: "cluster up".to_owned(),
                    passed: false,
                    said,
                    took: began.elapsed(),
                });
                continue;
            }
        };
        for number in 1..=programme.suites {
            rows.push(one(&cluster, way, &format!("suite, run {number}"), || {
                suite_row(&cluster, way, number)
            }));
        }
        for scenario in &programme.scenarios {
            rows.push(one(&cluster, way, &format!("scenario {}", scenario.name), || {
                scenario.play(&cluster, way)
            }));
        }
    }
    if !keep {
        Cluster::down(place)?;
    }
    anstream::println!("\n{}", table(&rows));
    Ok(!rows.is_empty() && rows.iter().all(|row| row.passed))
}

/// Runs one thing; where it fails, keeps what the cluster says before the next thing changes it.
fn one(cluster: &Cluster, way: Way, what: &str, play: impl FnOnce() -> Result<String>) -> Row {
    let began = Instant::now();
    let result = Step::run(&format!("{}: {what}", way.name()), |_| play());
    let took = began.elapsed();
    let (passed, said) = match result {
        Ok(said) => (true, said),
        Err(error) => {
            let folder = evidence_folder(&cluster.place, way, what);
            let kept = evidence::keep(cluster, way, &folder);
            let place = kept.map_or_else(
                |error| format!("no evidence kept: {error:#}"),
                |()| format!("evidence in {}", folder.display()),
            );
            anstream::println!("{error:#}\n{place}");
            (false, format!("{error:#}"))
        }
    };
    Row { way, what: what.to_owned(), passed, said, took }
}

fn suite_row(cluster: &Cluster, way: Way, number: u32) -> Result<String> {
    let folder = cluster.place.join(&format!("suite/{}-{number}", way.name()));
    let outcome = suite::run(cluster, &folder)?;
    let summary = format!("{} of {} cases passed", outcome.passed(), outcome.ran.len());
    if outcome.complete() {
        let slowest = outcome.ran.iter().max_by_key(|case| case.took).context("no case ran")?;
        for case in &outcome.left_out {
            anstream::println!("       left out, since it needs SCTP: {case}");
        }
        return Ok(format!(
            "{summary}, the slowest in {:.0} s; {} left out, which need SCTP",
            slowest.took.as_secs_f64(),
            outcome.left_out.len()
        ));
    }
    let failed: Vec<String> = outcome
        .ran
        .iter()
        .filter_map(|case| Some(format!("{}: {}", case.name, case.failure.as_ref()?.lines().next()?)))
        .collect();
    anyhow::bail!("{summary}\n{}\nall of it in {}", failed.join("\n"), folder.display())
}

fn evidence_folder(place: &Place, way: Way, what: &str) -> PathBuf {
    place.join(&format!("failed/{}-{}", way.name(), what.replace([' ', ','], "-")))
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(["way", "what", "result", "seconds", "said"]);
    for row in rows {
        let result = if row.passed { "passed" } else { "FAILED" };
        let seconds = format!("{:.0}", row.took.as_secs_f64());
        table.add_row([row.way.name(), &row.what, result, &seconds, &row.said]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suite_goes_through_flannels_chart_and_smoke_through_all() {
        let programmes = Programme::standard(1);
        assert_eq!(programmes.iter().map(|programme| programme.suites).collect::<Vec<_>>(), [1, 0, 0]);
        assert!(
            programmes
                .iter()
                .all(|programme| programme.scenarios.iter().any(|scenario| scenario.name == SMOKE.name))
        );
        assert!(Programme::all_ways(3).iter().all(|programme| programme.suites == 3));
    }
}
