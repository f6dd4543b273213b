//! The text of `kube-verdict status`.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use policy::{Tier, Verdict};

use super::{origins, source};
use crate::commands::table::Rows;
use crate::paint;
use crate::status::{DefaultDenies, FullQueue, PhaseName, QueueStatus, Status, Successor};
use crate::terminal::{Text, text};

/// The status as text, wrapped to a width.
pub(super) fn render(status: &Status, width: u16) -> Text {
    let mut rows = Rows::default();
    add_agent(&mut rows, status);
    source::add_rows(&mut rows, status);
    add_inventory(&mut rows, status);
    add_rules(&mut rows, status);
    add_packets(&mut rows, status);
    if let Some(origins) = &status.origins {
        origins::add_rows(&mut rows, origins);
    }
    add_queues(&mut rows, status);
    add_changes(&mut rows, status);
    add_audit_log(&mut rows, status);
    add_policies(&mut rows, status);
    let problems =
        status.problems.iter().map(|problem| paint::warning("problem:") + text!(" {}", problem.text));
    Text::lines([rows.render(width)].into_iter().chain(problems))
}

fn add_agent(rows: &mut Rows, status: &Status) {
    let phase = match status.phase {
        PhaseName::Starting => "starting",
        PhaseName::Enforcing => "enforcing",
        PhaseName::Superseded => "superseded",
        PhaseName::Stopping => "stopping",
    };
    let ready = if status.ready { "ready" } else { "not ready" };
    rows.add("node", &status.node);
    rows.add("agent", format!("{phase}, {ready}, version {}, pid {}", status.version, status.pid));
    for reason in &status.not_ready {
        rows.add("not ready", reason);
    }
    if let Some(dead) = &status.dead {
        rows.add("restart it", dead);
    }
    rows.add(
        "generation",
        format!("{} in force, {} published", status.applied_generation, status.published_generation),
    );
}

fn add_inventory(rows: &mut Rows, status: &Status) {
    let inventory = &status.inventory;
    rows.add(
        "cluster",
        format!(
            "{} policies, {} pods, {} namespaces, {} nodes",
            inventory.policies, inventory.pods, inventory.namespaces, inventory.nodes
        ),
    );
    rows.add("read", status.read.as_ref().map_or("nothing yet".to_owned(), ToString::to_string));
    rows.add(
        "pod CIDRs",
        if status.pod_cidrs.is_empty() { "unknown".to_owned() } else { status.pod_cidrs.join(", ") },
    );
}

fn add_rules(rows: &mut Rows, status: &Status) {
    match (&status.table, status.phase) {
        (Some(rules), _) => {
            rows.add(
                "rules",
                format!("queues {} ({}), fail mode {}", rules.queues, rules.form, rules.fail_mode),
            );
        }
        (None, PhaseName::Superseded) => rows.add("rules", rules_of(status.successor)),
        (None, PhaseName::Starting) => rows.add("rules", "this agent has installed none yet"),
        (None, _) => rows.add("rules", "none of this agent's"),
    }
}

/// The rules in the kernel, if they are not this agent's.
fn rules_of(successor: Option<Successor>) -> &'static str {
    match successor {
        Some(Successor::Agent) | None => "those of the agent that has taken over; its status shows them",
        Some(Successor::AgentGone) => "those of the agent that had taken over, which is gone",
        Some(Successor::RulesRemoved) => "none: they were removed, as `kube-verdict cleanup` does",
    }
}

fn add_packets(rows: &mut Rows, status: &Status) {
    let packets = &status.packets;
    rows.add(
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
    let mut denied: BTreeMap<&str, u64> = BTreeMap::new();
    for one in packets.by_outcome.iter().filter(|one| one.verdict == Verdict::Deny.name()) {
        *denied.entry(&one.reason).or_default() += one.packets;
    }
    if !denied.is_empty() {
        rows.add("denied", largest(denied.into_iter().map(|(reason, count)| (reason.to_owned(), count))));
    }
    let isolated = |one: &DefaultDenies| (format!("{} of {}", one.direction, one.namespace), one.denied);
    if !status.default_denies.is_empty() {
        rows.add("default denies", largest(status.default_denies.iter().map(isolated)));
    }
    let hold = &status.hold;
    if hold.held + hold.over_limit > 0 {
        rows.add(
            "held",
            format!(
                "{} now, {} in total: {} allowed, {} denied, {} timed out; {} over the limit, {} repeated",
                hold.now, hold.held, hold.allowed, hold.denied, hold.expired, hold.over_limit, hold.repeated
            ),
        );
    }
}

/// At most this many counts are listed.
const SHOWN_COUNTS: usize = 5;

/// `12 ingress of db, 3 egress of web`: the largest counts, and how many others there are.
fn largest(counts: impl Iterator<Item = (String, u64)>) -> String {
    let mut counts: Vec<_> = counts.collect();
    counts.sort_by_key(|(_, count)| Reverse(*count));
    let others = counts.split_off(counts.len().min(SHOWN_COUNTS)).len();
    let shown: Vec<_> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
    match others {
        0 => shown.join(", "),
        others => format!("{}, and {others} more (--output json lists them)", shown.join(", ")),
    }
}

fn add_queues(rows: &mut Rows, status: &Status) {
    let sum =
        |number: fn(&QueueStatus) -> u32| status.queues.iter().map(|q| u64::from(number(q))).sum::<u64>();
    rows.add(
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
        rows.add("full queue", format!("{packets} packets lost; the last time most came from {sender}"));
    }
}

fn add_changes(rows: &mut Rows, status: &Status) {
    if let Some(change) = &status.last_change {
        rows.add(
            "last change",
            format!(
                "{} objects; compile {}, grace {}, rules {} us",
                change.changes, change.compile_micros, change.grace_micros, change.table_micros
            ),
        );
    }
    let sweep = &status.sweeps.last;
    rows.add(
        "last sweep",
        format!(
            "{} connections in {} us: {} revoked, {} restored",
            sweep.connections, sweep.micros, sweep.revoked, sweep.restored
        ),
    );
}

fn add_audit_log(rows: &mut Rows, status: &Status) {
    let audit = &status.audit;
    let failing = audit.failing.as_ref().map(|why| format!(", failing: {why}")).unwrap_or_default();
    let removed = match audit.removed_files {
        0 => String::new(),
        files => format!(", {files} closed files removed"),
    };
    rows.add("audit log", format!("{} written, {} lost{removed}{failing}", audit.written, audit.lost));
    if let Some(remedy) = &audit.remedy {
        rows.add("", format!("-> {remedy}"));
    }
    if let Some(problem) = &audit.upkeep_problem {
        rows.add("", problem);
    }
}

fn add_policies(rows: &mut Rows, status: &Status) {
    if let Some(conntrack) = &status.conntrack {
        rows.add("connections", format!("{} of {}", conntrack.entries, conntrack.max));
    }
    let versions = status.policies.iter().filter(|policy| policy.resource_version.is_some());
    if versions.clone().next().is_some() {
        let of = |tier| versions.clone().filter(|policy| policy.tier == tier).count();
        let tiers = match (of(Tier::Admin), of(Tier::Baseline)) {
            (0, 0) => String::new(),
            (admin, baseline) => format!(", {admin} of tier Admin and {baseline} of tier Baseline"),
        };
        let count = versions.count();
        rows.add("in force", format!("{count} policies{tiers} (--output json lists the version of each)"));
    }
    let decided = status.policies.iter().filter(|policy| policy.allowed + policy.denied > 0).count();
    if decided > 0 {
        rows.add("policies", format!("{decided} decided so far (--output json lists them)"));
    }
}

#[cfg(test)]
mod tests;
