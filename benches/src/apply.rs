//! From an edited file to the last byte of an established connection that it forbids.
//!
//! A client sends without a pause; the server notes when each piece arrives. A policy file is replaced by one that allows
//! nothing: how long after that does the last piece arrive? And again, with many other connections in the kernel's table,
//! which the change either does not touch or forbids as well.

use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use integration::agent::{Agent, Launch};
use integration::flood::fill_conntrack;
use integration::{Cluster, Testbed};
use serde::Serialize;

use crate::report::{Figures, Output, median, show};

/// The node and its pods: the policy selects the server; the bystander is selected by none.
const NODE: &str = "node-a";
const CLIENT: &str = "bench/client";
const SERVER: &str = "bench/server";
const BYSTANDER: &str = "bench/bystander";
/// The server's port.
const PORT: u16 = 9000;
/// The policy that is edited, and what it says.
const POLICY: &str = "bench/server";
const ALLOWS: &str = "
podSelector: {matchLabels: {app: server}}
policyTypes: [Ingress]
ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]
";
const FORBIDS: &str = "
podSelector: {matchLabels: {app: server}}
policyTypes: [Ingress]
ingress: []
";
/// How often the client sends: the figures are no finer than this.
const PAUSE: Duration = Duration::from_micros(100);
/// How long after an edit is looked for what still arrives.
const AFTERWARDS: Duration = Duration::from_millis(700);
/// How long a connection may take to come about, or a change to come into force.
const PATIENCE: Duration = Duration::from_secs(10);

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// Other connections in the kernel's table while the file is edited.
    #[arg(long, value_delimiter = ',', default_value = "0,100000")]
    entries: Vec<u32>,
    /// How often each is measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How figures are shown.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// What the other connections are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Others {
    /// To a pod that the policy does not select.
    Untouched,
    /// To the server: the change forbids them as well.
    Forbidden,
}

impl Others {
    fn pod(self) -> &'static str {
        match self {
            Self::Untouched => BYSTANDER,
            Self::Forbidden => SERVER,
        }
    }
}

impl fmt::Display for Others {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Untouched => "not touched by the change",
            Self::Forbidden => "forbidden by the change too",
        })
    }
}

/// One row of figures.
#[derive(Clone, Debug, Serialize)]
struct Row {
    others: String,
    /// Entries in the node's table when the file was edited, at least.
    entries: u32,
    /// Milliseconds from the file being in place to the last byte, in each round.
    cut_ms: Vec<f64>,
    median_ms: f64,
    worst_ms: f64,
}

impl Figures for Row {
    const NAME: &'static str = "apply";

    fn header() -> Vec<&'static str> {
        vec!["other connections", "entries", "cut after ms, median", "worst"]
    }

    fn row(&self) -> Vec<String> {
        let worst = format!("{:.1}", self.worst_ms);
        vec![self.others.clone(), self.entries.to_string(), format!("{:.1}", self.median_ms), worst]
    }
}

/// Measures, and shows the figures.
pub fn run(arguments: &Arguments) -> Result<()> {
    let mut cases = Vec::new();
    for &entries in &arguments.entries {
        cases.push((entries, Others::Untouched));
        if entries > 0 {
            cases.push((entries, Others::Forbidden));
        }
    }
    let progress = ProgressBar::new(cases.len() as u64 * u64::from(arguments.rounds));
    let mut rows = Vec::new();
    for (entries, others) in cases {
        let testbed = Cluster::new()
            .node(NODE, "10.244.1.0/24", "fd00:10:244:1::/64")
            .pod(CLIENT, NODE, &[("app", "client")], &[])
            .pod(SERVER, NODE, &[("app", "server")], &[])
            .pod(BYSTANDER, NODE, &[("app", "bystander")], &[])
            .build()?;
        if entries > 0 {
            fill_conntrack(&testbed, CLIENT, others.pod(), entries)?;
        }
        let mut cut_ms = Vec::new();
        for _ in 0..arguments.rounds {
            let took = once(&testbed).with_context(|| format!("{entries} entries, {others}"))?;
            cut_ms.push(took.as_secs_f64() * 1e3);
            progress.inc(1);
        }
        let worst_ms = cut_ms.iter().copied().fold(0.0, f64::max);
        rows.push(Row { others: others.to_string(), entries, median_ms: median(&cut_ms), worst_ms, cut_ms });
    }
    progress.finish_and_clear();
    show(arguments.output, &rows)
}

/// One round: a fresh agent over the connections that are there, one more connection, one edit.
fn once(testbed: &Testbed) -> Result<Duration> {
    testbed.manifests().policy(POLICY, ALLOWS)?;
    let mut agent = Agent::start(testbed, NODE, &Launch::default())?;
    agent.wait_ready()?;
    let stream = Stream::open(testbed)?;
    sleep(Duration::from_millis(200));
    let before = agent.applied_generation()?;
    let edited = testbed.manifests().policy(POLICY, FORBIDS)?;
    sleep(AFTERWARDS);
    let last = stream.last_arrival();
    let took = last.saturating_duration_since(edited);
    if took + Duration::from_millis(100) > AFTERWARDS {
        bail!("the connection was not cut: bytes still came {took:?} after the edit");
    }
    agent.wait_applied_after(before)?;
    stream.close()?;
    agent.terminate()?;
    testbed.namespace(NODE)?.run(dataplane::table::Table::remove)??;
    Ok(took)
}

/// A connection on which the client sends without a pause.
struct Stream {
    stop: Arc<AtomicBool>,
    /// Microseconds from `epoch` to the latest arrival.
    latest: Arc<AtomicU64>,
    epoch: Instant,
    sender: JoinHandle<Result<Result<()>>>,
    receiver: JoinHandle<Result<Result<()>>>,
}

impl Stream {
    fn open(testbed: &Testbed) -> Result<Self> {
        let [address, _] = testbed.addresses(SERVER)?;
        let server = SocketAddr::new(address, PORT);
        let listener = testbed.namespace(SERVER)?.run(|| TcpListener::bind(server))??;
        let stop = Arc::new(AtomicBool::new(false));
        let latest = Arc::new(AtomicU64::new(0));
        let epoch = Instant::now();
        let arrivals = Arc::clone(&latest);
        let receiver = testbed.namespace(SERVER)?.spawn(move || receive(&listener, epoch, &arrivals))?;
        let (began, begun) = mpsc::channel();
        let end = Arc::clone(&stop);
        let sender = testbed.namespace(CLIENT)?.spawn(move || send(server, &began, &end))?;
        if begun.recv_timeout(PATIENCE).is_err() {
            bail!("the connection that is to be cut did not come about");
        }
        Ok(Self { stop, latest, epoch, sender, receiver })
    }

    fn last_arrival(&self) -> Instant {
        self.epoch + Duration::from_micros(self.latest.load(Ordering::Acquire))
    }

    /// Ends both sides. The receiver of a connection that was cut hears nothing of it, and gives up by itself.
    fn close(self) -> Result<()> {
        self.stop.store(true, Ordering::Release);
        for thread in [self.sender, self.receiver] {
            let Ok(result) = thread.join() else { bail!("a thread of the connection panicked") };
            result??;
        }
        Ok(())
    }
}

fn send(server: SocketAddr, began: &mpsc::Sender<()>, stop: &AtomicBool) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE).context("connecting to the server")?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(Duration::from_millis(200)))?;
    began.send(())?;
    while !stop.load(Ordering::Acquire) {
        // Once nothing passes, the socket's buffer may fill up: that is the end we wait for.
        let _ = stream.write(b".");
        sleep(PAUSE);
    }
    Ok(())
}

fn receive(listener: &TcpListener, epoch: Instant, latest: &AtomicU64) -> Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(AFTERWARDS * 2))?;
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return Ok(()),
            Ok(_) => latest.store(u64::try_from(epoch.elapsed().as_micros())?, Ordering::Release),
        }
    }
}
