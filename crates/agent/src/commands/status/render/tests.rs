use super::*;
use crate::status::origins::{ConflictStatus, PortStatus};
use crate::status::{DefaultDenies, NewPorts, OriginsStatus, PacketCount, Packets, Protection};

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

fn port(interface: &str, pod: Option<&str>, exempt: bool) -> PortStatus {
    PortStatus {
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
    let why = "the kernel lacks nftables' bridge family: load nf_tables_bridge (CONFIG_NF_TABLES_BRIDGE) and \
               start the agent again";
    let origins = OriginsStatus {
        protections: vec![
            protection("bridged-sources", "pods on a bridge send from their own addresses", Some(why)),
            protection("routed-sources", "routed pods send from their own addresses", None),
        ],
        ports: vec![
            port("veth1", Some("web/a"), false),
            port("veth2", None, false),
            port("veth3", Some("vpn/gw"), true),
        ],
        conflicts: vec![ConflictStatus {
            address: "10.244.1.2".to_owned(),
            bound_to: Some("veth1".to_owned()),
            claimed_by: "veth2".to_owned(),
        }],
        overlays: vec!["8472/udp".to_owned(), "protocol 4".to_owned()],
        exemptions: vec!["vpn:app=gateway".to_owned()],
        dropped: [("overlay", 4), ("revoked", 0), ("spoofed-source", 12)]
            .map(|(reason, packets)| (reason.to_owned(), packets))
            .into(),
        new_ports: NewPorts { queued: 9, allowed: 7, denied: 1, expired: 1, over_limit: 0 },
    };
    let lines = rendered_lines(&Status { origins: Some(origins), ..Status::default() });
    for line in [
        &format!("bridged-sources off: pods on a bridge send from their own addresses; {why}"),
        "routed-sources in force: routed pods send from their own addresses",
        "ports 3 of pods: 1 without a known pod, 1 exempt",
        "conflict 10.244.1.2 belongs to veth1; veth2 claims it as well",
        "exempt vpn:app=gateway (may send from any address that is not in use on this node)",
        "overlays 8472/udp, protocol 4",
        "new ports 9 packets queued: 7 allowed, 1 denied, 1 timed out, 0 over the limit",
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
    let lines = rendered_lines(&Status { origins: Some(OriginsStatus::default()), ..Status::default() });
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
    let removed = rules_in(PhaseName::Superseded, Some(Successor::RulesRemoved));
    assert_eq!(removed, "rules none: they were removed, as `kube-verdict cleanup` does");
    let gone = rules_in(PhaseName::Superseded, Some(Successor::AgentGone));
    assert_eq!(gone, "rules those of the agent that had taken over, which is gone");
    assert_eq!(
        rules(PhaseName::Superseded),
        "rules those of the agent that has taken over; its status shows them"
    );
    assert_eq!(rules(PhaseName::Starting), "rules this agent has installed none yet");
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
    let line = "read 3 files, 2 objects, 1 policy; skipped 1 file without a Kubernetes object: values.yaml";
    assert!(lines.iter().any(|found| found == line), "{lines:?}");
}

#[test]
fn names_from_outside_do_not_control_the_terminal() {
    let origins = OriginsStatus {
        conflicts: vec![ConflictStatus {
            address: "10.244.1.2".to_owned(),
            bound_to: Some("a\u{1b}[2J".to_owned()),
            claimed_by: "b\rc".to_owned(),
        }],
        ..OriginsStatus::default()
    };
    let problem =
        crate::status::ProblemStatus { kind: "Pod".to_owned(), text: "Pod web/\u{1b}[31m: no".to_owned() };
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
    status.audit.remedy = Some("free space".to_owned());
    assert!(!status.is_fine());
    let lines = rendered_lines(&status);
    assert!(lines.iter().any(|line| line.contains("failing: No space left")), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("-> free space")), "{lines:?}");
}

#[test]
fn closed_audit_files_that_were_removed_or_cannot_be_compressed_are_shown_and_are_no_failure() {
    let mut status = Status { ready: true, ..Status::default() };
    status.audit.removed_files = 3;
    status.audit.upkeep_problem = Some("closed files can't be compressed: disk".to_owned());
    assert!(status.is_fine(), "records are complete");
    let lines = rendered_lines(&status);
    for part in ["3 closed files removed", "can't be compressed: disk"] {
        assert!(lines.iter().any(|line| line.contains(part)), "{part} in {lines:?}");
    }
}

#[test]
fn denied_packets_are_shown_by_reason_and_default_denies_by_namespace() {
    let count = |verdict: &str, reason: &str, family: &str, packets| PacketCount {
        verdict: verdict.to_owned(),
        direction: "ingress".to_owned(),
        reason: reason.to_owned(),
        protocol: "TCP".to_owned(),
        family: family.to_owned(),
        packets,
    };
    let by_outcome = vec![
        count("allow", "rule", "IPv4", 70),
        count("deny", "default-deny", "IPv4", 10),
        count("deny", "default-deny", "IPv6", 2),
        count("deny", "rule", "IPv4", 30),
    ];
    let default_denies = |namespace: &str, direction: &str, denied| DefaultDenies {
        namespace: namespace.to_owned(),
        direction: direction.to_owned(),
        denied,
    };
    let denies = (1..=6).map(|number| default_denies(&format!("n{number}"), "egress", number));
    let mut status = Status {
        packets: Packets { by_outcome, ..Packets::default() },
        default_denies: denies.collect(),
        ..Status::default()
    };
    status.default_denies.push(default_denies("db", "ingress", 12));
    let lines = rendered_lines(&status);
    for line in [
        "denied 30 rule, 12 default-deny",
        "default denies 12 ingress of db, 6 egress of n6, 5 egress of n5, 4 egress of n4, 3 egress of n3, and \
         2 more (--output json lists them)",
    ] {
        assert!(lines.iter().any(|found| found == line), "{line:?} in {lines:#?}");
    }
}
