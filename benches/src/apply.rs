//! The time from an edited file to its effect: the last byte of an established connection that it forbids,
//! and the last new connection.
//!
//! A client sends continuously, and another opens connections continuously; the server records when each
//! piece arrives. A policy file is replaced by one that allows nothing. Measured is how long after that the
//! last piece arrives, and the last connection is established.
//!
//! The same is measured with many background entries in the kernel's table, which the change either does not
//! affect or forbids as well; while pods of another node are added and changed all the time; and while all
//! processors are busy.

mod stream;

use std::fmt;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use dataplane::conntrack::{Conntrack, EntryChange};
use integration::agent::{Agent, Launch};
use integration::flood::fill_conntrack;
use integration::{Busy, ClusterSpec, Testbed};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::apply::stream::{PAUSE, Stream};
use crate::events;
use crate::report::{Figures, Output, median, progress, show};

/// The node and its pods: the policy selects the server; no policy selects the bystander.
const NODE: &str = "node-a";
const CLIENT: &str = "bench/client";
const SERVER: &str = "bench/server";
const BYSTANDER: &str = "bench/bystander";
/// The server's port.
const PORT: u16 = 9000;
/// The port for new connections.
const NEW_CONNECTIONS_PORT: u16 = 9001;
/// The policy that is edited, and its text.
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
/// How long the connections exist before the edit.
const TIME_BEFORE_EDIT: Duration = Duration::from_millis(300);
/// How long after an edit arrivals are still observed.
const TIME_AFTER_EDIT: Duration = Duration::from_millis(700);
/// The time limit for a sweep.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// Numbers of background entries in the kernel's table while the file is edited. If the table has less
    /// room, it is filled.
    #[arg(long, value_delimiter = ',', default_value = "1000,100000,1000000")]
    entries: Vec<u32>,
    /// Pod events a second under which the first two numbers of entries are measured twice more, the second
    /// time with all processors busy; 0: none.
    #[arg(long, default_value_t = 100)]
    events: u32,
    /// How many rounds are measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How figures are shown.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// What the background entries are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Background {
    /// Connections to a pod that the policy does not select.
    Unaffected,
    /// Connections to the server: the change forbids them as well.
    Forbidden,
}

/// The conditions of a measurement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Case {
    entries: u32,
    background: Background,
    /// Pod events a second.
    events: u32,
    /// Whether every processor is busy.
    busy: bool,
}

impl Background {
    fn pod(self) -> &'static str {
        match self {
            Self::Unaffected => BYSTANDER,
            Self::Forbidden => SERVER,
        }
    }
}

/// The other load, in a few words.
fn load_label(events: u32, busy: bool) -> String {
    let busy = if busy { ", busy" } else { "" };
    format!("{events}/s{busy}")
}

impl fmt::Display for Background {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unaffected => "unaffected",
            Self::Forbidden => "forbidden too",
        })
    }
}

/// One row of figures; times in milliseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The effect of the change on the background entries.
    #[serde(alias = "others")]
    pub background: String,
    /// Entries in the node's table when the file was edited, at least.
    pub entries: u32,
    /// Pod events a second.
    pub events: u32,
    /// Whether every processor was busy.
    pub busy: bool,
    /// From the file being in place to the last byte of the established connection, in each round.
    pub cut_ms: Vec<f64>,
    /// Their median.
    pub cut_median_ms: f64,
    /// The longest.
    pub cut_worst_ms: f64,
    /// From the file being in place to the last new connection, in each round.
    pub new_ms: Vec<f64>,
    /// Their median.
    pub new_median_ms: f64,
    /// The longest.
    pub new_worst_ms: f64,
    /// How long the sweep after the change took: the median.
    pub sweep_ms: f64,
    /// How long the kernel took to dump all entries afterwards, with the output discarded: the median. A
    /// sweep of all of them can't be shorter.
    pub dump_ms: f64,
}

impl Figures for Row {
    const NAME: &'static str = "apply";

    fn header() -> Vec<&'static str> {
        vec![
            "background",
            "entries",
            "pod events",
            "last byte ms",
            "worst",
            "last new ms",
            "worst",
            "sweep ms",
            "dump ms",
        ]
    }

    fn row(&self) -> Vec<String> {
        let figures = [
            self.cut_median_ms,
            self.cut_worst_ms,
            self.new_median_ms,
            self.new_worst_ms,
            self.sweep_ms,
            self.dump_ms,
        ];
        let mut cells =
            vec![self.background.clone(), self.entries.to_string(), load_label(self.events, self.busy)];
        cells.extend(figures.map(|figure| format!("{figure:.1}")));
        cells
    }
}

/// The result of one round.
struct Effect {
    cut: Duration,
    new: Duration,
    sweep: Duration,
    dump: Duration,
}

/// Measures, and shows the figures.
pub fn run(arguments: &Arguments) -> Result<()> {
    let mut cases = Vec::new();
    for &entries in &arguments.entries {
        cases.push(Case { entries, background: Background::Unaffected, events: 0, busy: false });
        // Pods' own connections can be this many, too.
        cases.push(Case { entries, background: Background::Forbidden, events: 0, busy: false });
    }
    if arguments.events > 0 {
        let events = arguments.events;
        for busy in [false, true] {
            let case = |&entries: &u32| Case { entries, background: Background::Unaffected, events, busy };
            cases.extend(arguments.entries.iter().take(2).map(case));
        }
    }
    let progress = progress(cases.len() * arguments.rounds as usize);
    let mut rows: Vec<Row> = Vec::new();
    for case in cases {
        let testbed = ClusterSpec::new()
            .node(NODE, "10.244.1.0/24", "fd00:10:244:1::/64")
            .pod(CLIENT, NODE, &[("app", "client")], &[])
            .pod(SERVER, NODE, &[("app", "server")], &[])
            .pod(BYSTANDER, NODE, &[("app", "bystander")], &[])
            .build()?;
        let case = Case { entries: case.entries.min(free_entries(&testbed)?), ..case };
        progress.set_message(format!(
            "{} connections, {}, {}",
            case.entries,
            case.background,
            load_label(case.events, case.busy)
        ));
        fill_conntrack(&testbed, CLIENT, case.background.pod(), case.entries)?;
        let _busy = case.busy.then(Busy::start).transpose()?;
        let effect = |_| {
            let effect = measure_round(&testbed, case.events);
            progress.inc(1);
            effect.with_context(|| format!("{case:?}"))
        };
        let effects: Vec<Effect> = (0..arguments.rounds).map(effect).collect::<Result<_>>()?;
        rows.push(row(case, &effects));
    }
    progress.finish_and_clear();
    show(arguments.output, &rows)
}

/// How many entries fit into the kernel's table, with some room for the measured connections.
fn free_entries(testbed: &Testbed) -> Result<u32> {
    let most: u32 = testbed.namespace(NODE)?.read_sysctl("net.netfilter.nf_conntrack_max")?.parse()?;
    Ok(most / 100 * 95)
}

fn row(case: Case, effects: &[Effect]) -> Row {
    let values = |of: fn(&Effect) -> Duration| -> Vec<f64> {
        effects.iter().map(|effect| of(effect).as_secs_f64() * 1e3).collect()
    };
    let worst = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    let (cut_ms, new_ms) = (values(|effect| effect.cut), values(|effect| effect.new));
    Row {
        background: case.background.to_string(),
        entries: case.entries,
        events: case.events,
        busy: case.busy,
        cut_median_ms: median(&cut_ms),
        cut_worst_ms: worst(&cut_ms),
        cut_ms,
        new_median_ms: median(&new_ms),
        new_worst_ms: worst(&new_ms),
        new_ms,
        sweep_ms: median(&values(|effect| effect.sweep)),
        dump_ms: median(&values(|effect| effect.dump)),
    }
}

/// One round: a fresh agent over the existing connections, new connections, one edit.
fn measure_round(testbed: &Testbed, events: u32) -> Result<Effect> {
    testbed.manifests().policy(POLICY, ALLOWS)?;
    let mut agent = Agent::start(testbed, NODE, &Launch::default())?;
    agent.wait_ready()?;
    let stream = open_stream(testbed)?;
    let over = AtomicBool::new(false);
    let effect = thread::scope(|scope| -> Result<Effect> {
        let opener = scope.spawn(|| open_connections(testbed, &over));
        let edited = events::during(testbed, events, || edit(testbed, &agent, &stream));
        over.store(true, Ordering::Release);
        let last = opener.join().map_err(|_| anyhow!("the thread that opens connections panicked"))??;
        let (edited, sweep) = edited?;
        let since = |at: Instant| at.saturating_duration_since(edited);
        let new = since(last.context("no new connection was established")?);
        Ok(Effect { cut: since(stream.last_arrival()), new, sweep, dump: dump(testbed)? })
    })?;
    stream.close()?;
    agent.terminate()?;
    testbed.namespace(NODE)?.run(dataplane::table::Table::remove)??;
    Ok(effect)
}

/// Edits the policy and waits until all effects are over. Returns when it was edited, and how long the sweep
/// took.
fn edit(testbed: &Testbed, agent: &Agent, stream: &Stream) -> Result<(Instant, Duration)> {
    // The agent is idle for some time after the sweep at its start.
    sleep(TIME_BEFORE_EDIT);
    let before = sweeps(agent)?.0;
    let edited = testbed.manifests().policy(POLICY, FORBIDS)?;
    sleep(TIME_AFTER_EDIT);
    let cut = stream.last_arrival().saturating_duration_since(edited);
    if cut + Duration::from_millis(100) > TIME_AFTER_EDIT {
        bail!("the connection was not cut: bytes still arrived {cut:?} after the edit");
    }
    Ok((edited, wait_for_sweep(agent, before)?))
}

/// How long the kernel takes to dump its table.
fn dump(testbed: &Testbed) -> Result<Duration> {
    testbed.namespace(NODE)?.run(|| -> Result<Duration> {
        let mut conntrack = Conntrack::open()?;
        let begun = Instant::now();
        conntrack.visit(|_| None::<EntryChange>)?;
        Ok(begun.elapsed())
    })?
}

/// The number of sweeps, and the duration of the latest.
fn sweeps(agent: &Agent) -> Result<(u64, Duration)> {
    let status = agent.status()?;
    let number = |pointer: &str| {
        status.pointer(pointer).and_then(Value::as_u64).with_context(|| format!("no {pointer} in its status"))
    };
    Ok((number("/sweeps/count")?, Duration::from_micros(number("/sweeps/last/micros")?)))
}

/// The duration of the first sweep after the first `before` ones.
fn wait_for_sweep(agent: &Agent, before: u64) -> Result<Duration> {
    let end = Instant::now() + TIMEOUT;
    loop {
        let (count, took) = sweeps(agent)?;
        if count > before {
            return Ok(took);
        }
        if Instant::now() > end {
            bail!("no sweep within {TIMEOUT:?}");
        }
        sleep(Duration::from_millis(20));
    }
}

fn open_stream(testbed: &Testbed) -> Result<Stream> {
    let [address, _] = testbed.addresses(SERVER)?;
    let (client, server) = (testbed.namespace(CLIENT)?, testbed.namespace(SERVER)?);
    Stream::open(client, server, SocketAddr::new(address, PORT), TIME_AFTER_EDIT * 2)
}

/// Opens connections to the server, one after the other. Returns when the last of them was established.
fn open_connections(testbed: &Testbed, over: &AtomicBool) -> Result<Option<Instant>> {
    let [address, _] = testbed.addresses(SERVER)?;
    let server = SocketAddr::new(address, NEW_CONNECTIONS_PORT);
    let listener = testbed.namespace(SERVER)?.run(|| TcpListener::bind(server))??;
    listener.set_nonblocking(true)?;
    testbed.namespace(CLIENT)?.run(|| {
        let mut last = None;
        while !over.load(Ordering::Acquire) {
            // Shorter than TCP's retransmission timeout: a late connection had a packet dropped.
            if TcpStream::connect_timeout(&server, Duration::from_millis(100)).is_ok() {
                last = Some(Instant::now());
                // Removes it from the accept queue, which is short.
                let _ = listener.accept();
            }
            sleep(PAUSE * 5);
        }
        last
    })
}
