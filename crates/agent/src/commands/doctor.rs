//! `kube-verdict doctor`: preflight checks of kernel, node and source; for each, what is wrong and what to
//! do.

use std::path::{Path, PathBuf};

use clap::Args;
use cluster::{Access, CniCache, Folder, ReadCounts};
use dataplane::marks::{Mark, Marks};
use dataplane::preflight::{self, KernelVersion, PreflightConfig};
use dataplane::queues::{QueueNumber, QueueRange};
use dataplane::table::Table;
use policy::{Compiler, Scope};

use super::budget::BudgetArguments;
use super::cores::cores;
use super::output::Output;
use super::served_queue::served_queue;
use super::table;
use crate::status::{ProblemStatus, Status};
use crate::values::{self, mark, number};
use crate::{client, exit, http, source};

mod findings;
mod rows;
mod sources;

use findings::{AgentFindings, Findings};

const EXAMPLES: &str = "\
Examples:
  Check this node:
    kube-verdict doctor
  Also check that this kubeconfig has the permissions that an agent needs:
    kube-verdict doctor --kubeconfig /etc/kubernetes/kubelet.conf
  Also check a folder of manifests:
    kube-verdict doctor --source manifests
  List the protections against spoofed packets, and which are in force:
    kube-verdict doctor --output json | jq '.agent.protections[] | {id, in_force, why_not}'
  List only failed checks:
    kube-verdict doctor --output json | jq '.needs[] | select(.state == \"wrong\")'

Exit codes: 0 all checks pass, perhaps with warnings, 1 failure (also: a check fails, or the agent
can't write its audit log), 2 usage error.";

/// Checks whether the kernel and the node have what an agent needs.
///
/// For each problem, prints what to do.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Doctor {
    /// Folder of manifests in which to look for invalid objects.
    ///
    /// Without it, checks access to the API server, if one is configured.
    #[arg(long, value_name = "DIR", conflicts_with = "kubeconfig")]
    source: Option<PathBuf>,

    /// Kubeconfig for access to the API server.
    ///
    /// Default: the file that the environment variable KUBECONFIG names, or the pod's service account.
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
    #[arg(long, value_name = "text|json", value_enum, default_value_t)]
    output: Output,
}

impl Doctor {
    /// Runs the checks and prints the results.
    pub(super) fn run(self) -> anyhow::Result<u8> {
        let findings = self.inspect()?;
        self.output.print(&findings, || findings.render(table::width()))?;
        Ok(if findings.are_healthy() { exit::SUCCESS } else { exit::FAILURE })
    }

    /// Counts of the folder's objects, and its problems: invalid objects, and policies over their namespace's
    /// budget, where each policy counts once, as for `explain`.
    fn read_folder(&self, folder: &Path) -> anyhow::Result<(ReadCounts, Vec<ProblemStatus>)> {
        source::must_be_a_folder(folder)?;
        let budget = self.budget.into();
        let (_, update) = Folder::read(folder, budget)?;
        let mut problems: Vec<ProblemStatus> = update.problems.iter().map(ProblemStatus::from).collect();
        let mut compiler = Compiler::new(Scope::Cluster).budget(budget);
        compiler.apply(update.changes);
        while compiler.is_behind() {
            compiler.apply([]);
        }
        problems.extend(ProblemStatus::beyond_budget(&compiler));
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
        let agent = status.map(|Status { pid, phase, ready, not_ready, origins, state, audit, .. }| {
            let protections = origins.map(|origins| origins.protections).unwrap_or_default();
            AgentFindings { pid, phase, ready, not_ready, protections, state, audit }
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
        values::queue_ranges(QueueNumber(self.queue_base), cores())
    }
}
