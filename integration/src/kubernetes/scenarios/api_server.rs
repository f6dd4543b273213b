//! The API server is killed and stays away for a minute, under load.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{allow_ingress, deny_all};
use crate::kubernetes::stage::{PORT, PodSpec, Stage, number};

/// How long it is away.
const AWAY: Duration = Duration::from_secs(60);
/// The load lasts from before that until after it.
const LOAD: Duration = Duration::from_secs(80);
/// How soon a change must hold once the API server is back. Whoever waits for it tries every few seconds.
const SOON: Duration = Duration::from_secs(30);

pub fn play(stage: &Stage<'_>) -> Result<String> {
    stage.policy("server", &allow_ingress(("app", "server"), ("app", "load")))?;
    stage.start(&[
        PodSpec::server("server", "node-1").label("app", "server"),
        PodSpec::server("asker", "node-2").label("app", "load"),
    ])?;
    let to = format!("{}:{PORT}", stage.address("server")?);
    let seconds = LOAD.as_secs().to_string();
    let load = |name: &str, node: &str, label: &str| {
        PodSpec::new(name, node, &["load", &to, &seconds])
            .label("app", label)
            .spec("restartPolicy", "Never".into())
    };
    stage.start(&[
        load("near", "node-1", "load"),
        load("far", "node-2", "load"),
        load("near-stranger", "node-1", "stranger"),
        load("far-stranger", "node-2", "stranger"),
    ])?;
    stage.cluster.control.kill_api_server()?;
    sleep(AWAY);
    stage.cluster.control.start_api_server(&stage.cluster.parts)?;
    let back = Instant::now();
    // A change that is made as soon as it can be made must not be missed.
    stage.policy("all", &deny_all(None))?;
    stage.kubectl(&["delete", "networkpolicy", "server"])?;
    stage.until("a policy made after the API server's return holds", SOON, || {
        Ok(stage.ask("asker", "expect", &to)?.is_none())
    })?;
    let healed = back.elapsed();
    for (pod, report) in stage.reports("app=stranger", 2, LOAD)? {
        ensure!(number(&report, "answered")? == 0, "{pod} got through: {report}");
    }
    let mut answered = 0;
    for (pod, report) in stage.reports("app=load", 2, LOAD)? {
        let count = number(&report, "answered")?;
        ensure!(count > 1_000, "{pod} was hardly answered while the API server was away: {report}");
        answered += count;
    }
    Ok(format!(
        "{answered} connections meanwhile; a new policy held {:.1} s after its return",
        healed.as_secs_f64()
    ))
}
