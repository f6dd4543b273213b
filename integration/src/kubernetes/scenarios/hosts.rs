//! Whoever isn't a pod of the pod network: nodes, pods of the host's network; and ways in other than a pod's own address.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{allow_ingress, deny_all};
use crate::kubernetes::stage::{PORT, PodSpec, Stage};

/// A port of the node.
const HOST_PORT: u16 = 18_080;
const NODE_PORT: u16 = 30_080;
/// Where the pod of the host's network answers.
const HOST_NETWORK_PORT: u16 = 18_081;

/// How long services may take to reach their pods.
const PATIENCE: Duration = Duration::from_secs(20);

pub fn play(stage: &Stage<'_>) -> Result<String> {
    stage.policy("all", &deny_all(Some(("app", "closed"))))?;
    stage.policy("server", &allow_ingress(("app", "server"), ("app", "friend")))?;
    let host_port = json!([{"containerPort": PORT, "hostPort": HOST_PORT}]);
    stage.start(&[
        PodSpec::server("server", "node-1").label("app", "server").container("ports", host_port),
        PodSpec::server("second", "node-2").label("app", "server"),
        PodSpec::server("closed", "node-1").label("app", "closed"),
        PodSpec::server("friend", "node-2").label("app", "friend"),
        PodSpec::server("stranger", "node-2").label("app", "stranger"),
        PodSpec::server("near-friend", "node-1").label("app", "friend"),
        PodSpec::server("near-stranger", "node-1").label("app", "stranger"),
        PodSpec::new("host", "node-1", &["serve", &HOST_NETWORK_PORT.to_string()])
            .label("app", "friend")
            .spec("hostNetwork", json!(true)),
    ])?;
    let [first, second] = &stage.cluster.nodes[..] else { anyhow::bail!("two nodes") };
    let server: SocketAddr = format!("{}:{PORT}", stage.address("server")?).parse()?;
    let closed: SocketAddr = format!("{}:{PORT}", stage.address("closed")?).parse()?;

    // A pod's own node reaches it always; another node is a stranger, whatever labels its pods have.
    let reaches = |node: &crate::kubernetes::Node, to: SocketAddr| {
        node.run(move || TcpStream::connect_timeout(&to, Duration::from_secs(2)).is_ok())
    };
    ensure!(reaches(first, server)?, "node-1 should reach its own pod");
    ensure!(reaches(first, closed)?, "node-1 should reach its own pod that nobody else may reach");
    ensure!(!reaches(second, server)?, "node-2 should not reach a pod of node-1");
    stage.expect("host", &server.to_string(), true)?;

    // A pod reaches its own node, and a pod of the host's network there, unless its egress says no.
    let host = format!("{}:{HOST_NETWORK_PORT}", first.address);
    stage.expect("friend", &host, true)?;
    stage.expect("server", &host, true)?;
    stage.expect("closed", &host, false)?;

    // A host port leads to the pod: its policy holds. From another node Flannel would put the node's address in the pod's
    // place.
    let through_host_port = format!("{}:{HOST_PORT}", first.address);
    stage.expect("near-friend", &through_host_port, true)?;
    stage.expect("near-stranger", &through_host_port, false)?;

    // So does a node port, and a service that always leads the same client to the same pod.
    let service = |name: &str, spec: serde_json::Value| {
        let object = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": stage.namespace},
            "spec": spec,
        });
        stage.cluster.kubectl.apply(&object.to_string())
    };
    let ports = |node_port: Option<u16>| {
        let mut port = json!({"port": 80, "targetPort": PORT});
        if let Some(node_port) = node_port {
            port["nodePort"] = json!(node_port);
        }
        json!([port])
    };
    let (selector, node_ports) = (json!({"app": "server"}), ports(Some(NODE_PORT)));
    // Only pods of the node that was asked, and their clients' own addresses: else a node asks for them.
    service(
        "by-node",
        json!({"type": "NodePort", "externalTrafficPolicy": "Local", "selector": selector, "ports": node_ports}),
    )?;
    service("sticky", json!({"sessionAffinity": "ClientIP", "selector": selector, "ports": ports(None)}))?;
    let sticky = stage.kubectl(&["get", "service", "sticky", "-o", "jsonpath={.spec.clusterIP}"])? + ":80";
    let by_node = format!("{}:{NODE_PORT}", second.address);
    stage.until("a service has its pods", PATIENCE, || {
        Ok(stage.ask("friend", "expect", &sticky)?.is_some()
            && stage.ask("friend", "expect", &by_node)?.is_some())
    })?;
    stage.expect("stranger", &by_node, false)?;
    stage.expect("stranger", &sticky, false)?;
    let mut answered = BTreeSet::new();
    for _ in 0..6 {
        answered
            .insert(stage.ask("friend", "expect", &sticky)?.context("the sticky service did not answer")?);
    }
    ensure!(answered.len() == 1, "a sticky service led one client to {answered:?}");
    Ok("own node, other node, host network, host port, node port, sticky service".to_owned())
}
