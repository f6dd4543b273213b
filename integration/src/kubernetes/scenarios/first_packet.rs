//! New pods that connect, and send datagrams, from the first instruction of their only process on; and that others send
//! datagrams to before they exist.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{allow_egress, allow_ingress, allow_ingress_from, deny_all};
use crate::kubernetes::Node;
use crate::kubernetes::stage::{PORT, PodSpec, Stage, number};

/// Pods of each kind.
const PODS: usize = 200;
/// How many of each kind start at once, with the CNI's cache and without. A kubelet reports addresses the later the more pods
/// it starts, and without the cache there is no other way to know them.
const BATCH_WITH_CACHE: usize = 20;
const BATCH_WITHOUT_CACHE: usize = 8;
/// How many of a node's next addresses are knocked at: those of a batch, and of what else starts meanwhile.
const NEXT_ADDRESSES: u8 = 30;
/// How long each tries, in seconds: longer than the API server needs to hear of its address.
const TRIES: &str = "6";
/// How late the first connection that policy allows may be where the new pod's own node decides, with the CNI's cache and
/// without. Another node, whose policy asks who the new pod is, hears of it from the API server alone.
const WITH_CACHE: Duration = Duration::from_millis(200);
const WITHOUT_CACHE: Duration = Duration::from_secs(3);
/// How long a batch may take to start and report.
const PATIENCE: Duration = Duration::from_secs(180);

pub fn play(stage: &Stage<'_>) -> Result<String> {
    stage.policy("all", &deny_all(None))?;
    stage.policy("allowed", &allow_egress(("app", "allowed"), ("app", "server")))?;
    stage.policy("known", &allow_egress(("app", "known"), ("app", "host")))?;
    // This server takes everybody: the egress of the new pod alone decides, and the server counts.
    stage.policy(
        "server",
        &allow_ingress_from(("app", "server"), json!({"ipBlock": {"cidr": "0.0.0.0/0"}})),
    )?;
    // Callers may call everybody: the ingress of the new pod alone decides.
    stage.policy(
        "caller",
        &json!({"podSelector": {"matchLabels": {"app": "caller"}}, "policyTypes": ["Egress"], "egress": [{}]}),
    )?;
    stage.policy("called", &allow_ingress(("app", "allowed"), ("app", "caller")))?;
    // That one asks who comes.
    stage.policy("host", &allow_ingress(("app", "host"), ("app", "known")))?;
    stage.start(&[
        PodSpec::server("server", "node-1").label("app", "server"),
        PodSpec::server("host", "node-1").label("app", "host"),
        // The plugin of the other node has given its first address, too.
        PodSpec::server("other", "node-2"),
    ])?;
    let server = format!("{}:{PORT}", stage.address("server")?);
    let host = format!("{}:{PORT}", stage.address("host")?);

    let (size, bound) = match stage.way.sees_cni_cache() {
        true => (BATCH_WITH_CACHE, WITH_CACHE),
        false => (BATCH_WITHOUT_CACHE, WITHOUT_CACHE),
    };
    let mut first = Vec::new();
    for batch in 0..PODS / size {
        stage.start(&callers(stage, batch)?)?;
        // In a long run addresses come round again: what their owners before sent is not these pods'.
        let before = arrived(stage)?;
        stage.create(
            &[pods("denied", batch, size, &server), pods("allowed", batch, size, &server)].concat(),
        )?;
        for (pod, report) in stage.reports("app=denied", size, PATIENCE)? {
            ensure!(number(&report, "tries")? > 10, "{pod} hardly tried: {report}");
            ensure!(
                number(&report, "successes")? == 0,
                "{pod} got through, though policy denies it: {report}"
            );
            ensure!(number(&report, "knocks")? == 0, "{pod} was reached, though policy denies it: {report}");
        }
        for (pod, report) in stage.reports("app=allowed", size, PATIENCE)? {
            ensure!(
                number(&report, "knocks")? > 0,
                "{pod} was not reached, though policy allows it: {report}"
            );
        }
        first.extend(first_successes(stage, "allowed", size)?);
        nothing_arrived_since(&before, stage, "denied")?;
        stage.kubectl(&["delete", "pods", "-l", "role=client", "--wait=true", "--grace-period=0"])?;
    }
    stage.create(&pods("known", 0, size, &host))?;
    let known = first_successes(stage, "known", size)?;

    ensure!(first.len() == PODS, "only {} of {PODS} allowed pods got through", first.len());
    let said = format!(
        "{PODS} denied: nothing passed, out or in; {PODS} allowed, {size} at a time: {}; where another node asks who comes: {}",
        spread(&mut first, bound),
        spread(&mut known.clone(), WITHOUT_CACHE)
    );
    ensure!(first.iter().all(|first| *first <= bound), "{said}: more than {bound:?}");
    ensure!(known.iter().all(|first| *first <= WITHOUT_CACHE), "{said}: more than {WITHOUT_CACHE:?}");
    Ok(said)
}

/// A batch of pods of one kind, half of them on each node.
fn pods(kind: &str, batch: usize, size: usize, to: &str) -> Vec<PodSpec> {
    (0..size)
        .map(|number| {
            let node = if number % 2 == 0 { "node-1" } else { "node-2" };
            PodSpec::new(&format!("{kind}-{batch}-{number}"), node, &["first", to, &PORT.to_string(), TRIES])
                .label("app", kind)
                .label("role", "client")
        })
        .collect()
}

/// A pod on each node that sends to the addresses which the nodes' next pods will have.
fn callers(stage: &Stage<'_>, batch: usize) -> Result<Vec<PodSpec>> {
    let mut addresses = Vec::new();
    for node in &stage.cluster.nodes {
        addresses.extend(next_addresses(node)?.map(|address| address.to_string()));
    }
    let words = ["knock", &PORT.to_string(), &addresses.join(","), "3600"];
    let caller = |node: &Node| {
        PodSpec::new(&format!("caller-{batch}-{}", node.name), &node.name, &words)
            .label("app", "caller")
            .label("role", "client")
    };
    Ok(stage.cluster.nodes.iter().map(caller).collect())
}

/// The addresses that a node gives next: its plugin, host-local, takes them in turn.
fn next_addresses(node: &Node) -> Result<impl Iterator<Item = Ipv4Addr>> {
    let file = node.path("/var/lib/cni/networks/cbr0/last_reserved_ip.0");
    let last = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let [a, b, c, last] = last.trim().parse::<Ipv4Addr>()?.octets();
    // Of the 253 that a range has for pods, from 2 on.
    let after = move |number: u8| 2 + ((u16::from(last) - 2 + u16::from(number)) % 253) as u8;
    Ok((1..=NEXT_ADDRESSES).map(move |number| Ipv4Addr::new(a, b, c, after(number))))
}

/// When each pod of a kind got through first, counted from its process's first instant.
fn first_successes(stage: &Stage<'_>, kind: &str, count: usize) -> Result<Vec<Duration>> {
    let reports = stage.reports(&format!("app={kind}"), count, PATIENCE)?;
    reports
        .into_iter()
        .map(|(pod, report)| {
            let first = report["first_ms"].as_u64();
            let first = first
                .with_context(|| format!("{pod} never got through, though policy allows it: {report}"))?;
            Ok(Duration::from_millis(first))
        })
        .collect()
}

/// How many datagrams the server has had, by the address that sent them.
fn arrived(stage: &Stage<'_>) -> Result<Value> {
    serde_json::from_str(&stage.ask_local("server", "datagrams")?).context("reading the server's count")
}

/// Fails if the server has had a datagram of a pod of this kind since: that needs no answer to have passed.
fn nothing_arrived_since(before: &Value, stage: &Stage<'_>, kind: &str) -> Result<()> {
    let now = arrived(stage)?;
    let label = format!("app={kind}");
    let addresses =
        stage.kubectl(&["get", "pods", "-l", &label, "-o", "jsonpath={.items[*].status.podIP}"])?;
    let arrived: Vec<&str> =
        addresses.split_whitespace().filter(|address| now[*address] != before[*address]).collect();
    ensure!(arrived.is_empty(), "datagrams of denied pods arrived, from {}", arrived.join(", "));
    Ok(())
}

/// Median and latest, and how many are later than they should be.
fn spread(times: &mut [Duration], bound: Duration) -> String {
    times.sort_unstable();
    let at = |index: usize| times.get(index).map_or(0, Duration::as_millis);
    let late = times.iter().filter(|time| **time > bound).count();
    format!(
        "p50 {} ms, the latest {} ms, {late} late",
        at(times.len() / 2),
        at(times.len().saturating_sub(1))
    )
}
