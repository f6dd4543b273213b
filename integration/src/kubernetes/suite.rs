//! Upstream's NetworkPolicy suite. Ginkgo runs it with three processes, and each case only once.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::Cluster;
use super::credentials::kubeconfig_name;

/// The text that the names of all cases of the suite contain.
const FOCUS: &str = "Netpol";
/// Cases that need SCTP sockets, which not every kernel has.
const SKIP: &str = "SCTP|Sctp";
/// The number of cases without SCTP. If fewer ran, the suite was not run completely.
pub const CASES: usize = 45;
/// The number of parallel processes.
const PROCESSES: u32 = 3;

/// The result of one case of a suite.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Case {
    /// Its name in the suite.
    pub name: String,
    /// How long it took.
    pub took: Duration,
    /// The failure; `None` if it passed.
    pub failure: Option<String>,
}

/// The results of a suite.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// Cases that ran.
    pub ran: Vec<Case>,
    /// Cases that were skipped.
    pub skipped: Vec<String>,
}

impl Outcome {
    /// The number of cases that passed.
    pub fn passed(&self) -> usize {
        self.ran.iter().filter(|case| case.failure.is_none()).count()
    }

    /// Whether ALL cases have run and passed. `cases` is the number of cases of the suite.
    pub fn complete(&self, cases: usize) -> bool {
        self.passed() == self.ran.len() && self.ran.len() >= cases
    }

    /// Reads ginkgo's report.
    fn read(text: &str) -> Result<Self> {
        let reports: Vec<Report> = serde_json::from_str(text).context("reading ginkgo's report")?;
        let mut outcome = Self::default();
        let cases = reports
            .into_iter()
            .flat_map(|report| report.spec_reports)
            .filter(|spec| spec.leaf_node_type == "It" && spec.name().contains(FOCUS));
        for spec in cases {
            match spec.state.as_str() {
                // Skipped by the filter.
                "skipped" | "pending" => outcome.skipped.push(spec.name()),
                state => {
                    let failure = (state != "passed").then(|| match &spec.failure {
                        Some(failure) => format!("{state}: {}", failure.message),
                        None => state.to_owned(),
                    });
                    let took = Duration::from_nanos(spec.run_time);
                    outcome.ran.push(Case { name: spec.name(), took, failure });
                }
            }
        }
        Ok(outcome)
    }
}

/// Runs the suite on a cluster. Its output and report remain in `folder`.
pub fn run(cluster: &Cluster, folder: &Path) -> Result<Outcome> {
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let (log, report) = (folder.join("suite.log"), folder.join("suite.json"));
    let _ = fs::remove_file(&report);
    let output = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
    let errors = output.try_clone()?;
    let kubeconfig = cluster.workdir.join(&kubeconfig_name("admin"));
    cluster
        .control
        .namespace()
        .run(|| {
            Command::new(cluster.components.program("ginkgo"))
                .args([&format!("-procs={PROCESSES}"), "-focus", FOCUS, "-skip", SKIP, "-flake-attempts=0"])
                .args(["-no-color", "-timeout=40m", "-json-report=suite.json", "-output-dir"])
                .arg(folder)
                .arg(cluster.components.program("netpol.test"))
                .args(["--", "--provider=local", &format!("--num-nodes={}", cluster.nodes.len())])
                .arg(format!("--kubeconfig={}", kubeconfig.display()))
                .current_dir(folder)
                .stdin(Stdio::null())
                .stdout(output)
                .stderr(errors)
                .status()
        })?
        .context("ginkgo could not be started")?;
    let text = fs::read_to_string(&report)
        .with_context(|| format!("the suite left no report: its output is in {}", log.display()))?;
    let outcome = Outcome::read(&text)?;
    if outcome.ran.is_empty() {
        bail!("the suite ran no case: its output is in {}", log.display());
    }
    Ok(outcome)
}

/// The files with the output and report of a run.
pub fn files(folder: &Path) -> [PathBuf; 2] {
    [folder.join("suite.log"), folder.join("suite.json")]
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Report {
    #[serde(default)]
    spec_reports: Vec<Spec>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    #[serde(default)]
    container_hierarchy_texts: Option<Vec<String>>,
    #[serde(default)]
    leaf_node_type: String,
    #[serde(default)]
    leaf_node_text: String,
    #[serde(default)]
    state: String,
    /// In nanoseconds.
    #[serde(default)]
    run_time: u64,
    #[serde(default)]
    failure: Option<Failure>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    #[serde(default)]
    message: String,
}

impl Spec {
    fn name(&self) -> String {
        let mut words = self.container_hierarchy_texts.clone().unwrap_or_default();
        words.push(self.leaf_node_text.clone());
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, state: &str) -> String {
        format!(
            r#"{{"ContainerHierarchyTexts": ["[sig-network] Netpol"], "LeafNodeType": "It", "LeafNodeText": "{name}",
                "State": "{state}", "RunTime": 1500000000, "Failure": {{"Message": "timed out"}}}}"#
        )
    }

    #[test]
    fn a_report_is_parsed() {
        let elsewhere = r#"{"LeafNodeType": "It", "LeafNodeText": "pods start", "State": "skipped"}"#;
        let setup = r#"{"ContainerHierarchyTexts": null, "LeafNodeType": "SynchronizedBeforeSuite", "State": "passed"}"#;
        let report = format!(
            r#"[{{"SpecReports": [{}, {}, {}, {elsewhere}, {setup}]}}]"#,
            spec("deny", "passed"),
            spec("allow", "failed"),
            spec("SCTP", "skipped")
        );
        let outcome = Outcome::read(&report).unwrap();
        assert_eq!(outcome.ran.len(), 2);
        assert_eq!(outcome.passed(), 1);
        assert_eq!(outcome.ran[0].took, Duration::from_millis(1500));
        assert_eq!(outcome.ran[1].failure.as_deref(), Some("failed: timed out"));
        assert_eq!(outcome.skipped, ["[sig-network] Netpol SCTP"]);
        assert!(!outcome.complete(2));
    }

    #[test]
    fn a_run_with_too_few_cases_is_not_complete() {
        let case = Case { name: String::new(), took: Duration::ZERO, failure: None };
        let outcome = |number| Outcome { ran: vec![case.clone(); number], skipped: Vec::new() };
        assert!(outcome(CASES).complete(CASES));
        assert!(!outcome(CASES - 1).complete(CASES));
    }
}
