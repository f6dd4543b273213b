//! Agents are uninstalled, as docs/operations.md describes for each installation method, while pods open
//! connections all the time. Afterwards they are installed again.

use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::policies::allow_ingress;
use crate::kubernetes::Cluster;
use crate::kubernetes::fixture::{Fixture, PORT, PodManifest, number};
use crate::kubernetes::install::{Agents, InstallMethod, cleanup, own_chart};

/// How long the load lasts.
const LOAD: Duration = Duration::from_secs(120);
/// How long a rollout may take.
const TIMEOUT: Duration = Duration::from_secs(180);

pub(super) fn run(fixture: &Fixture<'_>) -> Result<String> {
    let (cluster, method) = (fixture.cluster, fixture.method);
    let agents = method.agents().context("no agent is installed")?;
    let image = image(cluster, agents)?;
    fixture.policy("server", &allow_ingress(("app", "server"), ("app", "load")))?;
    fixture.start(&[PodManifest::server("server", "node-1").label("app", "server")])?;
    let to = format!("{}:{PORT}", fixture.address("server")?);
    let seconds = LOAD.as_secs().to_string();
    let load = |name: &str, node: &str| {
        PodManifest::new(name, node, &["load", &to, &seconds])
            .label("app", "load")
            .spec("restartPolicy", "Never".into())
    };
    let began = Instant::now();
    fixture.create(&[load("near", "node-1"), load("far", "node-2")])?;
    sleep(Duration::from_secs(5));

    let (manifest, [namespace, workload]) = cleanup(&cluster.kubectl, &image)?;
    let leaving = Instant::now();
    cluster.kubectl.apply(&manifest)?;
    cluster.kubectl.wait_for_rollout(namespace, workload, TIMEOUT)?;
    nothing_is_left(cluster, "beside agents in standby")?;
    method.remove(&cluster.kubectl, &cluster.components)?;
    cluster.kubectl.run(&["-n", namespace, "delete", workload])?;
    let took = leaving.elapsed();
    nothing_is_left(cluster, "after the agents")?;
    if method == InstallMethod::Daemonset {
        by_the_chart(cluster, &image)?;
    }
    let all = began.elapsed();
    ensure!(all < LOAD, "uninstalling took {all:?}: longer than the load");

    let (mut answered, mut lost) = (0, 0);
    for (_, report) in fixture.reports("app=load", 2, LOAD * 2)? {
        answered += number(&report, "answered")?;
        lost += number(&report, "lost")?;
    }
    method.apply(&cluster.kubectl, &cluster.components, &image)?;
    method.wait(&cluster.kubectl)?;
    ensure!(answered > 1_000, "too little load: {answered} connections");
    ensure!(lost == 0, "{lost} of {answered} allowed connections were lost");
    Ok(format!(
        "uninstalled from both nodes in {} s; {answered} connections meanwhile, none lost",
        took.as_secs()
    ))
}

/// Installs and uninstalls our chart.
fn by_the_chart(cluster: &Cluster, image: &str) -> Result<()> {
    let (repository, tag) = image.rsplit_once(':').context("the image's name has no tag")?;
    let helm = |arguments: &[&str]| -> Result<()> {
        let mut command = Command::new(cluster.components.program("helm"));
        command.args(arguments).args(["--namespace", "kube-system", "--timeout", "3m"]);
        command.env("KUBECONFIG", cluster.kubectl.kubeconfig()).stdin(Stdio::null());
        let output = cluster.control.namespace().run(|| command.output())?.context("running helm")?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "helm {}: {}", arguments.join(" "), errors.trim());
        Ok(())
    };
    let chart = own_chart();
    let (repository, tag) = (format!("image.repository={repository}"), format!("image.tag={tag}"));
    helm(&[
        "install",
        "kube-verdict",
        &chart.to_string_lossy(),
        "--wait",
        "--set",
        &repository,
        "--set",
        &tag,
    ])?;
    ensure!(is_anything_left(cluster)?.is_some(), "the chart's agents have installed no rules");
    helm(&["uninstall", "kube-verdict", "--wait"])?;
    nothing_is_left(cluster, "after helm uninstall")?;
    let objects = "daemonsets,jobs,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings";
    let left = cluster.kubectl.run(&["-n", "kube-system", "get", objects, "-o", "name"])?;
    let left: Vec<&str> = left.lines().filter(|name| name.contains("kube-verdict")).collect();
    ensure!(left.is_empty(), "objects are left after helm uninstall: {left:?}");
    Ok(())
}

/// The image of the agents' container.
fn image(cluster: &Cluster, agents: Agents) -> Result<String> {
    let path =
        format!("jsonpath={{.spec.template.spec.containers[?(@.name==\"{}\")].image}}", agents.container);
    cluster.kubectl.run(&["-n", agents.namespace, "get", agents.workload, "-o", &path])
}

fn nothing_is_left(cluster: &Cluster, when: &str) -> Result<()> {
    let left = is_anything_left(cluster)?;
    ensure!(left.is_none(), "{when}: found {}", left.unwrap_or_default());
    Ok(())
}

/// What an agent has left on a node. Connection marks are not checked here: the cleanup's pods are ready only
/// when there are none.
fn is_anything_left(cluster: &Cluster) -> Result<Option<String>> {
    for node in &cluster.nodes {
        let tables = node.output("nft", &["list", "tables"])?;
        let bridges = node.output("ip", &["-details", "link", "show", "type", "bridge"])?;
        for (found, part) in [(tables, "kube-verdict"), (bridges, "no_linklocal_learn 1")] {
            if found.contains(part) {
                return Ok(Some(format!("{part} on {}", node.name)));
            }
        }
    }
    Ok(None)
}
