//! Fills a node's table of connections.

use std::net::{SocketAddr, UdpSocket};

use anyhow::{Context, Result, ensure};

use crate::command::nft;
use crate::probe::Family;
use crate::testbed::Testbed;

/// Destination ports used per source port.
const PORTS: std::ops::RangeInclusive<u16> = 2_000..=61_999;

/// Lets `from` send datagrams to `count` ports of `to`, a pod of the same node, which drops them. Each becomes an entry of
/// the node's connection tracking that lasts ten minutes. Fails if the table then holds fewer than that.
pub fn fill_conntrack(testbed: &Testbed, from: &str, to: &str, count: u32) -> Result<()> {
    let node = &testbed.cluster().pod_named(to)?.node;
    let namespace = testbed.namespace(node)?;
    namespace.sysctl("net.netfilter.nf_conntrack_udp_timeout", "600")?;
    nft(
        testbed.namespace(to)?,
        "table inet flood {\nchain drop-all {\ntype filter hook prerouting priority -500\n\
         udp dport 2000-61999 drop\n}\n}\n",
    )?;
    let address = Family::V4.of(testbed.addresses(to)?);
    testbed
        .namespace(from)?
        .run(|| send(address, count))?
        .with_context(|| format!("sending from {from} to {to}"))?;
    let found = tracked(testbed, node)?;
    ensure!(found >= count, "{count} datagrams were sent and {found} connections are tracked");
    Ok(())
}

/// How many connections a node tracks.
pub fn tracked(testbed: &Testbed, node: &str) -> Result<u32> {
    Ok(testbed.namespace(node)?.read_sysctl("net.netfilter.nf_conntrack_count")?.parse()?)
}

fn send(to: std::net::IpAddr, count: u32) -> std::io::Result<()> {
    let mut left = count;
    while left > 0 {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        for port in PORTS.take(left as usize) {
            socket.send_to(b"", SocketAddr::new(to, port))?;
            left -= 1;
        }
    }
    Ok(())
}
