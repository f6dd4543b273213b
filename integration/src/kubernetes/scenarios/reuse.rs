//! The plugin host-local reassigns an address as soon as its pod has finished, although the pod's object
//! still exists with that address.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::policies::{allow_ingress, deny_all};
use crate::kubernetes::fixture::{Fixture, PORT, PodManifest};

/// How long a pod may take to finish and to release its address.
const TIMEOUT: Duration = Duration::from_secs(60);

pub(super) fn run(fixture: &Fixture<'_>) -> Result<String> {
    fixture.policy("all", &deny_all(Some(("app", "stranger"))))?;
    fixture.policy("server", &allow_ingress(("app", "server"), ("app", "friend")))?;
    fixture.start(&[PodManifest::server("server", "node-1").label("app", "server")])?;
    let to = format!("{}:{PORT}", fixture.address("server")?);

    let mut reused = Vec::new();
    // A stranger that gets a friend's address must be denied, and a friend that gets a stranger's address
    // must be allowed.
    for (first, second) in [("friend", "stranger"), ("stranger", "friend")] {
        let finished = format!("finished-{first}");
        fixture.create(&[PodManifest::new(&finished, "node-2", &["ask", "once", "127.0.0.1:1"])
            .label("app", first)
            .spec("restartPolicy", "Never".into())])?;
        fixture.until("a pod ends", TIMEOUT, || {
            let phase = fixture.kubectl(&["get", "pod", &finished, "-o", "jsonpath={.status.phase}"])?;
            Ok(matches!(phase.as_str(), "Failed" | "Succeeded"))
        })?;
        let address = fixture.address(&finished)?;
        free_next(fixture, &address)?;
        let successor = format!("successor-{second}");
        fixture.start(&[PodManifest::server(&successor, "node-2").label("app", second)])?;
        let got = fixture.address(&successor)?;
        ensure!(got == address, "{successor} got the address {got} instead of {address}");
        fixture.expect(&successor, &to, second == "friend")?;
        reused.push(address);
        fixture.kubectl(&["delete", "pod", &successor, "--wait=true"])?;
    }
    Ok(format!("{} reused at once, while their finished pods still existed", reused.join(" and ")))
}

/// Waits until an address is free, and makes it the next one that host-local assigns.
fn free_next(fixture: &Fixture<'_>, address: &str) -> Result<()> {
    let node = fixture.cluster.nodes.get(1).context("the second node")?;
    let network = node.path("/var/lib/cni/networks/cbr0");
    fixture.until("an address is released", TIMEOUT, || Ok(!network.join(address).exists()))?;
    let before: std::net::Ipv4Addr = address.parse()?;
    let before = std::net::Ipv4Addr::from_bits(before.to_bits() - 1);
    let last = network.join("last_reserved_ip.0");
    fs::write(&last, before.to_string()).with_context(|| format!("writing {}", last.display()))
}
