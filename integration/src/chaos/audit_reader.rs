//! Totals of a node's audit log, across rotations.
//!
//! From: the log's files, which are read as they grow. To: denials, bypasses, and how many records are lost
//! or only counted. Invariant: a renamed file is read to its end before it is removed, so no line is missed.
//! A line other than a record counts once, even if it is written twice.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::Value;

/// Source and destination of a denied packet, each with its port.
pub type Denial = (SocketAddr, SocketAddr);

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct AuditReader {
    /// The log's path, and the renamed files that may still grow, each with the offset up to which it is
    /// read.
    files: Vec<(PathBuf, u64)>,
    /// Denied packets with a record.
    pub denials: HashSet<Denial>,
    /// Times in which packets could pass without evaluation.
    pub bypasses: Vec<(Timestamp, Timestamp)>,
    /// Records of any verdict.
    pub records: u64,
    /// Records that the log reports as lost.
    pub lost: u64,
    /// Packets that rules dropped and that the log only counts.
    pub dropped: u64,
    /// Lines other than records that are already counted, so that a repeated line counts once.
    counted: HashSet<String>,
    /// The number of rotations. It is the extension of the next renamed file.
    rotations: u64,
}

impl AuditReader {
    /// Reads a log that need not exist yet.
    pub fn new(log: &Path) -> Self {
        Self { files: vec![(log.to_owned(), 0)], ..Self::default() }
    }

    /// Renames the log, as log rotation does. With `is_removed`, it is also read to its end and removed at
    /// once.
    pub fn rotate(&mut self, is_removed: bool) -> Result<()> {
        let Some((log, offset)) = self.files.first_mut() else { return Ok(()) };
        if !log.exists() {
            return Ok(());
        }
        self.rotations += 1;
        let moved = log.with_extension(self.rotations.to_string());
        fs::rename(&*log, &moved).with_context(|| format!("renaming {}", log.display()))?;
        let read = std::mem::take(offset);
        self.files.push((moved, read));
        if is_removed {
            self.read()?;
            for (path, _) in self.files.drain(1..) {
                fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// Reads what was appended since the last call.
    pub fn read(&mut self) -> Result<()> {
        let mut files = std::mem::take(&mut self.files);
        for (path, offset) in &mut files {
            if path.exists() {
                self.read_file(path, offset).with_context(|| format!("reading {}", path.display()))?;
            }
        }
        self.files = files;
        Ok(())
    }

    fn read_file(&mut self, path: &Path, offset: &mut u64) -> Result<()> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(*offset))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        // An incomplete last line is read next time.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for line in bytes[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let text = String::from_utf8_lossy(line);
            let value =
                serde_json::from_slice(line).with_context(|| format!("a line is not JSON: {text}"))?;
            self.count(&text, &value)?;
        }
        *offset += whole as u64;
        Ok(())
    }

    fn count(&mut self, text: &str, line: &Value) -> Result<()> {
        let event = line["event"].as_str().with_context(|| format!("a line without an event: {text}"))?;
        if event == "connection" {
            self.records += 1;
            if line["verdict"] == "deny"
                && let (Some(from), Some(to)) = (endpoint(&line["source"]), endpoint(&line["destination"]))
            {
                self.denials.insert((from, to));
            }
            return Ok(());
        }
        if !self.counted.insert(text.to_owned()) {
            return Ok(());
        }
        let number = |name: &str| line[name].as_u64().with_context(|| format!("no {name}: {text}"));
        match event {
            "lost" => self.lost += number("count")?,
            "dropped" => self.dropped += number("packets")?,
            "bypass" => {
                let time = |name: &str| -> Result<Timestamp> {
                    let text = line[name].as_str().with_context(|| format!("a bypass without {name}"))?;
                    text.parse().with_context(|| format!("{name}: {text}"))
                };
                self.bypasses.push((time("from")?, time("to")?));
            }
            _ => {}
        }
        Ok(())
    }
}

fn endpoint(value: &Value) -> Option<SocketAddr> {
    let address: IpAddr = value["address"].as_str()?.parse().ok()?;
    Some(SocketAddr::new(address, u16::try_from(value["port"].as_u64()?).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_count_once_across_rotations() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("audit.log");
        let denied = r#"{"event":"connection","verdict":"deny","source":{"address":"10.0.0.1","port":9},"destination":{"address":"10.0.0.2","port":80}}"#;
        let bypass = r#"{"event":"bypass","reason":"rules-changed","from":"2026-01-01T00:00:00Z","to":"2026-01-01T00:00:01Z"}"#;
        let mut audit_reader = AuditReader::new(&log);
        fs::write(&log, format!("{denied}\n{bypass}\n{{\"event\":\"lost\",\"count\":3}}\nhalf")).unwrap();
        audit_reader.read().unwrap();
        audit_reader.rotate(false).unwrap();
        fs::write(
            &log,
            format!(
                "{{\"event\":\"repeated\",\"lines\":1}}\n{bypass}\n{{\"event\":\"dropped\",\"packets\":2}}\n"
            ),
        )
        .unwrap();
        audit_reader.read().unwrap();
        assert_eq!((audit_reader.records, audit_reader.lost, audit_reader.dropped), (1, 3, 2));
        assert_eq!((audit_reader.bypasses.len(), audit_reader.denials.len()), (1, 1));
    }
}
