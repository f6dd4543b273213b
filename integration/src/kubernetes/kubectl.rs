//! `kubectl`, as the administrator, from the control plane's network namespace.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::credentials::kubeconfig_name;
use super::parts::Parts;
use super::place::Place;
use crate::command::fed;
use crate::namespace::Namespace;

/// The way to ask the cluster for something.
#[derive(Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    namespace: Namespace,
}

impl Kubectl {
    /// For the cluster of this place.
    pub fn new(place: &Place, parts: &Parts) -> Result<Self> {
        let namespace = Namespace::existing(&place.namespace("control"))?
            .context("no cluster is up: cargo xtask cluster up")?;
        let kubeconfig = place.join(&kubeconfig_name("admin"));
        Ok(Self { program: parts.program("kubectl"), kubeconfig, namespace })
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Runs it with these arguments and returns what it printed. It must succeed.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        self.feed(arguments, "")
    }

    /// The same, with a text on its standard input.
    pub fn feed(&self, arguments: &[&str], input: &str) -> Result<String> {
        let output = self.output(arguments, input)?;
        if !output.status.success() {
            bail!("kubectl {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs it and returns how it ended.
    pub fn output(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("KUBECONFIG", &self.kubeconfig);
        fed(&self.namespace, command, input).with_context(|| format!("running {}", self.program.display()))
    }

    /// Applies objects.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        self.feed(&["apply", "--server-side", "--force-conflicts", "-f", "-"], manifest).map(drop)
    }

    /// An object or a list of objects.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.run(&[&["get", "-o", "json"], arguments].concat())?;
        serde_json::from_str(&text).context("reading kubectl's answer")
    }

    /// Waits until a workload has all its pods ready.
    pub fn wait_for_rollout(&self, namespace: &str, workload: &str, patience: Duration) -> Result<()> {
        let timeout = format!("--timeout={}s", patience.as_secs());
        self.run(&["-n", namespace, "rollout", "status", workload, &timeout]).map(drop)
    }

    /// Runs a command in a pod and returns how it ended.
    pub fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> Result<Output> {
        self.output(&[&["-n", namespace, "exec", pod, "--"], command].concat(), "")
    }
}
