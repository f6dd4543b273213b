//! `kube-verdict cleanup`: takes all that agents leave behind off the node: rules, marks on connections, and files that are named.
//!
//! Invariant: no connection that policy allows is disturbed, also while agents run: they stand by before their rules go.

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
use dataplane::queue_statistics::QueueStatistics;
use dataplane::sweep::{clear_marks, count_marks};
use dataplane::table::Table;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::Output;
use super::run::mark;
use crate::exit;
use crate::terminal::{self, Text, text};
use crate::values;

mod files;

const EXAMPLES: &str = "\
Examples:
  After the agent was uninstalled:
    kube-verdict cleanup
  Although an agent still runs (it stands by from then on, and can be ended):
    kube-verdict cleanup --force
  With the audit log and the files beside it that it was rotated to:
    kube-verdict cleanup --audit-log /var/log/kube-verdict/audit.log
  With the state on disk:
    kube-verdict cleanup --state-dir /var/lib/kube-verdict
  Is anything left?
    kube-verdict cleanup --check
  In a pod of a DaemonSet, while agents are uninstalled:
    kube-verdict cleanup --stay

docs/operations.md says how to leave by each of the ways to install.

Exit codes: 0 nothing of kube-verdict is on the node any more, 1 something is wrong or left, 2 the command line is wrong.";

/// Longer than agents take to notice that their rules are another's, or gone: they look once a second.
const NOTICED_AFTER: Duration = Duration::from_millis(2500);

/// How often an agent's rules are taken away that come back, before that is an error.
const TRIES: usize = 5;

/// How often [`Cleanup::stay`] looks whether rules are there again.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Removes kube-verdict's tables, inet and bridge, and its connection marks: neither policy nor the sources of packets are enforced on
/// this node any more, and connections that policy had cut pass again.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Cleanup {
    /// Also while an agent runs: everything passes at once, the agent stands by as if another one had taken over, and its rules go
    /// when it has noticed that, some seconds later. An agent that is started afterwards enforces again.
    #[arg(long)]
    force: bool,

    /// Remove nothing, and say what is left: exit code 1 if anything is.
    #[arg(long, conflicts_with_all = ["force", "stay"])]
    check: bool,

    /// Go on until SIGTERM: what an agent that starts meanwhile writes is removed, too. Implies --force.
    #[arg(long)]
    stay: bool,

    /// Remove this audit log as well, and FILE.1 and so on beside it. Otherwise records are kept.
    #[arg(long, value_name = "FILE")]
    audit_log: Option<PathBuf>,

    /// Remove the state on disk in this folder as well, the agent's --state-dir.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,

    /// The agent's --connection-marks.
    #[arg(long, value_name = "MASK", value_parser = mark, default_value_t = Marks::default().of_connections())]
    connection_marks: Mark,

    /// How to print what was done.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// What was done.
#[derive(Clone, Debug, Default, Serialize)]
struct Done {
    /// Whether there were rules.
    rules_removed: bool,
    /// Connections that carried a mark.
    connections_cleared: u64,
    /// Files.
    files_removed: Vec<PathBuf>,
    /// What --audit-log and --state-dir name and isn't there, one sentence each.
    not_found: Vec<String>,
}

/// What is still there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Left {
    tables: InstalledTables,
    /// Connections that carry a mark.
    connections_marked: u64,
    files: Vec<PathBuf>,
    /// What --audit-log and --state-dir name and isn't there, one sentence each.
    not_found: Vec<String>,
}

impl Cleanup {
    /// Removes what is there.
    pub fn run(self) -> anyhow::Result<u8> {
        // Packets carry none when they leave the node; any other four bits do.
        let mut others = (0..8).map(|digit| Mark(0xf << (4 * digit)));
        let free = others.find(|packet| packet.0 & self.connection_marks.0 == 0);
        let marks = values::marks(free.unwrap_or(Mark(0xf)), self.connection_marks)?;
        files::must_be_possible(self.audit_log.as_deref(), self.state_dir.as_deref())?;
        if self.check {
            return self.left(&marks)?.print(self.output);
        }
        if !(self.force || self.stay)
            && let Some(queue) = served_queue()?
        {
            bail!("an agent serves queue {queue}, to which the rules point: end it first, or use --force");
        }
        if self.stay {
            return self.stay(&marks);
        }
        self.clean(&marks)?.print(self.output)?;
        Ok(exit::FINE)
    }

    /// Removes what is there, and again what agents write.
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
                    self.clean(marks)?.print(self.output)?;
                    is_first = false;
                }
                tokio::select! {
                    _ = terminate.recv() => return Ok(exit::FINE),
                    _ = interrupt.recv() => return Ok(exit::FINE),
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
            }
        })
    }

    /// The rules first: while they stand, a connection without marks would be evaluated, and marked, again.
    fn clean(&self, marks: &Marks) -> anyhow::Result<Done> {
        let mut done = Done { rules_removed: remove_rules()?, ..Done::default() };
        let mut conntrack = Conntrack::open()?;
        for _ in 0..TRIES {
            // A packet that the rules have marked may have entered the table of connections after it was read.
            match clear_marks(&mut conntrack, marks)? {
                0 => break,
                cleared => done.connections_cleared += cleared,
            }
        }
        let files::Found { files, not_found } = self.files()?;
        (done.files_removed, done.not_found) = (files::remove(files)?, not_found);
        Ok(done)
    }

    fn left(&self, marks: &Marks) -> anyhow::Result<Left> {
        let files::Found { files, not_found } = self.files()?;
        Ok(Left {
            tables: installed_tables()?,
            connections_marked: count_marks(&mut Conntrack::open()?, marks)?,
            files,
            not_found,
        })
    }

    /// The files that are to be removed.
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

impl Done {
    fn print(&self, output: Output) -> anyhow::Result<()> {
        match output {
            Output::Text => {
                let rules = if self.rules_removed { "removed the rules" } else { "there were no rules" };
                let mut lines =
                    vec![text!("{rules}; cleared the marks of {} connections", self.connections_cleared)];
                lines.extend(self.files_removed.iter().map(|file| text!("removed {}", file.display())));
                lines.extend(self.not_found.iter().map(Text::new));
                Text::lines(lines).print()?;
            }
            Output::Json => terminal::print_json(self)?,
        }
        Ok(())
    }
}

impl Left {
    fn print(&self, output: Output) -> anyhow::Result<u8> {
        let mut lines = Vec::new();
        let tables = [("inet", self.tables.inet), ("bridge", self.tables.bridge)];
        lines.extend(
            tables
                .iter()
                .filter(|(_, is_there)| *is_there)
                .map(|(family, _)| text!("table {family} kube-verdict")),
        );
        if self.connections_marked > 0 {
            lines.push(text!("the marks of {} connections", self.connections_marked));
        }
        lines.extend(self.files.iter().map(|file| text!("file {}", file.display())));
        let is_clean = lines.is_empty();
        match output {
            Output::Json => terminal::print_json(self)?,
            Output::Text => {
                let heading = if is_clean { "nothing of kube-verdict is left" } else { "left:" };
                lines.insert(0, Text::new(heading));
                lines.extend(self.not_found.iter().map(Text::new));
                Text::lines(lines).print()?;
            }
        }
        Ok(if is_clean { exit::FINE } else { exit::WRONG })
    }
}

/// Removes the tables. Agents that run stand by first, so that none writes them again.
fn remove_rules() -> anyhow::Result<bool> {
    let mut any = false;
    for _ in 0..TRIES {
        let is_served = served_queue()?.is_some();
        // Before the rules go that name them.
        let bridges = Table::bindings_in_force()?.pod_bridges;
        if is_served && Table::retire()? {
            sleep(NOTICED_AFTER);
        }
        any |= Table::remove()?;
        for bridge in bridges {
            // One that is gone learns from nothing.
            let _ = set_link_local_learning(bridge, true);
        }
        if !is_served {
            return Ok(any);
        }
        // An agent that was just starting, or that was busy for long, writes its rules now.
        sleep(NOTICED_AFTER);
        if is_none(installed_tables()?) {
            return Ok(any);
        }
    }
    bail!("an agent writes its rules again and again: end it, then clean up")
}

fn is_none(tables: InstalledTables) -> bool {
    !tables.inet && !tables.bridge
}

/// A queue to which the rules point and that some program serves: an agent is alive, whether or not it serves HTTP.
pub(super) fn served_queue() -> anyhow::Result<Option<u16>> {
    let Some(queues) = Table::queues_in_use()? else { return Ok(None) };
    let bound = QueueStatistics::read()?;
    Ok(queues.numbers().find(|number| bound.iter().any(|queue| queue.number == *number)))
}
