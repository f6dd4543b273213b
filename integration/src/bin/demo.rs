//! The demonstration: plain NetworkPolicies, enforced on real connections between network namespaces.
//!
//! It shows the policies, who reaches whom (expected beside observed), the audit record behind some verdicts, and how
//! soon an edit cuts an established connection. It ends with 0 only if all came out as expected.
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
use integration::{Agent, Answer, Family, Launch, Observed, Stream, Testbed, Way};

/// The policies, each as a file of its own.
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

/// What `db/allow-api` is changed to: the rule is gone.
const WITHOUT_RULE: &str = "podSelector: {matchLabels: {app: postgres}}\ningress: []\n";

/// Who tries to reach whom, how, and whether the policies let it.
const TRIES: [(&str, &str, &str, bool); 13] = [
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

/// The tries whose audit records are shown.
const SHOWN: [usize; 4] = [3, 5, 8, 10];

/// A denied packet is dropped, so a try that nobody answers for so long counts as denied.
const PATIENCE: Duration = Duration::from_millis(700);

/// After an edit the connection must stand still within this time.
const BOUND: Duration = Duration::from_millis(100);

/// Shows kube-verdict on this machine, as root: NetworkPolicies on real connections between network namespaces, which are removed at the
/// end. `cargo xtask demo` builds what it needs and runs it.
#[derive(Parser)]
#[command(
    name = "demo",
    after_help = "Exit codes: 0 everything came out as expected, 1 something did not, 2 the command line is wrong."
)]
struct Demo {}

fn main() -> ExitCode {
    Demo::parse();
    match play() {
        Ok(true) => {
            println!("\n{}", "Everything came out as expected.".green().bold());
            ExitCode::SUCCESS
        }
        Ok(false) => {
            println!("\n{}", "Something came out otherwise than expected.".red().bold());
            ExitCode::FAILURE
        }
        Err(error) => {
            anstream::eprintln!("{} {error:#}", "error:".red().bold());
            ExitCode::FAILURE
        }
    }
}

fn play() -> Result<bool> {
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
    let marks: BTreeMap<String, u64> =
        agents.iter().map(|(node, agent)| (node.clone(), agent.mark())).collect();
    title("Who reaches whom");
    let (as_expected, observed) = show_tries(&testbed)?;
    title("Why: the audit record behind some of these");
    show_records(&testbed, &agents, &marks, &observed)?;
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

/// Tries all at once, over IPv4 and IPv6, and shows what came of it.
fn show_tries(testbed: &Testbed) -> Result<(bool, Vec<[Observed; 2]>)> {
    let observed: Vec<[Observed; 2]> = thread::scope(|scope| {
        let probe = |from: &'static str, to: &'static str, way: Way, family| {
            scope.spawn(move || testbed.probe(from, to, way, family, PATIENCE))
        };
        let mut running = Vec::new();
        for (from, to, way, _) in TRIES {
            let way = way.parse()?;
            running.push(Family::BOTH.map(|family| probe(from, to, way, family)));
        }
        let join = |thread: thread::ScopedJoinHandle<'_, Result<Observed>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        running.into_iter().map(|[v4, v6]| Ok([join(v4)?, join(v6)?])).collect::<Result<_>>()
    })?;
    let row = |[from, to, way, expected, v4, v6]: [&str; 6]| {
        format!("  {from:<15} {to:<16} {way:<9} {expected:<9} {v4:<9} {v6:<9}")
    };
    println!("{}", row(["from", "to", "port", "expected", "IPv4", "IPv6"]).bold());
    let mut all = true;
    for ((from, to, way, expected), found) in TRIES.iter().zip(&observed) {
        // A denied packet is dropped, never refused: a refusal is not what was expected.
        let expected = if *expected { "reached" } else { "dropped" };
        let [v4, v6] = [word(&found[0].answer), word(&found[1].answer)];
        let fits = v4 == expected && v6 == expected;
        all &= fits;
        let line = row([from, to, way, expected, &v4, &v6]);
        if fits {
            println!("{line} {}", "as expected".green());
        } else {
            println!("{line} {}", "NOT as expected".red().bold());
        }
    }
    Ok((all, observed))
}

fn word(answer: &Answer) -> String {
    match answer {
        Answer::Reached(_) | Answer::Replied => "reached".to_owned(),
        Answer::TimedOut => "dropped".to_owned(),
        other => other.to_string(),
    }
}

fn show_records(
    testbed: &Testbed,
    agents: &BTreeMap<String, Agent>,
    marks: &BTreeMap<String, u64>,
    observed: &[[Observed; 2]],
) -> Result<()> {
    for number in SHOWN {
        let (Some((from, to, way, _)), Some([one, _])) = (TRIES.get(number), observed.get(number)) else {
            continue;
        };
        let destination = SocketAddr::new(Family::V4.of(testbed.addresses(to)?), one.destination.port());
        // Egress is evaluated on the source's node, ingress on the destination's: the record with the weightier reason.
        let mut records = Vec::new();
        for (node, agent) in agents {
            let mark = marks.get(node).copied().unwrap_or_default();
            let node_has = [*from, *to]
                .iter()
                .any(|pod| testbed.cluster().pod_named(pod).is_ok_and(|pod| pod.node == *node));
            if node_has && let Ok(record) = agent.wait_record(mark, |record| record.is_of(one, destination)) {
                records.push((node, record));
            }
        }
        let best = records.iter().max_by_key(|(_, record)| record.policy.is_some());
        let (node, record) = best.with_context(|| format!("no audit record of {from} to {to} {way}"))?;
        println!("\n  {} to {} {way}: {}", from.cyan(), to.cyan(), verdict(record));
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

/// Holds a connection open, removes the rule that allows it, and shows when its last byte passed.
fn show_cut(testbed: &Testbed) -> Result<bool> {
    let stream = Stream::open(testbed, "web/api", "db/postgres", "5432".parse()?, Family::V4)?;
    stream.wait_progress(200)?;
    println!("  web/api talks to db/postgres: {} messages went and came back", stream.echoed());
    let written = testbed.manifests().policy("db/allow-api", WITHOUT_RULE)?;
    println!(
        "  policy-db.allow-api.yaml is edited: {} -> {}",
        "ingress: [one rule]".green(),
        "ingress: []".red()
    );
    thread::sleep(Duration::from_millis(1000));
    let arrived =
        testbed.server("db/postgres")?.last_arrival(stream.client()).context("nothing ever arrived")?;
    let last = arrived.max(stream.last_echo()).saturating_duration_since(written);
    let fits = last < BOUND;
    let took = format!("{:.1} ms", last.as_secs_f64() * 1000.0);
    let took = if fits { took.green().to_string() } else { took.red().to_string() };
    println!("  the last byte passed {took} after the edit (bound: {} ms)", BOUND.as_millis());
    testbed.manifests().policy("db/allow-api", POLICIES[1].1)?;
    let healing = Instant::now();
    stream.wait_progress(50)?;
    println!("  the edit is taken back: the same connection goes on after {:.1?}", healing.elapsed());
    let report = stream.finish()?;
    println!("  all {} messages arrived whole and in order", report.echoed);
    Ok(fits)
}
