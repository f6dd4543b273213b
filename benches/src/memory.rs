//! Resident memory of an agent with a large cluster: when it is ready, and after edits.
//!
//! The cluster is written as YAML files, one for each kind of object and namespace. The agent runs in a
//! node's network namespace.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use integration::ClusterSpec;
use integration::agent::{Agent, Launch};
use policy::Change;
use serde::Serialize;
use serde_json::Value;
use workload::{PeerKind, Shape};

use crate::objects::{object, yaml};
use crate::processes::{Memory, memory};
use crate::report::{Figures, Output, show};

/// Rules of each policy.
const RULES: usize = 5;
/// How long an agent rests before its memory is measured, so that memory that it frees late counts as freed.
const REST: Duration = Duration::from_secs(2);

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// Pods in the folder.
    #[arg(long, default_value_t = 10_000)]
    pods: usize,
    /// Policies in the folder.
    #[arg(long, default_value_t = 1_000)]
    policies: usize,
    /// Edits of a policy file before the last figure.
    #[arg(long, default_value_t = 50)]
    edits: u32,
    /// How figures are shown.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// One row of figures.
#[derive(Clone, Debug, Serialize)]
struct Row {
    when: String,
    /// Resident memory (`VmRSS`).
    resident_mb: f64,
    /// The maximum so far (`VmHWM`).
    peak_mb: f64,
    /// Seconds from the start to this moment, without the rests.
    seconds: f64,
}

impl Figures for Row {
    const NAME: &'static str = "memory";

    fn header() -> Vec<&'static str> {
        vec!["when", "resident MB", "peak MB", "after s"]
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.when.clone(),
            format!("{:.1}", self.resident_mb),
            format!("{:.1}", self.peak_mb),
            format!("{:.1}", self.seconds),
        ]
    }
}

/// Measures, and shows the figures.
pub fn run(arguments: &Arguments) -> Result<()> {
    let shape = Shape {
        pods: arguments.pods,
        policies: arguments.policies,
        rules: RULES,
        peers: PeerKind::Selector,
        cluster_policies: 0,
    };
    let cluster = workload::cluster(shape).changes;
    let folder = tempfile::tempdir().context("making a folder for manifests")?;
    let files = files(&cluster)?;
    for (name, text) in &files {
        replace(folder.path(), name, text)?;
    }
    let (edited, text) = files
        .iter()
        .find(|(name, _)| name.starts_with("networkpolicy-"))
        .context("the cluster has no policy")?;

    let node = workload::NODE;
    let testbed = ClusterSpec::new().node(node, "10.244.0.0/24", "fd00:10:244::/64").build()?;
    let started = Instant::now();
    let mut agent =
        Agent::start(&testbed, node, &Launch { source: Some(folder.path()), ..Launch::default() })?;
    agent.wait_ready()?;
    let ready = started.elapsed();
    let size = format!("{} pods, {} policies", arguments.pods, arguments.policies);
    let mut rows = vec![measure(&agent, format!("ready, {size}"), ready)?];

    let editing = Instant::now();
    for edit in 0..arguments.edits {
        let before = agent.applied_generation()?;
        // A policy with rules that differ from one edit to the next.
        let port = format!("{}", 10_000 + edit);
        replace(folder.path(), edited, &format!("{text}{}", edited_policy(&port)))?;
        agent.wait_applied_after(before)?;
    }
    rows.push(measure(&agent, format!("after {} edits", arguments.edits), ready + editing.elapsed())?);
    agent.terminate()?;
    show(arguments.output, &rows)
}

fn edited_policy(port: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: edited, namespace: edited}}\n\
         spec:\n  podSelector: {{}}\n  ingress: [{{ports: [{{port: {port}}}]}}]\n"
    )
}

/// Reads the agent's memory after a rest.
fn measure(agent: &Agent, when: String, after: Duration) -> Result<Row> {
    sleep(REST);
    let Memory { resident_mb, peak_mb } = memory(agent.process())?;
    Ok(Row { when, resident_mb, peak_mb, seconds: after.as_secs_f64() })
}

/// The manifests of a cluster: a file for each kind of object and namespace.
pub fn files(cluster: &[Change]) -> Result<BTreeMap<String, String>> {
    let mut objects: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for change in cluster {
        let object = object(change)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_lowercase();
        let name = match &object["metadata"]["namespace"] {
            Value::Null => format!("{}.yaml", text(&object["kind"])),
            namespace => format!("{}-{}.yaml", text(&object["kind"]), text(namespace)),
        };
        objects.entry(name).or_default().push(object);
    }
    Ok(objects.into_iter().map(|(name, objects)| (name, yaml(&objects))).collect())
}

/// Replaces a file as editors do: writes a new one and renames it.
fn replace(folder: &Path, name: &str, text: &str) -> Result<()> {
    let new = folder.join(format!(".{name}.new"));
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, folder.join(name)))
        .with_context(|| format!("writing {name}"))
}
