//! The report as text.

use analysis::{Checked, Finding, Severity};

use super::report::Report;
use crate::commands::table;
use crate::paint;
use crate::terminal::{Text, text};

/// Indentation of what is below a headline, in columns.
const INDENT: u16 = 2;

/// At most this many connections of an assertion are shown.
const SHOWN: usize = 5;

/// The findings, the assertions and a summary, wrapped to a width.
pub(super) fn render(report: &Report, width: u16) -> Text {
    let mut lines = Vec::new();
    for finding in &report.findings {
        lines.extend(of_finding(finding, width));
        lines.push(Text::default());
    }
    for assertion in &report.assertions {
        lines.extend(of_assertion(assertion, width));
    }
    if !report.assertions.is_empty() {
        lines.push(Text::default());
    }
    lines.push(Text::new(summary(report)));
    Text::lines(lines)
}

fn severity(severity: Severity) -> Text {
    match severity {
        Severity::Error => paint::wrong(severity.name()),
        Severity::Warning => paint::warning(severity.name()),
        Severity::Note => paint::dim(severity.name()),
    }
}

fn of_finding(finding: &Finding, width: u16) -> Vec<Text> {
    let place = finding.file.as_ref().map(|file| {
        let line = finding.line.map(|line| format!(":{line}")).unwrap_or_default();
        format!("{}{line}", file.display())
    });
    // An object with its place behind it, or the place alone.
    let (name, place) = match &finding.object {
        Some(object) => (Some(object.clone()), place.map(|place| format!(" ({place})"))),
        None => (place, None),
    };
    let name = name.map(|name| format!(": {name}")).unwrap_or_default();
    let headline =
        severity(finding.severity) + text!(" {}{name}", finding.id) + paint::dim(place.unwrap_or_default());
    let field = finding.field.as_ref().map(|field| format!("{field}: ")).unwrap_or_default();
    let what = table::paragraph(&format!("{field}{}", finding.what), INDENT, width);
    vec![headline, what, table::paragraph(&format!("-> {}", finding.remedy), INDENT, width)]
}

fn of_assertion(assertion: &Checked, width: u16) -> Vec<Text> {
    let Checked { name, file, line, holds, error, violations } = assertion;
    let place = paint::dim(format_args!(" ({}:{line})", file.display()));
    let state = if *holds { paint::fine("holds") } else { paint::wrong("fails") };
    let mut lines = vec![state + text!("  {name}") + place];
    if let Some(error) = error {
        lines.push(table::paragraph(error, INDENT, width));
    }
    for violation in violations.iter().take(SHOWN) {
        lines.push(table::paragraph(&violation.to_string(), INDENT, width));
        lines.extend(violation.because.iter().map(|side| table::paragraph(side, 2 * INDENT, width)));
    }
    if let Some(more) = violations.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        lines.push(table::paragraph(&format!("and {more} more: see --output json"), INDENT, width));
    }
    lines
}

fn summary(report: &Report) -> String {
    let count = |severity| report.findings.iter().filter(|finding| finding.severity == severity).count();
    let number = |count: usize, one: &str| match count {
        1 => format!("1 {one}"),
        _ => format!("{count} {one}s"),
    };
    let findings = [Severity::Error, Severity::Warning, Severity::Note]
        .map(|severity| number(count(severity), severity.name()))
        .join(", ");
    if report.assertions.is_empty() {
        return findings;
    }
    let fail = report.assertions.iter().filter(|assertion| !assertion.holds).count();
    format!("{findings}; {} of {} fail", fail, number(report.assertions.len(), "assertion"))
}
