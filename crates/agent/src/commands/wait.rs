//! `kube-verdict wait`: waits until the pods of a DaemonSet are ready. The chart's uninstall hook runs it,
//! since the image has no shell.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use cluster::kubernetes::{AccessError, KubernetesError};
use cluster::{Access, Rollout};

use crate::exit;
use crate::terminal::text;
use crate::values::{duration, friendly};

const EXAMPLES: &str = "\
Examples:
  Wait until a DaemonSet that runs `kube-verdict cleanup --stay` has removed kube-verdict from every node:
    kube-verdict wait --namespace kube-system --daemonset kube-verdict-cleanup --timeout 4m

The service account needs permission to get that DaemonSet.

Exit codes: 0 all pods are ready, 1 failure (not ready in time, or the DaemonSet cannot be read), 2
usage error.";

/// Upper bound of --timeout.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Waits until all pods of a DaemonSet are ready.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Wait {
    /// The DaemonSet's name.
    #[arg(long, value_name = "NAME")]
    daemonset: String,

    /// The DaemonSet's namespace.
    #[arg(long, value_name = "NAME")]
    namespace: String,

    /// How long to wait: a duration such as 90s or 4m, up to 24h.
    #[arg(long, value_name = "DURATION", value_parser = timeout, default_value = "4m")]
    timeout: Duration,

    /// Kubeconfig for access to the API server.
    ///
    /// Default: the file that the environment variable KUBECONFIG names, or the pod's service account.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

impl Wait {
    /// Waits, and prints the progress whenever it changes.
    pub(super) fn run(self) -> anyhow::Result<u8> {
        let access = self.kubeconfig.map_or(Access::Environment, Access::Kubeconfig);
        let (name, namespace) = (&self.daemonset, &self.namespace);
        let end = Instant::now() + self.timeout;
        let mut printed = String::new();
        loop {
            let rollout = Rollout::of_daemon_set(&access, namespace, name).map_err(without_source_advice)?;
            let progress = match &rollout {
                Ok(rollout) => rollout.to_string(),
                Err(error) => error.clone(),
            };
            if progress != printed {
                text!("DaemonSet {namespace}/{name}: {progress}").print()?;
                printed = progress;
            }
            if rollout.is_ok_and(|rollout| rollout.is_complete()) {
                return Ok(exit::SUCCESS);
            }
            if Instant::now() >= end {
                bail!(
                    "DaemonSet {namespace}/{name} is not complete after {}: {printed}; `kubectl get pods \
                     --output wide` shows which node is behind",
                    friendly(self.timeout)
                );
            }
            sleep(POLL_INTERVAL);
        }
    }
}

/// Replaces the advice to use --source, which this command does not have.
fn without_source_advice(error: KubernetesError) -> anyhow::Error {
    match error {
        KubernetesError::Access(AccessError::InCluster(error)) => anyhow::Error::from(error)
            .context("this is not a pod with a service account; give --kubeconfig FILE"),
        error => error.into(),
    }
}

/// Parses a value of --timeout.
fn timeout(text: &str) -> Result<Duration, String> {
    duration(Duration::ZERO..=MAX_TIMEOUT, "4m")(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_has_a_unit_and_is_not_negative() {
        assert_eq!(timeout("4m"), Ok(Duration::from_secs(240)));
        assert_eq!(timeout("600s"), Ok(Duration::from_secs(600)));
        for text in ["", "4", "-1s", "soon", "25h"] {
            timeout(text).expect_err(text);
        }
    }
}
