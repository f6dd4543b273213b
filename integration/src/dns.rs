//! Pairs of A and AAAA queries as resolvers send them: two datagrams from one socket, without a pause.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::cluster::ClusterSpec;
use crate::probe::Family;
use crate::scenario::Scenario;
use crate::testbed::Testbed;

/// How many pairs are in flight at a time.
const CONCURRENT_PAIRS: usize = 50;

/// The addresses of the name servers' service.
pub const SERVICE: [&str; 2] = ["10.96.0.10", "fd00:10:96::10"];

/// A client, and two name servers behind one service, one on each node. Policies apply to all of them.
#[track_caller]
pub fn scenario(flags: &[&str]) -> Scenario {
    let servers = ["kube-system/dns-0", "kube-system/dns-1"];
    let cluster = ClusterSpec::of_two_nodes()
        .pod("web/a", "node-a", &[], &[])
        .pod(servers[0], "node-a", &[("app", "dns")], &["53/UDP"])
        .pod(servers[1], "node-b", &[("app", "dns")], &["53/UDP"])
        .service(SERVICE[0], SERVICE[1], "53/UDP", &servers, 53);
    let mut scenario = Scenario::new(cluster);
    let ports = "ports: [{protocol: UDP, port: 53}]";
    scenario.policy(
        "web/to-dns",
        &format!(
            "podSelector: {{}}\npolicyTypes: [Egress]\negress:\n\
                  - to: [{{namespaceSelector: {{}}}}]\n  {ports}"
        ),
    );
    scenario.policy("kube-system/dns", &format!("podSelector: {{}}\ningress:\n- {ports}"));
    scenario.start_agents(flags);
    scenario
}

/// Sends `pairs` pairs of queries from a pod to the name servers' service, each pair from its own socket.
/// Returns the number of queries without an answer. Nothing is sent again.
pub fn lost_queries(
    testbed: &Testbed,
    from: &str,
    service: &str,
    family: Family,
    pairs: usize,
    timeout: Duration,
) -> Result<usize> {
    let server = SocketAddr::new(family.of(testbed.addresses(service)?), 53);
    let namespace = testbed.namespace(from)?;
    let mut lost = 0;
    for begun in (0..pairs).step_by(CONCURRENT_PAIRS) {
        let count = CONCURRENT_PAIRS.min(pairs - begun);
        lost += namespace
            .run(|| burst(server, count, timeout))?
            .with_context(|| format!("querying {server} from {from}"))?;
    }
    Ok(lost)
}

/// Sends a number of pairs without a pause, and waits for the answers.
fn burst(server: SocketAddr, count: usize, timeout: Duration) -> io::Result<usize> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(server)?;
        sockets.push(socket);
    }
    for socket in &sockets {
        socket.send(b"A")?;
        socket.send(b"AAAA")?;
    }
    let end = Instant::now() + timeout;
    let mut lost = 0;
    for socket in &sockets {
        for _ in 0..2 {
            let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            socket.set_read_timeout(Some(left))?;
            if socket.recv(&mut [0; 512]).is_err() {
                lost += 1;
            }
        }
    }
    Ok(lost)
}
