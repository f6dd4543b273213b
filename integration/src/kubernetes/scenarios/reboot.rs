//! A node's power is cut and it boots again: its namespaces, its rules and its pods' addresses are all new.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{allow_ingress, deny_all};
use crate::kubernetes::stage::{PORT, PodSpec, Stage};

/// How long pods of the node may take until they answer again.
const PATIENCE: Duration = Duration::from_secs(240);

pub fn play(stage: &Stage<'_>) -> Result<String> {
    stage.policy("all", &deny_all(Some(("app", "stranger"))))?;
    stage.policy("server", &allow_ingress(("app", "server"), ("app", "friend")))?;
    stage.start(&[
        PodSpec::server("server", "node-2").label("app", "server"),
        PodSpec::server("friend", "node-1").label("app", "friend"),
        PodSpec::server("stranger", "node-1").label("app", "stranger"),
        PodSpec::server("far-stranger", "node-2").label("app", "other"),
    ])?;
    let server = |stage: &Stage<'_>| Ok::<_, anyhow::Error>(format!("{}:{PORT}", stage.address("server")?));
    stage.expect("friend", &server(stage)?, true)?;

    let node = stage.cluster.nodes.get(1).context("the second node")?;
    node.cut_power()?;
    let off = Instant::now();
    node.boot(&stage.cluster.parts, stage.cluster.control.namespace(), &[])?;
    stage.until("an allowed pod reaches a server on the node that was rebooted", PATIENCE, || {
        Ok(stage.ask("friend", "expect", &server(stage)?)?.is_some())
    })?;
    let back = off.elapsed();
    stage.way.wait(&stage.cluster.kubectl)?;
    let server = server(stage)?;
    for (pod, allowed) in [("friend", true), ("stranger", false), ("far-stranger", false)] {
        stage.expect(pod, &server, allowed)?;
    }
    Ok(format!("allowed connections again {:.0} s after the cut", back.as_secs_f64()))
}
