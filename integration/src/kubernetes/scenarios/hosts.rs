//! Clients and servers outside of the pod network: nodes and pods of the host network; and pods reached
//! through host ports, node ports and services.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::policies::{allow_ingress, deny_all};
use crate::kubernetes::fixture::{Fixture, PORT, PodManifest};
use crate::kubernetes::node::Node;

/// A host port of the server.
const HOST_PORT: u16 = 18_080;
/// The node port of the service.
const NODE_PORT: u16 = 30_080;
/// The port of the pod of the host network.
const HOST_NETWORK_PORT: u16 = 18_081;

/// How long services may take until they reach their pods.
const TIMEOUT: Duration = Duration::from_secs(20);

pub(super) fn run(fixture: &Fixture<'_>) -> Result<String> {
    fixture.policy("all", &deny_all(Some(("app", "closed"))))?;
    fixture.policy("server", &allow_ingress(("app", "server"), ("app", "friend")))?;
    let host_port = json!([{"containerPort": PORT, "hostPort": HOST_PORT}]);
    fixture.start(&[
        PodManifest::server("server", "node-1").label("app", "server").container("ports", host_port),
        PodManifest::server("second", "node-2").label("app", "server"),
        PodManifest::server("closed", "node-1").label("app", "closed"),
        PodManifest::server("friend", "node-2").label("app", "friend"),
        PodManifest::server("stranger", "node-2").label("app", "stranger"),
        PodManifest::server("near-friend", "node-1").label("app", "friend"),
        PodManifest::server("near-stranger", "node-1").label("app", "stranger"),
        PodManifest::new("host", "node-1", &["serve", &HOST_NETWORK_PORT.to_string()])
            .label("app", "friend")
            .spec("hostNetwork", json!(true)),
    ])?;
    let [first, second] = &fixture.cluster.nodes[..] else { anyhow::bail!("two nodes") };
    let server: SocketAddr = format!("{}:{PORT}", fixture.address("server")?).parse()?;
    let closed: SocketAddr = format!("{}:{PORT}", fixture.address("closed")?).parse()?;

    // A pod's own node always reaches it. Another node does not, whatever labels its pods have.
    let reaches = |node: &Node, to: SocketAddr| {
        node.run(move || TcpStream::connect_timeout(&to, Duration::from_secs(2)).is_ok())
    };
    ensure!(reaches(first, server)?, "node-1 should reach its own pod");
    ensure!(reaches(first, closed)?, "node-1 should reach its own pod that no other client may reach");
    ensure!(!reaches(second, server)?, "node-2 should not reach a pod of node-1");
    fixture.expect("host", &server.to_string(), true)?;

    // A pod reaches a pod of the host network on its node, unless its egress is isolated.
    let host = format!("{}:{HOST_NETWORK_PORT}", first.address);
    fixture.expect("friend", &host, true)?;
    fixture.expect("server", &host, true)?;
    fixture.expect("closed", &host, false)?;

    // The pod's policy applies to its host port. From another node, Flannel would masquerade the client's
    // address.
    let through_host_port = format!("{}:{HOST_PORT}", first.address);
    fixture.expect("near-friend", &through_host_port, true)?;
    fixture.expect("near-stranger", &through_host_port, false)?;

    services(fixture, second)?;
    Ok("own node, other node, host network, host port, node port, sticky service".to_owned())
}

/// Checks that the pods' policy also applies to a node port, and to a service with session affinity.
fn services(fixture: &Fixture<'_>, second: &Node) -> Result<()> {
    let service = |name: &str, spec: serde_json::Value| {
        let object = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": fixture.namespace},
            "spec": spec,
        });
        fixture.cluster.kubectl.apply(&object.to_string())
    };
    let ports = |node_port: Option<u16>| {
        let mut port = json!({"port": 80, "targetPort": PORT});
        if let Some(node_port) = node_port {
            port["nodePort"] = json!(node_port);
        }
        json!([port])
    };
    let (selector, node_ports) = (json!({"app": "server"}), ports(Some(NODE_PORT)));
    // With the policy "Local", only pods on the addressed node answer, and clients keep their addresses.
    service(
        "by-node",
        json!({"type": "NodePort", "externalTrafficPolicy": "Local", "selector": selector, "ports": node_ports}),
    )?;
    service("sticky", json!({"sessionAffinity": "ClientIP", "selector": selector, "ports": ports(None)}))?;
    let sticky = fixture.kubectl(&["get", "service", "sticky", "-o", "jsonpath={.spec.clusterIP}"])? + ":80";
    let by_node = format!("{}:{NODE_PORT}", second.address);
    fixture.until("services reach their pods", TIMEOUT, || {
        Ok(fixture.ask("friend", "expect", &sticky)?.is_some()
            && fixture.ask("friend", "expect", &by_node)?.is_some())
    })?;
    fixture.expect("stranger", &by_node, false)?;
    fixture.expect("stranger", &sticky, false)?;
    let mut answered = BTreeSet::new();
    for _ in 0..6 {
        answered
            .insert(fixture.ask("friend", "expect", &sticky)?.context("the sticky service did not answer")?);
    }
    ensure!(answered.len() == 1, "a sticky service sent one client to {answered:?}");
    Ok(())
}
