//! Each kind of rule met once, across nodes and within one; a change holds at once, for connections that exist, too.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use super::{allow_ingress, deny_all};
use crate::kubernetes::stage::{PORT, PodSpec, Stage};

/// How soon after `kubectl apply` a change must hold. The watch is quicker; the next probe isn't.
const SOON: Duration = Duration::from_secs(3);

pub fn play(stage: &Stage<'_>) -> Result<String> {
    stage.start(&[
        PodSpec::server("server", "node-1").label("app", "server"),
        PodSpec::server("friend", "node-1").label("app", "friend"),
        PodSpec::server("far-friend", "node-2").label("app", "friend"),
        PodSpec::server("stranger", "node-1").label("app", "stranger"),
        PodSpec::server("far-stranger", "node-2").label("app", "stranger"),
    ])?;
    let server = format!("{}:{PORT}", stage.address("server")?);
    let everyone = ["friend", "far-friend", "stranger", "far-stranger"];
    for pod in everyone {
        stage.expect(pod, &server, true)?;
    }

    stage.policy("server", &allow_ingress(("app", "server"), ("app", "friend")))?;
    let applied = Instant::now();
    stage.until("a policy holds", SOON, || Ok(stage.ask("stranger", "expect", &server)?.is_none()))?;
    let held = applied.elapsed();
    for (pod, allowed) in everyone.into_iter().zip([true, true, false, false]) {
        stage.expect(pod, &server, allowed)?;
    }

    // By the label that it has now.
    stage.kubectl(&["label", "--overwrite", "pod", "far-stranger", "app=friend"])?;
    stage.until("a new label holds", SOON, || Ok(stage.ask("far-stranger", "expect", &server)?.is_some()))?;

    // Out of a pod, by address; and through a service, after which the address is another.
    let far = stage.address("far-friend")?;
    stage.policy(
        "friend",
        &json!({
            "podSelector": {"matchLabels": {"app": "friend"}},
            "policyTypes": ["Egress"],
            "egress": [{"to": [{"ipBlock": {"cidr": format!("{}/32", stage.address("server")?)}}]}],
        }),
    )?;
    let far = format!("{far}:{PORT}");
    stage.until("an egress policy holds", SOON, || Ok(stage.ask("friend", "expect", &far)?.is_none()))?;
    stage.expect("friend", &server, true)?;
    stage.kubectl(&[
        "expose",
        "pod",
        "server",
        "--name=service",
        "--port=80",
        &format!("--target-port={PORT}"),
    ])?;
    let service = stage.kubectl(&["get", "service", "service", "-o", "jsonpath={.spec.clusterIP}"])? + ":80";
    stage.until("a service has its pod", Duration::from_secs(20), || {
        Ok(stage.ask("friend", "expect", &service)?.is_some())
    })?;
    stage.expect("stranger", &service, false)?;

    stage.policy("all", &deny_all(None))?;
    stage.kubectl(&["delete", "networkpolicy", "server", "friend"])?;
    stage.until("nothing passes", SOON, || Ok(stage.ask("friend", "expect", &server)?.is_none()))?;
    stage.kubectl(&["delete", "networkpolicy", "all"])?;
    stage.until("all passes again", SOON, || Ok(stage.ask("stranger", "expect", &server)?.is_some()))?;
    Ok(format!("a new policy held {} ms after kubectl's return, its probe included", held.as_millis()))
}
