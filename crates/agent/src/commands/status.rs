//! `kube-verdict status`: the status of the agent on this node.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use cluster::Link;
use jiff::Timestamp;

use super::output::Output;
use super::table;
use crate::status::{Connection, FullQueue, NewPorts, Origins, Phase, SavedState, Source, Status, Successor};
use crate::terminal::{self, Text, text};
use crate::values::number;
use crate::{client, exit, http, paint};

const EXAMPLES: &str = "\
Examples:
  Show the agent's status:
    kube-verdict status
  Which version of a policy is in force on this node?
    kube-verdict status --output json | jq -r '.policies[] | select(.policy == \"web/a\") | .resource_version'
  Which policies have decided, and how often?
    kube-verdict status --output json | jq '.policies'
  Wait until generation 12 is in force:
    until [ \"$(kube-verdict status --output json | jq .applied_generation)\" -ge 12 ]; do sleep 0.1; done

Exit codes: 0 policy is in force and, if configured, recorded, 1 failure (it is not, the audit log
fails, or no agent answers), 2 usage error.";

/// Shows the running agent's status: policies in force, counts of verdicts, and problems.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct StatusCommand {
    /// The agent's --http-port.
    #[arg(
        long,
        visible_alias = "metrics-port",
        value_name = "PORT",
        default_value_t = http::DEFAULT_PORT,
        value_parser = number(1..=u16::MAX, http::DEFAULT_PORT)
    )]
    http_port: u16,

    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl StatusCommand {
    /// Requests the status and prints it.
    pub fn run(self) -> anyhow::Result<u8> {
        let status = client::status(self.http_port)?;
        match self.output {
            Output::Text => render(&status, table::width()).print()?,
            Output::Json => terminal::print_json(&status)?,
        }
        Ok(if status.is_fine() { exit::FINE } else { exit::WRONG })
    }
}

/// The status as text, wrapped to a width.
fn render(status: &Status, width: u16) -> Text {
    let phase = match status.phase {
        Phase::Starting => "starting",
        Phase::Enforcing => "enforcing",
        Phase::Superseded => "superseded",
        Phase::Stopping => "stopping",
    };
    let ready = if status.ready { "ready" } else { "not ready" };
    let mut rows = vec![
        ("node".to_owned(), Text::new(&status.node)),
        ("agent".to_owned(), text!("{phase}, {ready}, version {}, pid {}", status.version, status.pid)),
    ];
    let mut row = |name: &str, text: String| rows.push((name.to_owned(), Text::new(text)));
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
    if let Some(restored) = status.state.as_ref().and_then(|state| state.restored) {
        row("source", restored_text(status.source.as_ref(), restored));
    }
    if let Some(state) = &status.state {
        row("state", state_text(state));
    }
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
    row("read", status.read.as_ref().map_or("nothing yet".to_owned(), ToString::to_string));
    row(
        "pod CIDRs",
        if status.pod_cidrs.is_empty() { "unknown".to_owned() } else { status.pod_cidrs.join(", ") },
    );
    match (&status.table, status.phase) {
        (Some(rules), _) => {
            row("rules", format!("queues {} ({}), when down {}", rules.queues, rules.form, rules.fail_mode));
        }
        (None, Phase::Superseded) => row("rules", rules_of(status.successor).to_owned()),
        (None, Phase::Starting) => row("rules", "this agent has installed none yet".to_owned()),
        (None, _) => row("rules", "none of this agent's".to_owned()),
    }
    let packets = &status.packets;
    row(
        "packets",
        format!(
            "{} allowed, {} more cached, {} denied ({} unparsable), {} more cached, {} gone before their \
             verdict",
            packets.allowed,
            packets.cached + packets.cached_untracked,
            packets.denied,
            packets.unparsable,
            packets.cached_denied,
            packets.gone
        ),
    );
    let hold = &status.hold;
    if hold.held + hold.no_room > 0 {
        row(
            "held",
            format!(
                "{} now, {} in total: {} allowed, {} denied, {} timed out; {} over the limit, {} repeated",
                hold.now, hold.held, hold.allowed, hold.denied, hold.expired, hold.no_room, hold.repeated
            ),
        );
    }
    if let Some(origins) = &status.origins {
        origin_rows(origins, &mut row);
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
    if let Some(FullQueue { packets, sender }) = &status.full_queue {
        let sender = sender.as_deref().unwrap_or("unknown");
        row("full queue", format!("{packets} packets lost; the last time most came from {sender}"));
    }
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
    let problems =
        status.problems.iter().map(|problem| paint::warning("problem:") + text!(" {}", problem.text));
    Text::lines([table::pairs(&rows, width)].into_iter().chain(problems))
}

/// The rules in the kernel, if they are not this agent's.
fn rules_of(successor: Option<Successor>) -> &'static str {
    match successor {
        Some(Successor::Agent) | None => "those of the agent that has taken over; its status shows them",
        Some(Successor::AgentGone) => "those of the agent that had taken over, which is gone",
        Some(Successor::RulesRemoved) => "none: they were removed, as `kube-verdict cleanup` does",
    }
}

/// Rows about packets' origins, and about packets that the rules dropped.
fn origin_rows(origins: &Origins, row: &mut impl FnMut(&str, String)) {
    for protection in &origins.protections {
        let name = &protection.name;
        let text = match &protection.why_not {
            None => format!("in force: {name}"),
            Some(why) => format!("off: {name}; {why}"),
        };
        row(&protection.id, text);
    }
    let unknown = origins.ports.iter().filter(|port| port.pod.is_none()).count();
    let exempt = origins.ports.iter().filter(|port| port.exempt).count();
    row("ports", format!("{} of pods: {unknown} without a known pod, {exempt} exempt", origins.ports.len()));
    for conflict in &origins.conflicts {
        row(
            "conflict",
            format!(
                "{} belongs to {}; {} claims it as well",
                conflict.address,
                conflict.bound_to.as_deref().unwrap_or("no port"),
                conflict.claimed_by
            ),
        );
    }
    for exemption in &origins.exemptions {
        row("exempt", format!("{exemption} (may send from any address that is not in use on this node)"));
    }
    if !origins.overlays.is_empty() {
        row("overlays", origins.overlays.join(", "));
    }
    let NewPorts { queued, passed, dropped, expired, no_room } = origins.new_ports;
    if queued > 0 {
        row(
            "new ports",
            format!(
                "{queued} packets queued: {passed} passed, {dropped} dropped, {expired} timed out, {no_room} \
                 over the limit"
            ),
        );
    }
    let total: u64 = origins.dropped.values().sum();
    let reasons = origins.dropped.iter().filter(|(_, packets)| **packets > 0);
    let reasons: Vec<String> = reasons.map(|(reason, packets)| format!("{packets} {reason}")).collect();
    row(
        "dropped",
        match reasons.is_empty() {
            true => "0 packets by rules".to_owned(),
            false => format!("{total} packets by rules: {}", reasons.join(", ")),
        },
    );
}

/// The source, while the agent uses the state on disk in place of a part of it.
fn restored_text(source: Option<&Source>, saved: u64) -> String {
    let until = match source {
        Some(Source { server, .. }) => format!("until {server} has answered"),
        None => "for files that are broken or can't be read now".to_owned(),
    };
    format!("state of {}, {until}", time(saved))
}

fn state_text(state: &SavedState) -> String {
    let saved = state.saved.map_or("never saved".to_owned(), |saved| format!("saved {}", time(saved)));
    match &state.error {
        Some(error) => format!("{saved}; {error}"),
        None => saved,
    }
}

fn time(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map_or_else(|| "an unknown time".to_owned(), |time| time.to_string())
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
        return format!("{server}, initial lists not complete yet");
    }
    format!("{server}, not connected: the last known state of these stays in force")
}

fn connection_text(connection: &Connection, now: SystemTime) -> String {
    let since = UNIX_EPOCH + Duration::from_secs(connection.since);
    let seconds = now.duration_since(since).unwrap_or_default().as_secs();
    let why = connection.last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    format!("{} for {seconds} s{why}", connection.state)
}

#[cfg(test)]
mod tests;
