//! All agents are replaced, one after the other, while pods open connections all the time.
//!
//! A DaemonSet of its own starts the new agent beside the old one: nothing is lost, and nothing passes that policy denies. A
//! container of Flannel's pods goes before the next one comes. Meanwhile Flannel's chart asks for open, and the overlay for
//! closed: then the one that is given up is only counted.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{allow_ingress, deny_all};
use crate::kubernetes::Way;
use crate::kubernetes::stage::{PORT, PodSpec, Stage, number};

/// How long the load lasts: a rollout of two nodes takes half of it.
const LOAD: Duration = Duration::from_secs(90);

pub fn play(stage: &Stage<'_>) -> Result<String> {
    let agents = stage.way.agents().context("no agent is installed")?;
    stage.policy("all", &deny_all(Some(("app", "stranger"))))?;
    stage.policy("server", &allow_ingress(("app", "server"), ("app", "load")))?;
    stage.start(&[PodSpec::server("server", "node-1").label("app", "server")])?;
    let to = format!("{}:{PORT}", stage.address("server")?);
    let seconds = LOAD.as_secs().to_string();
    let load = |name: &str, node: &str, label: &str| {
        PodSpec::new(name, node, &["load", &to, &seconds])
            .label("app", label)
            .spec("restartPolicy", "Never".into())
    };
    let began = Instant::now();
    stage.create(&[
        load("near", "node-1", "load"),
        load("far", "node-2", "load"),
        load("stranger", "node-2", "stranger"),
    ])?;
    stage.cluster.kubectl.run(&["-n", agents.namespace, "rollout", "restart", agents.workload])?;
    stage.cluster.kubectl.wait_for_rollout(agents.namespace, agents.workload, LOAD)?;
    let rollout = began.elapsed();
    ensure!(rollout < LOAD, "the rollout took {rollout:?}: longer than the load");
    let (mut answered, mut lost, mut passed) = (0, 0, 0);
    for (_, report) in stage.reports("app=load", 2, LOAD * 2)? {
        answered += number(&report, "answered")?;
        lost += number(&report, "lost")?;
    }
    for (_, report) in stage.reports("app=stranger", 1, LOAD)? {
        passed += number(&report, "answered")?;
    }
    ensure!(answered > 1_000, "hardly any load: {answered} connections");
    ensure!(lost == 0 || stage.way == Way::Overlay, "{lost} of {answered} allowed connections were lost");
    ensure!(passed == 0 || stage.way == Way::Chart, "{passed} denied connections got through");
    Ok(format!(
        "{answered} connections during a rollout of {} s: {lost} lost; of denied ones {passed} passed",
        rollout.as_secs()
    ))
}
