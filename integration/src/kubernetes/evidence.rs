//! The state of a cluster after a failure, saved in a folder for inspection.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::Cluster;
use super::install::InstallMethod;

/// Writes the cluster's state to `folder`. Where something can't be read, the file contains the error.
pub fn keep(cluster: &Cluster, method: InstallMethod, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let write = |name: &str, text: Result<String>| {
        let text = text.unwrap_or_else(|error| format!("not available: {error:#}\n"));
        fs::write(folder.join(name), text).with_context(|| format!("writing {name} to {}", folder.display()))
    };
    for (name, arguments) in [
        ("pods.txt", &["get", "pods", "-A", "-o", "wide"][..]),
        ("policies.yaml", &["get", "networkpolicies", "-A", "-o", "yaml"]),
        ("nodes.txt", &["describe", "nodes"]),
        ("events.txt", &["get", "events", "-A", "--sort-by=.lastTimestamp"]),
    ] {
        write(name, cluster.kubectl.run(arguments))?;
    }
    for node in &cluster.nodes {
        write(&format!("{}-ruleset.nft", node.name), node.output("nft", &["list", "ruleset"]))?;
        let connections = node.run(|| fs::read_to_string("/proc/net/nf_conntrack").map_err(Into::into));
        write(&format!("{}-connections.txt", node.name), connections.and_then(|text| text))?;
    }
    let Some(agents) = method.agents() else { return Ok(()) };
    let pods =
        cluster.kubectl.run(&["-n", agents.namespace, "get", "pods", "-l", agents.selector, "-o", "name"])?;
    for pod in pods.lines() {
        let name = pod.trim_start_matches("pod/");
        let logs = |previous: bool| {
            let previous = format!("--previous={previous}");
            cluster.kubectl.run(&["-n", agents.namespace, "logs", pod, "-c", agents.container, &previous])
        };
        write(&format!("{name}.log"), logs(false))?;
        write(&format!("{name}-before-restart.log"), logs(true))?;
        let status =
            ["-n", agents.namespace, "exec", pod, "-c", agents.container, "--", "/kube-verdict", "status"];
        write(&format!("{name}-status.txt"), cluster.kubectl.run(&status))?;
    }
    Ok(())
}
