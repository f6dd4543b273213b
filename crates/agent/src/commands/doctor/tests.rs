use super::*;

fn protection(id: &str, why_not: Option<&str>, off_by_choice: bool) -> Protection {
    Protection {
        id: id.to_owned(),
        name: id.to_owned(),
        in_force: why_not.is_none(),
        why_not: why_not.map(str::to_owned),
        off_by_choice,
    }
}

fn agent(phase: Phase, protections: Vec<Protection>) -> AgentFindings {
    let ready = phase == Phase::Enforcing;
    let not_ready = if ready { Vec::new() } else { vec![format!("{phase:?}")] };
    AgentFindings { pid: 1, phase, ready, not_ready, protections, state: None }
}

fn findings(agent: Option<AgentFindings>, tables: Option<(bool, bool)>, rules_served: bool) -> Findings {
    let tables = tables.map(|(inet, bridge)| InstalledTables { inet, bridge });
    let passes_unserved = Some(false);
    let (needs, problems) = (Vec::new(), Vec::new());
    Findings { needs, agent, tables, rules_served, passes_unserved, read: None, problems }
}

fn found(agent: Option<AgentFindings>, tables: Option<(bool, bool)>) -> (State, String) {
    let (state, text) = findings(agent, tables, false).protections();
    (state, text.to_string())
}

#[test]
fn an_agent_says_which_protections_are_in_force_and_why_others_are_not() {
    let mut protections = vec![
        protection("routed-sources", None, false),
        protection("own-addresses", None, false),
        protection("overlay-sources", Some("off by default"), true),
    ];
    let (state, text) = found(Some(agent(Phase::Enforcing, protections.clone())), Some((true, true)));
    assert_eq!(text, "in force: routed-sources, own-addresses\noverlay-sources is off: off by default");
    assert_eq!(state, State::Fine, "no more was asked for");

    protections.push(protection("bridged-sources", Some("the kernel lacks it"), false));
    let (state, text) = found(Some(agent(Phase::Enforcing, protections)), Some((true, false)));
    assert!(text.ends_with("\nbridged-sources is off: the kernel lacks it"), "{text}");
    assert_eq!(state, State::Warning);

    let (state, text) = found(Some(agent(Phase::Starting, Vec::new())), Some((false, false)));
    assert!(text.starts_with("none in force yet"), "{text}");
    assert_eq!(state, State::None);
}

#[test]
fn how_much_was_read_is_always_said() {
    let said = |read: Option<ReadCounts>| {
        let (state, text) = Findings { read, ..findings(None, None, false) }.read();
        (state, text.to_string())
    };
    let counts =
        |objects, policies| ReadCounts { files: Some(3), objects, policies, ..ReadCounts::default() };
    assert_eq!(said(Some(counts(2, 1))), (State::Fine, "3 files, 2 objects, 1 policy".to_owned()));
    let (state, text) = said(Some(counts(0, 0)));
    assert!(text.starts_with("3 files, 0 objects, 0 policies read\n-> is this the right folder"), "{text}");
    assert_eq!(state, State::Warning);
    let (state, text) = said(None);
    assert!(text.contains("--source DIR"), "{text}");
    assert_eq!(state, State::None);
}

#[test]
fn without_an_agent_the_tables_tell_what_is_left() {
    for (tables, part) in [
        (None, "can't be told"),
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
fn while_one_agent_takes_over_from_another_the_rules_are_in_force_whichever_answers() {
    let both = Some((true, true));
    // The old one answers: its successor's rules are in the kernel.
    let old = findings(Some(agent(Phase::Superseded, Vec::new())), both, true);
    let (state, text) = old.protections();
    assert!(text.to_string().starts_with("those of another agent, whose rules are in force"), "{text}");
    assert_eq!(state, State::None);
    let (state, text) = old.agent();
    let expected = "another agent has taken over from pid 1 and enforces the policies\n-> end that process";
    assert!(text.to_string().starts_with(expected), "{text}");
    assert_eq!(state, State::Warning);
    assert!(old.all_fine(), "policy is in force");
    // The new one answers before it has installed its rules: the old one's are in the kernel.
    let (_, text) = findings(Some(agent(Phase::Starting, Vec::new())), both, true).protections();
    assert!(text.to_string().starts_with("those of another agent"), "{text}");
    // The old one has gone, and the new one has not opened its port yet.
    let none = findings(None, both, true);
    let (_, text) = none.protections();
    assert!(text.to_string().starts_with("those of an agent that does not answer here"), "{text}");
    let (state, text) = none.agent();
    assert!(text.to_string().starts_with("no agent answers, but one serves the rules"), "{text}");
    assert_eq!(state, State::Warning);
}

#[test]
fn an_agent_that_stands_by_without_another_says_what_became_of_the_rules() {
    let (state, text) = found(Some(agent(Phase::Superseded, Vec::new())), Some((false, false)));
    assert_eq!(text, "none: the rules were removed, as `kube-verdict cleanup` does");
    assert_eq!(state, State::None);
    let (_, text) = found(Some(agent(Phase::Superseded, Vec::new())), Some((true, true)));
    assert_eq!(text, "those of an agent that had taken over and is gone");
}

#[test]
fn rules_without_an_agent_are_wrong_and_what_pods_experience_is_said() {
    for (passes_unserved, part) in [
        (Some(false), "pods that have started since get no traffic"),
        (Some(true), "new connections pass unevaluated"),
    ] {
        for agent in [None, Some(agent(Phase::Starting, Vec::new()))] {
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
            assert!(!left.all_fine());
        }
    }
    assert!(
        findings(None, Some((false, false)), false).all_fine(),
        "neither agent nor rules: a machine to be looked at"
    );
}

#[test]
fn an_agent_whose_successor_is_gone_is_wrong() {
    let alone = findings(Some(agent(Phase::Superseded, Vec::new())), Some((true, true)), false);
    assert_eq!(alone.agent().0, State::Wrong);
    assert!(!alone.all_fine());
}
