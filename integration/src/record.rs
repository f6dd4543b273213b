//! The agent's audit log, read by its documented format alone.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Deserializer};

use crate::port::Transport;
use crate::probe::{Observed, ProbeTarget};

/// The fields of an event `connection` that tests use.
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
    /// The policy that determined the verdict. In a record of a default deny, that is the first policy that
    /// isolates the pod.
    #[serde(deserialize_with = "policy_name")]
    pub policy: Option<String>,
    /// The index of its rule.
    pub rule: Option<usize>,
    /// The verdict in direction egress.
    pub egress: Side,
    /// The verdict in direction ingress.
    pub ingress: Side,
    /// The policies that isolate the pod, if none of their rules matches.
    #[serde(default)]
    isolated_by: Vec<PolicyName>,
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
    #[serde(deserialize_with = "nearest_policy")]
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
    /// The policy that determined the verdict. In the direction of a default deny, that is the first policy
    /// that isolates the pod.
    #[serde(deserialize_with = "policy_name")]
    pub policy: Option<String>,
    /// The index of its rule.
    pub rule: Option<usize>,
}

/// A policy in a record.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
struct PolicyName {
    namespace: Option<String>,
    name: String,
}

impl PolicyName {
    /// `namespace/name`, or `name` alone if it is cluster-wide.
    fn shown(&self) -> String {
        let namespace = self.namespace.iter().map(|namespace| format!("{namespace}/")).collect::<String>();
        namespace + &self.name
    }
}

fn policy_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<PolicyName>::deserialize(deserializer)?.as_ref().map(PolicyName::shown))
}

fn nearest_policy<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    PolicyName::deserialize(deserializer).map(|policy| policy.shown())
}

impl Record {
    /// Names the first policy that isolates the pod where no rule determined the verdict.
    fn with_isolating_policy(mut self) -> Self {
        let isolating = self.isolated_by.first().map(PolicyName::shown);
        let side = if self.direction == "egress" { &mut self.egress } else { &mut self.ingress };
        side.policy = side.policy.take().or(isolating.clone());
        self.policy = self.policy.take().or(isolating);
        self
    }

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

/// The name of a line's event.
#[derive(Deserialize)]
struct EventName {
    event: String,
}

/// Whether a line has an event of this name.
pub(crate) fn is_event(line: &[u8], name: &str) -> Result<bool> {
    let EventName { event } = serde_json::from_slice(line)
        .with_context(|| format!("a line without an event: {}", String::from_utf8_lossy(line)))?;
    Ok(event == name)
}

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

/// The events `connection` of a log from byte `from` on, and the offset after the last complete line. Other
/// events, and an incomplete last line, are skipped.
pub fn read(log: &Path, from: u64) -> Result<(Vec<Record>, u64)> {
    let (lines, end) = lines(log, from)?;
    let mut records = Vec::new();
    for line in lines {
        if !is_event(&line, "connection")? {
            continue;
        }
        let record: Record = serde_json::from_slice(&line)
            .with_context(|| format!("{}: {}", log.display(), String::from_utf8_lossy(&line)))?;
        records.push(record.with_isolating_policy());
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
        let whole = "{\"event\":\"lost\",\"count\":3}\n{\"event\":\"dropped\",\"reason\":\"overlay\"}\n";
        fs::write(&log, format!("{whole}half")).unwrap();
        let (records, end) = read(&log, 0).unwrap();
        assert_eq!((records.len(), end), (0, whole.len() as u64));
        assert_eq!(lines(&log, 0).unwrap().0.len(), 2);
    }
}
