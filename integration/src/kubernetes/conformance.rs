//! Upstream's ClusterNetworkPolicy suite: the test `TestConformanceProfiles` of network-policy-api, with the
//! features of both channels. Its tests run one after the other.
//!
//! The suite also sends SCTP. On a kernel without SCTP sockets, our build of the test server uses raw sockets
//! for that, so every test runs on every kernel.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::suite::{Case, Outcome};
use super::{Cluster, workdir};

/// The number of tests. If fewer ran, the suite was not run completely.
pub const TESTS: usize = 24;

/// The test that contains all others.
const ROOT: &str = "TestConformanceProfiles";
/// The profile whose tests run.
const PROFILE: &str = "ClusterNetworkPolicy";
/// Features of the experimental channel that the suite tests. Those of the standard channel are always
/// tested.
const FEATURES: &str = "ClusterNetworkPolicyNamedPorts,ClusterNetworkPolicyEgressNodePeers";
/// What the report says about the implementation. The suite refuses empty fields; paths are relative to the
/// repository that contains the report.
const IMPLEMENTATION: [&str; 6] = [
    "--organization=kube-verdict",
    "--project=kube-verdict",
    "--url=README.md",
    concat!("--version=", env!("CARGO_PKG_VERSION")),
    "--contact=README.md",
    "--additional-info=docs/conformance/README.md",
];

/// The name of the report in the folder of a run.
const REPORT: &str = "report.yaml";
/// The name of the output in the folder of a run.
const LOG: &str = "suite.log";

/// Runs the suite on a cluster that has the CustomResourceDefinitions. Its output and report remain in
/// `folder`.
pub fn run(cluster: &Cluster, folder: &Path) -> Result<Outcome> {
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let (log, report) = (folder.join(LOG), folder.join(REPORT));
    let _ = fs::remove_file(&report);
    let output = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
    let errors = output.try_clone()?;
    cluster
        .control
        .namespace()
        .run(|| {
            Command::new(cluster.components.program("conformance.test"))
                .args(["-test.v=test2json", "-test.timeout=60m", &format!("-test.run=^{ROOT}$")])
                .args([
                    &format!("--conformance-profiles={PROFILE}"),
                    &format!("--supported-features={FEATURES}"),
                ])
                .args(IMPLEMENTATION)
                .arg("--report-output")
                .arg(&report)
                .env("KUBECONFIG", cluster.kubectl.kubeconfig())
                .current_dir(folder)
                .stdin(Stdio::null())
                .stdout(output)
                .stderr(errors)
                .status()
        })?
        .context("the ClusterNetworkPolicy suite could not be started")?;
    let text = fs::read_to_string(&log).with_context(|| format!("reading {}", log.display()))?;
    let outcome = read(&text);
    if outcome.ran.is_empty() {
        bail!("the suite ran no test:\n{}\nfull output in {}", workdir::tail(&log), log.display());
    }
    Ok(outcome)
}

/// Copies the report of the run in `folder` to a file.
pub fn copy_report(folder: &Path, to: &Path) -> Result<()> {
    let report = folder.join(REPORT);
    let text = fs::read(&report).with_context(|| format!("the suite left no report {}", report.display()))?;
    // Not copied as a file: the suite's report is readable for its owner only.
    fs::write(to, text).with_context(|| format!("writing the report {}", to.display()))
}

/// Reads the output of `-test.v=test2json`, in which each result follows the messages and subtests that it
/// is about: the result of each test that is directly below [`ROOT`], and the last message of each subtest
/// that failed.
fn read(output: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let (mut failures, mut message) = (Vec::new(), "");
    for line in output.lines() {
        let Some((state, name, took)) = result(line) else {
            message = expectation(line).unwrap_or(message);
            continue;
        };
        let mut levels = name.splitn(3, '/').skip(1);
        match (state, levels.next(), levels.next()) {
            ("FAIL", Some(_), Some(subtest)) => {
                failures.push(format!("{}: {message}", subtest.replace('_', " ")));
            }
            ("SKIP", Some(test), None) => outcome.skipped.push(test.to_owned()),
            (_, Some(test), None) => {
                let mut failure = (state == "FAIL").then(|| message.to_owned());
                if !failures.is_empty() {
                    failure = Some(failures.join("\n"));
                    failures.clear();
                }
                outcome.ran.push(Case { name: test.to_owned(), took, failure });
            }
            _ => {}
        }
        message = "";
    }
    outcome
}

/// Reads `--- PASS: TestConformanceProfiles/Name/Subtest (1.50s)`, which follows a control character.
fn result(line: &str) -> Option<(&str, &str, Duration)> {
    let (state, rest) = line.strip_prefix("\u{16}--- ")?.split_once(": ")?;
    let (name, took) = rest.strip_suffix("s)")?.rsplit_once(" (")?;
    Some((state, name, Duration::try_from_secs_f64(took.parse().ok()?).ok()?))
}

/// The message of a probe whose result was not the expected one, or of another error.
fn expectation(line: &str) -> Option<&str> {
    // After the last repetition of a probe these follow, which say less than the probe's message.
    if line.ends_with("Condition never satisfied") || line.ends_with("Should be true") {
        return None;
    }
    let begins = ["Expected connection", "FAILED to execute", "Error:"];
    let at = begins.iter().find_map(|begin| line.find(begin))?;
    line.get(at..).map(str::trim_end)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
\u{16}=== RUN   TestConformanceProfiles
    conformance_profile_test.go:98: Running conformance profile tests with cleanup: true
\u{16}=== RUN   TestConformanceProfiles/CNPAdminTierEgressTCP
\u{16}=== RUN   TestConformanceProfiles/CNPAdminTierEgressTCP/Should_support_a_'deny-egress'_policy
    helper.go:111: FAILED Command was [/agnhost connect --timeout=3s --protocol=tcp 10.244.1.5:80]
    helper.go:112: Expected connection to fail from a/b-0 to 10.244.1.5, but instead it successfully connected.
    admin-network-policy-standard-egress-tcp-rules.go:70:
        \tError Trace:\t/conformance/utils/kubernetes/helper.go:79
        \tError:      \tCondition never satisfied
\u{16}--- FAIL: TestConformanceProfiles/CNPAdminTierEgressTCP/Should_support_a_'deny-egress'_policy (11.50s)
\u{16}=== NAME  TestConformanceProfiles/CNPAdminTierEgressTCP
\u{16}--- FAIL: TestConformanceProfiles/CNPAdminTierEgressTCP (12.50s)
\u{16}=== RUN   TestConformanceProfiles/CNPAdminTierEgressUDP
\u{16}--- PASS: TestConformanceProfiles/CNPAdminTierEgressUDP/Should_support_an_'allow-egress'_policy (3.00s)
\u{16}--- PASS: TestConformanceProfiles/CNPAdminTierEgressUDP (3.25s)
\u{16}--- SKIP: TestConformanceProfiles/CNPAdminTierEgressNamedPort (0.00s)
\u{16}--- FAIL: TestConformanceProfiles (20.00s)
\u{16}FAIL
";

    #[test]
    fn the_result_of_each_test_is_read() {
        let outcome = read(OUTPUT);
        let names: Vec<&str> = outcome.ran.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(names, ["CNPAdminTierEgressTCP", "CNPAdminTierEgressUDP"]);
        assert_eq!(
            outcome.ran[0].failure.as_deref(),
            Some(
                "Should support a 'deny-egress' policy: Expected connection to fail from a/b-0 to 10.244.1.5, \
                 but instead it successfully connected."
            )
        );
        assert_eq!(outcome.ran[1].failure, None);
        assert_eq!(outcome.ran[1].took, Duration::from_millis(3250));
        assert_eq!(outcome.skipped, ["CNPAdminTierEgressNamedPort"]);
    }

    #[test]
    fn a_test_that_fails_outside_its_subtests_has_its_own_message() {
        let output = "        \tError:      \tReceived unexpected error:\n\u{16}--- FAIL: R/A (0.10s)\n";
        assert_eq!(read(output).ran[0].failure.as_deref(), Some("Error:      \tReceived unexpected error:"));
    }
}
