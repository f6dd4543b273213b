//! The report as JUnit XML: one suite of the rules, and one of the assertions.

use analysis::{Checked, Finding, Rule, Severity};
use quick_junit::{NonSuccessKind, Report as Junit, TestCase, TestCaseStatus, TestSuite};

use super::report::Report;
use crate::terminal::Text;

/// The XML. A rule is a test that fails once for all its findings, if ANY is at least as severe as `fail_on`.
/// Otherwise its findings are its output.
pub(super) fn render(report: &Report, skipped: &[Rule], fail_on: Severity) -> anyhow::Result<Text> {
    let mut junit = Junit::new("kube-verdict check");
    let mut rules = TestSuite::new("rules");
    for rule in Rule::ALL {
        let found: Vec<&Finding> = report.findings.iter().filter(|finding| finding.id == rule).collect();
        let lines: Vec<String> = found.iter().map(|finding| line(finding)).collect();
        let lines = lines.join("\n");
        let fails = found.iter().any(|finding| finding.severity >= fail_on);
        let status = match found.len() {
            0 if skipped.contains(&rule) => TestCaseStatus::skipped(),
            1 if fails => failure("1 finding", &lines),
            count if fails => failure(&format!("{count} findings"), &lines),
            _ => TestCaseStatus::success(),
        };
        let mut case = case(rule.id(), "rules", status);
        if !fails && !found.is_empty() {
            case.set_system_out(Text::of_lines(&lines).as_str());
        }
        rules.add_test_case(case);
    }
    let mut assertions = TestSuite::new("assertions");
    for assertion in &report.assertions {
        let Checked { name, holds, error, violations, .. } = assertion;
        let status = if *holds {
            TestCaseStatus::success()
        } else {
            let mut lines: Vec<String> = error.iter().cloned().collect();
            for violation in violations {
                lines.push(violation.to_string());
                lines.extend(violation.because.iter().map(|side| format!("  {side}")));
            }
            failure(lines.first().map_or("it does not hold", String::as_str), &lines.join("\n"))
        };
        assertions.add_test_case(case(name, "assertions", status));
    }
    junit.add_test_suites([rules, assertions]);
    Ok(Text::of_lines(&junit.to_string()?))
}

fn case(name: &str, suite: &str, status: TestCaseStatus) -> TestCase {
    let mut case = TestCase::new(Text::new(name).as_str(), status);
    case.set_classname(suite);
    case
}

/// Control characters are escaped here, because XML can't contain them and they would vanish.
fn failure(message: &str, description: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
    status.set_message(Text::new(message).as_str());
    status.set_description(Text::of_lines(description).as_str());
    status
}

fn line(finding: &Finding) -> String {
    let file = finding.file.as_ref().map(|file| file.display().to_string());
    let line = finding.line.map(|line| format!(":{line}")).unwrap_or_default();
    let place = file.map(|file| format!("{file}{line}: ")).unwrap_or_default();
    let object = finding.object.as_ref().map(|object| format!("{object}: ")).unwrap_or_default();
    let field = finding.field.as_ref().map(|field| format!("{field}: ")).unwrap_or_default();
    format!("{place}{}: {object}{field}{} -> {}", finding.severity.name(), finding.what, finding.remedy)
}
