use cluster::ReadCounts;

use super::*;
use crate::status::AuditStatus;

fn protection(id: &str, why_not: Option<&str>, off_by_choice: bool) -> Protection {
    Protection {
        id: id.to_owned(),
        name: id.to_owned(),
        in_force: why_not.is_none(),
        why_not: why_not.map(str::to_owned),
        off_by_choice,
    }
}

fn agent(phase: PhaseName, protections: Vec<Protection>) -> AgentFindings {
    let ready = phase == PhaseName::Enforcing;
    let not_ready = if ready { Vec::new() } else { vec![format!("{phase:?}")] };
    let (state, audit) = (None, AuditStatus::default());
    AgentFindings { pid: 1, phase, ready, not_ready, protections, state, audit }
}

fn findings(agent: Option<AgentFindings>, tables: Option<(bool, bool)>, rules_served: bool) -> Findings {
    let tables = tables.map(|(inet, bridge)| InstalledTables { inet, bridge });
    let passes_unserved = Some(false);
    let (checks, problems) = (Vec::new(), Vec::new());
    Findings { checks, agent, tables, rules_served, passes_unserved, read: None, problems }
}

fn found(agent: Option<AgentFindings>, tables: Option<(bool, bool)>) -> (State, String) {
    let (state, text) = findings(agent, tables, false).protections();
    (state, text.to_string())
}

#[test]
fn protections_are_reported_with_the_reason_why_some_are_off() {
    let mut protections = vec![
        protection("routed-sources", None, false),
        protection("own-addresses", None, false),
        protection("overlay-sources", Some("off by default"), true),
    ];
    let (state, text) = found(Some(agent(PhaseName::Enforcing, protections.clone())), Some((true, true)));
    assert_eq!(text, "in force: routed-sources, own-addresses\noverlay-sources is off: off by default");
    assert_eq!(state, State::Fine, "those that are off are so by choice");

    protections.push(protection("bridged-sources", Some("the kernel lacks it"), false));
    let (state, text) = found(Some(agent(PhaseName::Enforcing, protections)), Some((true, false)));
    assert!(text.ends_with("\nbridged-sources is off: the kernel lacks it"), "{text}");
    assert_eq!(state, State::Warning);

    let (state, text) = found(Some(agent(PhaseName::Starting, Vec::new())), Some((false, false)));
    assert!(text.starts_with("none in force yet"), "{text}");
    assert_eq!(state, State::None);
}

#[test]
fn counts_of_what_was_read_are_always_shown() {
    let row = |read: Option<ReadCounts>| {
        let (state, text) = Findings { read, ..findings(None, None, false) }.read();
        (state, text.to_string())
    };
    let counts =
        |objects, policies| ReadCounts { files: Some(3), objects, policies, ..ReadCounts::default() };
    assert_eq!(row(Some(counts(2, 1))), (State::Fine, "3 files, 2 objects, 1 policy".to_owned()));
    let (state, text) = row(Some(counts(0, 0)));
    assert!(text.starts_with("3 files, 0 objects, 0 policies read\n-> is this the right folder"), "{text}");
    assert_eq!(state, State::Warning);
    let (state, text) = row(None);
    assert!(text.contains("--source DIR"), "{text}");
    assert_eq!(state, State::None);
}

#[test]
fn without_an_agent_the_installed_tables_are_shown() {
    for (tables, part) in [
        (None, "the kernel's tables cannot be read"),
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
fn during_a_takeover_the_rules_are_in_force_with_either_agent_answering() {
    let both = Some((true, true));
    // The old agent answers, and its successor's rules are in the kernel.
    let old = findings(Some(agent(PhaseName::Superseded, Vec::new())), both, true);
    let (state, text) = old.protections();
    assert!(text.to_string().starts_with("those of another agent, whose rules are in force"), "{text}");
    assert_eq!(state, State::None);
    let (state, text) = old.agent();
    let expected = "another agent has taken over from pid 1 and enforces the policies\n-> end that process";
    assert!(text.to_string().starts_with(expected), "{text}");
    assert_eq!(state, State::Warning);
    assert!(old.are_healthy(), "policy is in force");
    // The new agent answers before it has installed its rules, and the old one's are in the kernel.
    let (_, text) = findings(Some(agent(PhaseName::Starting, Vec::new())), both, true).protections();
    assert!(text.to_string().starts_with("those of another agent"), "{text}");
    // The old agent is gone, and the new one has not opened its port yet.
    let none = findings(None, both, true);
    let (_, text) = none.protections();
    assert!(text.to_string().starts_with("those of an agent that does not answer here"), "{text}");
    let (state, text) = none.agent();
    assert!(text.to_string().starts_with("no agent answers, but one serves the rules"), "{text}");
    assert_eq!(state, State::Warning);
}

#[test]
fn a_superseded_agent_without_a_successor_shows_what_happened_to_the_rules() {
    let (state, text) = found(Some(agent(PhaseName::Superseded, Vec::new())), Some((false, false)));
    assert_eq!(text, "none: the rules were removed, as `kube-verdict cleanup` does");
    assert_eq!(state, State::None);
    let (_, text) = found(Some(agent(PhaseName::Superseded, Vec::new())), Some((true, true)));
    assert_eq!(text, "those of an agent that had taken over and is gone");
}

#[test]
fn rules_without_an_agent_are_wrong_and_their_effect_on_pods_is_shown() {
    for (passes_unserved, part) in [
        (Some(false), "pods that have started since get no traffic"),
        (Some(true), "new connections pass unevaluated"),
    ] {
        for agent in [None, Some(agent(PhaseName::Starting, Vec::new()))] {
            let left = Findings { passes_unserved, ..findings(agent, Some((true, true)), false) };
            let (state, text) = left.agent();
            let text = text.to_string();
            assert_eq!(state, State::Wrong);
            assert!(
                text.contains(part)
                    && text.contains("-> start an agent")
                    && text.contains("`kube-verdict cleanup`"),
                "{text}"
            );
            assert!(!left.are_healthy());
        }
    }
    assert!(
        findings(None, Some((false, false)), false).are_healthy(),
        "neither agent nor rules is healthy: the node may not be installed yet"
    );
}

#[test]
fn an_agent_whose_successor_is_gone_is_wrong() {
    let alone = findings(Some(agent(PhaseName::Superseded, Vec::new())), Some((true, true)), false);
    assert_eq!(alone.agent().0, State::Wrong);
    assert!(!alone.are_healthy());
}

#[test]
fn an_audit_log_that_cannot_be_written_is_wrong_and_the_remedy_is_shown() {
    let with = |audit| {
        let agent = AgentFindings { audit, ..agent(PhaseName::Enforcing, Vec::new()) };
        findings(Some(agent), Some((true, true)), true)
    };
    let row = |findings: &Findings| {
        let (state, text) = findings.audit_log().expect("an agent answers");
        (state, text.to_string())
    };
    let fine = with(AuditStatus { written: 7, ..AuditStatus::default() });
    assert_eq!(row(&fine), (State::Fine, "7 records written".to_owned()));
    assert!(fine.are_healthy());
    let full = with(AuditStatus {
        lost: 5,
        failing: Some("No space left on device".to_owned()),
        remedy: Some("free space".to_owned()),
        ..AuditStatus::default()
    });
    let (state, text) = row(&full);
    assert_eq!(state, State::Wrong);
    for part in ["5 so far", "No space left", "-> free space"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!full.are_healthy());
    let problem = Some("closed files can't be compressed: why".to_owned());
    let uncompressed = with(AuditStatus { upkeep_problem: problem, ..AuditStatus::default() });
    assert_eq!(row(&uncompressed).0, State::Warning);
    assert!(uncompressed.are_healthy(), "records are complete");
    let lost = with(AuditStatus { lost: 1, ..AuditStatus::default() });
    assert_eq!(row(&lost), (State::Warning, "records lost since the agent started: 1".to_owned()));
    assert!(findings(None, None, false).audit_log().is_none());
}
