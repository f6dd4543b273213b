//! What other programs and full disks do to a node: rules, manifests, logs and the table of connections.
//!
//! From: random numbers. To: the kernel and files, with an [`Undo`] where it is not over at once.

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

/// What another program does to the rules. `CIDR` is the node's.
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
        self.say_on(at, &format!("nft {damage}: a bypass is recorded"));
        let now = (Instant::now(), Timestamp::now());
        self.nodes[at].wrong.damaged = Some(now);
        // The agent may be about to write the same rules.
        if let Err(error) = nft(&self.nodes[at].namespace, &damage) {
            self.nodes[at].wrong.damaged = None;
            self.say_on(at, &format!("it was not done: {error:#}"));
        }
        // The kernel drops what waits for a verdict where base chains go, and rules without bindings drop all, until they are back.
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
            1 => ("no YAML at its end", format!("{whole}\n---\nkind: [\n")),
            _ => ("no text", format!("\u{0}\u{1}{whole}")),
        };
        self.say(&format!("{file} breaks ({how}): what it held stays in force"));
        self.broken = Some(file);
        self.later(200..8_000, Undo::Mend);
        if self.random.bool() {
            return self.testbed.manifests().write(file, &text).map(drop);
        }
        let path = self.testbed.manifests().path().join(file);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// As a program does that writes in place: it empties the file, and keeps it open until all is written.
    pub(super) fn empty_file(&mut self) -> Result<()> {
        let file = if self.random.bool() { CLUSTER_FILE } else { POLICY_FILE };
        self.say(&format!("{file} is empty while it is written: what it held stays in force"));
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
        self.say_on(at, "the table of connections is full: those that exist go on");
        let namespace = Arc::clone(&self.nodes[at].namespace);
        let most: u32 = namespace.read_sysctl("net.netfilter.nf_conntrack_max")?.parse()?;
        let (name, now) = (self.nodes[at].name.clone(), Instant::now());
        self.nodes[at].wrong.conntrack_full = true;
        self.model.pause(&name, now);
        // The kernel's walks through a full table hold everything up for seconds on a busy machine.
        self.streams.stall(&name, now);
        self.later(500..5_000, Undo::Drain(at));
        namespace.run(|| conntrack::fill(most, 120))?
    }

    pub(super) fn rotate(&mut self, at: usize) -> Result<()> {
        let is_removed = self.random.bool();
        let how = if is_removed { "renamed, read and removed" } else { "renamed" };
        self.say_on(at, &format!("the audit log is {how}: no record is lost"));
        self.nodes[at].ledger.rotate(is_removed)?;
        // An agent that has just begun has no handler yet.
        if self.random.bool() && self.nodes[at].enforces() {
            self.nodes[at].hang_up()?;
        }
        Ok(())
    }
}
