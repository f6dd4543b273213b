//! `kube-verdict wait`: until the pods of a DaemonSet are ready, for the hook by which the chart is uninstalled. An image without a shell
//! has no other way to wait.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use clap::Args;
use cluster::kubernetes::{AccessError, KubernetesError};
use cluster::{Access, Rollout};
use jiff::SignedDuration;

use crate::exit;
use crate::terminal::text;

const EXAMPLES: &str = "\
Examples:
  Until nothing of kube-verdict is left on any node, where a DaemonSet runs `kube-verdict cleanup --stay`:
    kube-verdict wait --namespace kube-system --daemonset kube-verdict-cleanup --timeout 4m

The service account may `get` that DaemonSet.

Exit codes: 0 all pods are ready, 1 they are not, or can't be asked for, 2 the command line is wrong.";

const ASK_EVERY: Duration = Duration::from_secs(1);

/// Waits until each pod of a DaemonSet is ready.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Wait {
    /// Its name.
    #[arg(long, value_name = "NAME")]
    daemonset: String,

    /// Its namespace.
    #[arg(long, value_name = "NAME")]
    namespace: String,

    /// How long to wait: 90s, 4m.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "4m")]
    timeout: Duration,

    /// How to reach the API server. Default: by the environment variable KUBECONFIG, or as a pod with its service account does.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

impl Wait {
    /// Waits, and says what is waited for.
    pub fn run(self) -> anyhow::Result<u8> {
        let access = self.kubeconfig.map_or(Access::Environment, Access::Kubeconfig);
        let (name, namespace) = (&self.daemonset, &self.namespace);
        let end = Instant::now() + self.timeout;
        let mut said = String::new();
        loop {
            let rollout = Rollout::of_daemon_set(&access, namespace, name).map_err(without_folder)?;
            let now = match &rollout {
                Ok(rollout) => rollout.to_string(),
                Err(error) => error.clone(),
            };
            if now != said {
                text!("DaemonSet {namespace}/{name}: {now}").print()?;
                said = now;
            }
            if rollout.is_ok_and(|rollout| rollout.is_complete()) {
                return Ok(exit::FINE);
            }
            if Instant::now() >= end {
                bail!(
                    "DaemonSet {namespace}/{name} is not complete after {:?}: {said}; `kubectl get pods --output wide` says which node \
                     is behind",
                    self.timeout
                );
            }
            sleep(ASK_EVERY);
        }
    }
}

/// No folder has a DaemonSet to wait for.
fn without_folder(error: KubernetesError) -> anyhow::Error {
    match error {
        KubernetesError::Access(AccessError::InCluster(error)) => {
            anyhow!("this is not a pod with a service account ({error}): give --kubeconfig FILE")
        }
        error => error.into(),
    }
}

fn time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time to wait: write 90s, or 4m");
    let time: SignedDuration = text.parse().map_err(|_| wrong())?;
    Duration::try_from(time).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit_and_is_not_negative() {
        assert_eq!(time("4m"), Ok(Duration::from_secs(240)));
        for text in ["", "4", "-1s", "soon"] {
            time(text).expect_err(text);
        }
    }
}
