//! Runs one scenario inside the virtual machine. The first argument names it; the others are flags for its
//! agents. It panics if an outcome is not as expected.
#![forbid(unsafe_code)]

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use integration::{Direction, Family, Links, Scenario, Testbed, allowed, denied, dns, smoke, socket};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.split_first() {
        Some((&"smoke", flags)) => run_smoke(flags),
        Some((&"native", flags)) => native(flags),
        Some((&"sctp", flags)) => sctp(flags),
        Some((&"dns", flags)) => dns_race(flags),
        _ => bail!("which scenario? smoke, native, sctp or dns, and flags for the agents"),
    }
}

/// The smoke scenario, which also runs in namespaces on the host's kernel.
fn run_smoke(flags: &[&str]) -> Result<()> {
    let mut scenario = Scenario::new(smoke::cluster(Links::Vxlan));
    smoke::write_policies(&mut scenario);
    scenario.start_agents(&[&["--record-open"], flags].concat());
    smoke::run(&scenario);
    Ok(())
}

/// This kernel has nft_queue. The agent must use it, and report that.
fn native(flags: &[&str]) -> Result<()> {
    let mut scenario = Scenario::new(smoke::cluster(Links::Routes));
    scenario.start_agents(flags);
    let status = scenario.agent("node-a").status()?;
    ensure!(status["table"]["form"] == "native", "the agent does not use the native expression: {status:#}");
    Ok(())
}

/// SCTP associations are evaluated only by rules for SCTP, and never by rules for TCP.
fn sctp(flags: &[&str]) -> Result<()> {
    ensure!(socket::has_sctp(), "this kernel has no SCTP sockets");
    let cluster = Testbed::new()
        .node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64")
        .pod("web/a", "node-a", &[("app", "a")], &[])
        .pod("web/b", "node-a", &[("app", "b")], &[])
        .pod("db/s", "node-a", &[], &["9/SCTP", "9/TCP", "10/SCTP"]);
    let mut scenario = Scenario::new(cluster);
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
    scenario.expect("web/a", "db/s", "9/SCTP", &allowed(Direction::Ingress, "db/allow-sctp", 0));
    scenario.expect("web/a", "db/s", "9/TCP", &denied(Direction::Ingress, "db/allow-sctp"));
    scenario.expect("web/a", "db/s", "10/SCTP", &denied(Direction::Ingress, "db/allow-sctp"));
    scenario.expect("web/b", "db/s", "9/SCTP", &denied(Direction::Ingress, "db/allow-sctp"));
    Ok(())
}

/// Sends two queries at once from one socket. Both are evaluated. Kernels before 6.12 lose the second one if
/// packets are queued before the connection is confirmed (netfilter bug 1766).
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
