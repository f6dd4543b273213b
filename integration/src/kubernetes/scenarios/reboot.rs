//! A node loses power and boots again, with new namespaces, rules and pod addresses.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::policies::{allow_ingress, deny_all};
use crate::kubernetes::fixture::{Fixture, PORT, PodManifest};

/// How long pods of the node may take to answer again.
const TIMEOUT: Duration = Duration::from_secs(240);

pub(super) fn run(fixture: &Fixture<'_>) -> Result<String> {
    fixture.policy("all", &deny_all(Some(("app", "stranger"))))?;
    fixture.policy("server", &allow_ingress(("app", "server"), ("app", "friend")))?;
    fixture.start(&[
        PodManifest::server("server", "node-2").label("app", "server"),
        PodManifest::server("friend", "node-1").label("app", "friend"),
        PodManifest::server("stranger", "node-1").label("app", "stranger"),
        PodManifest::server("far-stranger", "node-2").label("app", "other"),
    ])?;
    let server =
        |fixture: &Fixture<'_>| Ok::<_, anyhow::Error>(format!("{}:{PORT}", fixture.address("server")?));
    fixture.expect("friend", &server(fixture)?, true)?;

    let node = fixture.cluster.nodes.get(1).context("the second node")?;
    node.cut_power()?;
    let off = Instant::now();
    node.boot(&fixture.cluster.components, fixture.cluster.control.namespace(), &[])?;
    fixture.until("an allowed pod reaches a server on the node that was rebooted", TIMEOUT, || {
        Ok(fixture.ask("friend", "expect", &server(fixture)?)?.is_some())
    })?;
    let back = off.elapsed();
    fixture.method.wait(&fixture.cluster.kubectl)?;
    let server = server(fixture)?;
    for (pod, allowed) in [("friend", true), ("stranger", false), ("far-stranger", false)] {
        fixture.expect(pod, &server, allowed)?;
    }
    Ok(format!("allowed connections pass {:.0} s after the power cut", back.as_secs_f64()))
}
