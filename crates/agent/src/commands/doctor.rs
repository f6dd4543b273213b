//! `kube-verdict doctor`: for each need of kernel and node, fine, or what is wrong and what to do.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use cluster::{Access, CniCache, Folder};
use dataplane::needs::{self, KernelVersion, Need, NeedState, NeedsConfig};
use dataplane::queues::QueueRange;
use serde::Serialize;

mod sources;

use super::run::cores;
use super::table::State;
use super::{Output, table};
use crate::status::{Problem, Status};
use crate::{client, exit, http, source};

const EXAMPLES: &str = "\
Examples:
  Does this machine have what an agent needs?
    kube-verdict doctor
  May the agent read what it has to, with this kubeconfig?
    kube-verdict doctor --kubeconfig /etc/kubernetes/kubelet.conf
  Are the manifests understood?
    kube-verdict doctor --source manifests
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
    #[arg(long, value_name = "N", default_value_t = 100)]
    queue_base: u16,

    /// This node's pods don't hang on a bridge, so br_netfilter is not needed.
    #[arg(long)]
    no_bridge: bool,

    /// The agent's --http-port.
    #[arg(long, visible_alias = "metrics-port", value_name = "PORT", default_value_t = http::DEFAULT_PORT)]
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
    /// Of the folder that was given; else of the running agent's.
    problems: Vec<Problem>,
}

#[derive(Debug, Serialize)]
struct AgentFindings {
    pid: u32,
    ready: bool,
    not_ready: Vec<String>,
}

impl Doctor {
    /// Looks and prints.
    pub fn run(self) -> anyhow::Result<u8> {
        let found = self.look()?;
        match self.output {
            Output::Text => found.print(&mut anstream::stdout().lock())?,
            Output::Json => {
                let mut stdout = io::stdout().lock();
                serde_json::to_writer_pretty(&mut stdout, &found).map_err(io::Error::from)?;
                writeln!(stdout)?;
            }
        }
        Ok(if found.all_fine() { exit::FINE } else { exit::WRONG })
    }

    fn look(&self) -> anyhow::Result<Findings> {
        let status = client::status(self.http_port).ok();
        let problems = match (&self.source, &status) {
            (Some(folder), _) => {
                source::must_be_a_folder(folder)?;
                let (_, update) = Folder::read(folder)?;
                update.problems.iter().map(Problem::from).collect()
            }
            (None, Some(status)) => status.problems.clone(),
            (None, None) => Vec::new(),
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
        });
        if let Some(access) = self.access() {
            needs.extend(sources::look(access, &self.cni_cache));
        }
        let agent =
            status.map(|Status { pid, ready, not_ready, .. }| AgentFindings { pid, ready, not_ready });
        Ok(Findings { needs, agent, problems })
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
        QueueRange::pair(self.queue_base, cores()).map_err(|error| exit::Usage(error.to_string()))
    }
}

impl Findings {
    fn all_fine(&self) -> bool {
        self.needs.iter().all(|need| !need.state.is_wrong())
            && self.agent.as_ref().is_none_or(|agent| agent.ready)
            && self.problems.is_empty()
    }

    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let mut rows = Vec::new();
        for need in &self.needs {
            let (state, text) = match &need.state {
                NeedState::Fine { what } => (State::Fine, what.clone()),
                NeedState::Warning { what, todo } => (State::Warning, format!("{what}\n-> {todo}")),
                NeedState::Wrong { what, todo } => (State::Wrong, format!("{what}\n-> {todo}")),
            };
            rows.push((need.name.to_owned(), state, text));
        }
        let (state, text) = match &self.agent {
            None => (State::None, "no agent answers on this node".to_owned()),
            Some(agent) if agent.ready => (State::Fine, format!("pid {} enforces the policies", agent.pid)),
            Some(agent) => {
                (State::Wrong, format!("pid {} is not ready: {}", agent.pid, agent.not_ready.join("; ")))
            }
        };
        rows.push(("agent".to_owned(), state, text));
        for problem in &self.problems {
            rows.push(("source".to_owned(), State::Wrong, problem.text.clone()));
        }
        writeln!(out, "{}", table::states(&rows))
    }
}
