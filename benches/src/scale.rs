//! One agent in a large cluster: a real API server full of pods that no kubelet runs.
//!
//! Start to ready, bytes received, memory, and the cost of each further event. The agent has its own network
//! namespace with one link to the API server, so the bytes on that link are what the API server sends to an
//! agent.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use integration::agent::{HTTP_PORT, binary};
use integration::command::ip;
use integration::http;
use integration::kubernetes::api_proxy::{ApiProxy, Request};
use integration::kubernetes::credentials::kubeconfig_name;
use integration::kubernetes::fake_pods::FakePods;
use integration::kubernetes::network::BRIDGE;
use integration::kubernetes::{Cluster, Components, Workdir};
use integration::namespace::Namespace;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::processes::{self, Memory};
use crate::report::{Figures, Output, median, progress, show};

/// Namespaces of the cluster.
const NAMESPACES: usize = 20;
/// Events per second, and the number of seconds.
const EVENTS: usize = 100;
const SECONDS: usize = 5;
/// How long an agent rests before its memory is measured, so that memory that it frees late counts as freed.
const REST: Duration = Duration::from_secs(2);
/// The time limit for an agent to be ready, or to process a change.
const TIMEOUT: Duration = Duration::from_secs(120);
/// The agent's end of the link.
const LINK_NAME: &str = "eth0";

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// Numbers of pods, from few to many.
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,50000")]
    pods: Vec<usize>,
    /// Policies.
    #[arg(long, default_value_t = 1_000)]
    policies: usize,
    /// The minimum size of a pod in the API, in bytes.
    #[arg(long, default_value_t = 10_000)]
    pod_bytes: usize,
    /// How often an agent is started at each size; with an odd number the median is one of the values.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// The folder in which the cluster keeps its files.
    #[arg(long)]
    folder: PathBuf,
    /// The folder of the cluster's programs.
    #[arg(long)]
    parts: PathBuf,
    /// How figures are shown.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// One row of figures: medians over the rounds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Pods in the API.
    pub pods: usize,
    /// Policies in the API.
    pub policies: usize,
    /// Seconds from the start of the process to ready.
    pub ready_s: f64,
    /// Seconds of processor time that the agent took for that.
    pub ready_cpu_s: f64,
    /// Megabytes that it received for that.
    pub ready_mb: f64,
    /// Megabytes of resident memory (`VmRSS`) after a rest.
    pub resident_mb: f64,
    /// The maximum (`VmHWM`).
    pub peak_mb: f64,
    /// Milliseconds of processor time for 100 events, each a change of a pod's label.
    pub events_cpu_ms: f64,
    /// Kilobytes received for 100 such events.
    pub events_kb: f64,
}

impl Figures for Row {
    const NAME: &'static str = "scale";

    fn header() -> Vec<&'static str> {
        vec![
            "pods",
            "policies",
            "ready s",
            "its CPU s",
            "received MB",
            "resident MB",
            "peak MB",
            "100 events: CPU ms",
            "kB",
        ]
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.pods.to_string(),
            self.policies.to_string(),
            format!("{:.2}", self.ready_s),
            format!("{:.2}", self.ready_cpu_s),
            format!("{:.1}", self.ready_mb),
            format!("{:.1}", self.resident_mb),
            format!("{:.1}", self.peak_mb),
            format!("{:.1}", self.events_cpu_ms),
            format!("{:.0}", self.events_kb),
        ]
    }
}

/// Measures, and shows the figures.
pub fn run(arguments: &Arguments) -> Result<()> {
    let place = Workdir::at(&arguments.folder)?;
    let cluster = Cluster::without_nodes(&place, Components::at(&arguments.parts)?)?;
    let measured = grow(arguments, &cluster);
    Cluster::down(&place)?;
    show(arguments.output, &measured?)
}

/// Measures at each size while the cluster grows to the largest.
fn grow(arguments: &Arguments, cluster: &Cluster) -> Result<Vec<Row>> {
    let crowd =
        FakePods { namespaces: NAMESPACES, policies: arguments.policies, pod_bytes: arguments.pod_bytes };
    let bulk = ApiProxy::start(cluster)?;
    let link = ApiLink::connect(cluster)?;
    let progress = progress(arguments.pods.len() * (1 + arguments.rounds as usize));
    progress.set_message("namespaces and policies");
    crowd.create_policies(cluster, &bulk)?;
    let (mut rows, mut settled) = (Vec::new(), 0);
    for &pods in &arguments.pods {
        ensure!(pods > settled, "numbers of pods must grow: {pods} after {settled}");
        progress.set_message(format!("creating {pods} pods"));
        crowd.create_pods(&bulk, settled..pods)?;
        settled = pods;
        progress.inc(1);
        let mut rounds = Vec::new();
        for _ in 0..arguments.rounds {
            progress.set_message(format!("an agent among {pods} pods"));
            rounds.push(
                measure_agent(cluster, &link, &bulk, &crowd, pods).with_context(|| format!("{pods} pods"))?,
            );
            progress.inc(1);
        }
        let of = |value: fn(&Row) -> f64| median(&rounds.iter().map(value).collect::<Vec<_>>());
        rows.push(Row {
            pods,
            policies: arguments.policies,
            ready_s: of(|row| row.ready_s),
            ready_cpu_s: of(|row| row.ready_cpu_s),
            ready_mb: of(|row| row.ready_mb),
            resident_mb: of(|row| row.resident_mb),
            peak_mb: of(|row| row.peak_mb),
            events_cpu_ms: of(|row| row.events_cpu_ms),
            events_kb: of(|row| row.events_kb),
        });
    }
    progress.finish_and_clear();
    Ok(rows)
}

/// One agent, from its start until it has processed some hundred events.
fn measure_agent(
    cluster: &Cluster,
    link: &ApiLink,
    bulk: &ApiProxy<'_>,
    crowd: &FakePods,
    pods: usize,
) -> Result<Row> {
    let before = link.received()?;
    let started = Instant::now();
    let mut agent = Agent::start(cluster, link)?;
    agent.wait_ready()?;
    let ready_s = started.elapsed().as_secs_f64();
    let ready_cpu_s = processes::cpu(agent.child.id())?.as_secs_f64();
    let ready_bytes = link.received()? - before;
    let status = agent.status()?;
    let known = |what: &str| status["inventory"][what].as_u64().unwrap_or_default() as usize;
    ensure!(
        known("pods") == pods && known("policies") == crowd.policies,
        "ready with {} pods and {} policies",
        known("pods"),
        known("policies")
    );
    sleep(REST);
    let Memory { resident_mb, peak_mb } = processes::memory(agent.child.id())?;

    let (cpu, bytes) = (processes::cpu(agent.child.id())?, link.received()?);
    let hundreds = SECONDS as f64 * EVENTS as f64 / 100.0;
    events(bulk, crowd, pods, started)?;
    agent.wait_quiet()?;
    let cpu = processes::cpu(agent.child.id())? - cpu;
    let bytes = link.received()? - bytes;
    Ok(Row {
        pods,
        policies: crowd.policies,
        ready_s,
        ready_cpu_s,
        ready_mb: ready_bytes as f64 / 1e6,
        resident_mb,
        peak_mb,
        events_cpu_ms: cpu.as_secs_f64() * 1e3 / hundreds,
        events_kb: bytes as f64 / 1e3 / hundreds,
    })
}

/// Changes labels of pods all over the cluster, evenly in time. `round` makes the labels different each time.
fn events(bulk: &ApiProxy<'_>, crowd: &FakePods, pods: usize, round: Instant) -> Result<()> {
    const EVENT_BATCH: usize = 10;
    let label = format!("t{}", round.elapsed().as_nanos());
    let begun = Instant::now();
    for piece in 0..SECONDS * EVENTS / EVENT_BATCH {
        let changes: Vec<Request> = (0..EVENT_BATCH)
            .map(|one| {
                let pod = (piece * EVENT_BATCH + one) * 37 % pods;
                let labels = json!({"metadata": {"labels": {"version": label}}});
                Request::Merge(crowd.path(pod), labels)
            })
            .collect();
        bulk.send(&changes)?;
        let next = begun + Duration::from_secs(1) * (piece as u32 + 1) / (EVENTS / EVENT_BATCH) as u32;
        sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// The agent's network namespace, and its link to the API server.
struct ApiLink {
    namespace: Namespace,
}

impl ApiLink {
    fn connect(cluster: &Cluster) -> Result<Self> {
        let namespace = Namespace::create(&cluster.workdir.namespace("agent"))?;
        ip(
            cluster.control.namespace(),
            &format!(
                "link add agent type veth peer name {LINK_NAME} netns {}\nlink set agent master {BRIDGE} up\n",
                namespace.name()
            ),
        )?;
        ip(
            &namespace,
            &format!("link set lo up\naddress add 172.30.0.99/24 dev {LINK_NAME}\nlink set {LINK_NAME} up\n"),
        )?;
        Ok(Self { namespace })
    }

    /// Bytes received so far, headers included.
    fn received(&self) -> Result<u64> {
        let text = self.namespace.run(|| std::fs::read_to_string("/proc/thread-self/net/dev"))??;
        let line = text.lines().find_map(|line| line.trim().strip_prefix(LINK_NAME)?.strip_prefix(':'));
        let line = line.with_context(|| format!("no {LINK_NAME} among the devices"))?;
        line.split_whitespace().next().unwrap_or_default().parse().context("the bytes received")
    }
}

/// The agent's process, with the API as its source.
struct Agent<'a> {
    child: Child,
    link: &'a ApiLink,
    log: PathBuf,
}

impl<'a> Agent<'a> {
    fn start(cluster: &Cluster, link: &'a ApiLink) -> Result<Self> {
        let log = cluster.workdir.join("agent.log");
        let output = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let mut command = Command::new(binary()?);
        command
            .args(["run", "--node", &FakePods::node(0), "--no-bridge", "--cni-cache", "off"])
            .args(["--http-port", &HTTP_PORT.to_string()])
            .arg("--kubeconfig")
            .arg(cluster.workdir.join(&kubeconfig_name("admin")))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let child = link.namespace.run(|| command.spawn())?.context("starting the agent")?;
        Ok(Self { child, link, log })
    }

    fn wait_ready(&mut self) -> Result<()> {
        let end = Instant::now() + TIMEOUT;
        loop {
            let answer = http::get(&self.link.namespace, HTTP_PORT, "/readyz");
            match answer {
                Ok(answer) if answer.status == 200 => return Ok(()),
                answer if Instant::now() > end || self.child.try_wait()?.is_some() => {
                    let said = answer.map_or_else(|error| error.to_string(), |answer| answer.body);
                    let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                    bail!("the agent is not ready: {said}\n{log}");
                }
                _ => sleep(Duration::from_millis(5)),
            }
        }
    }

    fn status(&self) -> Result<Value> {
        let answer = http::get(&self.link.namespace, HTTP_PORT, "/status")?;
        serde_json::from_str(&answer.body).context("reading the agent's status")
    }

    /// Waits until half a second passes without a change.
    fn wait_quiet(&self) -> Result<()> {
        let generation = || -> Result<u64> {
            self.status()?["applied_generation"].as_u64().context("no generation in its status")
        };
        let (end, mut last) = (Instant::now() + TIMEOUT, generation()?);
        loop {
            sleep(Duration::from_millis(500));
            match generation()? {
                same if same == last => return Ok(()),
                other => last = other,
            }
            ensure!(Instant::now() < end, "changes don't stop");
        }
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The next agent starts without rules.
        let _ = self.link.namespace.run(dataplane::table::Table::remove);
    }
}
