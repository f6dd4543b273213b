//! `kube-verdict explain`: asks the policies of a folder or a cluster about a connection, or about many.
//!
//! It needs no root, and for a folder no cluster: the source is read once, compiled, and evaluated as agents would: the source's egress as
//! the agent of its node does, and the destination's ingress as the agent of that one; or both as the agent of one node does.

use std::fs::File;
use std::io::{self, BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use policy::{Compiler, Inventory, Packet, Scope, Snapshot, Verdict};
use serde::Serialize;

use super::Output;
use super::budget::BudgetArguments;
use crate::exit;
use crate::nodes;
use crate::paint;
use crate::source::SourceArguments;
use crate::status::Problem;
use crate::terminal::{self, text};

mod answer;
mod end;
mod packets;
mod port;

use answer::Answer;
use end::End;
use port::PortArgument;

const EXAMPLES: &str = "\
Examples:
  May the web server reach the database?
    kube-verdict explain --source manifests --from web/a --to db/b --port 5432/TCP
  The same by the port's name on the destination pod, for a program:
    kube-verdict explain --source manifests --from web/a --to db/b --port postgres/TCP --output json
  May an address outside the cluster?
    kube-verdict explain --source manifests --from 192.0.2.7 --to web/a --port 443
  Did the source get anything wrong that the answer may depend on?
    kube-verdict explain --source manifests --from web/a --to db/b --port 5432 --output json | jq '.problems'
  The same of a cluster's policies, as they are now:
    kube-verdict explain --kubeconfig ~/.kube/config --from 192.0.2.7 --to web/a --port 443
  What does the agent of one node say of it?
    kube-verdict explain --source manifests --node node-a --from web/a --to db/b --port 5432
  May it be pinged?
    kube-verdict explain --source manifests --from web/a --to db/b --port ICMP
  Many at once, one JSON object a line, `-` for standard input:
    echo '{\"src\":\"10.0.0.1\",\"dst\":\"10.0.1.2\",\"protocol\":\"TCP\",\"dst_port\":80}' \\
      | kube-verdict explain --source manifests --packets -

Exit codes: 0 the connection is allowed (with --packets: every line was read), 1 something is wrong,
2 the command line is wrong (also: no such folder, no such pod), 3 the connection is denied.";

/// Says whether a connection is allowed, and by which policy and rule.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Explain {
    #[command(flatten)]
    source: SourceArguments,

    /// Where the connection comes from: a pod as NAMESPACE/NAME, or an IP address.
    #[arg(long, value_name = "POD|IP", required_unless_present = "packets", conflicts_with = "packets")]
    from: Option<End>,

    /// Where it goes.
    #[arg(long, value_name = "POD|IP", required_unless_present = "packets", conflicts_with = "packets")]
    to: Option<End>,

    /// Destination port: a number or a port's name on the destination pod, with the protocol (TCP if absent); or a
    /// protocol that has no ports, such as ICMP.
    #[arg(
        long,
        value_name = "PORT[/PROTOCOL]",
        required_unless_present = "packets",
        conflicts_with = "packets"
    )]
    port: Option<PortArgument>,

    #[command(flatten)]
    budget: BudgetArguments,

    /// Evaluates the packets in this file (`-`: standard input): one JSON object a line with src, dst, protocol (a name or
    /// number; TCP if absent), dst_port, and if need be src_port and icmp_type; expect, expected and note are ignored, and
    /// any other key is an error. Prints one JSON object a line, in the same order. For a line that can't be read it prints
    /// {"error": ...} and goes on.
    #[arg(long, value_name = "FILE")]
    packets: Option<PathBuf>,

    /// Evaluates as the agent of this node does: it leaves pods of other nodes to their agents. Default: as the agents of both ends' own
    /// nodes do.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,

    /// How to print the answer. Answers to --packets are always JSON.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Explain {
    /// Reads the source and answers.
    pub fn run(self) -> anyhow::Result<u8> {
        let budget = self.budget.into();
        let (changes, mut problems) = self.source.read_once(budget)?;
        let scope = self.node.as_deref().map_or(Scope::Cluster, |node| Scope::Node(node.into()));
        let mut compiler = Compiler::new(scope).budget(budget);
        let mut snapshot = compiler.apply(changes).snapshot;
        while compiler.is_behind() {
            snapshot = compiler.apply([]).snapshot;
        }
        problems.extend(Problem::beyond_budget(&compiler));
        for problem in &problems {
            (paint::warning("warning:") + text!(" {}", problem.text)).print_error();
        }
        if let Some(node) = &self.node {
            must_be_a_node(node, compiler.inventory())?;
        }
        match (self.packets, self.from, self.to, self.port) {
            (Some(file), ..) => evaluate_all(&snapshot, &file),
            (None, Some(from), Some(to), Some(port)) => {
                let answer = evaluate_one(&compiler, &snapshot, &from, &to, &port)?.by(self.node);
                match self.output {
                    Output::Text => answer.text().print()?,
                    Output::Json => {
                        terminal::print_json(&JsonAnswer { answer: &answer, problems: &problems })?
                    }
                }
                Ok(match answer.verdict() {
                    Verdict::Allow => exit::FINE,
                    Verdict::Deny => exit::DENIED,
                })
            }
            // clap refuses this by the attributes above; checked again in case they change.
            _ => Err(exit::Usage("give --from, --to and --port, or --packets".to_owned()).into()),
        }
    }
}

/// The answer with `--output json`.
#[derive(Serialize)]
struct JsonAnswer<'a> {
    #[serde(flatten)]
    answer: &'a Answer,
    /// Faults of the source's objects, and policies beyond their namespace's budget. The answer may depend on them.
    problems: &'a [Problem],
}

/// A node that the source doesn't have is a mistake on the command line: its agent would evaluate no pod.
fn must_be_a_node(name: &str, inventory: &Inventory) -> Result<(), exit::Usage> {
    if inventory.nodes.contains_key(name) {
        return Ok(());
    }
    let known = nodes::others(name, inventory);
    Err(exit::Usage(format!("--node {name}: the source has no such Node; {known}")))
}

fn evaluate_one(
    compiler: &Compiler,
    snapshot: &Arc<Snapshot>,
    from: &End,
    to: &End,
    port: &PortArgument,
) -> anyhow::Result<Answer> {
    let inventory = compiler.inventory();
    let (from, to) = (from.resolve(inventory)?, to.resolve(inventory)?);
    let (protocol, number) = port.resolve(&to, inventory)?;
    let packets: Vec<Packet> = end::pairs(&from, &to)?
        .into_iter()
        .map(|(source, destination)| {
            let packet = Packet::new(source, destination, protocol);
            number.map_or(packet, |number| packet.to_port(number))
        })
        .collect();
    Answer::new(snapshot, inventory, &from, &to, &packets)
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
    .with_context(|| format!("evaluating the packets in {}", file.display()))?;
    if counts.unreadable == 0 {
        return Ok(exit::FINE);
    }
    anyhow::bail!(
        "{} of {} lines could not be read: see the \"error\" in their place",
        counts.unreadable,
        counts.lines
    )
}
