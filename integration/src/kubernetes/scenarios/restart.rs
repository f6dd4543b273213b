//! All agents are replaced, one after the other, while pods open connections all the time.
//!
//! Our own DaemonSet starts the new agent beside the old one: no connection may be lost, and no denied one
//! may pass. A container in Flannel's pods ends before the next one starts. Meanwhile, Flannel's chart fails
//! open and the overlay fails closed. So with the chart, denied connections that pass are only counted, and
//! with the overlay, lost connections are only counted.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::policies::{allow_ingress, deny_all};
use crate::kubernetes::fixture::{Fixture, PORT, PodManifest, number};
use crate::kubernetes::install::InstallMethod;

/// How long the load lasts: a rollout of two nodes takes half of it.
const LOAD: Duration = Duration::from_secs(90);

pub(super) fn run(fixture: &Fixture<'_>) -> Result<String> {
    let agents = fixture.method.agents().context("no agent is installed")?;
    fixture.policy("all", &deny_all(Some(("app", "stranger"))))?;
    fixture.policy("server", &allow_ingress(("app", "server"), ("app", "load")))?;
    fixture.start(&[PodManifest::server("server", "node-1").label("app", "server")])?;
    let to = format!("{}:{PORT}", fixture.address("server")?);
    let seconds = LOAD.as_secs().to_string();
    let load = |name: &str, node: &str, label: &str| {
        PodManifest::new(name, node, &["load", &to, &seconds])
            .label("app", label)
            .spec("restartPolicy", "Never".into())
    };
    let began = Instant::now();
    fixture.create(&[
        load("near", "node-1", "load"),
        load("far", "node-2", "load"),
        load("stranger", "node-2", "stranger"),
    ])?;
    fixture.cluster.kubectl.run(&["-n", agents.namespace, "rollout", "restart", agents.workload])?;
    fixture.cluster.kubectl.wait_for_rollout(agents.namespace, agents.workload, LOAD)?;
    let rollout = began.elapsed();
    ensure!(rollout < LOAD, "the rollout took {rollout:?}: longer than the load");
    let (mut answered, mut lost, mut passed) = (0, 0, 0);
    for (_, report) in fixture.reports("app=load", 2, LOAD * 2)? {
        answered += number(&report, "answered")?;
        lost += number(&report, "lost")?;
    }
    for (_, report) in fixture.reports("app=stranger", 1, LOAD)? {
        passed += number(&report, "answered")?;
    }
    ensure!(answered > 1_000, "too little load: {answered} connections");
    ensure!(
        lost == 0 || fixture.method == InstallMethod::Overlay,
        "{lost} of {answered} allowed connections were lost"
    );
    ensure!(passed == 0 || fixture.method == InstallMethod::Chart, "{passed} denied connections passed");
    Ok(format!(
        "{answered} connections during a rollout of {} s: {lost} lost; of denied ones {passed} passed",
        rollout.as_secs()
    ))
}
