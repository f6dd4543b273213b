//! The report as SARIF 2.1.0 (OASIS), as far as code hosts read it: rules, results and their places.

use std::fmt::Write;
use std::path::Path;

use analysis::{Checked, Finding, Rule};
use serde::Serialize;

use super::report::Report;

/// The id of assertions that fail.
const ASSERTION: &str = "assertion";

/// A log with one run.
#[derive(Debug, Serialize)]
pub(super) struct Log {
    version: &'static str,
    #[serde(rename = "$schema")]
    schema: &'static str,
    runs: [Run; 1],
}

#[derive(Debug, Serialize)]
struct Run {
    tool: Tool,
    results: Vec<SarifResult>,
}

#[derive(Debug, Serialize)]
struct Tool {
    driver: Driver,
}

#[derive(Debug, Serialize)]
struct Driver {
    name: &'static str,
    version: &'static str,
    rules: Vec<Descriptor>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    id: &'static str,
    short_description: Message,
}

#[derive(Debug, Serialize)]
struct Message {
    text: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SarifResult {
    rule_id: &'static str,
    level: &'static str,
    message: Message,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    locations: Vec<Location>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Location {
    #[serde(skip_serializing_if = "Option::is_none")]
    physical_location: Option<PhysicalLocation>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logical_locations: Vec<LogicalLocation>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PhysicalLocation {
    artifact_location: ArtifactLocation,
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<Region>,
}

#[derive(Debug, Serialize)]
struct ArtifactLocation {
    uri: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Region {
    start_line: usize,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LogicalLocation {
    fully_qualified_name: String,
}

/// The log of a report.
pub(super) fn log(report: &Report) -> Log {
    let descriptor = |id, text: &str| Descriptor { id, short_description: Message { text: text.to_owned() } };
    let rules = Rule::ALL.into_iter().map(|rule| descriptor(rule.id(), rule.sentence()));
    let assertion = descriptor(ASSERTION, "An expectation about policies does not hold.");
    let failed = report.assertions.iter().filter(|assertion| !assertion.holds);
    let results = report.findings.iter().map(of_finding).chain(failed.map(of_assertion)).collect();
    let rules = rules.chain([assertion]).collect();
    let driver = Driver { name: "kube-verdict", version: env!("CARGO_PKG_VERSION"), rules };
    Log {
        version: "2.1.0",
        schema: "https://json.schemastore.org/sarif-2.1.0.json",
        runs: [Run { tool: Tool { driver }, results }],
    }
}

fn of_finding(finding: &Finding) -> SarifResult {
    let field = finding.field.as_ref().map(|field| format!("{field}: ")).unwrap_or_default();
    let name = finding.object.as_ref().map(|object| match &finding.field {
        Some(field) => format!("{object} {field}"),
        None => object.clone(),
    });
    SarifResult {
        rule_id: finding.id.id(),
        level: finding.severity.name(),
        message: Message { text: format!("{field}{}; {}", finding.what, finding.remedy) },
        locations: location(finding.file.as_deref(), finding.line, name),
    }
}

fn of_assertion(assertion: &Checked) -> SarifResult {
    let Checked { name, file, line, error, violations, .. } = assertion;
    let mut text = format!("{name}: does not hold");
    for part in error
        .iter()
        .cloned()
        .chain(violations.iter().map(|violation| format!("{violation} ({})", violation.because.join("; "))))
    {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n{part}");
    }
    SarifResult {
        rule_id: ASSERTION,
        level: "error",
        message: Message { text },
        locations: location(Some(file), Some(*line), None),
    }
}

fn location(file: Option<&Path>, line: Option<usize>, name: Option<String>) -> Vec<Location> {
    let physical_location = file.map(|file| PhysicalLocation {
        artifact_location: ArtifactLocation { uri: uri(file) },
        // Lines are numbered from 1; 0 stands for an unknown one.
        region: line.filter(|line| *line > 0).map(|start_line| Region { start_line }),
    });
    let logical_locations: Vec<LogicalLocation> =
        name.into_iter().map(|name| LogicalLocation { fully_qualified_name: name }).collect();
    if physical_location.is_none() && logical_locations.is_empty() {
        return Vec::new();
    }
    vec![Location { physical_location, logical_locations }]
}

/// The path as a URI reference (RFC 3986): relative as it is, absolute with the scheme `file`.
fn uri(path: &Path) -> String {
    let mut uri = String::from(if path.is_absolute() { "file://" } else { "" });
    let path = path.strip_prefix("./").unwrap_or(path);
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'-' | b'.' | b'_' | b'~' => uri.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => uri.push(char::from(*byte)),
            // Writing to a String cannot fail.
            byte => drop(write!(uri, "%{byte:02X}")),
        }
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_uris() {
        assert_eq!(uri(Path::new("./policies/web team.yaml")), "policies/web%20team.yaml");
        assert_eq!(uri(Path::new("/a/\u{1b}[2J")), "file:///a/%1B%5B2J");
    }
}
