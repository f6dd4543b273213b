//! Lines of the audit log about packets that rules dropped, for example because of their origin.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::record::{self, Endpoint};

/// Packets of one interface that were dropped for one reason, within a second.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Dropped {
    /// The reason, such as `spoofed-source`.
    pub reason: String,
    /// The node that dropped them.
    pub node: String,
    /// The interface through which they entered.
    #[serde(default)]
    pub interface: Option<String>,
    /// The namespace of the pod behind the interface.
    #[serde(default)]
    pub namespace: Option<String>,
    /// The pod behind the interface.
    #[serde(default)]
    pub pod: Option<String>,
    /// The number of packets.
    pub packets: u64,
    /// The name of the first packet's protocol; `None` if it is not an IP packet.
    #[serde(default)]
    pub protocol: Option<String>,
    /// The first packet's source, as it claims.
    #[serde(default)]
    pub source: Option<Endpoint>,
    /// The first packet's destination.
    #[serde(default)]
    pub destination: Option<Endpoint>,
    /// The EtherType of a frame that is not IP, such as `0x8100`.
    #[serde(default)]
    pub ether_type: Option<String>,
}

impl Dropped {
    /// Whether the pod `namespace/name` is behind the interface.
    pub fn is_from(&self, pod: &str) -> bool {
        let named = self.namespace.as_deref().zip(self.pod.as_deref());
        named == pod.split_once('/')
    }
}

/// The lines about dropped packets in a log, from byte `from` on.
pub fn read(log: &Path, from: u64) -> Result<Vec<Dropped>> {
    let (lines, _) = record::lines(log, from)?;
    let mut drops = Vec::new();
    for line in lines {
        if record::is_event(&line, "dropped")? {
            let drop = serde_json::from_slice(&line)
                .with_context(|| format!("{}: {}", log.display(), String::from_utf8_lossy(&line)))?;
            drops.push(drop);
        }
    }
    Ok(drops)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_about_a_frame_that_is_not_ip_is_parsed() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("audit");
        let line = r#"{"event":"dropped","reason":"ether-type","time":"2026-11-28T10:00:00Z","node":"node-a","interface":"veth0",
            "namespace":"evil","pod":"a","packets":3,"protocol":null,"source":null,"destination":null,"ether_type":"0x8100"}"#;
        std::fs::write(&log, line.replace('\n', "") + "\n{\"event\":\"lost\",\"count\":3}\n").unwrap();
        let lines = read(&log, 0).unwrap();
        assert_eq!((lines.len(), lines[0].packets, lines[0].is_from("evil/a")), (1, 3, true));
        assert_eq!(lines[0].ether_type.as_deref(), Some("0x8100"));
    }
}
