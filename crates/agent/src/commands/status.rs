//! `kube-verdict status`: what the agent on this node says of itself.

use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use cluster::Link;

use super::{Output, table};
use crate::status::{Connection, Phase, Source, Status};
use crate::{client, exit, http, paint};

const EXAMPLES: &str = "\
Examples:
  kube-verdict status
  Which version of a policy is in force on this node:
    kube-verdict status --output json | jq -r '.policies[] | select(.policy == \"web/a\") | .resource_version'
  Which policies decided, and how often:
    kube-verdict status --output json | jq '.policies'
  Wait until a change is in force:
    until [ \"$(kube-verdict status --output json | jq .applied_generation)\" -ge 12 ]; do sleep 0.1; done

Exit codes: 0 policy is in force, 1 it is not, or no agent answers, 2 the command line is wrong.";

/// Shows how the running agent is: what is in force, what it judged, what is wrong.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct StatusCommand {
    /// The agent's --http-port.
    #[arg(long, visible_alias = "metrics-port", value_name = "PORT", default_value_t = http::DEFAULT_PORT)]
    http_port: u16,

    /// How to print it.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl StatusCommand {
    /// Asks and prints.
    pub fn run(self) -> anyhow::Result<u8> {
        let status = client::status(self.http_port)?;
        match self.output {
            Output::Text => print(&status, &mut anstream::stdout().lock())?,
            Output::Json => {
                let mut stdout = io::stdout().lock();
                serde_json::to_writer_pretty(&mut stdout, &status).map_err(io::Error::from)?;
                writeln!(stdout)?;
            }
        }
        Ok(if status.ready { exit::FINE } else { exit::WRONG })
    }
}

/// Prints it for people.
fn print(status: &Status, out: &mut impl Write) -> io::Result<()> {
    let phase = match status.phase {
        Phase::Starting => "starting",
        Phase::Enforcing => "enforcing",
        Phase::Superseded => "superseded",
        Phase::Stopping => "stopping",
    };
    let ready = if status.ready { "ready" } else { "not ready" };
    let mut rows = vec![
        ("node".to_owned(), status.node.clone()),
        ("agent".to_owned(), format!("{phase}, {ready}, version {}, pid {}", status.version, status.pid)),
    ];
    let mut row = |name: &str, text: String| rows.push((name.to_owned(), text));
    for reason in &status.not_ready {
        row("not ready", reason.clone());
    }
    if let Some(dead) = &status.dead {
        row("restart it", dead.clone());
    }
    row(
        "generation",
        format!("{} in force, {} published", status.applied_generation, status.published_generation),
    );
    if let Some(source) = &status.source {
        row("source", source_text(source));
        for connection in source.connections.iter().filter(|one| one.state != Link::Watching.name()) {
            row(&format!("  {}", connection.kind), connection_text(connection, SystemTime::now()));
        }
    }
    let inventory = &status.inventory;
    row(
        "cluster",
        format!(
            "{} policies, {} pods, {} namespaces, {} nodes",
            inventory.policies, inventory.pods, inventory.namespaces, inventory.nodes
        ),
    );
    row(
        "pod CIDRs",
        if status.pod_cidrs.is_empty() { "unknown".to_owned() } else { status.pod_cidrs.join(", ") },
    );
    if let Some(rules) = &status.table {
        row("rules", format!("queues {} ({}), when down {}", rules.queues, rules.form, rules.when_down));
    }
    let packets = &status.packets;
    row(
        "packets",
        format!(
            "{} allowed, {} more remembered, {} denied ({} unparsable), {} gone before their verdict",
            packets.allowed, packets.remembered, packets.denied, packets.unparsable, packets.gone
        ),
    );
    let hold = &status.hold;
    if hold.held + hold.no_room > 0 {
        row(
            "held",
            format!(
                "{} now, {} in all: {} allowed, {} denied, {} out of time; {} without room, {} repeated",
                hold.now, hold.held, hold.allowed, hold.denied, hold.expired, hold.no_room, hold.repeated
            ),
        );
    }
    let sum = |number: fn(&crate::status::Queue) -> u32| {
        status.queues.iter().map(|q| u64::from(number(q))).sum::<u64>()
    };
    row(
        "queues",
        format!(
            "{} waiting, {} dropped (full), {} dropped (socket)",
            sum(|queue| queue.waiting),
            sum(|queue| queue.dropped_full),
            sum(|queue| queue.dropped_by_socket)
        ),
    );
    if let Some(change) = &status.last_change {
        row(
            "last change",
            format!(
                "{} objects; compile {}, grace {}, rules {} us",
                change.changes, change.compile_micros, change.grace_micros, change.table_micros
            ),
        );
    }
    let sweep = &status.sweeps.last;
    row(
        "last sweep",
        format!(
            "{} connections in {} us: {} revoked, {} restored",
            sweep.connections, sweep.micros, sweep.revoked, sweep.restored
        ),
    );
    let audit = &status.audit;
    let failing = audit.failing.as_ref().map(|why| format!(", failing: {why}")).unwrap_or_default();
    row("audit log", format!("{} written, {} lost{failing}", audit.written, audit.lost));
    if let Some(conntrack) = &status.conntrack {
        row("connections", format!("{} of {}", conntrack.entries, conntrack.max));
    }
    let versions = status.policies.iter().filter(|policy| policy.resource_version.is_some()).count();
    if versions > 0 {
        row("in force", format!("{versions} policies (--output json lists the version of each)"));
    }
    let decided = status.policies.iter().filter(|policy| policy.allowed + policy.denied > 0).count();
    if decided > 0 {
        row("policies", format!("{decided} decided so far (--output json lists them)"));
    }
    writeln!(out, "{}", table::pairs(&rows))?;
    for problem in &status.problems {
        writeln!(out, "{} {}", paint::warning("problem:"), problem.text)?;
    }
    Ok(())
}

fn source_text(source: &Source) -> String {
    let Source { server, connected, connections } = source;
    if *connected {
        let sum = |number: fn(&Connection) -> u64| connections.iter().map(number).sum::<u64>();
        return format!(
            "{server}, connected; {} reconnects, {} relists so far",
            sum(|one| one.reconnects),
            sum(|one| one.relists)
        );
    }
    if connections.iter().any(|one| one.state == Link::Listing.name()) {
        return format!("{server}, not all is known yet");
    }
    format!("{server}, not connected: what was last known of these stays in force")
}

fn connection_text(connection: &Connection, now: SystemTime) -> String {
    let since = UNIX_EPOCH + Duration::from_secs(connection.since);
    let seconds = now.duration_since(since).unwrap_or_default().as_secs();
    let why = connection.last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    format!("{} for {seconds} s{why}", connection.state)
}
