//! The metrics of an agent that evaluated real connections: who decided, and how often.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use std::time::Duration;

use integration::wait::read_until;
use integration::{Direction, Scenario, Testbed, allowed, denied};

/// How long counters may take to follow the packets that they count, on a busy machine.
const COUNT_TIMEOUT: Duration = Duration::from_secs(5);

#[test]
fn packets_are_counted_by_what_decided_them_and_default_denies_for_no_policy() {
    let testbed = Testbed::new()
        .node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64")
        .pod("web/a", "node-a", &[("app", "web")], &[])
        .pod("db/s", "node-a", &[], &["5432", "80"]);
    let mut scenario = Scenario::new(testbed);
    scenario.policy("db/allow-web", "podSelector: {}\ningress: [{ports: [{port: 5432}]}]");
    // It comes first by name, isolates the pod too and has no rule.
    scenario.policy("db/aaa", "podSelector: {}");
    scenario.start_agents(&[]);
    let agent = scenario.agent("node-a");
    let packets = "kube_verdict_packets_total";
    let of_default_deny = r#"{verdict="deny",direction="ingress",reason="default-deny",protocol="TCP","#;
    for family in ["IPv4", "IPv6"] {
        let labels = format!("{of_default_deny}family=\"{family}\"}}");
        assert_eq!(agent.metric(packets, &labels).unwrap(), 0.0, "a series from the start");
    }
    scenario.expect("web/a", "db/s", "5432", &allowed(Direction::Ingress, "db/allow-web", 0));
    scenario.expect("web/a", "db/s", "80", &denied(Direction::Ingress, "db/aaa"));

    let agent = scenario.agent("node-a");
    let metric = |name: &str, label: &str| agent.metric(name, label).unwrap_or(0.0);
    let read = || {
        [
            metric(packets, &format!("{of_default_deny}family=\"IPv4\"}}")),
            metric(packets, &format!("{of_default_deny}family=\"IPv6\"}}")),
            metric("kube_verdict_default_denies_total", r#"{namespace="db",direction="ingress"}"#),
        ]
    };
    // Retransmitted packets may be denied from the verdict cache.
    let [v4, v6, default_denies] =
        read_until(COUNT_TIMEOUT, read, |all| all[0] >= 1.0 && all[1] >= 1.0 && all[2] >= all[0] + all[1]);
    assert!(v4 >= 1.0 && v6 >= 1.0 && default_denies >= v4 + v6, "{v4} {v6} {default_denies}");
    let by_rule = r#"{verdict="allow",direction="ingress",reason="rule",protocol="TCP",family="IPv4"}"#;
    assert_eq!(agent.metric(packets, by_rule).unwrap(), 1.0);

    let status = agent.status().unwrap();
    let policy = |name: &str| {
        let policies = status["policies"].as_array().unwrap();
        policies.iter().find(|policy| policy["policy"] == name).unwrap_or_else(|| panic!("{status}")).clone()
    };
    assert_eq!((&policy("db/aaa")["allowed"], &policy("db/aaa")["denied"]), (&0.into(), &0.into()));
    assert_eq!(policy("db/allow-web")["denied"], 0);
    assert!(policy("db/allow-web")["allowed"].as_u64().unwrap() >= 2, "{status}");
    assert_eq!(status["default_denies"][0]["namespace"], "db");
    let text = agent.metric("kube_verdict_policy_verdicts_total", r#"policy="aaa""#);
    assert!(text.is_err(), "it decided nothing");
}
