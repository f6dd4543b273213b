//! New pods that connect, and send datagrams, from the first instruction of their only process on.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{allow_egress, allow_ingress, deny_all};
use crate::kubernetes::stage::{PORT, PodSpec, Stage, number};

/// Pods of each kind.
const PODS: usize = 200;
/// How many of each kind start at once, half of them on each node.
const BATCH: usize = 20;
/// How long each tries, in seconds: longer than the API server needs to hear of its address.
const TRIES: &str = "6";
/// How late the first connection that policy allows may be, with the CNI's cache and without.
const WITH_CACHE: Duration = Duration::from_millis(200);
const WITHOUT_CACHE: Duration = Duration::from_secs(3);
/// How long a batch may take to start and report.
const PATIENCE: Duration = Duration::from_secs(180);

pub fn play(stage: &Stage<'_>) -> Result<String> {
    stage.policy("all", &deny_all(None))?;
    stage.policy("allowed", &allow_egress(("app", "allowed"), ("app", "server")))?;
    // The server takes everybody's word: the egress of the new pod alone decides, and the server counts.
    stage.policy("server", &allow_ingress(("app", "server"), ("role", "client")))?;
    stage.start(&[PodSpec::server("server", "node-1").label("app", "server")])?;
    let to = format!("{}:{PORT}", stage.address("server")?);

    let (mut denied_successes, mut allowed_first) = (0, Vec::new());
    for batch in 0..PODS / BATCH {
        let pods = |kind: &str| -> Vec<PodSpec> {
            (0..BATCH)
                .map(|number| {
                    let node = if number % 2 == 0 { "node-1" } else { "node-2" };
                    PodSpec::new(&format!("{kind}-{batch}-{number}"), node, &["first", &to, TRIES])
                        .label("app", kind)
                        .label("role", "client")
                })
                .collect()
        };
        stage.create(&[pods("denied"), pods("allowed")].concat())?;
        for (pod, report) in stage.reports("app=denied", BATCH, PATIENCE)? {
            ensure!(number(&report, "tries")? > 10, "{pod} hardly tried: {report}");
            denied_successes += number(&report, "successes")?;
        }
        for (pod, report) in stage.reports("app=allowed", BATCH, PATIENCE)? {
            let first = report["first_ms"].as_u64();
            ensure!(first.is_some(), "{pod} never got through, though policy allows it: {report}");
            allowed_first.extend(first.map(Duration::from_millis));
        }
        // What arrived at the server without having been asked for: a datagram needs no answer.
        let counted: serde_json::Value = serde_json::from_str(&stage.ask_local("server", "datagrams")?)?;
        let addresses =
            stage.kubectl(&["get", "pods", "-l", "app=denied", "-o", "jsonpath={.items[*].status.podIP}"])?;
        let arrived: Vec<&str> =
            addresses.split_whitespace().filter(|address| !counted[*address].is_null()).collect();
        ensure!(arrived.is_empty(), "datagrams of denied pods arrived, from {}", arrived.join(", "));
        stage.kubectl(&["delete", "pods", "-l", "role=client", "--wait=true", "--grace-period=0"])?;
    }
    ensure!(denied_successes == 0, "{denied_successes} connections of new pods passed unjudged");
    ensure!(allowed_first.len() == PODS, "only {} of {PODS} allowed pods got through", allowed_first.len());
    let latest = allowed_first.iter().max().copied().unwrap_or_default();
    let bound = if stage.way.sees_cni_cache() { WITH_CACHE } else { WITHOUT_CACHE };
    ensure!(latest <= bound, "an allowed pod got through only after {latest:?}: more than {bound:?}");
    Ok(format!("{PODS} denied: nothing passed; {PODS} allowed: the latest after {} ms", latest.as_millis()))
}
