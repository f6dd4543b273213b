//! The agent's audit log, read as anybody would read it: by its documented form alone.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::port::Transport;
use crate::probe::{Observed, Way};

/// What a scenario needs of one record.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub struct Record {
    /// `allow` or `deny`.
    pub verdict: String,
    /// Why, in a word.
    pub reason: String,
    /// The direction that decided: `ingress` or `egress`.
    pub direction: String,
    /// The protocol by name; `None` if the packet could not be parsed.
    pub protocol: Option<String>,
    /// Where the packet came from, before SNAT.
    pub source: Option<Endpoint>,
    /// Where it went, after DNAT.
    pub destination: Option<Endpoint>,
    /// The policy that decided.
    pub policy: Option<String>,
    /// The index of its rule.
    pub rule: Option<usize>,
    /// What the source's side said.
    pub egress: Side,
    /// What the destination's side said.
    pub ingress: Side,
    /// For a default deny, the rule that came nearest to allowing.
    #[serde(default)]
    pub nearest_miss: Option<NearestMiss>,
    /// How long the verdict took.
    pub nanoseconds: u64,
    /// How long the packet waited for a pod to be known, in milliseconds; `None` if it did not.
    #[serde(default)]
    pub held_ms: Option<u64>,
    /// The snapshot under which it was given.
    pub generation: u64,
    /// The kernel let the connection pass by itself.
    #[serde(default)]
    pub cached: bool,
}

/// The rule that came nearest to allowing.
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

/// What one direction said.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Side {
    /// `allow` or `deny`.
    pub verdict: String,
    /// Why, in a word.
    pub reason: String,
    /// The policy that decided.
    pub policy: Option<String>,
    /// The index of its rule.
    pub rule: Option<usize>,
}

impl Record {
    /// Whether it is about this probe, that was evaluated towards `destination` (the pod's own address and port).
    pub fn is_of(&self, observed: &Observed, destination: SocketAddr) -> bool {
        let (Some(source), Some(found)) = (&self.source, &self.destination) else { return false };
        let addresses = (source.address, found.address) == (observed.source.ip(), destination.ip());
        match observed.way {
            Way::Ping => addresses && matches!(self.protocol.as_deref(), Some("ICMP" | "ICMPv6")),
            Way::Port(_, transport) => {
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

/// What lines begin with that are about lost or repeated records, about packets that were dropped because of where they came from, or about
/// times in which packets could pass unevaluated.
const OTHER_LINES: [&[u8]; 4] = [b"{\"lost\"", b"{\"repeated\"", b"{\"dropped\"", b"{\"bypass\""];

/// No record is longer.
const LONGEST: u64 = 64 * 1024;

/// The place after the last whole record of a log: the last line may be half written.
pub fn end(log: &Path) -> io::Result<u64> {
    let mut file = File::open(log)?;
    let from = file.metadata()?.len().saturating_sub(LONGEST);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at as u64 + 1);
    Ok(from + whole)
}

/// The records of a log from its byte `from` on, and the place after the last whole line. Lines that are no records and a last line that is still
/// being written are left out.
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

/// The whole lines of a log from its byte `from` on, and the place after them.
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
    fn lines_about_dropped_packets_are_no_records() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("audit");
        let whole = "{\"lost\":3}\n{\"dropped\":\"overlay\",\"node\":\"a\",\"packets\":1}\n";
        fs::write(&log, format!("{whole}half")).unwrap();
        let (records, end) = read(&log, 0).unwrap();
        assert_eq!((records.len(), end), (0, whole.len() as u64));
        assert_eq!(lines(&log, 0).unwrap().0.len(), 2);
    }
}
