//! A cluster-wide policy about `nodes`, while a node joins, changes its address and leaves.
//!
//! The node is an object in the API, as a kubelet creates and updates it. Its addresses are on the bridge to
//! which the real nodes are attached, where servers answer.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::cluster_policies::{Policies, SCENARIO, SOON, define};
use crate::command::ip;
use crate::kubernetes::Cluster;
use crate::kubernetes::fixture::{Fixture, PodManifest};
use crate::kubernetes::network::BRIDGE;
use crate::namespace::NetworkNamespace;

/// The addresses that the node has in turn.
const ADDRESSES: [&str; 2] = ["172.30.0.61", "172.30.0.62"];
/// A block with both addresses and no others that are used.
const BLOCK: &str = "172.30.0.60/30";
/// The port of the servers at these addresses.
const PORT: u16 = 18_083;
/// The name of the node.
const NODE: &str = "joining-node";

pub(super) fn run(fixture: &Fixture<'_>) -> Result<String> {
    let cluster = fixture.cluster;
    let _servers = Servers::start(cluster.control.namespace())?;
    let node = JoiningNode::new(cluster)?;
    fixture.start(&[PodManifest::server("client", "node-2").label("app", "client")])?;
    define(fixture)?;
    let policies = Policies(fixture);
    let nodes = json!([{"nodes": {"matchLabels": {SCENARIO: NODE}}}]);

    let deny = json!({"action": "Deny", "to": nodes});
    policies.apply("nodes", "Admin", 10, "client", json!({"egress": [deny]}))?;
    reached(fixture, [true, true], "a Deny before the node joins")?;
    node.join(ADDRESSES[0])?;
    reached(fixture, [false, true], "a Deny after the node has joined")?;
    node.set_address(ADDRESSES[1])?;
    reached(fixture, [true, false], "a Deny after the node has another address")?;
    node.leave()?;
    reached(fixture, [true, true], "a Deny after the node has left")?;

    let accept = json!({"action": "Accept", "to": nodes});
    let deny = json!({"action": "Deny", "to": [{"networks": [BLOCK]}]});
    policies.apply("nodes", "Admin", 10, "client", json!({"egress": [accept, deny]}))?;
    reached(fixture, [false, false], "an Accept before the node joins")?;
    node.join(ADDRESSES[0])?;
    reached(fixture, [true, false], "an Accept after the node has joined")?;
    node.set_address(ADDRESSES[1])?;
    reached(fixture, [false, true], "an Accept after the node has another address")?;
    node.leave()?;
    reached(fixture, [false, false], "an Accept after the node has left")?;
    policies.clear()?;
    Ok("a node joined, changed its address and left, twice; Deny and Accept followed it".to_owned())
}

/// Waits until the client reaches exactly the expected ones of [`ADDRESSES`].
fn reached(fixture: &Fixture<'_>, expected: [bool; 2], what: &str) -> Result<()> {
    fixture.until(what, SOON, || {
        // Both in one round, since an address that is denied takes seconds.
        for (address, expected) in ADDRESSES.iter().zip(expected) {
            if fixture.ask("client", "expect", &format!("{address}:{PORT}"))?.is_some() != expected {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

/// The node, which is deleted when this is dropped.
struct JoiningNode<'a>(&'a Cluster);

impl<'a> JoiningNode<'a> {
    /// The node has not joined yet, and what an earlier run left behind is deleted.
    fn new(cluster: &'a Cluster) -> Result<Self> {
        let node = Self(cluster);
        node.leave()?;
        Ok(node)
    }

    /// The node registers, without the labels that let DaemonSets start pods on it.
    fn join(&self, address: &str) -> Result<()> {
        let node = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": NODE, "labels": {SCENARIO: NODE}},
        });
        self.0.kubectl.apply(&node.to_string())?;
        self.set_address(address)
    }

    fn set_address(&self, address: &str) -> Result<()> {
        let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": address}]}});
        let arguments = ["patch", "node", NODE, "--subresource=status", "--type=merge", "-p"];
        self.0.kubectl.run(&[&arguments[..], &[&status.to_string()]].concat()).map(drop)
    }

    fn leave(&self) -> Result<()> {
        self.0.kubectl.run(&["delete", "node", NODE, "--ignore-not-found"]).map(drop)
    }
}

impl Drop for JoiningNode<'_> {
    fn drop(&mut self) {
        // If the cluster is gone, there is nothing to delete.
        let _ = self.leave();
    }
}

/// Servers at [`ADDRESSES`], which end when this is dropped.
struct Servers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Servers {
    fn start(namespace: &NetworkNamespace) -> Result<Self> {
        let mut servers = Self { stop: Arc::default(), threads: Vec::new() };
        for address in ADDRESSES {
            // It is there if the scenario runs again on the same cluster.
            ip(namespace, &format!("address replace {address}/24 dev {BRIDGE}\n"))?;
            let listener = namespace
                .run(|| TcpListener::bind((address, PORT)))?
                .with_context(|| format!("listening at {address}:{PORT}"))?;
            listener.set_nonblocking(true)?;
            let stop = Arc::clone(&servers.stop);
            servers.threads.push(thread::spawn(move || serve(&listener, address, &stop)));
        }
        Ok(servers)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Answers each request with the server's address.
fn serve(listener: &TcpListener, address: &str, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Acquire) {
        let Ok((mut connection, _)) = listener.accept() else {
            sleep(Duration::from_millis(10));
            continue;
        };
        connection.set_nonblocking(false)?;
        connection.set_read_timeout(Some(Duration::from_secs(1)))?;
        // A client that is gone needs no answer.
        let _ = connection.read(&mut [0; 16]).and_then(|_| connection.write_all(address.as_bytes()));
    }
    Ok(())
}
