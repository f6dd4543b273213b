//! Fills a node's conntrack table, or its agent's queues.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::command::nft;
use crate::probe::Family;
use crate::testbed::Testbed;

/// Destination ports for each source port.
const PORTS: std::ops::RangeInclusive<u16> = 2_000..=61_999;

/// Sends `count` datagrams to different ports from `from` to `to`, a pod of the same node, which drops them.
/// Each creates a conntrack entry that lasts ten minutes. Fails if the table then has fewer than `count`
/// entries.
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
    ensure!(found >= count, "{count} datagrams were sent, but only {found} connections are tracked");
    Ok(())
}

/// The number of entries in a node's conntrack table.
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

/// What differs between the datagrams of a flood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Varying {
    /// Nothing: all belong to one flow.
    Nothing,
    /// The source port.
    SourcePort,
    /// The destination port.
    DestinationPort,
}

/// Sends datagrams to `port` of `to` from the namespace of the calling thread, as fast as possible, during
/// `time`. Returns how many were sent.
///
/// # Errors
/// Any error of the kernel except `ENOBUFS`, which is temporary.
pub fn flood(to: IpAddr, port: u16, varying: Varying, time: Duration) -> std::io::Result<u64> {
    let any: IpAddr = match to {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let sockets = if varying == Varying::SourcePort { 500 } else { 1 };
    let sockets = (0..sockets).map(|_| UdpSocket::bind((any, 0))).collect::<std::io::Result<Vec<_>>>()?;
    let (end, mut sent) = (Instant::now() + time, 0_u64);
    let mut ports = PORTS.cycle();
    while Instant::now() < end {
        for socket in &sockets {
            let port = if varying == Varying::DestinationPort { ports.next().unwrap_or(port) } else { port };
            match socket.send_to(b"flood", (to, port)) {
                Ok(_) => sent += 1,
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(sent)
}
