//! Long flows: bytes a second of one TCP connection, and packets a second of one UDP flow, with and without the agent.
//!
//! After its first packet a connection meets one rule of the agent's, and nothing else of it. Measured in turns, as connections
//! are.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use integration::Testbed;
use serde::{Deserialize, Serialize};

use crate::modes::{Against, CLIENT, Mode, PORT, Route, Running, testbed};
use crate::report::{Figures, Output, median, progress, show};

/// How much is written, and read, by one call.
const PIECE: usize = 128 * 1024;
/// What each datagram carries: as little as a query or a sample has.
const DATAGRAM: [u8; 64] = [b'.'; 64];
/// How long an end waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// Whether the pods are of one node, or of two.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "same-node,across-nodes")]
    routes: Vec<Route>,
    /// Numbers of policies that select the server.
    #[arg(long, value_delimiter = ',', default_value = "1,500")]
    policies: Vec<usize>,
    /// How often each is measured; an odd number has a middle.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds that count, in each run.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Seconds before them that don't.
    #[arg(long, default_value_t = 0.25)]
    warm_up: f64,
    /// How figures are shown.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// What flows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flow {
    /// Bytes through one TCP connection.
    Bytes,
    /// Datagrams of 64 bytes from one UDP socket to another.
    Packets,
}

/// One row of figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// What flowed.
    pub flow: Flow,
    /// From where to where.
    pub route: Route,
    /// What stood between.
    pub mode: String,
    /// Bytes or packets a second that arrived, in each round.
    pub rates: Vec<f64>,
    /// Their median.
    pub rate: f64,
    /// The median over that without an agent.
    pub of_no_agent: f64,
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bytes => "TCP, bytes",
            Self::Packets => "UDP, packets",
        })
    }
}

impl Figures for Row {
    const NAME: &'static str = "flows";

    fn header() -> Vec<&'static str> {
        vec!["flow", "route", "mode", "a second", "/none"]
    }

    fn row(&self) -> Vec<String> {
        let rate = match self.flow {
            Flow::Bytes => format!("{:.2} GB", self.rate / 1e9),
            Flow::Packets => format!("{:.0}", self.rate),
        };
        let share = format!("{:.3}", self.of_no_agent);
        vec![self.flow.to_string(), self.route.to_string(), self.mode.clone(), rate, share]
    }
}

/// Measures, and shows the figures.
pub fn run(arguments: &Arguments) -> Result<()> {
    let mut modes = vec![Mode::NoAgent];
    modes.extend(arguments.policies.iter().map(|&policies| Mode::Agent { policies }));
    let testbed = testbed()?;
    let flows = Flow::value_variants();
    let progress = progress(arguments.rounds as usize * modes.len() * arguments.routes.len() * flows.len());
    let mut rates: BTreeMap<(Flow, Route, Mode), Vec<f64>> = BTreeMap::new();
    for round in 0..arguments.rounds as usize {
        for turn in 0..modes.len() {
            let mode = modes[(round + turn) % modes.len()];
            let running =
                Running::start(&testbed, mode, &Against::default()).with_context(|| mode.to_string())?;
            for &route in &arguments.routes {
                for &flow in flows {
                    progress.set_message(format!("{flow}, {route}, {mode}"));
                    let rate = measure(&testbed, route, flow, arguments)
                        .with_context(|| format!("{flow}, {route}, {mode}"))?;
                    rates.entry((flow, route, mode)).or_default().push(rate);
                    progress.inc(1);
                }
            }
            running.stop()?;
        }
    }
    progress.finish_and_clear();
    let rows: Vec<Row> = rates
        .iter()
        .map(|(&(flow, route, mode), of)| {
            let without = rates.get(&(flow, route, Mode::NoAgent)).map_or(&[][..], Vec::as_slice);
            let rate = median(of);
            let of_no_agent = rate / median(without);
            Row { flow, route, mode: mode.to_string(), rates: of.clone(), rate, of_no_agent }
        })
        .collect();
    show(arguments.output, &rows)
}

/// What arrives a second.
fn measure(testbed: &Testbed, route: Route, flow: Flow, arguments: &Arguments) -> Result<f64> {
    let ends = Ends::start(testbed, route, flow)?;
    sleep(Duration::from_secs_f64(arguments.warm_up));
    let (begun, before) = (Instant::now(), ends.arrived.load(Ordering::Relaxed));
    sleep(Duration::from_secs_f64(arguments.seconds));
    let (took, arrived) = (begun.elapsed(), ends.arrived.load(Ordering::Relaxed) - before);
    ends.stop()?;
    ensure!(arrived > 0, "nothing arrived");
    Ok(arrived as f64 / took.as_secs_f64())
}

/// Who sends and who receives.
struct Ends {
    over: Arc<AtomicBool>,
    /// Bytes, or packets.
    arrived: Arc<AtomicU64>,
    threads: [JoinHandle<Result<Result<()>>>; 2],
}

impl Ends {
    fn start(testbed: &Testbed, route: Route, flow: Flow) -> Result<Self> {
        let (client, server) = (testbed.namespace(CLIENT)?, testbed.namespace(route.server())?);
        let to = route.address(testbed)?;
        let (over, arrived) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (end, count) = (Arc::clone(&over), Arc::clone(&arrived));
        let receiver = match flow {
            Flow::Bytes => {
                let listener = server.run(|| TcpListener::bind(to))??;
                server.spawn(move || take_bytes(&listener, &count))?
            }
            Flow::Packets => {
                let socket = server.run(|| UdpSocket::bind(to))??;
                server.spawn(move || take_packets(&socket, &end, &count))?
            }
        };
        let end = Arc::clone(&over);
        let sender = client.spawn(move || match flow {
            Flow::Bytes => send_bytes(to, &end),
            Flow::Packets => send_packets(to, &end),
        })?;
        Ok(Self { over, arrived, threads: [sender, receiver] })
    }

    fn stop(self) -> Result<()> {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let Ok(result) = thread.join() else { bail!("an end of the flow panicked") };
            result??;
        }
        Ok(())
    }
}

fn send_bytes(to: SocketAddr, over: &AtomicBool) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let piece = vec![b'.'; PIECE];
    while !over.load(Ordering::Relaxed) {
        stream.write_all(&piece)?;
    }
    Ok(())
}

fn take_bytes(listener: &TcpListener, arrived: &AtomicU64) -> Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut piece = vec![0; PIECE];
    loop {
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            length => drop(arrived.fetch_add(length as u64, Ordering::Relaxed)),
        }
    }
}

fn send_packets(to: SocketAddr, over: &AtomicBool) -> Result<()> {
    // One port for all runs: a flow of before is this one again, and judged by what stands now.
    let socket = UdpSocket::bind(("0.0.0.0", PORT))?;
    socket.connect(to)?;
    while !over.load(Ordering::Relaxed) {
        // Nobody may listen yet, or the queue of the device be full.
        let _ = socket.send(&DATAGRAM);
    }
    Ok(())
}

fn take_packets(socket: &UdpSocket, over: &AtomicBool, arrived: &AtomicU64) -> Result<()> {
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let mut datagram = [0; 128];
    while !over.load(Ordering::Relaxed) {
        if socket.recv(&mut datagram).is_ok() {
            arrived.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}
