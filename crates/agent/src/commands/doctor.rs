//! `kube-verdict doctor`: for each need of kernel and node, fine, or what is wrong and what to do.

use std::path::PathBuf;

use clap::Args;
use cluster::{Access, CniCache, Folder, ReadCounts};
use dataplane::marks::{Mark, Marks};
use dataplane::needs::{self, InstalledTables, KernelVersion, Need, NeedState, NeedsConfig};
use dataplane::queues::QueueRange;
use serde::Serialize;

mod sources;

use super::cleanup::served_queue;
use super::run::{cores, mark};
use super::table::State;
use super::values::{self, number};
use super::{Output, table};
use crate::status::{Phase, Problem, Protection, Status};
use crate::terminal::{self, Text, text};
use crate::{client, exit, http, source};

const EXAMPLES: &str = "\
Examples:
  Does this machine have what an agent needs?
    kube-verdict doctor
  May the agent read what it has to, with this kubeconfig?
    kube-verdict doctor --kubeconfig /etc/kubernetes/kubelet.conf
  Are the manifests understood?
    kube-verdict doctor --source manifests
  Which protections of packets' origins are in force:
    kube-verdict doctor --output json | jq '.agent.protections[] | {id, in_force, why_not}'
  Only what is wrong:
    kube-verdict doctor --output json | jq '.needs[] | select(.state == \"wrong\")'

Exit codes: 0 all is fine (warnings included), 1 something is wrong, 2 the command line is wrong.";

/// Says for each need of the kernel and the node: fine, or what is wrong and what to do.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Doctor {
    /// Folder of manifests: names what in it can't be understood. Without it, asks the API server, if there is a way to one.
    #[arg(long, value_name = "DIR", conflicts_with = "kubeconfig")]
    source: Option<PathBuf>,

    /// How to reach the API server. Default: by the environment variable KUBECONFIG, or as a pod with its service account does.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// The CNI's cache: a folder, off, or auto, which is /var/lib/cni if that is there.
    #[arg(long, value_name = "DIR|auto|off", value_parser = source::cni_cache, default_value = "auto")]
    cni_cache: CniCache,

    /// First NFQUEUE number of the agent, to see whether another program has it.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = number(0..=u16::MAX, 100))]
    queue_base: u16,

    /// The agent's --packet-marks: rules of other programs that write these bits are named.
    #[arg(long, value_name = "MASK", value_parser = mark, default_value_t = Marks::default().of_packets())]
    packet_marks: Mark,

    /// The agent's --connection-marks, likewise.
    #[arg(long, value_name = "MASK", value_parser = mark, default_value_t = Marks::default().of_connections())]
    connection_marks: Mark,

    /// This node's pods don't hang on a bridge, so br_netfilter is not needed.
    #[arg(long)]
    no_bridge: bool,

    /// The agent's --http-port.
    #[arg(long, visible_alias = "metrics-port", value_name = "PORT", default_value_t = http::DEFAULT_PORT, value_parser = number(1..=u16::MAX, http::DEFAULT_PORT))]
    http_port: u16,

    /// How to print it.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Findings {
    needs: Vec<Need>,
    /// Null if no agent answers.
    agent: Option<AgentFindings>,
    /// The agent's tables in the kernel, which stay when it ends; null if the kernel doesn't say.
    tables: Option<InstalledTables>,
    /// Whether an agent serves the queues to which the rules in the kernel send packets, whichever agent it is: while one takes over from
    /// another, the agent that answers need not be the one that enforces.
    rules_served: bool,
    /// How much the folder that was given holds; else how much the running agent has read. Null if there is neither.
    read: Option<ReadCounts>,
    /// Of the same.
    problems: Vec<Problem>,
}

#[derive(Debug, Serialize)]
struct AgentFindings {
    pid: u32,
    phase: Phase,
    ready: bool,
    not_ready: Vec<String>,
    /// The protections of packets' origins, as the agent says; empty before it has rules, and once another agent has taken over.
    protections: Vec<Protection>,
}

impl Doctor {
    /// Looks and prints.
    pub fn run(self) -> anyhow::Result<u8> {
        let found = self.look()?;
        match self.output {
            Output::Text => found.text().print()?,
            Output::Json => terminal::print_json(&found)?,
        }
        Ok(if found.all_fine() { exit::FINE } else { exit::WRONG })
    }

    fn look(&self) -> anyhow::Result<Findings> {
        let marks = values::marks(self.packet_marks, self.connection_marks)?;
        let status = client::status(self.http_port).ok();
        let (read, problems) = match (&self.source, &status) {
            (Some(folder), _) => {
                source::must_be_a_folder(folder)?;
                let (_, update) = Folder::read(folder)?;
                (Some(update.read), update.problems.iter().map(Problem::from).collect())
            }
            (None, Some(status)) => (status.read.clone(), status.problems.clone()),
            (None, None) => (None, Vec::new()),
        };
        // A running agent has its queues, and knows the families of its pods.
        let (queues, pod_cidrs) = match &status {
            Some(status) => (Vec::new(), status.pod_cidrs.as_slice()),
            None => (self.queues()?.to_vec(), &[][..]),
        };
        let family =
            |ipv6: bool| pod_cidrs.is_empty() || pod_cidrs.iter().any(|cidr| cidr.contains(':') == ipv6);
        let mut needs = needs::check(&NeedsConfig {
            ipv4: family(false),
            ipv6: family(true),
            bridge: !self.no_bridge,
            judge_dns: KernelVersion::running().is_some_and(KernelVersion::loses_parallel_dns),
            queues,
            pod_cidrs: pod_cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect(),
            marks: Some(marks),
        });
        if let Some(access) = self.access() {
            needs.extend(sources::look(access, &self.cni_cache));
        }
        let agent = status.map(|Status { pid, phase, ready, not_ready, origins, .. }| {
            let protections = origins.map(|origins| origins.protections).unwrap_or_default();
            AgentFindings { pid, phase, ready, not_ready, protections }
        });
        let tables = needs::installed_tables().ok();
        let rules_served = served_queue().is_ok_and(|queue| queue.is_some());
        Ok(Findings { needs, agent, tables, rules_served, read, problems })
    }

    /// How the API server is to be reached, if there is a way to one.
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
    fn all_fine(&self) -> bool {
        self.needs.iter().all(|need| !need.state.is_wrong())
            && self.agent.as_ref().is_none_or(|agent| agent.ready || self.has_handed_over(agent))
            && self.problems.is_empty()
    }

    /// Whether another agent enforces in place of this one.
    fn has_handed_over(&self, agent: &AgentFindings) -> bool {
        agent.phase == Phase::Superseded && self.rules_served
    }

    /// Which agent answers, and whether it enforces.
    fn agent(&self) -> (State, Text) {
        match &self.agent {
            None if self.rules_served => {
                let what = "no agent answers, but one serves the rules in the kernel";
                (
                    State::Warning,
                    advice(what, "give its --http-port; if it is just taking over, ask again in a moment"),
                )
            }
            None => (State::None, text!("no agent answers on this node")),
            Some(agent) if agent.ready => (State::Fine, text!("pid {} enforces the policies", agent.pid)),
            Some(agent) if self.has_handed_over(agent) => {
                let what =
                    format!("another agent has taken over from pid {} and enforces the policies", agent.pid);
                (State::Warning, advice(&what, "end that process, unless it is just ending; then ask again"))
            }
            Some(agent) => {
                let why = agent.not_ready.join("; ");
                (State::Wrong, text!("pid {} is not ready: {why}", agent.pid))
            }
        }
    }

    fn text(&self) -> Text {
        let mut rows = Vec::new();
        for need in &self.needs {
            let (state, text) = match &need.state {
                NeedState::Fine { what } => (State::Fine, Text::new(what)),
                NeedState::Warning { what, todo } => (State::Warning, advice(what, todo)),
                NeedState::Wrong { what, todo, .. } => (State::Wrong, advice(what, todo)),
            };
            rows.push((need.name.to_owned(), state, text));
        }
        let (state, text) = self.agent();
        rows.push(("agent".to_owned(), state, text));
        let (state, text) = self.protections();
        rows.push(("protections".to_owned(), state, text));
        let (state, text) = self.read();
        rows.push(("source".to_owned(), state, text));
        for problem in &self.problems {
            rows.push(("source".to_owned(), State::Wrong, Text::new(&problem.text)));
        }
        table::states(&rows)
    }

    /// How much was read.
    fn read(&self) -> (State, Text) {
        match &self.read {
            None if self.agent.is_some() => (State::None, text!("the agent has read nothing yet")),
            None => (
                State::None,
                text!(
                    "nothing was read: --source DIR looks at manifests, and a running agent says what it has read"
                ),
            ),
            Some(read) if read.objects == 0 => {
                (State::Warning, advice(&format!("{read} read"), "is this the right folder or cluster?"))
            }
            Some(read) => (State::Fine, Text::new(read)),
        }
    }

    /// Which protections of packets' origins are in force: as the agent says, or else by the tables in the kernel.
    fn protections(&self) -> (State, Text) {
        match (&self.agent, self.tables) {
            (Some(agent), Some(tables))
                if agent.protections.is_empty() && self.rules_served && tables.inet =>
            {
                let table = tables_text(tables);
                (
                    State::None,
                    text!("those of another agent, whose rules are in force ({table}): it says which"),
                )
            }
            (Some(agent), _) if agent.protections.is_empty() => match agent.phase {
                Phase::Starting => {
                    (State::None, text!("none in force yet: the agent has not installed its rules"))
                }
                _ => (State::None, text!("the agent does not say: ask again in a moment")),
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
            (None, None) => (State::None, text!("which are in force can't be told: see the needs above")),
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
                    "an agent that is gone has left {left}: the ports that it knew are still checked, and packets of newer ones are treated by its --when-down"
                );
                (State::None, text)
            }
        }
    }
}

/// Which tables are there: at least one.
fn tables_text(tables: InstalledTables) -> &'static str {
    match (tables.inet, tables.bridge) {
        (true, true) => "tables inet and bridge kube-verdict",
        (true, false) => "table inet kube-verdict, but not table bridge kube-verdict",
        (false, _) => "table bridge kube-verdict, but not table inet kube-verdict",
    }
}

/// What was found, and what to do about it.
fn advice(what: &str, todo: &str) -> Text {
    Text::lines([Text::new(what), text!("-> {todo}")])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn protection(id: &str, why_not: Option<&str>, off_by_choice: bool) -> Protection {
        Protection {
            id: id.to_owned(),
            name: id.to_owned(),
            in_force: why_not.is_none(),
            why_not: why_not.map(str::to_owned),
            off_by_choice,
        }
    }

    fn agent(phase: Phase, protections: Vec<Protection>) -> AgentFindings {
        let ready = phase == Phase::Enforcing;
        let not_ready = if ready { Vec::new() } else { vec![format!("{phase:?}")] };
        AgentFindings { pid: 1, phase, ready, not_ready, protections }
    }

    fn findings(agent: Option<AgentFindings>, tables: Option<(bool, bool)>, rules_served: bool) -> Findings {
        let tables = tables.map(|(inet, bridge)| InstalledTables { inet, bridge });
        Findings { needs: Vec::new(), agent, tables, rules_served, read: None, problems: Vec::new() }
    }

    fn found(agent: Option<AgentFindings>, tables: Option<(bool, bool)>) -> (State, String) {
        let (state, text) = findings(agent, tables, false).protections();
        (state, text.to_string())
    }

    #[test]
    fn an_agent_says_which_protections_are_in_force_and_why_others_are_not() {
        let mut protections = vec![
            protection("routed-sources", None, false),
            protection("own-addresses", None, false),
            protection("overlay-sources", Some("off by default"), true),
        ];
        let (state, text) = found(Some(agent(Phase::Enforcing, protections.clone())), Some((true, true)));
        assert_eq!(text, "in force: routed-sources, own-addresses\noverlay-sources is off: off by default");
        assert_eq!(state, State::Fine, "no more was asked for");

        protections.push(protection("bridged-sources", Some("the kernel lacks it"), false));
        let (state, text) = found(Some(agent(Phase::Enforcing, protections)), Some((true, false)));
        assert!(text.ends_with("\nbridged-sources is off: the kernel lacks it"), "{text}");
        assert_eq!(state, State::Warning);

        let (state, text) = found(Some(agent(Phase::Starting, Vec::new())), Some((false, false)));
        assert!(text.starts_with("none in force yet"), "{text}");
        assert_eq!(state, State::None);
    }

    #[test]
    fn how_much_was_read_is_always_said() {
        let said = |read: Option<ReadCounts>| {
            let (state, text) = Findings { read, ..findings(None, None, false) }.read();
            (state, text.to_string())
        };
        let counts =
            |objects, policies| ReadCounts { files: Some(3), objects, policies, ..ReadCounts::default() };
        assert_eq!(said(Some(counts(2, 1))), (State::Fine, "3 files, 2 objects, 1 policy".to_owned()));
        let (state, text) = said(Some(counts(0, 0)));
        assert!(
            text.starts_with("3 files, 0 objects, 0 policies read\n-> is this the right folder"),
            "{text}"
        );
        assert_eq!(state, State::Warning);
        let (state, text) = said(None);
        assert!(text.contains("--source DIR"), "{text}");
        assert_eq!(state, State::None);
    }

    #[test]
    fn without_an_agent_the_tables_tell_what_is_left() {
        for (tables, part) in [
            (None, "can't be told"),
            (Some((false, false)), "none in force: no rules of kube-verdict"),
            (Some((true, true)), "tables inet and bridge kube-verdict"),
            (Some((true, false)), "but not table bridge kube-verdict"),
        ] {
            let (state, text) = found(None, tables);
            assert!(text.contains(part), "{tables:?}: {text}");
            assert_eq!(state, State::None, "an agent that does not run is neither right nor wrong");
        }
    }

    #[test]
    fn while_one_agent_takes_over_from_another_the_rules_are_in_force_whichever_answers() {
        let both = Some((true, true));
        // The old one answers: its successor's rules are in the kernel.
        let old = findings(Some(agent(Phase::Superseded, Vec::new())), both, true);
        let (state, text) = old.protections();
        assert!(text.to_string().starts_with("those of another agent, whose rules are in force"), "{text}");
        assert_eq!(state, State::None);
        let (state, text) = old.agent();
        let expected =
            "another agent has taken over from pid 1 and enforces the policies\n-> end that process";
        assert!(text.to_string().starts_with(expected), "{text}");
        assert_eq!(state, State::Warning);
        assert!(old.all_fine(), "policy is in force");
        // The new one answers before it has installed its rules: the old one's are in the kernel.
        let (_, text) = findings(Some(agent(Phase::Starting, Vec::new())), both, true).protections();
        assert!(text.to_string().starts_with("those of another agent"), "{text}");
        // The old one has gone, and the new one has not opened its port yet.
        let none = findings(None, both, true);
        let (_, text) = none.protections();
        assert!(text.to_string().starts_with("those of an agent that does not answer here"), "{text}");
        let (state, text) = none.agent();
        assert!(text.to_string().starts_with("no agent answers, but one serves the rules"), "{text}");
        assert_eq!(state, State::Warning);
    }

    #[test]
    fn an_agent_whose_successor_is_gone_is_wrong() {
        let alone = findings(Some(agent(Phase::Superseded, Vec::new())), Some((true, true)), false);
        assert_eq!(alone.agent().0, State::Wrong);
        assert!(!alone.all_fine());
    }
}
