//! A small cluster, and probes: packets with the expected result of both engine and reference.

use policy::{Change, Direction, Directions, Explanation, Packet, Protocol, Scope, Verdict, reference};

use super::build::*;
use super::scenario::{Scenario, packet_in_words};
use super::{compile, engine};

/// Three pods in namespace `web` and one in `db`, all on node `n1`, which is 192.168.0.1.
pub(crate) fn cluster() -> Vec<Change> {
    vec![
        node("n1", "192.168.0.1", "10.244.1.0/24"),
        namespace("web", "team=front"),
        namespace("db", "team=back"),
        pod("web/a").labels("app=a,env=prod").at("10.244.1.2").into(),
        pod("web/b").labels("app=b").at("10.244.1.3").port("http", Protocol::TCP, 8080).into(),
        pod("web/c").labels("app=c,env=test").at("10.244.1.4").port("http", Protocol::TCP, 9090).into(),
        pod("db/d")
            .labels("app=d")
            .at("10.244.1.5")
            .port("dns", Protocol::UDP, 53)
            .port("dns", Protocol::TCP, 5353)
            .into(),
    ]
}

pub(crate) const A: &str = "10.244.1.2";
pub(crate) const B: &str = "10.244.1.3";
pub(crate) const C: &str = "10.244.1.4";
pub(crate) const D: &str = "10.244.1.5";
pub(crate) const OUTSIDE: &str = "192.0.2.1";

/// A packet and the expected result, as `egress | ingress`.
pub(crate) type Probe<'a> = (Packet, &'a str);

/// Checks probes in the usual cluster after these changes.
#[track_caller]
pub(crate) fn scenario(changes: impl IntoIterator<Item = Change>, probes: &[Probe<'_>]) {
    let changes: Vec<Change> = cluster().into_iter().chain(changes).collect();
    check_probes(Scope::Cluster, Verdict::Deny, &changes, Directions::Both, probes);
}

#[track_caller]
pub(crate) fn check_probes(
    scope: Scope,
    on_unknown_pod: Verdict,
    changes: &[Change],
    directions: Directions,
    probes: &[Probe<'_>],
) {
    let (compiler, snapshot) = compile(scope.clone(), on_unknown_pod, changes);
    for (packet, expected) in probes {
        let by_reference =
            reference::evaluate(compiler.inventory(), &scope, on_unknown_pod, packet, directions);
        let by_engine = engine(&snapshot, packet, directions);
        for (implementation, found) in [("reference", by_reference), ("engine", by_engine)] {
            let both = [Direction::Egress, Direction::Ingress]
                .map(|direction| in_short(found.explanation(direction)));
            let found = both.join(" | ");
            assert_eq!(
                found,
                *expected,
                "{implementation} on {}\n{scope:?}{}",
                packet_in_words(packet),
                Scenario(changes)
            );
        }
    }
}

/// `allow not-isolated`, `allow rule web/p[0]`, `deny default-deny of web/p near web/p[0] by its port`.
pub(crate) fn in_short(explanation: &Explanation) -> String {
    let verdict = match explanation.verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
    };
    let mut text = format!("{verdict} {}", explanation.reason);
    if let Some(rule) = &explanation.rule {
        text += &format!(" {}[{}]", rule.policy, rule.index);
    }
    if !explanation.isolated_by.is_empty() {
        let names: Vec<String> = explanation.isolated_by.iter().map(|name| name.to_string()).collect();
        text += &format!(" of {}", names.join(","));
    }
    if let Some(near) = &explanation.nearest_miss {
        text +=
            &format!(" near {}[{}] by its {:?}", near.rule.policy, near.rule.index, near.miss).to_lowercase();
    }
    text
}

pub(crate) const OPEN: &str = "allow not-isolated | allow not-isolated";
