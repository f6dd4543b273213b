//! Liveness and readiness probes by HTTP and TCP, from the pod's own node, under a policy that denies
//! everything.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::policies::deny_all;
use crate::kubernetes::fixture::{Fixture, PodManifest};
use crate::kubernetes::images::test_server;

/// How long pods are watched: long enough for a dozen probes. Two failures in a row would show.
const WATCHED: Duration = Duration::from_secs(15);

pub(super) fn run(fixture: &Fixture<'_>) -> Result<String> {
    fixture.policy("all", &deny_all(None))?;
    let image = test_server(&fixture.cluster.components)?;
    let probe = |action: &str| json!({action: {"port": 8080}, "periodSeconds": 1, "failureThreshold": 2, "timeoutSeconds": 1});
    let mut http = probe("httpGet");
    http["httpGet"]["path"] = json!("/healthz");
    let pods: Vec<PodManifest> = ["node-1", "node-2"]
        .into_iter()
        .map(|node| {
            PodManifest::new(&format!("watched-{node}"), node, &["netexec", "--http-port=8080"])
                .container("image", json!(image))
                .container("command", json!(["/agnhost"]))
                .container("readinessProbe", http.clone())
                .container("livenessProbe", probe("tcpSocket"))
        })
        .collect();
    fixture.start(&pods)?;
    sleep(WATCHED);
    let listed = fixture.cluster.kubectl.get(&["-n", &fixture.namespace, "pods"])?;
    for pod in listed["items"].as_array().into_iter().flatten() {
        let status = &pod["status"]["containerStatuses"][0];
        let name = &pod["metadata"]["name"];
        ensure!(status["restartCount"] == 0, "{name} was restarted: its liveness probe failed");
        ensure!(status["ready"] == true, "{name} is not ready: its readiness probe failed");
    }
    Ok(format!("ready and never restarted in {} s with a probe each second", WATCHED.as_secs()))
}
