//! 10,000 pods of 10 KB on nodes that exist only in the API, and 1,000 policies: memory, start time, and how
//! soon a change is enforced.

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

use crate::agent::HTTP_PORT;
use crate::kubernetes::api_proxy::{ApiProxy, Request};
use crate::kubernetes::fake_pods::FakePods;
use crate::kubernetes::fixture::{Fixture, PodManifest};
use crate::kubernetes::node::Node;

const PODS: usize = 10_000;
const POLICIES: usize = 1_000;
const FAKE_PODS: FakePods = FakePods { namespaces: 20, policies: POLICIES, pod_bytes: 10_000 };

/// The bound of an agent's resident memory, in KiB.
const MEMORY: u64 = 40 * 1024;
/// The bound of the time from an agent's first log line until it is ready, while other programs share the
/// machine. `cargo xtask bench scale` measures it without them.
const START: Duration = Duration::from_secs(6);
/// The bound of the time from the watch event of a policy to the last byte and the last new connection that
/// it forbids.
const ENFORCED: Duration = Duration::from_millis(150);
/// How often that is measured. The bound is for the 99th percentile.
const SAMPLES: usize = 100;

/// How long an agent may take to know all pods, and to become ready.
const TIMEOUT: Duration = Duration::from_secs(120);

pub(super) fn run(fixture: &Fixture<'_>) -> Result<String> {
    let api_proxy = ApiProxy::start(fixture.cluster)?;
    let result = FAKE_PODS
        .create_policies(fixture.cluster, &api_proxy)
        .and_then(|()| FAKE_PODS.create_pods(&api_proxy, 0..PODS))
        .and_then(|()| measure(fixture, &api_proxy));
    FAKE_PODS.delete(&api_proxy, PODS)?;
    result
}

fn measure(fixture: &Fixture<'_>, api_proxy: &ApiProxy<'_>) -> Result<String> {
    let agents = fixture.method.agents().context("no agent is installed")?;
    let node = fixture.cluster.nodes.first().context("the first node")?;
    fixture
        .until("the agent knows all pods and policies", TIMEOUT, || Ok(known(node)? >= (PODS, POLICIES)))?;

    // Restarts the agent with all objects in the API.
    let before = agent_pods(fixture)?;
    let old = before.iter().find(|(_, on)| **on == node.name).map(|(pod, _)| pod.clone());
    let old = old.context("no agent runs on the first node")?;
    fixture.cluster.kubectl.run(&["-n", agents.namespace, "delete", "pod", &old])?;
    let mut new = String::new();
    fixture.until("a new agent is ready", TIMEOUT, || {
        let Some((pod, _)) =
            agent_pods(fixture)?.into_iter().find(|(pod, on)| *on == node.name && *pod != old)
        else {
            return Ok(false);
        };
        new = pod;
        let ready = format!("pod/{new}");
        let waited = ["-n", agents.namespace, "wait", "--for=condition=Ready", "--timeout=1s", &ready];
        Ok(fixture.cluster.kubectl.output(&waited, "")?.status.success())
    })?;
    let log = fixture.cluster.kubectl.run(&[
        "-n",
        agents.namespace,
        "logs",
        &new,
        "-c",
        agents.container,
        "--timestamps",
    ])?;
    let start = start_to_ready(&log)?;
    ensure!(
        known(node)? >= (PODS, POLICIES),
        "the agent was ready before it knew all objects: {:?}",
        known(node)?
    );
    let memory = resident(node)?;

    let mut enforced = latencies(fixture, api_proxy, node)?;
    enforced.sort_unstable();
    let worst = enforced.get(SAMPLES * 99 / 100 - 1).copied().context("too few samples")?;
    let summary = format!(
        "{PODS} pods, {POLICIES} policies: ready in {:.2} s, {:.1} MB resident, a policy enforced p50 {} \
         ms, p99 {} ms",
        start.as_secs_f64(),
        memory as f64 / 1024.0,
        enforced.get(SAMPLES / 2).map_or(0, Duration::as_millis),
        worst.as_millis(),
    );
    ensure!(memory <= MEMORY, "{summary}: more than {} MB", MEMORY / 1024);
    ensure!(start <= START, "{summary}: more than {START:?} to start");
    ensure!(worst <= ENFORCED, "{summary}: more than {ENFORCED:?} until a policy is enforced");
    Ok(summary)
}

/// How many pods and policies the agent of a node has in its inventory.
fn known(node: &Node) -> Result<(usize, usize)> {
    let answer = crate::http::get(&node.network()?, HTTP_PORT, "/status")?;
    let status: Value = serde_json::from_str(&answer.body)?;
    let count = |what: &str| status["inventory"][what].as_u64().unwrap_or_default() as usize;
    Ok((count("pods"), count("policies")))
}

/// The agents' pods, with the node of each.
fn agent_pods(fixture: &Fixture<'_>) -> Result<BTreeMap<String, String>> {
    let agents = fixture.method.agents().context("no agent is installed")?;
    let listed = fixture.cluster.kubectl.get(&["-n", agents.namespace, "pods", "-l", agents.selector])?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(listed["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .map(|pod| (text(&pod["metadata"]["name"]), text(&pod["spec"]["nodeName"])))
        .collect())
}

/// The time from the first line of a log to the line `ready`.
fn start_to_ready(log: &str) -> Result<Duration> {
    let time =
        |line: &str| -> Result<jiff::Timestamp> { Ok(line.split(' ').next().unwrap_or_default().parse()?) };
    let first = log.lines().next().context("the agent's log is empty")?;
    let ready = log
        .lines()
        .find(|line| line.ends_with(" ready") || line.contains("\"message\":\"ready\""))
        .context("the agent's log has no line `ready`")?;
    Ok(Duration::try_from(time(ready)?.duration_since(time(first)?))?)
}

/// Resident memory of the agent on a node, in KiB.
fn resident(node: &Node) -> Result<u64> {
    node.run(|| {
        for entry in fs::read_dir("/proc")?.flatten() {
            let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
            if matches!(field("Name:"), Some("kube-verdict" | "netpol"))
                && let Some(memory) = field("VmRSS:")
            {
                return memory.trim_end_matches(" kB").parse().context("the agent's memory");
            }
        }
        bail!("no agent runs on {}", node.name)
    })?
}

/// How long after its watch event a policy is enforced, for new connections and for an existing one. Measured
/// [`SAMPLES`] times.
fn latencies(fixture: &Fixture<'_>, api_proxy: &ApiProxy<'_>, node: &Node) -> Result<Vec<Duration>> {
    fixture.start(&[
        PodManifest::server("server", &node.name).label("app", "server"),
        PodManifest::server("client", &node.name).label("app", "client"),
    ])?;
    let policies = format!("/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies", fixture.namespace);
    let forbids = json!({
        "metadata": {"name": "forbids"},
        "spec": {"podSelector": {"matchLabels": {"app": "server"}}, "policyTypes": ["Ingress"]},
    });
    let seen: Mutex<Option<Instant>> = Mutex::default();
    let over = AtomicBool::new(false);
    let server = pod_network(fixture, node, "server")?;
    let client = pod_network(fixture, node, "client")?;
    let address: SocketAddr = format!("{}:7000", fixture.address("server")?).parse()?;
    thread::scope(|scope| {
        let watching = scope.spawn(|| {
            api_proxy.watch(&policies, |kind, object| {
                if kind == "ADDED"
                    && object["metadata"]["name"] == "forbids"
                    && let Ok(mut seen) = seen.lock()
                {
                    *seen = Some(Instant::now());
                }
                !over.load(Ordering::Relaxed)
            })
        });
        let echoing = scope.spawn(|| node.look(|| inside(&server, || echo(address, &over)))?);
        let measured = (|| {
            // Until the server's thread listens.
            sleep(Duration::from_millis(200));
            let mut latencies = Vec::with_capacity(SAMPLES);
            for _ in 0..SAMPLES {
                if let Ok(mut seen) = seen.lock() {
                    *seen = None;
                }
                let create = Request::Create(policies.clone(), forbids.clone());
                let last =
                    node.look(|| inside(&client, || last_answers(address, || api_proxy.send(&[create]))))??;
                let event =
                    seen.lock().ok().and_then(|seen| *seen).context("the policy's event was not seen")?;
                latencies.push(last.saturating_duration_since(event));
                api_proxy.send(&[Request::Delete(format!("{policies}/forbids"))])?;
                node.look(|| inside(&client, || answered_again(address)))??;
            }
            Ok(latencies)
        })();
        over.store(true, Ordering::Relaxed);
        // One more event, so that the watch ends.
        let last =
            json!({"metadata": {"name": "last"}, "spec": {"podSelector": {"matchLabels": {"app": "none"}}}});
        api_proxy.send(&[Request::Create(policies.clone(), last)])?;
        for thread in [watching, echoing] {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        measured
    })
}

/// The path of a pod's network namespace, from the CNI cache.
fn pod_network(fixture: &Fixture<'_>, node: &Node, pod: &str) -> Result<String> {
    for entry in fs::read_dir(node.path("/var/lib/cni/results")).context("reading the CNI cache")?.flatten() {
        let Ok(text) = fs::read_to_string(entry.path()) else { continue };
        let Ok(cached) = serde_json::from_str::<Value>(&text) else { continue };
        let arguments: BTreeMap<&str, &str> = cached["cniArgs"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|pair| Some((pair[0].as_str()?, pair[1].as_str()?)))
            .collect();
        if arguments.get("K8S_POD_NAME") == Some(&pod)
            && arguments.get("K8S_POD_NAMESPACE") == Some(&fixture.namespace.as_str())
        {
            let interfaces = cached["result"]["interfaces"].as_array();
            // The interface in the pod; others are on the node.
            let sandbox =
                interfaces.into_iter().flatten().find_map(|interface| interface["sandbox"].as_str());
            return sandbox
                .map(str::to_owned)
                .with_context(|| format!("the CNI cache has no namespace for {pod}"));
        }
    }
    bail!("the CNI cache has no entry for {pod}")
}

/// Moves this thread into a network namespace of its node, and runs `work`.
fn inside<T>(network: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    setns(File::open(network)?, CloneFlags::CLONE_NEWNET)?;
    work()
}

/// Echoes every byte until it is stopped.
fn echo(address: SocketAddr, over: &AtomicBool) -> Result<()> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    thread::scope(|scope| {
        while !over.load(Ordering::Relaxed) {
            let Ok((mut stream, _)) = listener.accept() else {
                sleep(Duration::from_micros(200));
                continue;
            };
            scope.spawn(move || {
                let _ = stream.set_nonblocking(false);
                let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
                let mut byte = [0];
                while matches!(stream.read(&mut byte), Ok(1)) && stream.write_all(&byte).is_ok() {}
            });
        }
    });
    Ok(())
}

/// Forbids connections to an address, and returns when the last one was answered: of an existing connection,
/// and of new ones that are opened one after the other.
fn last_answers(address: SocketAddr, forbid: impl FnOnce() -> Result<()> + Send) -> Result<Instant> {
    // The time without an answer after which connections count as forbidden.
    const SILENCE: Duration = Duration::from_millis(400);
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_nodelay(true)?;
    thread::scope(|scope| {
        let existing = scope.spawn(move || {
            let mut last = Instant::now();
            let mut byte = [1];
            while stream.write_all(&byte).is_ok() && matches!(stream.read(&mut byte), Ok(1)) {
                last = Instant::now();
                sleep(Duration::from_micros(500));
            }
            last
        });
        let new = scope.spawn(move || {
            let mut last = Instant::now();
            while TcpStream::connect_timeout(&address, SILENCE).is_ok() {
                last = Instant::now();
                sleep(Duration::from_micros(500));
            }
            last
        });
        forbid()?;
        let join = |thread: thread::ScopedJoinHandle<'_, Instant>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        Ok(join(existing).max(join(new)))
    })
}

/// Waits until an address answers.
fn answered_again(address: SocketAddr) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_err() {
        ensure!(Instant::now() < end, "{address} does not answer again although the policy was deleted");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_parsed_from_logs_of_both_formats() {
        let text = "2026-01-01T00:00:00.5Z x INFO rules installed\n2026-01-01T00:00:01.75Z x INFO ready\n";
        assert_eq!(start_to_ready(text).unwrap(), Duration::from_millis(1_250));
        let json = "2026-01-01T00:00:00Z {}\n2026-01-01T00:00:02Z {\"message\":\"ready\"}\n";
        assert_eq!(start_to_ready(json).unwrap(), Duration::from_secs(2));
        assert!(start_to_ready("2026-01-01T00:00:00Z x INFO not yet\n").is_err());
    }
}
