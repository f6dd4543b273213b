//! `kube-verdict doctor`: preflight checks of kernel, node and source; for each, what is wrong and what to
//! do.

use std::path::{Path, PathBuf};

use clap::Args;
use cluster::{Access, CniCache, Folder, ReadCounts};
use dataplane::marks::{Mark, Marks};
use dataplane::preflight::{self, Check, CheckState, InstalledTables, KernelVersion, PreflightConfig};
use dataplane::queues::QueueRange;
use dataplane::table::Table;
use policy::{Compiler, Scope};
use serde::Serialize;

mod sources;

use super::budget::BudgetArguments;
use super::cores::cores;
use super::output::Output;
use super::served_queue::served_queue;
use super::table::{self, State};
use crate::status::{Phase, Problem, Protection, SavedState, Status};
use crate::terminal::{self, Text, text};
use crate::values::{self, mark, number};
use crate::{client, exit, http, source};

const EXAMPLES: &str = "\
Examples:
  Check this node:
    kube-verdict doctor
  Check also that this kubeconfig has the permissions that an agent needs:
    kube-verdict doctor --kubeconfig /etc/kubernetes/kubelet.conf
  Check also a folder of manifests:
    kube-verdict doctor --source manifests
  List the protections against spoofed packets, and which are in force:
    kube-verdict doctor --output json | jq '.agent.protections[] | {id, in_force, why_not}'
  List only the checks that fail:
    kube-verdict doctor --output json | jq '.needs[] | select(.state == \"wrong\")'

Exit codes: 0 all checks pass, perhaps with warnings, 1 failure (also: a check fails), 2 usage
error.";

/// Checks whether the kernel and the node have what an agent needs. For each problem, prints what to do.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Doctor {
    /// Folder of manifests in which to look for invalid objects. Without it, checks access to the API server,
    /// if one is configured.
    #[arg(long, value_name = "DIR", conflicts_with = "kubeconfig")]
    source: Option<PathBuf>,

    /// Kubeconfig for access to the API server. Default: the file that the environment variable KUBECONFIG
    /// names, or the pod's service account.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// The agent's --cni-cache.
    #[arg(long, value_name = "DIR|auto|off", value_parser = source::cni_cache, default_value = "auto")]
    cni_cache: CniCache,

    /// The agent's --queue-base. If no agent runs, checks that no other program uses these queues.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = number(0..=u16::MAX, 100))]
    queue_base: u16,

    /// The agent's --packet-marks. Reports rules of other programs that write these bits.
    #[arg(long, value_name = "MASK", value_parser = mark, default_value_t = Marks::default().of_packets())]
    packet_marks: Mark,

    /// The agent's --connection-marks, likewise.
    #[arg(
        long,
        value_name = "MASK",
        value_parser = mark,
        default_value_t = Marks::default().of_connections()
    )]
    connection_marks: Mark,

    /// This node's pods are not connected to a bridge, so br_netfilter is not needed.
    #[arg(long)]
    no_bridge: bool,

    /// The agent's --http-port.
    #[arg(
        long,
        visible_alias = "metrics-port",
        value_name = "PORT",
        default_value_t = http::DEFAULT_PORT,
        value_parser = number(1..=u16::MAX, http::DEFAULT_PORT)
    )]
    http_port: u16,

    // Only for --source: a running agent reports policies over its own budget itself.
    #[command(flatten)]
    budget: BudgetArguments,

    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Results of all checks.
#[derive(Debug, Serialize)]
struct Findings {
    #[serde(rename = "needs")]
    checks: Vec<Check>,
    /// Null if no agent answers.
    agent: Option<AgentFindings>,
    /// The agent's tables in the kernel, which stay when it exits; null if they cannot be read.
    tables: Option<InstalledTables>,
    /// Whether any agent serves the queues of the rules in the kernel. During a takeover, the agent that
    /// answers may not be the one that enforces.
    rules_served: bool,
    /// Whether the rules in the kernel let packets pass while no agent serves them; null if there are no
    /// rules, or if they cannot be read.
    passes_unserved: Option<bool>,
    /// Counts of what --source contains, or else of what the running agent has read. Null if there is
    /// neither.
    read: Option<ReadCounts>,
    /// Problems in the same source.
    problems: Vec<Problem>,
}

#[derive(Debug, Serialize)]
struct AgentFindings {
    pid: u32,
    phase: Phase,
    ready: bool,
    not_ready: Vec<String>,
    /// The agent's protections against spoofed packets. Empty before it has rules, and once another agent has
    /// taken over.
    protections: Vec<Protection>,
    /// The state on disk; null without --state-dir.
    state: Option<SavedState>,
}

impl Doctor {
    /// Runs the checks and prints the results.
    pub fn run(self) -> anyhow::Result<u8> {
        let findings = self.inspect()?;
        match self.output {
            Output::Text => findings.text().print()?,
            Output::Json => terminal::print_json(&findings)?,
        }
        Ok(if findings.are_healthy() { exit::FINE } else { exit::WRONG })
    }

    /// Counts of the folder's objects, and its problems: invalid objects, and policies over their namespace's
    /// budget, where each policy counts once, as for `explain`.
    fn read_folder(&self, folder: &Path) -> anyhow::Result<(ReadCounts, Vec<Problem>)> {
        source::must_be_a_folder(folder)?;
        let budget = self.budget.into();
        let (_, update) = Folder::read(folder, budget)?;
        let mut problems: Vec<Problem> = update.problems.iter().map(Problem::from).collect();
        let mut compiler = Compiler::new(Scope::Cluster).budget(budget);
        compiler.apply(update.changes);
        while compiler.is_behind() {
            compiler.apply([]);
        }
        problems.extend(Problem::beyond_budget(&compiler));
        Ok((update.read, problems))
    }

    fn inspect(&self) -> anyhow::Result<Findings> {
        let marks = values::marks(self.packet_marks, self.connection_marks)?;
        let status = client::status(self.http_port).ok();
        let (read, problems) = match (&self.source, &status) {
            (Some(folder), _) => {
                let (read, problems) = self.read_folder(folder)?;
                (Some(read), problems)
            }
            (None, Some(status)) => (status.read.clone(), status.problems.clone()),
            (None, None) => (None, Vec::new()),
        };
        // A running agent uses the queues itself, and its pod CIDRs show which IP families it needs.
        let (queues, pod_cidrs) = match &status {
            Some(status) => (Vec::new(), status.pod_cidrs.as_slice()),
            None => (self.queues()?.to_vec(), &[][..]),
        };
        let family =
            |ipv6: bool| pod_cidrs.is_empty() || pod_cidrs.iter().any(|cidr| cidr.contains(':') == ipv6);
        let mut checks = preflight::check(&PreflightConfig {
            ipv4: family(false),
            ipv6: family(true),
            bridge: !self.no_bridge,
            prerouting_dns: KernelVersion::running().is_some_and(KernelVersion::loses_parallel_dns),
            queues,
            pod_cidrs: pod_cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect(),
            marks: Some(marks),
        });
        if let Some(access) = self.access() {
            checks.extend(sources::check(access, &self.cni_cache));
        }
        let agent = status.map(|Status { pid, phase, ready, not_ready, origins, state, .. }| {
            let protections = origins.map(|origins| origins.protections).unwrap_or_default();
            AgentFindings { pid, phase, ready, not_ready, protections, state }
        });
        let tables = preflight::installed_tables().ok();
        let rules_served = served_queue().is_ok_and(|queue| queue.is_some());
        let has_rules = tables.is_some_and(|tables| tables.inet || tables.bridge);
        let passes_unserved = if has_rules { Table::passes_unevaluated().ok() } else { None };
        Ok(Findings { checks, agent, tables, rules_served, passes_unserved, read, problems })
    }

    /// Access to the API server, if it is configured and no folder is given.
    fn access(&self) -> Option<Access> {
        match (&self.source, &self.kubeconfig) {
            (Some(_), _) => None,
            (None, Some(file)) => Some(Access::Kubeconfig(file.clone())),
            (None, None) => Access::Environment.is_there().then_some(Access::Environment),
        }
    }

    fn queues(&self) -> Result<[QueueRange; 2], exit::Usage> {
        values::queue_ranges(self.queue_base, cores())
    }
}

impl Findings {
    fn are_healthy(&self) -> bool {
        self.checks.iter().all(|check| !check.state.is_wrong())
            && self.agent.as_ref().is_none_or(|agent| agent.ready || self.has_handed_over(agent))
            && self.problems.is_empty()
            && !self.are_rules_unserved()
    }

    /// Whether there are rules in the kernel and no agent serves their queues.
    fn are_rules_unserved(&self) -> bool {
        let has_rules = self.tables.is_some_and(|tables| tables.inet || tables.bridge);
        has_rules && !self.rules_served && self.agent.as_ref().is_none_or(|agent| !agent.ready)
    }

    /// What rules without an agent mean for pods, and what to do.
    fn unserved_rules(&self) -> (State, Text) {
        let what = match self.passes_unserved {
            Some(true) => {
                "no agent serves the rules in the kernel: new connections pass unevaluated, and connections \
                 that policy had cut stay cut"
            }
            _ => {
                "no agent serves the rules in the kernel: accepted connections continue; new ones from or to \
                 pods that a policy isolates are dropped; pods that have started since get no traffic at \
                 all, even if no policy selects them"
            }
        };
        (
            State::Wrong,
            advice(what, "start an agent; or, if this node no longer needs one, run `kube-verdict cleanup`"),
        )
    }

    /// Whether another agent enforces in place of this one.
    fn has_handed_over(&self, agent: &AgentFindings) -> bool {
        agent.phase == Phase::Superseded && self.rules_served
    }

    /// The agent that answers, and whether it enforces the policies.
    fn agent(&self) -> (State, Text) {
        match &self.agent {
            None if self.rules_served => {
                let what = "no agent answers, but one serves the rules in the kernel";
                (
                    State::Warning,
                    advice(what, "give its --http-port; if it is just taking over, try again in a moment"),
                )
            }
            None if self.are_rules_unserved() => self.unserved_rules(),
            None => (State::None, text!("no agent answers on this node")),
            Some(agent) if agent.ready => (State::Fine, text!("pid {} enforces the policies", agent.pid)),
            Some(agent) if self.has_handed_over(agent) => {
                let what =
                    format!("another agent has taken over from pid {} and enforces the policies", agent.pid);
                (
                    State::Warning,
                    advice(&what, "end that process, unless it is just shutting down; then try again"),
                )
            }
            Some(agent) => {
                let why = agent.not_ready.join("; ");
                let mut lines = vec![text!("pid {} is not ready: {why}", agent.pid)];
                if self.are_rules_unserved() {
                    lines.push(self.unserved_rules().1);
                }
                (State::Wrong, Text::lines(lines))
            }
        }
    }

    fn text(&self) -> Text {
        let mut rows = Vec::new();
        for check in &self.checks {
            let (state, text) = match &check.state {
                CheckState::Fine { what } => (State::Fine, Text::new(what)),
                CheckState::Warning { what, todo } => (State::Warning, advice(what, todo)),
                CheckState::Wrong { what, todo, .. } => (State::Wrong, advice(what, todo)),
            };
            rows.push((check.name.to_owned(), state, text));
        }
        let (state, text) = self.agent();
        rows.push(("agent".to_owned(), state, text));
        let (state, text) = self.protections();
        rows.push(("protections".to_owned(), state, text));
        rows.extend(self.state().map(|(state, text)| ("state".to_owned(), state, text)));
        let (state, text) = self.read();
        rows.push(("source".to_owned(), state, text));
        for problem in &self.problems {
            rows.push(("source".to_owned(), State::Wrong, Text::new(&problem.text)));
        }
        table::states(&rows)
    }

    /// Whether the agent uses the state on disk, or cannot save it; `None` if neither.
    fn state(&self) -> Option<(State, Text)> {
        let SavedState { restored, error, .. } = self.agent.as_ref()?.state.as_ref()?;
        if restored.is_some() {
            let what = "the agent uses the state on disk in place of what it can't read";
            let todo = "make sure that the API server answers and that no manifest is broken: see \
                        `kube-verdict status`";
            return Some((State::Warning, advice(what, todo)));
        }
        error.as_ref().map(|error| (State::Warning, Text::new(error)))
    }

    /// Counts of what was read.
    fn read(&self) -> (State, Text) {
        match &self.read {
            None if self.agent.is_some() => (State::None, text!("the agent has read nothing yet")),
            None => (
                State::None,
                text!(
                    "nothing was read: --source DIR checks manifests, and a running agent reports what it \
                     has read"
                ),
            ),
            Some(read) if read.objects == 0 => {
                (State::Warning, advice(&format!("{read} read"), "is this the right folder or cluster?"))
            }
            Some(read) => (State::Fine, Text::new(read)),
        }
    }

    /// Which protections against spoofed packets are in force, from the agent or else from the tables in the
    /// kernel.
    fn protections(&self) -> (State, Text) {
        match (&self.agent, self.tables) {
            (Some(agent), Some(tables))
                if agent.protections.is_empty() && self.rules_served && tables.inet =>
            {
                let table = tables_text(tables);
                (
                    State::None,
                    text!(
                        "those of another agent, whose rules are in force ({table}): that agent reports which"
                    ),
                )
            }
            (Some(agent), _) if agent.protections.is_empty() => match agent.phase {
                Phase::Superseded if self.tables.is_some_and(|tables| !tables.inet && !tables.bridge) => {
                    (State::None, text!("none: the rules were removed, as `kube-verdict cleanup` does"))
                }
                Phase::Superseded if !self.rules_served => {
                    (State::None, text!("those of an agent that had taken over and is gone"))
                }
                Phase::Starting => {
                    (State::None, text!("none in force yet: the agent has not installed its rules"))
                }
                _ => (State::None, text!("the agent does not report them yet: try again in a moment")),
            },
            (Some(agent), _) => {
                let (on, off): (Vec<_>, Vec<_>) = agent.protections.iter().partition(|one| one.in_force);
                let on: Vec<&str> = on.into_iter().map(|one| &*one.id).collect();
                let mut lines = vec![match on.is_empty() {
                    true => text!("none in force"),
                    false => text!("in force: {}", on.join(", ")),
                }];
                lines.extend(off.iter().map(|Protection { id, why_not, .. }| {
                    text!("{id} is off: {}", why_not.as_deref().unwrap_or("the agent gives no reason"))
                }));
                let state = match off.iter().all(|one| one.off_by_choice) {
                    true => State::Fine,
                    false => State::Warning,
                };
                (state, Text::lines(lines))
            }
            (None, None) => (
                State::None,
                text!("unknown, because the kernel's tables cannot be read: see the checks above"),
            ),
            (None, Some(InstalledTables { inet: false, bridge: false })) => {
                (State::None, text!("none in force: no rules of kube-verdict are in the kernel"))
            }
            (None, Some(tables)) if self.rules_served => {
                let table = tables_text(tables);
                (State::None, text!("those of an agent that does not answer here ({table})"))
            }
            (None, Some(tables)) => {
                let left = tables_text(tables);
                let text = text!(
                    "an agent that is gone has left {left}: the ports that it knew are still checked, and \
                     packets of newer ones are treated by its --fail-mode"
                );
                (State::None, text)
            }
        }
    }
}

/// Names the installed tables, of which there is at least one.
fn tables_text(tables: InstalledTables) -> &'static str {
    match (tables.inet, tables.bridge) {
        (true, true) => "tables inet and bridge kube-verdict",
        (true, false) => "table inet kube-verdict, but not table bridge kube-verdict",
        (false, _) => "table bridge kube-verdict, but not table inet kube-verdict",
    }
}

/// A problem, and what to do about it.
fn advice(what: &str, todo: &str) -> Text {
    Text::lines([Text::new(what), text!("-> {todo}")])
}

#[cfg(test)]
mod tests;
