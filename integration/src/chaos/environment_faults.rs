//! Faults in the environment of agents: changed rules, invalid manifests, rotated logs and a full conntrack
//! table.
//!
//! From: random numbers. To: the kernel and files, with an [`Undo`] unless the fault is over at once.

use std::fs::{self, File};
use std::io::Write;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jiff::Timestamp;

use super::fault::Undo;
use super::run::Run;
use super::world::{CLUSTER_FILE, POLICY_FILE};
use crate::command::nft;
use crate::conntrack;

/// Changes of the rules by another program. `CIDR` stands for the node's pod CIDR.
const DAMAGES: [&str; 11] = [
    "flush ruleset",
    "flush ruleset",
    "flush chain inet kube-verdict postrouting",
    "flush chain inet kube-verdict enqueue",
    "flush chain bridge kube-verdict forward",
    "delete element inet kube-verdict pod-cidrs4 { CIDR }",
    "flush map bridge kube-verdict bound4",
    "insert rule inet kube-verdict postrouting accept",
    "delete table bridge kube-verdict",
    "delete table inet kube-verdict",
    "add table inet kube-verdict { flags dormant; }",
];

impl Run {
    pub(super) fn damage(&mut self, at: usize) -> Result<()> {
        let damage = self.random.choice(DAMAGES).unwrap_or(DAMAGES[0]);
        let cidr = self.testbed.cluster().node_named(&self.nodes[at].name)?.cidr4.to_string();
        let damage = damage.replace("CIDR", &cidr);
        self.log_node_event(at, &format!("nft {damage}: a bypass must be recorded"));
        let now = (Instant::now(), Timestamp::now());
        self.nodes[at].faults.damaged = Some(now);
        // It may fail because the agent is writing the same rules.
        if let Err(error) = nft(&self.nodes[at].namespace, &damage) {
            self.nodes[at].faults.damaged = None;
            self.log_node_event(at, &format!("nft failed: {error:#}"));
        }
        // The kernel drops packets that wait for a verdict when their base chain is deleted. Rules without
        // bindings drop all packets until the agent repairs them.
        self.streams.stall(&self.nodes[at].name.clone(), now.0 - Duration::from_millis(100));
        Ok(())
    }

    pub(super) fn break_file(&mut self) -> Result<()> {
        let file = if self.random.bool() { CLUSTER_FILE } else { POLICY_FILE };
        let whole = self.text(file);
        let names: Vec<usize> = whole.match_indices("name: \"").map(|(at, found)| at + found.len()).collect();
        let (how, text) = match self.random.u32(0..3) {
            0 => {
                let cut = self.random.choice(&names).copied().unwrap_or(whole.len());
                ("cut off in a name", whole[..(cut + 2).min(whole.len())].to_owned())
            }
            1 => ("invalid YAML at its end", format!("{whole}\n---\nkind: [\n")),
            _ => ("not text", format!("\u{0}\u{1}{whole}")),
        };
        self.log_event(&format!("{file} becomes invalid ({how}): its last valid content stays in force"));
        self.broken = Some(file);
        self.schedule_undo(200..8_000, Undo::RepairFile);
        if self.random.bool() {
            return self.testbed.manifests().write(file, &text).map(drop);
        }
        let path = self.testbed.manifests().path().join(file);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// Rewrites a manifest in place: truncates the file, and writes its content a moment later.
    pub(super) fn empty_file(&mut self) -> Result<()> {
        let file = if self.random.bool() { CLUSTER_FILE } else { POLICY_FILE };
        self.log_event(&format!("{file} is truncated and rewritten: its content stays in force"));
        let (path, text) = (self.testbed.manifests().path().join(file), self.text(file));
        let begun = Instant::now();
        let mut open = File::create(&path).with_context(|| format!("emptying {}", path.display()))?;
        sleep(Duration::from_millis(self.random.u64(0..80)));
        open.write_all(text.as_bytes()).with_context(|| format!("writing {}", path.display()))?;
        drop(open);
        if begun.elapsed() > Duration::from_millis(250) {
            // After this long, agents may have applied the file as an empty one.
            self.model.mark_unknown(begun, Instant::now() + Duration::from_secs(3));
        }
        Ok(())
    }

    pub(super) fn fill_conntrack(&mut self, at: usize) -> Result<()> {
        self.log_node_event(at, "the conntrack table is full: existing connections must continue");
        let namespace = Arc::clone(&self.nodes[at].namespace);
        let most: u32 = namespace.read_sysctl("net.netfilter.nf_conntrack_max")?.parse()?;
        let (name, now) = (self.nodes[at].name.clone(), Instant::now());
        self.nodes[at].faults.conntrack_full = true;
        self.model.pause(&name, now);
        // On a busy machine, a walk through a full table delays the kernel for seconds.
        self.streams.stall(&name, now);
        self.schedule_undo(500..5_000, Undo::Drain(at));
        namespace.run(|| conntrack::fill(most, 120))?
    }

    pub(super) fn rotate(&mut self, at: usize) -> Result<()> {
        let is_removed = self.random.bool();
        let how = if is_removed { "renamed, read and removed" } else { "renamed" };
        self.log_node_event(at, &format!("the audit log is {how}: no record may be lost"));
        self.nodes[at].audit_reader.rotate(is_removed)?;
        // An agent that has just started has no signal handler yet.
        if self.random.bool() && self.nodes[at].enforces() {
            self.nodes[at].hang_up()?;
        }
        Ok(())
    }
}
