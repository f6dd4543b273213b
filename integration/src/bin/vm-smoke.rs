//! What runs inside the virtual machine: one story, named by the argument. It panics where the story goes another way.
#![forbid(unsafe_code)]

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use integration::{Family, Links, Side, Story, Testbed, allowed, denied, dns, smoke, socket};

fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("smoke") => {
            play_smoke(Links::Vxlan);
            Ok(())
        }
        Some("native") => native(),
        Some("sctp") => sctp(),
        Some("dns") => dns_race(),
        other => bail!("{other:?} is no story: smoke, native, sctp, dns"),
    }
}

/// The story that plays in namespaces, too.
fn play_smoke(links: Links) {
    let mut story = Story::begin(smoke::cluster(links));
    smoke::write_policies(&mut story);
    story.start_agents(&["--record-open"]);
    smoke::play(&story);
}

/// This kernel has nft_queue: the agent must use it, and say so.
fn native() -> Result<()> {
    let mut story = Story::begin(smoke::cluster(Links::Routes));
    story.start_agents(&[]);
    let status = story.agent("node-a").status()?;
    ensure!(status["table"]["form"] == "native", "the agent does not use the native expression: {status:#}");
    Ok(())
}

/// Associations of SCTP are judged as what they are: never as TCP, by a rule for SCTP only.
fn sctp() -> Result<()> {
    ensure!(socket::has_sctp(), "this kernel has no SCTP sockets");
    let cluster = Testbed::new()
        .node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64")
        .pod("web/a", "node-a", &[("app", "a")], &[])
        .pod("web/b", "node-a", &[("app", "b")], &[])
        .pod("db/s", "node-a", &[], &["9/SCTP", "9/TCP", "10/SCTP"]);
    let mut story = Story::begin(cluster);
    story.policy(
        "db/allow-sctp",
        "
        podSelector: {}
        ingress:
        - from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: a}}}]
          ports: [{protocol: SCTP, port: 9}, {protocol: TCP, port: 10}]
        ",
    );
    story.start_agents(&[]);
    story.expect("web/a", "db/s", "9/SCTP", &allowed(Side::Ingress, "db/allow-sctp", 0));
    story.expect("web/a", "db/s", "9/TCP", &denied(Side::Ingress, "db/allow-sctp"));
    story.expect("web/a", "db/s", "10/SCTP", &denied(Side::Ingress, "db/allow-sctp"));
    story.expect("web/b", "db/s", "9/SCTP", &denied(Side::Ingress, "db/allow-sctp"));
    Ok(())
}

/// Two queries at once from one socket, both to be judged: kernels before 6.12 lose the second if they are queued
/// after its connection was made known (netfilter bug 1766).
fn dns_race() -> Result<()> {
    let story = dns::story();
    for family in Family::BOTH {
        let service = dns::SERVICE[family as usize];
        let lost = dns::lost_queries(&story.testbed, "web/a", service, family, 1000, Duration::from_secs(5))?;
        ensure!(lost == 0, "{lost} of 2000 queries were lost over {family:?}");
    }
    Ok(())
}
