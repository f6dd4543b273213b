//! The demonstration: plain NetworkPolicies, enforced on real connections between network namespaces.
//!
//! It shows the policies, expected and observed outcomes of probes, the audit records of some verdicts, and
//! how soon an edit cuts an established connection. The exit code is 0 only if everything is as expected.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anstream::println;
use anyhow::{Context, Result};
use clap::Parser;
use owo_colors::OwoColorize;

use integration::record::Record;
use integration::{Agent, Answer, Family, Launch, Observed, ProbeTarget, Stream, Testbed};

/// The policies. Each is written to its own file.
const POLICIES: [(&str, &str); 4] = [
    ("db/default-deny", "podSelector: {}\npolicyTypes: [Ingress]\n"),
    (
        "db/allow-api",
        "podSelector: {matchLabels: {app: postgres}}
ingress:
- from:
  - namespaceSelector: {matchLabels: {team: shop}}
    podSelector: {matchLabels: {app: api}}
  ports: [{port: postgres}]
",
    ),
    (
        "web/allow-frontend",
        "podSelector: {matchLabels: {app: api}}
ingress:
- from: [{podSelector: {matchLabels: {app: frontend}}}]
  ports: [{port: 8080}]
",
    ),
    (
        "other/names-only",
        "podSelector: {}
policyTypes: [Egress]
egress:
- to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}}]
  ports: [{protocol: UDP, port: 53}]
",
    ),
];

/// The new spec of `db/allow-api`, without its rule.
const WITHOUT_RULE: &str = "podSelector: {matchLabels: {app: postgres}}\ningress: []\n";

/// The probes: source, destination, port, and whether the policies allow it.
const PROBES: [(&str, &str, &str, bool); 13] = [
    ("web/frontend", "web/api", "8080/TCP", true),
    ("web/frontend", "db/postgres", "5432/TCP", false),
    ("web/frontend", "kube-system/dns", "53/UDP", true),
    ("web/api", "db/postgres", "5432/TCP", true),
    ("web/api", "db/postgres", "ping", false),
    ("web/api", "db/postgres", "9187/TCP", false),
    ("web/api", "kube-system/dns", "53/TCP", true),
    ("other/stranger", "web/api", "8080/TCP", false),
    ("other/stranger", "db/postgres", "5432/TCP", false),
    ("other/stranger", "kube-system/dns", "53/UDP", true),
    ("other/stranger", "kube-system/dns", "53/TCP", false),
    ("outside", "web/frontend", "80/TCP", true),
    ("outside", "db/postgres", "5432/TCP", false),
];

/// The indexes of the probes whose audit records are shown.
const SHOWN: [usize; 4] = [3, 5, 8, 10];

/// A denied packet is dropped, so a probe without an answer within this time counts as denied.
const TIMEOUT: Duration = Duration::from_millis(700);

/// The connection must be cut within this time after an edit.
const BOUND: Duration = Duration::from_millis(100);

/// Demonstrates kube-verdict on this machine, as root: NetworkPolicies on real connections between network
/// namespaces, which are removed at the end. `cargo xtask demo` builds what it needs and runs it.
#[derive(Parser)]
#[command(
    name = "demo",
    after_help = "Exit codes: 0 everything was as expected, 1 something was not, 2 the command line is wrong."
)]
struct Demo {}

fn main() -> ExitCode {
    Demo::parse();
    match run() {
        Ok(true) => {
            println!("\n{}", "Everything was as expected.".green().bold());
            ExitCode::SUCCESS
        }
        Ok(false) => {
            println!("\n{}", "Something was not as expected.".red().bold());
            ExitCode::FAILURE
        }
        Err(error) => {
            anstream::eprintln!("{} {error:#}", "error:".red().bold());
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    let begun = Instant::now();
    let testbed = Testbed::new()
        .node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64")
        .node("node-b", "10.244.2.0/24", "fd00:10:244:2::/64")
        .namespace("web", &[("team", "shop")])
        .pod("web/frontend", "node-a", &[("app", "frontend")], &["http=80"])
        .pod("db/postgres", "node-a", &[("app", "postgres")], &["postgres=5432", "metrics=9187"])
        .pod("web/api", "node-b", &[("app", "api")], &["http=8080"])
        .pod("kube-system/dns", "node-b", &[("app", "dns")], &["53/UDP", "53/TCP"])
        .pod("other/stranger", "node-a", &[], &[])
        .build()?;
    title("A cluster of network namespaces");
    println!("  2 nodes, {} pods, joined as Flannel joins them; built in {:.0?}", 5, begun.elapsed());
    println!("  manifests: {}", testbed.manifests().path().display());
    show_policies(&testbed)?;
    let begun = Instant::now();
    let mut agents = start_agents(&testbed)?;
    println!("\n  kube-verdict is ready on both nodes after {:.0?}", begun.elapsed());
    let audit_starts: BTreeMap<String, u64> =
        agents.iter().map(|(node, agent)| (node.clone(), agent.audit_end())).collect();
    title("Who reaches whom");
    let (as_expected, observed) = show_probes(&testbed)?;
    title("Why: the audit records of some of these");
    show_records(&testbed, &agents, &audit_starts, &observed)?;
    title("An established connection, and an edit");
    let cut = show_cut(&testbed)?;
    for agent in agents.values_mut() {
        agent.terminate()?;
    }
    Ok(as_expected && cut)
}

fn title(text: &str) {
    println!("\n{}", text.bold().underline());
}

fn show_policies(testbed: &Testbed) -> Result<()> {
    for (name, spec) in POLICIES {
        testbed.manifests().policy(name, spec)?;
        println!("\n  {} {}", "NetworkPolicy".dimmed(), name.cyan());
        for line in spec.lines() {
            println!("    {line}");
        }
    }
    Ok(())
}

fn start_agents(testbed: &Testbed) -> Result<BTreeMap<String, Agent>> {
    let launch = Launch { flags: &["--record-open"], ..Launch::default() };
    let mut agents = BTreeMap::new();
    for node in &testbed.cluster().nodes {
        agents.insert(node.name.clone(), Agent::start(testbed, &node.name, &launch)?);
    }
    for agent in agents.values_mut() {
        agent.wait_ready()?;
    }
    Ok(agents)
}

/// Runs all probes at once, over IPv4 and IPv6, and shows the outcomes.
fn show_probes(testbed: &Testbed) -> Result<(bool, Vec<[Observed; 2]>)> {
    let observed: Vec<[Observed; 2]> = thread::scope(|scope| {
        let probe = |from: &'static str, to: &'static str, target: ProbeTarget, family| {
            scope.spawn(move || testbed.probe(from, to, target, family, TIMEOUT))
        };
        let mut running = Vec::new();
        for (from, to, target, _) in PROBES {
            let target = target.parse()?;
            running.push(Family::BOTH.map(|family| probe(from, to, target, family)));
        }
        let join = |thread: thread::ScopedJoinHandle<'_, Result<Observed>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        running.into_iter().map(|[v4, v6]| Ok([join(v4)?, join(v6)?])).collect::<Result<_>>()
    })?;
    let row = |[from, to, target, expected, v4, v6]: [&str; 6]| {
        format!("  {from:<15} {to:<16} {target:<9} {expected:<9} {v4:<9} {v6:<9}")
    };
    println!("{}", row(["from", "to", "port", "expected", "IPv4", "IPv6"]).bold());
    let mut all = true;
    for ((from, to, target, expected), found) in PROBES.iter().zip(&observed) {
        // A denied packet is dropped. A refusal is never expected.
        let expected = if *expected { "reached" } else { "dropped" };
        let [v4, v6] = [outcome(&found[0].answer), outcome(&found[1].answer)];
        let fits = v4 == expected && v6 == expected;
        all &= fits;
        let line = row([from, to, target, expected, &v4, &v6]);
        if fits {
            println!("{line} {}", "as expected".green());
        } else {
            println!("{line} {}", "NOT as expected".red().bold());
        }
    }
    Ok((all, observed))
}

fn outcome(answer: &Answer) -> String {
    match answer {
        Answer::Reached(_) | Answer::Replied => "reached".to_owned(),
        Answer::TimedOut => "dropped".to_owned(),
        other => other.to_string(),
    }
}

fn show_records(
    testbed: &Testbed,
    agents: &BTreeMap<String, Agent>,
    audit_starts: &BTreeMap<String, u64>,
    observed: &[[Observed; 2]],
) -> Result<()> {
    for number in SHOWN {
        let (Some((from, to, target, _)), Some([one, _])) = (PROBES.get(number), observed.get(number)) else {
            continue;
        };
        let destination = SocketAddr::new(Family::V4.of(testbed.addresses(to)?), one.destination.port());
        // Egress is evaluated on the source's node, and ingress on the destination's. A record that names a
        // policy is preferred.
        let mut records = Vec::new();
        for (node, agent) in agents {
            let audit_start = audit_starts.get(node).copied().unwrap_or_default();
            let node_has = [*from, *to]
                .iter()
                .any(|pod| testbed.cluster().pod_named(pod).is_ok_and(|pod| pod.node == *node));
            if node_has
                && let Ok(record) = agent.wait_record(audit_start, |record| record.is_of(one, destination))
            {
                records.push((node, record));
            }
        }
        let best = records.iter().max_by_key(|(_, record)| record.policy.is_some());
        let (node, record) = best.with_context(|| format!("no audit record of {from} to {to} {target}"))?;
        println!("\n  {} to {} {target}: {}", from.cyan(), to.cyan(), verdict(record));
        println!("    {}", sentence(record));
        if let Some(near) = &record.nearest_miss {
            let matched = if near.miss == "port" {
                "its peer matches, its port does not"
            } else {
                "its port matches, its peer does not"
            };
            println!("    nearest miss: rule {} of {} ({matched})", near.rule, near.policy);
        }
        println!("    {} {}, {} ns", "evaluated on".dimmed(), node, record.nanoseconds);
    }
    Ok(())
}

fn verdict(record: &Record) -> String {
    if record.verdict == "allow" {
        record.verdict.green().bold().to_string()
    } else {
        record.verdict.red().bold().to_string()
    }
}

fn sentence(record: &Record) -> String {
    let direction = &record.direction;
    match (&record.policy, record.rule) {
        (Some(policy), Some(rule)) => format!("by {direction} rule {rule} of NetworkPolicy {policy}"),
        (Some(policy), None) => {
            format!("{direction} is isolated by NetworkPolicy {policy}, and no rule matches")
        }
        _ => format!("{direction}: {}", record.reason),
    }
}

/// Opens a connection, removes the rule that allows it, and shows when its last byte passed.
fn show_cut(testbed: &Testbed) -> Result<bool> {
    let stream = Stream::open(testbed, "web/api", "db/postgres", "5432".parse()?, Family::V4)?;
    stream.wait_progress(200)?;
    println!("  web/api talks to db/postgres: {} messages were echoed", stream.echoed());
    let written = testbed.manifests().policy("db/allow-api", WITHOUT_RULE)?;
    println!(
        "  policy-db.allow-api.yaml is edited: {} -> {}",
        "ingress: [one rule]".green(),
        "ingress: []".red()
    );
    thread::sleep(Duration::from_millis(1000));
    let arrived =
        testbed.server("db/postgres")?.last_arrival(stream.client()).context("nothing has arrived")?;
    let last = arrived.max(stream.last_echo()).saturating_duration_since(written);
    let fits = last < BOUND;
    let took = format!("{:.1} ms", last.as_secs_f64() * 1000.0);
    let took = if fits { took.green().to_string() } else { took.red().to_string() };
    println!("  the last byte passed {took} after the edit (bound: {} ms)", BOUND.as_millis());
    testbed.manifests().policy("db/allow-api", POLICIES[1].1)?;
    let healing = Instant::now();
    stream.wait_progress(50)?;
    println!("  the edit is reverted: the same connection resumes after {:.1?}", healing.elapsed());
    let report = stream.finish()?;
    println!("  all {} messages were echoed in order", report.echoed);
    Ok(fits)
}
