//! The API server is killed and stays down for a minute, under load.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::policies::{allow_ingress, deny_all};
use crate::kubernetes::fixture::{Fixture, PORT, PodManifest, number};

/// How long it is down.
const DOWN: Duration = Duration::from_secs(60);
/// How long the load lasts: from before the API server's end until after its return.
const LOAD: Duration = Duration::from_secs(80);
/// How soon a change must be enforced once the API server is back. Agents reconnect every few seconds.
const SOON: Duration = Duration::from_secs(30);

pub(super) fn run(fixture: &Fixture<'_>) -> Result<String> {
    fixture.policy("server", &allow_ingress(("app", "server"), ("app", "load")))?;
    fixture.start(&[
        PodManifest::server("server", "node-1").label("app", "server"),
        PodManifest::server("asker", "node-2").label("app", "load"),
    ])?;
    let to = format!("{}:{PORT}", fixture.address("server")?);
    let seconds = LOAD.as_secs().to_string();
    let load = |name: &str, node: &str, label: &str| {
        PodManifest::new(name, node, &["load", &to, &seconds])
            .label("app", label)
            .spec("restartPolicy", "Never".into())
    };
    fixture.start(&[
        load("near", "node-1", "load"),
        load("far", "node-2", "load"),
        load("near-stranger", "node-1", "stranger"),
        load("far-stranger", "node-2", "stranger"),
    ])?;
    fixture.cluster.control.kill_api_server()?;
    sleep(DOWN);
    fixture.cluster.control.start_api_server(&fixture.cluster.components)?;
    let back = Instant::now();
    // Changes that are made immediately after its return must not be missed.
    fixture.policy("all", &deny_all(None))?;
    fixture.kubectl(&["delete", "networkpolicy", "server"])?;
    fixture.until("a policy that was created after the API server's return is enforced", SOON, || {
        Ok(fixture.ask("asker", "expect", &to)?.is_none())
    })?;
    let updated = back.elapsed();
    for (pod, report) in fixture.reports("app=stranger", 2, LOAD)? {
        ensure!(number(&report, "answered")? == 0, "{pod} connected although policy denies it: {report}");
    }
    let mut answered = 0;
    for (pod, report) in fixture.reports("app=load", 2, LOAD)? {
        let count = number(&report, "answered")?;
        ensure!(count > 1_000, "{pod} had too few answers while the API server was down: {report}");
        answered += count;
    }
    Ok(format!(
        "{answered} connections meanwhile; a new policy was enforced {:.1} s after its return",
        updated.as_secs_f64()
    ))
}
