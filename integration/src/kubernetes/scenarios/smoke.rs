//! Each kind of rule once, across nodes and within one; and changes, which must be enforced at once.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use super::policies::{allow_ingress, deny_all};
use crate::kubernetes::fixture::{Fixture, PORT, PodManifest};

/// How soon after `kubectl apply` a change must be enforced. The watch is quicker, but a probe takes a while.
const SOON: Duration = Duration::from_secs(3);

pub(super) fn run(fixture: &Fixture<'_>) -> Result<String> {
    fixture.start(&[
        PodManifest::server("server", "node-1").label("app", "server"),
        PodManifest::server("friend", "node-1").label("app", "friend"),
        PodManifest::server("far-friend", "node-2").label("app", "friend"),
        PodManifest::server("stranger", "node-1").label("app", "stranger"),
        PodManifest::server("far-stranger", "node-2").label("app", "stranger"),
    ])?;
    let server = format!("{}:{PORT}", fixture.address("server")?);
    let everyone = ["friend", "far-friend", "stranger", "far-stranger"];
    for pod in everyone {
        fixture.expect(pod, &server, true)?;
    }

    fixture.policy("server", &allow_ingress(("app", "server"), ("app", "friend")))?;
    let applied = Instant::now();
    fixture
        .until("a policy is enforced", SOON, || Ok(fixture.ask("stranger", "expect", &server)?.is_none()))?;
    let held = applied.elapsed();
    for (pod, allowed) in everyone.into_iter().zip([true, true, false, false]) {
        fixture.expect(pod, &server, allowed)?;
    }

    // A changed label.
    fixture.kubectl(&["label", "--overwrite", "pod", "far-stranger", "app=friend"])?;
    fixture.until("a new label is considered", SOON, || {
        Ok(fixture.ask("far-stranger", "expect", &server)?.is_some())
    })?;

    // Egress by address, also through a service, which translates the address.
    let far = fixture.address("far-friend")?;
    fixture.policy(
        "friend",
        &json!({
            "podSelector": {"matchLabels": {"app": "friend"}},
            "policyTypes": ["Egress"],
            "egress": [{"to": [{"ipBlock": {"cidr": format!("{}/32", fixture.address("server")?)}}]}],
        }),
    )?;
    let far = format!("{far}:{PORT}");
    fixture.until("an egress policy is enforced", SOON, || {
        Ok(fixture.ask("friend", "expect", &far)?.is_none())
    })?;
    fixture.expect("friend", &server, true)?;
    fixture.kubectl(&[
        "expose",
        "pod",
        "server",
        "--name=service",
        "--port=80",
        &format!("--target-port={PORT}"),
    ])?;
    let service =
        fixture.kubectl(&["get", "service", "service", "-o", "jsonpath={.spec.clusterIP}"])? + ":80";
    fixture.until("a service reaches its pod", Duration::from_secs(20), || {
        Ok(fixture.ask("friend", "expect", &service)?.is_some())
    })?;
    fixture.expect("stranger", &service, false)?;

    fixture.policy("all", &deny_all(None))?;
    fixture.kubectl(&["delete", "networkpolicy", "server", "friend"])?;
    fixture.until("nothing passes", SOON, || Ok(fixture.ask("friend", "expect", &server)?.is_none()))?;
    fixture.kubectl(&["delete", "networkpolicy", "all"])?;
    fixture.until("everything passes again", SOON, || {
        Ok(fixture.ask("stranger", "expect", &server)?.is_some())
    })?;
    Ok(format!(
        "a new policy was enforced {} ms after kubectl's return, including the probe",
        held.as_millis()
    ))
}
