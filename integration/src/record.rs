//! The agent's audit log, read by its documented format alone.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::port::Transport;
use crate::probe::{Observed, ProbeTarget};

/// The fields of a record that tests use.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub struct Record {
    /// `allow` or `deny`.
    pub verdict: String,
    /// The reason for the verdict.
    pub reason: String,
    /// The direction that determined the verdict: `ingress` or `egress`.
    pub direction: String,
    /// The protocol by name; `None` if the packet could not be parsed.
    pub protocol: Option<String>,
    /// The packet's source, before SNAT.
    pub source: Option<Endpoint>,
    /// The packet's destination, after DNAT.
    pub destination: Option<Endpoint>,
    /// The policy that determined the verdict.
    pub policy: Option<String>,
    /// The index of its rule.
    pub rule: Option<usize>,
    /// The verdict in direction egress.
    pub egress: Side,
    /// The verdict in direction ingress.
    pub ingress: Side,
    /// For a default deny, the rule that came nearest to allowing the packet.
    #[serde(default)]
    pub nearest_miss: Option<NearestMiss>,
    /// How long the verdict took, in nanoseconds.
    pub nanoseconds: u64,
    /// How long the packet was held until a pod was known, in milliseconds; `None` if it was not held.
    #[serde(default)]
    pub held_ms: Option<u64>,
    /// The generation of the snapshot by which the packet was evaluated.
    pub generation: u64,
    /// Whether the kernel gave the verdict from its verdict cache.
    #[serde(default)]
    pub cached: bool,
}

/// The rule that came nearest to allowing a packet.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct NearestMiss {
    /// Its policy.
    pub policy: String,
    /// Its index.
    pub rule: usize,
    /// What did not match: `port` or `peer`.
    pub miss: String,
}

/// One end of a connection.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// Its port, if it has one.
    pub port: Option<u16>,
    /// The namespace of its pod.
    pub namespace: Option<String>,
    /// Its pod.
    pub pod: Option<String>,
}

/// The verdict in one direction.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Side {
    /// `allow` or `deny`.
    pub verdict: String,
    /// The reason for the verdict.
    pub reason: String,
    /// The policy that determined the verdict.
    pub policy: Option<String>,
    /// The index of its rule.
    pub rule: Option<usize>,
}

impl Record {
    /// Whether this is the record of a probe that was evaluated with `destination` (the pod's own address and
    /// port).
    pub fn is_of(&self, observed: &Observed, destination: SocketAddr) -> bool {
        let (Some(source), Some(found)) = (&self.source, &self.destination) else { return false };
        let addresses = (source.address, found.address) == (observed.source.ip(), destination.ip());
        match observed.target {
            ProbeTarget::Ping => addresses && matches!(self.protocol.as_deref(), Some("ICMP" | "ICMPv6")),
            ProbeTarget::Port(_, transport) => {
                let ports = (source.port, found.port);
                addresses
                    && ports == (Some(observed.source.port()), Some(destination.port()))
                    && self.protocol.as_deref() == Some(name(transport))
            }
        }
    }
}

fn name(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "TCP",
        Transport::Udp => "UDP",
        Transport::Sctp => "SCTP",
    }
}

/// The starts of lines that are not records: about lost or repeated records, about packets that rules
/// dropped, or about times in which packets could pass without evaluation.
const OTHER_LINES: [&[u8]; 4] = [b"{\"lost\"", b"{\"repeated\"", b"{\"dropped\"", b"{\"bypass\""];

/// No record is longer than this.
const MAX_RECORD_BYTES: u64 = 64 * 1024;

/// The offset after the last complete line of a log. The last line may be incomplete.
pub fn end(log: &Path) -> io::Result<u64> {
    let mut file = File::open(log)?;
    let from = file.metadata()?.len().saturating_sub(MAX_RECORD_BYTES);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at as u64 + 1);
    Ok(from + whole)
}

/// The records of a log from byte `from` on, and the offset after the last complete line. Other lines, and an
/// incomplete last line, are skipped.
pub fn read(log: &Path, from: u64) -> Result<(Vec<Record>, u64)> {
    let (lines, end) = lines(log, from)?;
    let mut records = Vec::new();
    for line in lines {
        if OTHER_LINES.iter().any(|begin| line.starts_with(begin)) {
            continue;
        }
        let record = serde_json::from_slice(&line)
            .with_context(|| format!("{}: {}", log.display(), String::from_utf8_lossy(&line)))?;
        records.push(record);
    }
    Ok((records, end))
}

/// The complete lines of a log from byte `from` on, and the offset after them.
pub(crate) fn lines(log: &Path, from: u64) -> Result<(Vec<Vec<u8>>, u64)> {
    let bytes = fs::read(log).with_context(|| format!("reading {}", log.display()))?;
    let from = usize::try_from(from)?;
    let new = bytes.get(from..).unwrap_or_default();
    let whole = new.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let lines = new[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    Ok((lines.map(<[u8]>::to_vec).collect(), (from + whole) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_about_dropped_packets_are_not_records() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("audit");
        let whole = "{\"lost\":3}\n{\"dropped\":\"overlay\",\"node\":\"a\",\"packets\":1}\n";
        fs::write(&log, format!("{whole}half")).unwrap();
        let (records, end) = read(&log, 0).unwrap();
        assert_eq!((records.len(), end), (0, whole.len() as u64));
        assert_eq!(lines(&log, 0).unwrap().0.len(), 2);
    }
}
