//! All agents are replaced, one after the other, while pods open connections all the time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{allow_ingress, deny_all};
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
    let reports = stage.reports("app=load", 2, LOAD * 2)?;
    let mut answered = 0;
    for (pod, report) in &reports {
        ensure!(number(report, "lost")? == 0, "{pod} lost connections: {report}");
        answered += number(report, "answered")?;
    }
    for (pod, report) in stage.reports("app=stranger", 1, LOAD)? {
        ensure!(number(&report, "answered")? == 0, "{pod} got through while agents were replaced: {report}");
    }
    ensure!(answered > 1_000, "hardly any load: {answered} connections");
    Ok(format!("{answered} connections, none lost, during a rollout of {} s", rollout.as_secs()))
}
