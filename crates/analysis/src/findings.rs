//! Mistakes that can be seen in the policies of a folder, before they are applied.
//!
//! From: manifests, and their model. To: [`Finding`]s with a stable id, the field, and what to do. Each rule
//! is a file; what it reports is certain, apart from what the folder does not have.

mod dns;
mod finding;
mod isolation;
mod pod_blocks;
mod redundant;
mod rule;
mod selectors;
mod targets;
mod walk;

pub use self::finding::Finding;
pub use self::rule::{Rule, Severity};

use cluster::{Manifests, Problem, ProblemLocation};

use crate::layout::Layout;
use crate::model::Model;

/// The findings of ALL rules, the most serious first, then by file and line.
pub fn find(manifests: &Manifests, model: &Model, layout: &Layout) -> Vec<Finding> {
    let mut findings: Vec<Finding> = manifests.problems.iter().map(not_understood).collect();
    if manifests.workloads.is_empty() {
        findings.push(Finding {
            id: Rule::NoWorkloads,
            severity: Severity::Note,
            object: None,
            field: None,
            file: None,
            line: None,
            what: "there are no workloads and no pods, so selectors and ports are not checked".to_owned(),
            remedy: "add the folder with the workloads by --with".to_owned(),
        });
    } else {
        findings.extend(selectors::find(manifests));
        findings.extend(targets::find(manifests));
        findings.extend(dns::find(manifests));
        findings.extend(isolation::find(manifests, model, layout));
    }
    findings.extend(isolation::undescribed(manifests));
    findings.extend(pod_blocks::find(manifests, layout));
    findings.extend(redundant::find(manifests));
    findings.sort_by(|a, b| {
        let key =
            |finding: &Finding| (finding.file.clone(), finding.line, finding.object.clone(), finding.id);
        b.severity.cmp(&a.severity).then_with(|| key(a).cmp(&key(b))).then_with(|| a.field.cmp(&b.field))
    });
    findings
}

fn not_understood(problem: &Problem) -> Finding {
    let (file, line) = match &problem.location {
        ProblemLocation::File { path, line, .. } => (Some(path.clone()), *line),
        ProblemLocation::Api { .. } => (None, None),
    };
    Finding {
        id: Rule::NotUnderstood,
        severity: Severity::Error,
        object: problem.object.clone(),
        field: None,
        file,
        line,
        what: problem.what.clone(),
        remedy: problem.effect.clone(),
    }
}
