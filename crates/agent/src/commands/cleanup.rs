//! `kube-verdict cleanup`: removes what agents leave on the node: rules, connection marks, and the files that
//! are named.
//!
//! Invariant: connections that policy allows are not disturbed, even while agents run: these stand by before
//! their rules are removed.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use cluster::checkpoint;
use dataplane::conntrack::Conntrack;
use dataplane::marks::{Mark, Marks};
use dataplane::ports::set_link_local_learning;
use dataplane::preflight::{InstalledTables, installed_tables};
use dataplane::sweep::{clear_marks, count_marks};
use dataplane::table::Table;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::output::Output;
use super::served_queue::served_queue;
use crate::exit;
use crate::terminal::{Text, text};
use crate::values::{self, mark};

mod files;

const EXAMPLES: &str = "\
Examples:
  Clean up after the agent was uninstalled:
    kube-verdict cleanup
  Clean up while an agent still runs (it stands by from then on, and can be ended):
    kube-verdict cleanup --force
  Remove the audit log and its closed files as well:
    kube-verdict cleanup --audit-log /var/log/kube-verdict/audit.log
  Remove the state on disk as well:
    kube-verdict cleanup --state-dir /var/lib/kube-verdict
  Only check whether anything is left:
    kube-verdict cleanup --check
  Keep the node clean while agents are being uninstalled, in a pod of a DaemonSet:
    kube-verdict cleanup --stay

docs/operations.md describes how to uninstall, for each way to install.

Exit codes: 0 nothing of kube-verdict is left on the node, 1 failure (also: something is left), 2
usage error.";

/// Longer than agents take to notice that their rules were replaced or removed: they check once a second.
const NOTICE_TIME: Duration = Duration::from_millis(2500);

/// How often rules are removed that an agent writes again, before cleanup fails.
const MAX_ATTEMPTS: usize = 5;

/// How often [`Cleanup::stay`] checks for new rules.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Removes kube-verdict's tables, inet and bridge, and its connection marks from this node.
///
/// Afterwards, neither policies nor protections against spoofed packets are in force, and connections that
/// policy had cut pass again.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Cleanup {
    /// Clean up even while an agent runs.
    ///
    /// Everything passes at once; the agent stands by, as if another one had taken over, and some seconds
    /// later its rules are removed. An agent that is started afterwards enforces again.
    #[arg(long)]
    force: bool,

    /// Remove nothing, and print what is left. The exit code is 1 if anything is.
    #[arg(long, conflicts_with_all = ["force", "stay"])]
    check: bool,

    /// Keep running until SIGTERM or SIGINT, and remove the rules of agents that start meanwhile as well.
    ///
    /// Implies --force.
    #[arg(long)]
    stay: bool,

    /// Also remove this audit log and its closed files, compressed or not.
    #[arg(long, value_name = "FILE")]
    audit_log: Option<PathBuf>,

    /// Also remove the state on disk in this folder, the agent's --state-dir.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,

    /// The agent's --connection-marks.
    #[arg(
        long,
        value_name = "MASK",
        value_parser = mark,
        default_value_t = Marks::default().of_connections()
    )]
    connection_marks: Mark,

    /// Output format.
    #[arg(long, value_name = "text|json", value_enum, default_value_t)]
    output: Output,
}

/// What was removed.
#[derive(Clone, Debug, Default, Serialize)]
struct Removed {
    /// Whether there were rules.
    rules_removed: bool,
    /// Number of connections that carried a mark.
    connections_cleared: u64,
    /// Removed files.
    files_removed: Vec<PathBuf>,
    /// What --audit-log and --state-dir name and does not exist, one sentence each.
    not_found: Vec<String>,
}

/// What is left.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Remaining {
    tables: InstalledTables,
    /// Number of connections that carry a mark.
    connections_marked: u64,
    files: Vec<PathBuf>,
    /// What --audit-log and --state-dir name and does not exist, one sentence each.
    not_found: Vec<String>,
}

impl Cleanup {
    /// Removes what is left, or prints it with --check.
    pub(super) fn run(self) -> anyhow::Result<u8> {
        // Any four bits that are free serve as packet marks: only the connection marks are used here.
        let mut others = (0..8).map(|digit| Mark(0xf << (4 * digit)));
        let free = others.find(|packet| packet.0 & self.connection_marks.0 == 0);
        let marks = values::marks(free.unwrap_or(Mark(0xf)), self.connection_marks)?;
        files::check_paths(self.audit_log.as_deref(), self.state_dir.as_deref())?;
        if self.check {
            let remaining = self.remaining(&marks)?;
            self.output.print(&remaining, || remaining.render())?;
            return Ok(if remaining.is_nothing() { exit::SUCCESS } else { exit::FAILURE });
        }
        if !(self.force || self.stay)
            && let Some(queue) = served_queue()?
        {
            bail!("an agent serves queue {queue} of the rules: end it first, or use --force");
        }
        if self.stay {
            return self.stay(&marks);
        }
        self.clean_and_print(&marks)?;
        Ok(exit::SUCCESS)
    }

    /// Removes what is left, and removes rules again whenever agents write some.
    fn stay(&self, marks: &Marks) -> anyhow::Result<u8> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot wait for signals")?;
        runtime.block_on(async {
            let mut terminate = signal(SignalKind::terminate()).context("cannot listen for signals")?;
            let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
            let mut is_first = true;
            loop {
                if is_first || !is_none(installed_tables()?) {
                    self.clean_and_print(marks)?;
                    is_first = false;
                }
                tokio::select! {
                    _ = terminate.recv() => return Ok(exit::SUCCESS),
                    _ = interrupt.recv() => return Ok(exit::SUCCESS),
                    () = tokio::time::sleep(POLL_INTERVAL) => {}
                }
            }
        })
    }

    fn clean_and_print(&self, marks: &Marks) -> anyhow::Result<()> {
        let removed = self.clean(marks)?;
        Ok(self.output.print(&removed, || removed.render())?)
    }

    /// Removes everything. The rules go first: while they exist, a connection without marks would be
    /// evaluated and marked again.
    fn clean(&self, marks: &Marks) -> anyhow::Result<Removed> {
        let mut removed = Removed { rules_removed: remove_rules()?, ..Removed::default() };
        let mut conntrack = Conntrack::open()?;
        for _ in 0..MAX_ATTEMPTS {
            // A connection that the rules have marked may be added to the conntrack table after it was
            // dumped.
            match clear_marks(&mut conntrack, marks)? {
                0 => break,
                cleared => removed.connections_cleared += cleared,
            }
        }
        let files::Found { files, not_found } = self.files()?;
        (removed.files_removed, removed.not_found) = (files::remove(files)?, not_found);
        Ok(removed)
    }

    fn remaining(&self, marks: &Marks) -> anyhow::Result<Remaining> {
        let files::Found { files, not_found } = self.files()?;
        Ok(Remaining {
            tables: installed_tables()?,
            connections_marked: count_marks(&mut Conntrack::open()?, marks)?,
            files,
            not_found,
        })
    }

    /// The files to remove.
    fn files(&self) -> anyhow::Result<files::Found> {
        let mut found = files::Found::default();
        if let Some(log) = &self.audit_log {
            found.add(files::of_audit_log(log)?, || format!("no audit log at {}", log.display()));
        }
        if let Some(folder) = &self.state_dir {
            let state = checkpoint::files_in(folder);
            let state =
                state.with_context(|| format!("cannot look for the state in {}", folder.display()))?;
            found.add(state, || format!("no state in {}", folder.display()));
        }
        Ok(found)
    }
}

impl Removed {
    fn render(&self) -> Text {
        let rules = if self.rules_removed { "removed the rules" } else { "there were no rules" };
        let mut lines = vec![text!("{rules}; cleared the marks of {} connections", self.connections_cleared)];
        lines.extend(self.files_removed.iter().map(|file| text!("removed {}", file.display())));
        lines.extend(self.not_found.iter().map(Text::new));
        Text::lines(lines)
    }
}

impl Remaining {
    fn is_nothing(&self) -> bool {
        is_none(self.tables) && self.connections_marked == 0 && self.files.is_empty()
    }

    fn render(&self) -> Text {
        let heading = if self.is_nothing() { "nothing of kube-verdict is left" } else { "left:" };
        let mut lines = vec![Text::new(heading)];
        let tables = [("inet", self.tables.inet), ("bridge", self.tables.bridge)];
        let tables = tables.iter().filter(|(_, exists)| *exists);
        lines.extend(tables.map(|(family, _)| text!("table {family} kube-verdict")));
        if self.connections_marked > 0 {
            lines.push(text!("the marks of {} connections", self.connections_marked));
        }
        lines.extend(self.files.iter().map(|file| text!("file {}", file.display())));
        lines.extend(self.not_found.iter().map(Text::new));
        Text::lines(lines)
    }
}

/// Removes the tables. First, running agents are made to stand by, so that none writes them again.
fn remove_rules() -> anyhow::Result<bool> {
    let mut any = false;
    for _ in 0..MAX_ATTEMPTS {
        let is_served = served_queue()?.is_some();
        // Read before the removal of the rules, which contain them.
        let bridges = Table::bindings_in_force()?.pod_bridges;
        if is_served && Table::retire()? {
            sleep(NOTICE_TIME);
        }
        any |= Table::remove()?;
        for bridge in bridges {
            // Fails for a bridge that no longer exists, which needs no setting.
            let _ = set_link_local_learning(bridge, true);
        }
        if !is_served {
            return Ok(any);
        }
        // An agent that was just starting, or that was busy, may write its rules within this time.
        sleep(NOTICE_TIME);
        if is_none(installed_tables()?) {
            return Ok(any);
        }
    }
    bail!("an agent keeps writing its rules: end it, then clean up")
}

fn is_none(tables: InstalledTables) -> bool {
    !tables.inet && !tables.bridge
}
