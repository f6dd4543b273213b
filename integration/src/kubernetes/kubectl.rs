//! Runs `kubectl` as the administrator, in the control plane's network namespace.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::components::Components;
use super::credentials::kubeconfig_name;
use super::workdir::Workdir;
use crate::command::output_with_input;
use crate::namespace::NetworkNamespace;

/// Access to a cluster through `kubectl`.
#[derive(Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    namespace: NetworkNamespace,
}

impl Kubectl {
    /// Access to the running cluster in `workdir`.
    pub fn new(workdir: &Workdir, components: &Components) -> Result<Self> {
        let namespace = NetworkNamespace::open(&workdir.namespace("control"))?
            .context("no cluster is up: cargo xtask cluster up")?;
        let kubeconfig = workdir.join(&kubeconfig_name("admin"));
        Ok(Self { program: components.program("kubectl"), kubeconfig, namespace })
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Runs `kubectl` and returns its standard output. Fails unless it succeeds.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        self.run_with_input(arguments, "")
    }

    /// [`Kubectl::run`] with a standard input.
    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Result<String> {
        let output = self.output(arguments, input)?;
        if !output.status.success() {
            bail!("kubectl {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs `kubectl` and returns its output and exit status.
    pub fn output(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let mut command = Command::new(&self.program);
        command.args(arguments).env("KUBECONFIG", &self.kubeconfig);
        output_with_input(&self.namespace, command, input)
            .with_context(|| format!("running {}", self.program.display()))
    }

    /// Applies objects.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        self.run_with_input(&["apply", "--server-side", "--force-conflicts", "-f", "-"], manifest).map(drop)
    }

    /// An object or a list of objects.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.run(&[&["get", "-o", "json"], arguments].concat())?;
        serde_json::from_str(&text).context("parsing kubectl's output")
    }

    /// Waits until all pods of a workload are ready.
    pub fn wait_for_rollout(&self, namespace: &str, workload: &str, timeout: Duration) -> Result<()> {
        let timeout = format!("--timeout={}s", timeout.as_secs());
        self.run(&["-n", namespace, "rollout", "status", workload, &timeout]).map(drop)
    }

    /// Runs a command in a pod and returns its output and exit status.
    pub fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> Result<Output> {
        self.output(&[&["-n", namespace, "exec", pod, "--"], command].concat(), "")
    }
}
