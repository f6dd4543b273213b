//! A pod that writes the headers of its packets itself gets no other identity, and sends nothing into the overlay.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{allow_ingress, deny_all};
use crate::kubernetes::stage::{PORT, PodSpec, Stage, number};

/// How many packets are sent with each source.
const PACKETS: u64 = 20;

/// VXLAN, as Flannel has it.
const OVERLAY_PORT: u16 = 8472;

/// How long counts may take to be collected.
const PATIENCE: Duration = Duration::from_secs(10);

pub fn play(stage: &Stage<'_>) -> Result<String> {
    stage.policy("sealed", &deny_all(Some(("app", "sealed"))))?;
    stage.policy("server", &allow_ingress(("app", "server"), ("app", "friend")))?;
    stage.start(&[
        PodSpec::server("server", "node-1").label("app", "server"),
        PodSpec::server("far-server", "node-2").label("app", "server"),
        PodSpec::server("open", "node-1").label("app", "open"),
        PodSpec::server("friend", "node-1").label("app", "friend"),
        PodSpec::server("far-friend", "node-2").label("app", "friend"),
        PodSpec::server("attacker", "node-1").label("app", "stranger"),
        PodSpec::server("sealed", "node-1").label("app", "sealed"),
    ])?;
    let attacker = stage.address("attacker")?;
    let servers = ["server", "far-server", "open"];
    let before = dropped(stage)?;

    // That the attacker's packets arrive at all, and that friends' do.
    forge(stage, "attacker", &attacker, &at(stage, "open", PORT)?)?;
    forge(stage, "friend", &stage.address("friend")?, &at(stage, "server", PORT)?)?;
    stage.until("packets with their own source arrive", PATIENCE, || {
        Ok(count(stage, "open", &attacker)? == PACKETS
            && count(stage, "server", &stage.address("friend")?)? == PACKETS)
    })?;

    let node = stage.cluster.nodes.first().context("the first node")?.address.to_string();
    let forged = [
        stage.address("friend")?,
        stage.address("far-friend")?,
        stage.address("open")?,
        node.clone(),
        "192.0.2.1".to_owned(),
    ];
    let counts_before = counts(stage, &servers)?;
    for source in &forged {
        for server in servers {
            for sender in ["attacker", "sealed"] {
                forge(stage, sender, source, &at(stage, server, PORT)?)?;
            }
        }
    }
    let own = [("attacker", attacker.clone()), ("sealed", stage.address("sealed")?)];
    for (sender, source) in &own {
        forge(stage, sender, source, &format!("{node}:{OVERLAY_PORT}"))?;
    }
    let sent = PACKETS * (forged.len() * servers.len() * 2) as u64;
    stage.until("each forged packet is counted", PATIENCE, || {
        Ok(dropped(stage)?["spoofed-source"].as_u64() >= before["spoofed-source"].as_u64().map(|n| n + sent))
    })?;
    stage.until("overlay packets are counted", PATIENCE, || {
        Ok(dropped(stage)?["overlay"].as_u64() > before["overlay"].as_u64())
    })?;
    let counts_after = counts(stage, &servers)?;
    ensure!(
        counts_after == counts_before,
        "forged packets arrived; datagrams by source before: {counts_before:?}, after: {counts_after:?}"
    );
    Ok(format!("{sent} packets with {} sources of others: all dropped and counted", forged.len()))
}

/// Sends [`PACKETS`] datagrams from a pod with a source of one's own choice.
fn forge(stage: &Stage<'_>, pod: &str, source: &str, to: &str) -> Result<()> {
    let packets = PACKETS.to_string();
    let words = ["/prober", "forge", source, to, &packets];
    let output = stage.cluster.kubectl.exec(&stage.namespace, pod, &words)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "sending from {pod} as {source}: {}", errors.trim());
    Ok(())
}

/// A port of a pod.
fn at(stage: &Stage<'_>, pod: &str, port: u16) -> Result<String> {
    Ok(format!("{}:{port}", stage.address(pod)?))
}

/// How many datagrams a server has got from each source.
fn counts(stage: &Stage<'_>, servers: &[&str]) -> Result<Vec<Value>> {
    servers.iter().map(|server| Ok(serde_json::from_str(&stage.ask_local(server, "datagrams")?)?)).collect()
}

/// How many datagrams a server has got from one source.
fn count(stage: &Stage<'_>, server: &str, source: &str) -> Result<u64> {
    let [counts] = &counts(stage, &[server])?[..] else { return Ok(0) };
    Ok(if counts[source].is_null() { 0 } else { number(counts, source)? })
}

/// What the agent of node-1 has dropped, by reason.
fn dropped(stage: &Stage<'_>) -> Result<Value> {
    let agents = stage.way.agents().context("no agent enforces policy")?;
    let kubectl = &stage.cluster.kubectl;
    let pods = kubectl.run(&[
        "-n",
        agents.namespace,
        "get",
        "pods",
        "-l",
        agents.selector,
        "--field-selector=spec.nodeName=node-1",
        "-o",
        "name",
    ])?;
    let pod = pods.lines().next().context("no agent runs on node-1")?;
    let status = kubectl.run(&[
        "-n",
        agents.namespace,
        "exec",
        pod,
        "-c",
        agents.container,
        "--",
        "/kube-verdict",
        "status",
        "--output",
        "json",
    ])?;
    let status: Value = serde_json::from_str(&status)?;
    Ok(status["origins"]["dropped"].clone())
}
