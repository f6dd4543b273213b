//! The progress of a DaemonSet's rollout, for `wait`.

use std::fmt;
use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::Api;
use tokio::time::timeout;

use super::clients::Clients;
use super::configuration::Access;
use super::error::KubernetesError;
use super::runtime::runtime;
use crate::error_chain::chain;

/// The timeout of a request.
const ANSWER: Duration = Duration::from_secs(10);

/// The progress of a DaemonSet's rollout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rollout {
    /// Whether the controller has observed the current generation of the DaemonSet. Before that, the numbers
    /// are those of an older one, or zero.
    pub is_observed: bool,
    /// Nodes that should have a pod, including unreachable ones.
    pub desired: i32,
    /// Nodes with a ready pod of the newest version.
    pub ready: i32,
}

impl Rollout {
    /// Requests the DaemonSet and waits for the response. The inner error is a sentence; a retry may succeed.
    ///
    /// # Errors
    /// [`KubernetesError`] if no API server is configured or the configuration is unusable.
    pub fn of_daemon_set(
        access: &Access,
        namespace: &str,
        name: &str,
    ) -> Result<Result<Self, String>, KubernetesError> {
        let runtime = runtime().map_err(KubernetesError::Thread)?;
        let answer = runtime.block_on(async {
            let (clients, server) = Clients::new(access.clone(), ANSWER).await?;
            let api: Api<DaemonSet> = Api::namespaced(clients.client(), namespace);
            Ok(match timeout(ANSWER, api.get(name)).await {
                Ok(Ok(daemon_set)) => Ok(Self::from(&daemon_set)),
                Ok(Err(error)) => Err(chain(&error)),
                Err(_) => Err(format!("{server} does not answer within {} s", ANSWER.as_secs())),
            })
        });
        runtime.shutdown_background();
        answer
    }

    /// Whether every node that should have a pod has a ready one.
    pub fn is_complete(&self) -> bool {
        self.is_observed && self.ready >= self.desired
    }
}

impl From<&DaemonSet> for Rollout {
    fn from(daemon_set: &DaemonSet) -> Self {
        let status = daemon_set.status.as_ref();
        let observed = status.and_then(|status| status.observed_generation);
        Self {
            is_observed: observed.is_some() && observed >= daemon_set.metadata.generation,
            desired: status.map_or(0, |status| status.desired_number_scheduled),
            // Ready pods of older versions are included in `number_ready`.
            ready: status.map_or(0, |status| {
                status.number_ready.min(status.updated_number_scheduled.unwrap_or_default())
            }),
        }
    }
}

impl fmt::Display for Rollout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_observed {
            true => write!(f, "{} of {} pods are ready", self.ready, self.desired),
            false => f.write_str("its pods are not scheduled yet"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rollout(generation: i64, status: serde_json::Value) -> Rollout {
        let object = json!({
            "metadata": {"name": "cleanup", "generation": generation},
            "spec": {"selector": {}, "template": {}},
            "status": status,
        });
        Rollout::from(&serde_json::from_value::<DaemonSet>(object).expect("a DaemonSet"))
    }

    #[test]
    fn a_rollout_is_complete_when_each_node_has_a_ready_pod_of_the_newest_version() {
        let status = |observed, ready, updated| {
            json!({
                "observedGeneration": observed, "desiredNumberScheduled": 3, "numberReady": ready,
                "updatedNumberScheduled": updated, "currentNumberScheduled": 3, "numberMisscheduled": 0,
            })
        };
        assert!(rollout(2, status(2, 3, 3)).is_complete());
        for (why, behind) in [
            ("just created", rollout(1, json!(null))),
            ("changed since", rollout(2, status(1, 3, 3))),
            ("a node is not ready", rollout(2, status(2, 2, 3))),
            ("old pods are ready", rollout(2, status(2, 3, 1))),
        ] {
            assert!(!behind.is_complete(), "{why}: {behind:?}");
        }
        assert_eq!(rollout(2, status(2, 2, 3)).to_string(), "2 of 3 pods are ready");
    }
}
