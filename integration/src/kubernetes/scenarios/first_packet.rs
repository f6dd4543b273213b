//! New pods that connect and send datagrams immediately after the start of their process, and to which others
//! send datagrams before they exist.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::policies::{allow_egress, allow_ingress, allow_ingress_from, deny_all};
use crate::kubernetes::fixture::{Fixture, PORT, PodManifest, number};
use crate::kubernetes::node::Node;

/// The number of pods of each kind.
const PODS: usize = 200;
/// How many pods of each kind start at once, with the CNI cache and without. The more pods a kubelet starts,
/// the later it reports their addresses. Without the cache, agents learn addresses only from these reports.
const BATCH_WITH_CACHE: usize = 20;
const BATCH_WITHOUT_CACHE: usize = 8;
/// How many of a node's next addresses get datagrams: those of a batch, and of other pods that start
/// meanwhile.
const NEXT_ADDRESSES: u8 = 30;
/// How long each pod keeps trying, in seconds: longer than the API server takes to get the pod's address.
const TRIES: &str = "6";
/// How late the first allowed connection may be if the new pod's own node evaluates it, with the CNI cache
/// and without. Another node, whose policy depends on the new pod, learns of the pod only from the API
/// server.
const WITH_CACHE: Duration = Duration::from_millis(200);
const WITHOUT_CACHE: Duration = Duration::from_secs(3);
/// How long a batch may take to start and report.
const TIMEOUT: Duration = Duration::from_secs(180);

pub(super) fn run(fixture: &Fixture<'_>) -> Result<String> {
    fixture.policy("all", &deny_all(None))?;
    fixture.policy("allowed", &allow_egress(("app", "allowed"), ("app", "server")))?;
    fixture.policy("known", &allow_egress(("app", "known"), ("app", "host")))?;
    // This server accepts every source, so only the egress of the new pod is restricted. It counts datagrams.
    fixture.policy(
        "server",
        &allow_ingress_from(("app", "server"), json!({"ipBlock": {"cidr": "0.0.0.0/0"}})),
    )?;
    // Callers may connect to every destination, so only the ingress of the new pod is restricted.
    fixture.policy(
        "caller",
        &json!({"podSelector": {"matchLabels": {"app": "caller"}}, "policyTypes": ["Egress"], "egress": [{}]}),
    )?;
    fixture.policy("called", &allow_ingress(("app", "allowed"), ("app", "caller")))?;
    // The policy of this server depends on the client pod.
    fixture.policy("host", &allow_ingress(("app", "host"), ("app", "known")))?;
    fixture.start(&[
        PodManifest::server("server", "node-1").label("app", "server"),
        PodManifest::server("host", "node-1").label("app", "host"),
        // So that the CNI plugin of the other node has also assigned an address.
        PodManifest::server("other", "node-2"),
    ])?;
    let server = format!("{}:{PORT}", fixture.address("server")?);
    let host = format!("{}:{PORT}", fixture.address("host")?);

    let (size, bound) = match fixture.method.sees_cni_cache() {
        true => (BATCH_WITH_CACHE, WITH_CACHE),
        false => (BATCH_WITHOUT_CACHE, WITHOUT_CACHE),
    };
    let mut first = Vec::new();
    for batch in 0..PODS / size {
        fixture.start(&callers(fixture, batch)?)?;
        // In a long run, addresses are reused. Datagrams of their earlier owners must not count.
        let before = received(fixture)?;
        fixture.create(
            &[pods("denied", batch, size, &server), pods("allowed", batch, size, &server)].concat(),
        )?;
        for (pod, report) in fixture.reports("app=denied", size, TIMEOUT)? {
            ensure!(number(&report, "tries")? > 10, "{pod} made too few attempts: {report}");
            ensure!(
                number(&report, "successes")? == 0,
                "{pod} connected although policy denies it: {report}"
            );
            ensure!(
                number(&report, "knocks")? == 0,
                "{pod} received a datagram although policy denies it: {report}"
            );
        }
        for (pod, report) in fixture.reports("app=allowed", size, TIMEOUT)? {
            ensure!(
                number(&report, "knocks")? > 0,
                "{pod} received no datagram although policy allows it: {report}"
            );
        }
        first.extend(first_successes(fixture, "allowed", size)?);
        nothing_arrived_since(&before, fixture, "denied")?;
        fixture.kubectl(&["delete", "pods", "-l", "role=client", "--wait=true", "--grace-period=0"])?;
    }
    fixture.create(&pods("known", 0, size, &host))?;
    let known = first_successes(fixture, "known", size)?;

    ensure!(first.len() == PODS, "only {} of {PODS} allowed pods connected", first.len());
    let summary = format!(
        "{PODS} denied: nothing passed in either direction; {PODS} allowed, {size} at a time: {}; if \
         another node evaluates them: {}",
        spread(&mut first, bound),
        spread(&mut known.clone(), WITHOUT_CACHE)
    );
    ensure!(first.iter().all(|first| *first <= bound), "{summary}: more than {bound:?}");
    ensure!(known.iter().all(|first| *first <= WITHOUT_CACHE), "{summary}: more than {WITHOUT_CACHE:?}");
    Ok(summary)
}

/// A batch of pods of one kind, half of them on each node.
fn pods(kind: &str, batch: usize, size: usize, to: &str) -> Vec<PodManifest> {
    (0..size)
        .map(|number| {
            let node = if number % 2 == 0 { "node-1" } else { "node-2" };
            PodManifest::new(
                &format!("{kind}-{batch}-{number}"),
                node,
                &["first", to, &PORT.to_string(), TRIES],
            )
            .label("app", kind)
            .label("role", "client")
        })
        .collect()
}

/// Descriptions of a pod on each node that sends datagrams to the addresses of the nodes' next pods.
fn callers(fixture: &Fixture<'_>, batch: usize) -> Result<Vec<PodManifest>> {
    let mut addresses = Vec::new();
    for node in &fixture.cluster.nodes {
        addresses.extend(next_addresses(node)?.map(|address| address.to_string()));
    }
    let arguments = ["knock", &PORT.to_string(), &addresses.join(","), "3600"];
    let caller = |node: &Node| {
        PodManifest::new(&format!("caller-{batch}-{}", node.name), &node.name, &arguments)
            .label("app", "caller")
            .label("role", "client")
    };
    Ok(fixture.cluster.nodes.iter().map(caller).collect())
}

/// The addresses that a node assigns next. Its plugin, host-local, assigns them in order.
fn next_addresses(node: &Node) -> Result<impl Iterator<Item = Ipv4Addr>> {
    let file = node.path("/var/lib/cni/networks/cbr0/last_reserved_ip.0");
    let last = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let [a, b, c, last] = last.trim().parse::<Ipv4Addr>()?.octets();
    // A range has 253 addresses for pods, from 2 on.
    let after = move |number: u8| 2 + ((u16::from(last) - 2 + u16::from(number)) % 253) as u8;
    Ok((1..=NEXT_ADDRESSES).map(move |number| Ipv4Addr::new(a, b, c, after(number))))
}

/// When the first connection of each pod of a kind succeeded, counted from the start of its process.
fn first_successes(fixture: &Fixture<'_>, kind: &str, count: usize) -> Result<Vec<Duration>> {
    let reports = fixture.reports(&format!("app={kind}"), count, TIMEOUT)?;
    reports
        .into_iter()
        .map(|(pod, report)| {
            let first = report["first_ms"].as_u64();
            let first = first
                .with_context(|| format!("{pod} never connected although policy allows it: {report}"))?;
            Ok(Duration::from_millis(first))
        })
        .collect()
}

/// How many datagrams the server has received from each address.
fn received(fixture: &Fixture<'_>) -> Result<Value> {
    serde_json::from_str(&fixture.ask_local("server", "datagrams")?).context("reading the server's count")
}

/// Fails if the server has received a datagram from a pod of this kind since then, even if no answer passed.
fn nothing_arrived_since(before: &Value, fixture: &Fixture<'_>, kind: &str) -> Result<()> {
    let now = received(fixture)?;
    let label = format!("app={kind}");
    let addresses =
        fixture.kubectl(&["get", "pods", "-l", &label, "-o", "jsonpath={.items[*].status.podIP}"])?;
    let arrived: Vec<&str> =
        addresses.split_whitespace().filter(|address| now[*address] != before[*address]).collect();
    ensure!(arrived.is_empty(), "datagrams of denied pods arrived from {}", arrived.join(", "));
    Ok(())
}

/// The median, the maximum, and how many exceed the bound.
fn spread(times: &mut [Duration], bound: Duration) -> String {
    times.sort_unstable();
    let at = |index: usize| times.get(index).map_or(0, Duration::as_millis);
    let late = times.iter().filter(|time| **time > bound).count();
    format!("p50 {} ms, max {} ms, {late} late", at(times.len() / 2), at(times.len().saturating_sub(1)))
}
