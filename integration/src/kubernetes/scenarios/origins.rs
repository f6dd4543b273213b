//! A pod that forges the headers of its packets does not get another identity, and can't send packets into
//! the overlay.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::policies::{allow_ingress, deny_all};
use crate::kubernetes::fixture::{Fixture, PORT, PodManifest, number};

/// How many packets are sent with each source.
const PACKETS: u64 = 20;

/// Flannel's VXLAN port.
const OVERLAY_PORT: u16 = 8472;

/// How long counters may take to be updated.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn run(fixture: &Fixture<'_>) -> Result<String> {
    fixture.policy("sealed", &deny_all(Some(("app", "sealed"))))?;
    fixture.policy("server", &allow_ingress(("app", "server"), ("app", "friend")))?;
    fixture.start(&[
        PodManifest::server("server", "node-1").label("app", "server"),
        PodManifest::server("far-server", "node-2").label("app", "server"),
        PodManifest::server("open", "node-1").label("app", "open"),
        PodManifest::server("friend", "node-1").label("app", "friend"),
        PodManifest::server("far-friend", "node-2").label("app", "friend"),
        PodManifest::server("attacker", "node-1").label("app", "stranger"),
        PodManifest::server("sealed", "node-1").label("app", "sealed"),
    ])?;
    let attacker = fixture.address("attacker")?;
    let servers = ["server", "far-server", "open"];
    let before = dropped(fixture)?;

    // First, packets with their own source must arrive.
    forge(fixture, "attacker", &attacker, &at(fixture, "open", PORT)?)?;
    forge(fixture, "friend", &fixture.address("friend")?, &at(fixture, "server", PORT)?)?;
    fixture.until("packets with their own source arrive", TIMEOUT, || {
        Ok(count(fixture, "open", &attacker)? == PACKETS
            && count(fixture, "server", &fixture.address("friend")?)? == PACKETS)
    })?;

    let node = fixture.cluster.nodes.first().context("the first node")?.address.to_string();
    let forged = [
        fixture.address("friend")?,
        fixture.address("far-friend")?,
        fixture.address("open")?,
        node.clone(),
        "192.0.2.1".to_owned(),
    ];
    let counts_before = counts(fixture, &servers)?;
    for source in &forged {
        for server in servers {
            for sender in ["attacker", "sealed"] {
                forge(fixture, sender, source, &at(fixture, server, PORT)?)?;
            }
        }
    }
    let own = [("attacker", attacker.clone()), ("sealed", fixture.address("sealed")?)];
    for (sender, source) in &own {
        forge(fixture, sender, source, &format!("{node}:{OVERLAY_PORT}"))?;
    }
    let sent = PACKETS * (forged.len() * servers.len() * 2) as u64;
    fixture.until("each forged packet is counted", TIMEOUT, || {
        Ok(dropped(fixture)?["spoofed-source"].as_u64()
            >= before["spoofed-source"].as_u64().map(|n| n + sent))
    })?;
    fixture.until("overlay packets are counted", TIMEOUT, || {
        Ok(dropped(fixture)?["overlay"].as_u64() > before["overlay"].as_u64())
    })?;
    let counts_after = counts(fixture, &servers)?;
    ensure!(
        counts_after == counts_before,
        "forged packets arrived; datagrams by source before: {counts_before:?}, after: {counts_after:?}"
    );
    Ok(format!("{sent} packets with {} forged sources: all dropped and counted", forged.len()))
}

/// Sends [`PACKETS`] datagrams from a pod with any source address.
fn forge(fixture: &Fixture<'_>, pod: &str, source: &str, to: &str) -> Result<()> {
    let packets = PACKETS.to_string();
    let arguments = ["/prober", "forge", source, to, &packets];
    let output = fixture.cluster.kubectl.exec(&fixture.namespace, pod, &arguments)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "sending from {pod} as {source}: {}", errors.trim());
    Ok(())
}

/// The address and port of a pod.
fn at(fixture: &Fixture<'_>, pod: &str, port: u16) -> Result<String> {
    Ok(format!("{}:{port}", fixture.address(pod)?))
}

/// How many datagrams each server has received from each source.
fn counts(fixture: &Fixture<'_>, servers: &[&str]) -> Result<Vec<Value>> {
    servers.iter().map(|server| Ok(serde_json::from_str(&fixture.ask_local(server, "datagrams")?)?)).collect()
}

/// How many datagrams a server has received from one source.
fn count(fixture: &Fixture<'_>, server: &str, source: &str) -> Result<u64> {
    let [counts] = &counts(fixture, &[server])?[..] else { return Ok(0) };
    Ok(if counts[source].is_null() { 0 } else { number(counts, source)? })
}

/// How many packets the agent of node-1 has dropped, by reason.
fn dropped(fixture: &Fixture<'_>) -> Result<Value> {
    let agents = fixture.method.agents().context("no agent enforces policy")?;
    let status = agents.status(&fixture.cluster.kubectl, "node-1")?;
    Ok(status["origins"]["dropped"].clone())
}
