//! `kube-verdict status`: the status of the agent on this node.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use cluster::Link;
use jiff::Timestamp;

use super::{Output, table};
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
mod tests {
    use super::*;
    use crate::status::Protection;
    use crate::status::origins::{Conflict, Port};

    fn rendered_lines(status: &Status) -> Vec<String> {
        let text = render(status, 80).to_string();
        // Continuation lines of a long text have no name.
        let mut lines: Vec<String> = Vec::new();
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line:?} has more than 80 columns");
            match (line.strip_prefix("  "), lines.last_mut()) {
                (Some(more), Some(last)) => {
                    last.push(' ');
                    last.push_str(more.trim());
                }
                _ => lines.push(line.split_whitespace().collect::<Vec<_>>().join(" ")),
            }
        }
        lines
    }

    fn port(interface: &str, pod: Option<&str>, exempt: bool) -> Port {
        Port {
            interface: interface.to_owned(),
            pod: pod.map(str::to_owned),
            addresses: vec!["10.244.1.2".to_owned()],
            exempt,
        }
    }

    fn protection(id: &str, name: &str, why_not: Option<&str>) -> Protection {
        Protection {
            id: id.to_owned(),
            name: name.to_owned(),
            in_force: why_not.is_none(),
            why_not: why_not.map(str::to_owned),
            off_by_choice: false,
        }
    }

    #[test]
    fn protections_ports_and_drops_are_shown_in_80_columns() {
        let why = "the kernel lacks nftables' bridge family: load nf_tables_bridge (CONFIG_NF_TABLES_BRIDGE) \
                   and start the agent again";
        let origins = Origins {
            protections: vec![
                protection("bridged-sources", "pods on a bridge send from their own addresses", Some(why)),
                protection("routed-sources", "routed pods send from their own addresses", None),
            ],
            ports: vec![
                port("veth1", Some("web/a"), false),
                port("veth2", None, false),
                port("veth3", Some("vpn/gw"), true),
            ],
            conflicts: vec![Conflict {
                address: "10.244.1.2".to_owned(),
                bound_to: Some("veth1".to_owned()),
                claimed_by: "veth2".to_owned(),
            }],
            overlays: vec!["8472/udp".to_owned(), "protocol 4".to_owned()],
            exemptions: vec!["vpn:app=gateway".to_owned()],
            dropped: [("overlay", 4), ("revoked", 0), ("spoofed-source", 12)]
                .map(|(reason, packets)| (reason.to_owned(), packets))
                .into(),
            new_ports: NewPorts { queued: 9, passed: 7, dropped: 1, expired: 1, no_room: 0 },
        };
        let lines = rendered_lines(&Status { origins: Some(origins), ..Status::default() });
        for line in [
            &format!("bridged-sources off: pods on a bridge send from their own addresses; {why}"),
            "routed-sources in force: routed pods send from their own addresses",
            "ports 3 of pods: 1 without a known pod, 1 exempt",
            "conflict 10.244.1.2 belongs to veth1; veth2 claims it as well",
            "exempt vpn:app=gateway (may send from any address that is not in use on this node)",
            "overlays 8472/udp, protocol 4",
            "new ports 9 packets queued: 7 passed, 1 dropped, 1 timed out, 0 over the limit",
            "dropped 16 packets by rules: 4 overlay, 12 spoofed-source",
        ] {
            assert!(lines.iter().any(|found| found == line), "{line:?} in {lines:#?}");
        }
    }

    #[test]
    fn origins_are_shown_only_once_there_are_rules() {
        let lines = rendered_lines(&Status::default());
        assert!(
            !lines.iter().any(|line| line.starts_with("ports ") || line.starts_with("dropped ")),
            "{lines:?}"
        );
        let lines = rendered_lines(&Status { origins: Some(Origins::default()), ..Status::default() });
        assert!(lines.iter().any(|line| line == "dropped 0 packets by rules"), "{lines:?}");
        assert!(!lines.iter().any(|line| line.starts_with("overlays ")), "{lines:?}");
    }

    #[test]
    fn a_superseded_agent_shows_which_rules_are_in_force() {
        let rules_in = |phase, successor| {
            let lines = rendered_lines(&Status { phase, successor, ..Status::default() });
            lines.into_iter().find(|line| line.starts_with("rules ")).expect("always shown")
        };
        let rules = |phase| rules_in(phase, None);
        let removed = rules_in(Phase::Superseded, Some(Successor::RulesRemoved));
        assert_eq!(removed, "rules none: they were removed, as `kube-verdict cleanup` does");
        let gone = rules_in(Phase::Superseded, Some(Successor::AgentGone));
        assert_eq!(gone, "rules those of the agent that had taken over, which is gone");
        assert_eq!(
            rules(Phase::Superseded),
            "rules those of the agent that has taken over; its status shows them"
        );
        assert_eq!(rules(Phase::Starting), "rules this agent has installed none yet");
    }

    #[test]
    fn counts_of_what_was_read_are_always_shown() {
        let lines = rendered_lines(&Status::default());
        assert!(lines.iter().any(|line| line == "read nothing yet"), "{lines:?}");
        let read = cluster::ReadCounts {
            files: Some(3),
            objects: 2,
            policies: 1,
            skipped: 1,
            skipped_files: vec!["values.yaml".to_owned()],
            ..cluster::ReadCounts::default()
        };
        let lines = rendered_lines(&Status { read: Some(read), ..Status::default() });
        let line =
            "read 3 files, 2 objects, 1 policy; skipped 1 file without a Kubernetes object: values.yaml";
        assert!(lines.iter().any(|found| found == line), "{lines:?}");
    }

    #[test]
    fn names_from_outside_do_not_control_the_terminal() {
        let origins = Origins {
            conflicts: vec![Conflict {
                address: "10.244.1.2".to_owned(),
                bound_to: Some("a\u{1b}[2J".to_owned()),
                claimed_by: "b\rc".to_owned(),
            }],
            ..Origins::default()
        };
        let problem =
            crate::status::Problem { kind: "Pod".to_owned(), text: "Pod web/\u{1b}[31m: no".to_owned() };
        let status = Status {
            version: "1\u{1b}]0;title\u{7}".to_owned(),
            node: "n\nagent enforcing, ready".to_owned(),
            not_ready: vec!["pod web/\u{202e}x".to_owned()],
            origins: Some(origins),
            problems: vec![problem],
            ..Status::default()
        };
        // Without the program's own colours, everything else comes from outside.
        let text = render(&status, 80).to_string().replace(paint::warning("problem:").as_str(), "problem:");
        assert!(text.chars().all(|letter| letter == '\n' || !letter.is_control()), "{text:?}");
        for part in ["a\\u{1b}[2J", "web/\\u{1b}[31m", "1\\u{1b}]0;title", "n\\nagent", "web/\\u{202e}x"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn a_failing_audit_log_is_unhealthy() {
        let mut status = Status { ready: true, ..Status::default() };
        assert!(status.is_fine());
        status.audit.failing = Some("No space left on device".to_owned());
        assert!(!status.is_fine());
        let lines = rendered_lines(&status);
        assert!(lines.iter().any(|line| line.contains("failing: No space left")), "{lines:?}");
    }
}
