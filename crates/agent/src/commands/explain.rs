//! `kube-verdict explain`: evaluates one connection, or many, under the policies of a folder or a cluster.
//!
//! It needs no root, and for a folder no cluster. It reads the source once, compiles it, and evaluates as the
//! agents do: egress as the agent on the node of the connection's source, ingress as the agent on the node of
//! its destination. With `--node` it evaluates both as the agent of that node.

use std::fs::File;
use std::io::{self, BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use policy::{Compiler, Inventory, Packet, Scope, Snapshot, Verdict};

use super::budget::BudgetArguments;
use super::output::Output;
use super::table;
use crate::exit;
use crate::nodes;
use crate::paint;
use crate::source::SourceArguments;
use crate::status::ProblemStatus;
use crate::terminal::{self, text};

mod addresses;
mod answer;
mod destination;
mod endpoint;
mod overlay;
mod packets;
mod port;
mod render;
mod service;

use answer::Answer;
use destination::Destination;
use endpoint::{EndpointArgument, ResolvedEndpoint};
use overlay::Overlay;
use port::PortArgument;
use service::ServiceAnswer;

const EXAMPLES: &str = "\
Examples:
  Is the web server allowed to connect to the database?
    kube-verdict explain --source manifests --from web/a --to db/b --port 5432/TCP
  The same as JSON, with the port by its name on the destination pod:
    kube-verdict explain --source manifests --from web/a --to db/b --port postgres/TCP --output json
  Is an address outside the cluster allowed to connect?
    kube-verdict explain --source manifests --from 192.0.2.7 --to web/a --port 443
  List problems in the source that the answer may depend on:
    kube-verdict explain --source manifests --from web/a --to db/b --port 5432 --output json \\
      | jq '.problems'
  Use the current policies of a cluster:
    kube-verdict explain --kubeconfig ~/.kube/config --from 192.0.2.7 --to web/a --port 443
  Evaluate as the agent of one node does:
    kube-verdict explain --source manifests --node node-a --from web/a --to db/b --port 5432
  Which pods of a Service may be connected to? By its name, or by its address:
    kube-verdict explain --source manifests --from web/a --to svc/db/orders --port 5432
    kube-verdict explain --kubeconfig ~/.kube/config --from web/a --to 10.96.0.20 --port 5432
  What would the policies of a folder change in a cluster?
    kube-verdict explain --kubeconfig ~/.kube/config --policies new --from web/a --to db/b --port 5432
  Is ping allowed?
    kube-verdict explain --source manifests --from web/a --to db/b --port ICMP
  Evaluate many packets, one JSON object per line, `-` for standard input:
    echo '{\"src\":\"10.0.0.1\",\"dst\":\"10.0.1.2\",\"protocol\":\"TCP\",\"dst_port\":80}' \\
      | kube-verdict explain --source manifests --packets -

Exit codes: 0 the connection is allowed (with --packets: every line was evaluated), 1 failure, 2
usage error (also: the folder or the pod does not exist), 3 the connection is denied (of a Service: to
any of its pods).";

/// Evaluates a connection: is it allowed or denied, and by which policy and rule?
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Explain {
    #[command(flatten)]
    source: SourceArguments,

    /// Source of the connection: a pod as NAMESPACE/NAME, or an IP address.
    #[arg(long, value_name = "POD|IP", required_unless_present = "packets", conflicts_with = "packets")]
    from: Option<EndpointArgument>,

    /// Destination of the connection: likewise, or a Service as svc/NAMESPACE/NAME or by its address.
    #[arg(
        long,
        value_name = "POD|IP|SERVICE",
        required_unless_present = "packets",
        conflicts_with = "packets"
    )]
    to: Option<EndpointArgument>,

    /// Destination port and protocol: a port number or a port name of the destination pod or Service, with
    /// the protocol (default: TCP); or a protocol without ports, such as ICMP.
    #[arg(
        long,
        value_name = "PORT[/PROTOCOL]",
        required_unless_present = "packets",
        conflicts_with = "packets"
    )]
    port: Option<PortArgument>,

    /// Folder of policies that are laid over those of the source: they are added, or replace the policy of
    /// the same kind, namespace and name. Other objects in it are not used.
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,

    #[command(flatten)]
    budget: BudgetArguments,

    /// Evaluate the packets in this file (`-`: standard input), one JSON object per line.
    ///
    /// Keys: src, dst, protocol (a name or number; default: TCP), dst_port, src_port and icmp_type. The keys
    /// expect, expected and note are ignored; any other key is an error. Prints one JSON object per line, in
    /// the same order: {"error": ...} for a line that is invalid.
    #[arg(long, value_name = "FILE")]
    packets: Option<PathBuf>,

    /// Evaluate as the agent of this node does, which leaves pods of other nodes to their agents.
    ///
    /// Default: evaluate as the agents of the nodes at both ends do.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,

    /// Output format. Results of --packets are always JSON.
    #[arg(long, value_name = "text|json", value_enum, default_value_t)]
    output: Output,
}

impl Explain {
    /// Reads the source, evaluates and prints.
    pub(super) fn run(self) -> anyhow::Result<u8> {
        let budget = self.budget.into();
        let source = self.source.or_home_kubeconfig();
        let (mut changes, problems) = source.read_once(budget)?;
        let mut problems = problems.to_vec();
        let overlay = match &self.policies {
            Some(folder) => {
                let overlay = Overlay::lay(folder, budget, &mut changes, &mut problems)?;
                (text!("--policies {}: ", folder.display()) + overlay.summary()).print_error();
                Some(overlay)
            }
            None => None,
        };
        let scope = self.node.as_deref().map_or(Scope::Cluster, |node| Scope::Node(node.into()));
        let mut compiler = Compiler::new(scope).budget(budget);
        let mut snapshot = compiler.apply(changes).snapshot;
        while compiler.is_behind() {
            snapshot = compiler.apply([]).snapshot;
        }
        let destination = match &self.to {
            Some(to) => Destination::find(to, compiler.inventory(), &snapshot, &source, &mut problems)?,
            None => None,
        };
        let mut problems: Vec<_> = problems.iter().map(ProblemStatus::from).collect();
        problems.extend(ProblemStatus::beyond_budget(&compiler));
        for problem in &problems {
            (paint::warning("warning:") + text!(" {}", problem.text)).print_error();
        }
        if let Some(node) = &self.node {
            require_node(node, compiler.inventory())?;
        }
        match (self.packets, self.from, destination, self.port) {
            (Some(file), ..) => evaluate_all(&snapshot, &file),
            (None, Some(from), Some(Destination::Service(service)), Some(port)) => {
                let from = from.resolve(compiler.inventory())?;
                let answer = ServiceAnswer::new(&compiler, &snapshot, &from, &service, &port)?;
                let answer = answer.with(self.node, overlay, problems);
                self.output.print(&answer, || render::render_service(&answer, table::width()))?;
                Ok(exit_code(answer.verdict))
            }
            (None, Some(from), Some(Destination::End(to)), Some(port)) => {
                let answer = evaluate_one(&compiler, &snapshot, &from, &to, &port)?;
                let answer = answer.with(self.node, overlay, problems);
                self.output.print(&answer, || render::render(&answer, table::width()))?;
                Ok(exit_code(answer.verdict()))
            }
            // clap refuses this by the attributes above; checked again in case they change.
            _ => Err(exit::Usage("give --from, --to and --port, or --packets".to_owned()).into()),
        }
    }
}

fn exit_code(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Allow => exit::SUCCESS,
        Verdict::Deny => exit::DENIED,
    }
}

/// A node that the source does not have is a usage error: its agent would evaluate no pod.
fn require_node(name: &str, inventory: &Inventory) -> Result<(), exit::Usage> {
    if inventory.nodes.contains_key(name) {
        return Ok(());
    }
    let known = nodes::others(name, inventory);
    Err(exit::Usage(format!("--node {name}: the source has no such Node; {known}")))
}

fn evaluate_one(
    compiler: &Compiler,
    snapshot: &Arc<Snapshot>,
    from: &EndpointArgument,
    to: &ResolvedEndpoint,
    port: &PortArgument,
) -> anyhow::Result<Answer> {
    let inventory = compiler.inventory();
    let from = from.resolve(inventory)?;
    let (protocol, number) = port.resolve(to, inventory)?;
    let packets: Vec<Packet> = endpoint::pairs(&from, to)?
        .into_iter()
        .map(|(source, destination)| {
            let packet = Packet::new(source, destination, protocol);
            number.map_or(packet, |number| packet.to_port(number))
        })
        .collect();
    Answer::new(snapshot, inventory, &from, to, &packets)
}

fn evaluate_all(snapshot: &Snapshot, file: &Path) -> anyhow::Result<u8> {
    let output = BufWriter::with_capacity(1 << 16, terminal::json_lines());
    let counts = if file.as_os_str() == "-" {
        packets::evaluate(snapshot, BufReader::with_capacity(1 << 16, io::stdin().lock()), output)
    } else {
        let opened = File::open(file).map_err(|error| {
            exit::Usage(format!("cannot open the packets in {}: {error}", file.display()))
        })?;
        packets::evaluate(snapshot, BufReader::with_capacity(1 << 16, opened), output)
    }
    .with_context(|| format!("cannot evaluate the packets in {}", file.display()))?;
    if counts.invalid == 0 {
        return Ok(exit::SUCCESS);
    }
    anyhow::bail!(
        "{} of {} lines are invalid: each has an \"error\" in its place in the output",
        counts.invalid,
        counts.lines
    )
}
