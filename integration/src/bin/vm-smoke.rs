//! What runs inside the virtual machine: one scenario, named by the first argument; the others are flags for its agents.
//! It panics where the scenario goes another way.
#![forbid(unsafe_code)]

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use integration::{Family, Links, Scenario, Side, Testbed, allowed, denied, dns, smoke, socket};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.split_first() {
        Some((&"smoke", flags)) => play_smoke(flags),
        Some((&"native", flags)) => native(flags),
        Some((&"sctp", flags)) => sctp(flags),
        Some((&"dns", flags)) => dns_race(flags),
        _ => bail!("which scenario? smoke, native, sctp or dns, and flags for the agents"),
    }
}

/// The scenario that plays in namespaces, too.
fn play_smoke(flags: &[&str]) -> Result<()> {
    let mut scenario = Scenario::begin(smoke::cluster(Links::Vxlan));
    smoke::write_policies(&mut scenario);
    scenario.start_agents(&[&["--record-open"], flags].concat());
    smoke::play(&scenario);
    Ok(())
}

/// This kernel has nft_queue: the agent must use it, and say so.
fn native(flags: &[&str]) -> Result<()> {
    let mut scenario = Scenario::begin(smoke::cluster(Links::Routes));
    scenario.start_agents(flags);
    let status = scenario.agent("node-a").status()?;
    ensure!(status["table"]["form"] == "native", "the agent does not use the native expression: {status:#}");
    Ok(())
}

/// Associations of SCTP are evaluated as what they are: never as TCP, by a rule for SCTP only.
fn sctp(flags: &[&str]) -> Result<()> {
    ensure!(socket::has_sctp(), "this kernel has no SCTP sockets");
    let cluster = Testbed::new()
        .node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64")
        .pod("web/a", "node-a", &[("app", "a")], &[])
        .pod("web/b", "node-a", &[("app", "b")], &[])
        .pod("db/s", "node-a", &[], &["9/SCTP", "9/TCP", "10/SCTP"]);
    let mut scenario = Scenario::begin(cluster);
    scenario.policy(
        "db/allow-sctp",
        "
        podSelector: {}
        ingress:
        - from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: a}}}]
          ports: [{protocol: SCTP, port: 9}, {protocol: TCP, port: 10}]
        ",
    );
    scenario.start_agents(flags);
    scenario.expect("web/a", "db/s", "9/SCTP", &allowed(Side::Ingress, "db/allow-sctp", 0));
    scenario.expect("web/a", "db/s", "9/TCP", &denied(Side::Ingress, "db/allow-sctp"));
    scenario.expect("web/a", "db/s", "10/SCTP", &denied(Side::Ingress, "db/allow-sctp"));
    scenario.expect("web/b", "db/s", "9/SCTP", &denied(Side::Ingress, "db/allow-sctp"));
    Ok(())
}

/// Two queries at once from one socket, both to be evaluated: kernels before 6.12 lose the second if they are queued
/// after its connection was made known (netfilter bug 1766).
fn dns_race(flags: &[&str]) -> Result<()> {
    let scenario = dns::scenario(flags);
    for family in Family::BOTH {
        let service = dns::SERVICE[family as usize];
        let lost =
            dns::lost_queries(&scenario.testbed, "web/a", service, family, 1000, Duration::from_secs(5))?;
        ensure!(lost == 0, "{lost} of 2000 queries were lost over {family:?}");
    }
    Ok(())
}
