//! 10,000 pods of 10 KB on nodes that exist in the API alone, and 1,000 policies: memory, start, and how soon a change holds.

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
use crate::kubernetes::Node;
use crate::kubernetes::bulk::{Bulk, Request};
use crate::kubernetes::crowd::Crowd;
use crate::kubernetes::stage::{PodSpec, Stage};

const PODS: usize = 10_000;
const POLICIES: usize = 1_000;
const CROWD: Crowd = Crowd { namespaces: 20, policies: POLICIES, pod_bytes: 10_000 };

/// Resident memory of an agent.
const MEMORY: u64 = 40 * 1024;
/// From its first log line to ready, while all else that a node starts shares the machine with it. `cargo xtask bench scale` says
/// how long it takes alone.
const START: Duration = Duration::from_secs(6);
/// From the watch event of a policy to the last byte, and the last new connection, that it forbids.
const ENFORCED: Duration = Duration::from_millis(150);
/// How often that is measured: the 99th of a hundred is what is asked for.
const SAMPLES: usize = 100;

const PATIENCE: Duration = Duration::from_secs(120);

pub fn play(stage: &Stage<'_>) -> Result<String> {
    let bulk = Bulk::start(stage.cluster)?;
    let result = CROWD
        .found(stage.cluster, &bulk)
        .and_then(|()| CROWD.settle(&bulk, 0..PODS))
        .and_then(|()| measure(stage, &bulk));
    CROWD.disperse(&bulk, PODS)?;
    result
}

fn measure(stage: &Stage<'_>, bulk: &Bulk<'_>) -> Result<String> {
    let agents = stage.way.agents().context("no agent is installed")?;
    let node = stage.cluster.nodes.first().context("the first node")?;
    stage.until("the agent knows all pods", PATIENCE, || Ok(known(node)? >= (PODS, POLICIES)))?;

    // The agent is started anew, over what is there.
    let before = agent_pods(stage)?;
    let old = before.iter().find(|(_, on)| **on == node.name).map(|(pod, _)| pod.clone());
    let old = old.context("no agent runs on the first node")?;
    stage.cluster.kubectl.run(&["-n", agents.namespace, "delete", "pod", &old])?;
    let mut new = String::new();
    stage.until("a new agent is ready", PATIENCE, || {
        let Some((pod, _)) = agent_pods(stage)?.into_iter().find(|(pod, on)| *on == node.name && *pod != old)
        else {
            return Ok(false);
        };
        new = pod;
        let ready = format!("pod/{new}");
        let waited = ["-n", agents.namespace, "wait", "--for=condition=Ready", "--timeout=1s", &ready];
        Ok(stage.cluster.kubectl.output(&waited, "")?.status.success())
    })?;
    let log = stage.cluster.kubectl.run(&[
        "-n",
        agents.namespace,
        "logs",
        &new,
        "-c",
        agents.container,
        "--timestamps",
    ])?;
    let start = start_to_ready(&log)?;
    ensure!(known(node)? >= (PODS, POLICIES), "ready before all was known: {:?}", known(node)?);
    let memory = resident(node)?;

    let mut enforced = latencies(stage, bulk, node)?;
    enforced.sort_unstable();
    let worst = enforced.get(SAMPLES * 99 / 100 - 1).copied().context("too few samples")?;
    let said = format!(
        "{PODS} pods, {POLICIES} policies: ready in {:.2} s, {:.1} MB resident, a policy enforced p50 {} ms, p99 {} ms",
        start.as_secs_f64(),
        memory as f64 / 1024.0,
        enforced.get(SAMPLES / 2).map_or(0, Duration::as_millis),
        worst.as_millis(),
    );
    ensure!(memory <= MEMORY, "{said}: more than {} MB", MEMORY / 1024);
    ensure!(start <= START, "{said}: more than {START:?} to start");
    ensure!(worst <= ENFORCED, "{said}: more than {ENFORCED:?} until a policy is enforced");
    Ok(said)
}

/// How many pods and policies the agent of a node knows.
fn known(node: &Node) -> Result<(usize, usize)> {
    let answer = crate::http::get(&node.network()?, HTTP_PORT, "/status")?;
    let status: Value = serde_json::from_str(&answer.body)?;
    let count = |what: &str| status["inventory"][what].as_u64().unwrap_or_default() as usize;
    Ok((count("pods"), count("policies")))
}

/// The agents' pods, with the node of each.
fn agent_pods(stage: &Stage<'_>) -> Result<BTreeMap<String, String>> {
    let agents = stage.way.agents().context("no agent is installed")?;
    let listed = stage.cluster.kubectl.get(&["-n", agents.namespace, "pods", "-l", agents.selector])?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(listed["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .map(|pod| (text(&pod["metadata"]["name"]), text(&pod["spec"]["nodeName"])))
        .collect())
}

/// From the first line of a log with timestamps to the one that says ready.
fn start_to_ready(log: &str) -> Result<Duration> {
    let time =
        |line: &str| -> Result<jiff::Timestamp> { Ok(line.split(' ').next().unwrap_or_default().parse()?) };
    let first = log.lines().next().context("the agent's log is empty")?;
    let ready = log
        .lines()
        .find(|line| line.ends_with(" ready") || line.contains("\"message\":\"ready\""))
        .context("the agent's log does not say that it is ready")?;
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

/// How long after its watch event a policy holds, for new connections and for one that exists, many times over.
fn latencies(stage: &Stage<'_>, bulk: &Bulk<'_>, node: &Node) -> Result<Vec<Duration>> {
    stage.start(&[
        PodSpec::server("server", &node.name).label("app", "server"),
        PodSpec::server("client", &node.name).label("app", "client"),
    ])?;
    let policies = format!("/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies", stage.namespace);
    let forbids = json!({
        "metadata": {"name": "forbids"},
        "spec": {"podSelector": {"matchLabels": {"app": "server"}}, "policyTypes": ["Ingress"]},
    });
    let seen: Mutex<Option<Instant>> = Mutex::default();
    let over = AtomicBool::new(false);
    let server = pod_network(stage, node, "server")?;
    let client = pod_network(stage, node, "client")?;
    let address: SocketAddr = format!("{}:7000", stage.address("server")?).parse()?;
    thread::scope(|scope| {
        let watching = scope.spawn(|| {
            bulk.watch(&policies, |kind, object| {
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
            // The server's thread may not listen yet.
            sleep(Duration::from_millis(200));
            let mut latencies = Vec::with_capacity(SAMPLES);
            for _ in 0..SAMPLES {
                if let Ok(mut seen) = seen.lock() {
                    *seen = None;
                }
                let create = Request::Create(policies.clone(), forbids.clone());
                let last =
                    node.look(|| inside(&client, || last_answers(address, || bulk.send(&[create]))))??;
                let event =
                    seen.lock().ok().and_then(|seen| *seen).context("the policy's event was not seen")?;
                latencies.push(last.saturating_duration_since(event));
                bulk.send(&[Request::Delete(format!("{policies}/forbids"))])?;
                node.look(|| inside(&client, || answered_again(address)))??;
            }
            Ok(latencies)
        })();
        over.store(true, Ordering::Relaxed);
        // One event more, so that the watch sees that it is over.
        let last =
            json!({"metadata": {"name": "last"}, "spec": {"podSelector": {"matchLabels": {"app": "none"}}}});
        bulk.send(&[Request::Create(policies.clone(), last)])?;
        for thread in [watching, echoing] {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        measured
    })
}

/// The file of a pod's network namespace, as the CNI's cache names it.
fn pod_network(stage: &Stage<'_>, node: &Node, pod: &str) -> Result<String> {
    for entry in fs::read_dir(node.path("/var/lib/cni/results")).context("reading the CNI's cache")?.flatten()
    {
        let Ok(text) = fs::read_to_string(entry.path()) else { continue };
        let Ok(cached) = serde_json::from_str::<Value>(&text) else { continue };
        let arguments: BTreeMap<&str, &str> = cached["cniArgs"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|pair| Some((pair[0].as_str()?, pair[1].as_str()?)))
            .collect();
        if arguments.get("K8S_POD_NAME") == Some(&pod)
            && arguments.get("K8S_POD_NAMESPACE") == Some(&stage.namespace.as_str())
        {
            let interfaces = cached["result"]["interfaces"].as_array();
            // The one in the pod; others are on the node.
            let sandbox =
                interfaces.into_iter().flatten().find_map(|interface| interface["sandbox"].as_str());
            return sandbox
                .map(str::to_owned)
                .with_context(|| format!("the CNI's cache has no namespace for {pod}"));
        }
    }
    bail!("the CNI's cache does not know {pod}")
}

/// Runs `work` in a network namespace of the node that this thread is on.
fn inside<T>(network: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    setns(File::open(network)?, CloneFlags::CLONE_NEWNET)?;
    work()
}

/// Sends back every byte, until it is over.
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

/// Does something that forbids the connections to an address, and returns when the last of them was answered: one that
/// exists, and new ones, each of which takes its turn.
fn last_answers(address: SocketAddr, forbid: impl FnOnce() -> Result<()> + Send) -> Result<Instant> {
    // Long enough for an answer, short enough to notice that there is none.
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
        ensure!(Instant::now() < end, "{address} does not answer again, though the policy is gone");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_read_from_a_log_of_either_form() {
        let text = "2026-01-01T00:00:00.5Z x INFO rules installed\n2026-01-01T00:00:01.75Z x INFO ready\n";
        assert_eq!(start_to_ready(text).unwrap(), Duration::from_millis(1_250));
        let json = "2026-01-01T00:00:00Z {}\n2026-01-01T00:00:02Z {\"message\":\"ready\"}\n";
        assert_eq!(start_to_ready(json).unwrap(), Duration::from_secs(2));
        assert!(start_to_ready("2026-01-01T00:00:00Z x INFO not yet\n").is_err());
    }
}
