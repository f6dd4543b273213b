//! host-local gives an address away as soon as its pod has finished, though the pod's object lives on with it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{allow_ingress, deny_all};
use crate::kubernetes::stage::{PORT, PodSpec, Stage};

/// How long a pod may take to finish and give its address back.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn play(stage: &Stage<'_>) -> Result<String> {
    stage.policy("all", &deny_all(Some(("app", "stranger"))))?;
    stage.policy("server", &allow_ingress(("app", "server"), ("app", "friend")))?;
    stage.start(&[PodSpec::server("server", "node-1").label("app", "server")])?;
    let to = format!("{}:{PORT}", stage.address("server")?);

    let mut reused = Vec::new();
    // A stranger after a friend must not pass as one; a friend after a stranger must not be held to be one.
    for (first, second) in [("friend", "stranger"), ("stranger", "friend")] {
        let finished = format!("finished-{first}");
        stage.create(&[PodSpec::new(&finished, "node-2", &["ask", "once", "127.0.0.1:1"])
            .label("app", first)
            .spec("restartPolicy", "Never".into())])?;
        stage.until("a pod ends", PATIENCE, || {
            let phase = stage.kubectl(&["get", "pod", &finished, "-o", "jsonpath={.status.phase}"])?;
            Ok(matches!(phase.as_str(), "Failed" | "Succeeded"))
        })?;
        let address = stage.address(&finished)?;
        free_next(stage, &address)?;
        let heir = format!("heir-{second}");
        stage.start(&[PodSpec::server(&heir, "node-2").label("app", second)])?;
        let got = stage.address(&heir)?;
        ensure!(got == address, "{heir} was to get {address}, and got {got}: the scenario did not happen");
        stage.expect(&heir, &to, second == "friend")?;
        reused.push(address);
        stage.kubectl(&["delete", "pod", &heir, "--wait=true"])?;
    }
    Ok(format!("{} reused at once, while their finished pods were still listed", reused.join(" and ")))
}

/// Waits until an address is free, and makes it the next that host-local gives away.
fn free_next(stage: &Stage<'_>, address: &str) -> Result<()> {
    let node = stage.cluster.nodes.get(1).context("the second node")?;
    let network = node.path("/var/lib/cni/networks/cbr0");
    stage.until("an address is given back", PATIENCE, || Ok(!network.join(address).exists()))?;
    let before: std::net::Ipv4Addr = address.parse()?;
    let before = std::net::Ipv4Addr::from_bits(before.to_bits() - 1);
    let last = network.join("last_reserved_ip.0");
    fs::write(&last, before.to_string()).with_context(|| format!("writing {}", last.display()))
}
