//! Long flows: bytes a second of one TCP connection, and packets a second of one UDP flow, with and without the agent.
//!
//! After its first packet a connection meets one rule of the agent's, and nothing else of it. That costs less than a processor's speed
//! changes from one second to the next, or than it costs to wake a thread or to move it to another core. So each end keeps to a
//! core of its own, datagrams are received without sleeping, and within one flow the agent's table is put to sleep and woken in
//! turns, several times a second (nft's flag `dormant` takes its chains out of a packet's way): each turn is compared with the one beside it.
//!
//! The floor is what one chain costs in the same place, with the one rule that an accepted connection meets, made by hand.

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
use indicatif::ProgressBar;
use integration::Testbed;
use integration::command::nft;
use serde::{Deserialize, Serialize};

use crate::modes::{Against, CLIENT, Mode, NODES, PORT, Route, Running, testbed};
use crate::processes::keep_to;
use crate::report::{Figures, Output, median, progress, show};

/// How much is written, and read, by one call.
const PIECE: usize = 128 * 1024;
/// What each datagram carries: as little as a query or a sample has.
const DATAGRAM: [u8; 64] = [b'.'; 64];
/// The agent's table.
const AGENT: &str = "kube-verdict";
/// The floor's, and what is in it: of the agent's rules the one that an accepted connection meets.
const FLOOR: &str = "floor";
const FLOOR_RULES: &str = "table inet floor {
    chain judge { type filter hook postrouting priority srcnat - 5; ct mark & 0x1 == 0x0 accept; }
}";
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
    /// Pairs of turns, with rules and without; an odd number has a middle.
    #[arg(long, default_value_t = 75, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of each turn.
    #[arg(long, default_value_t = 0.05)]
    seconds: f64,
    /// Seconds before the first turn of a flow.
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
    /// Bytes or packets a second that arrived, in each turn.
    pub rates: Vec<f64>,
    /// Their median.
    pub rate: f64,
    /// A turn's rate over that of the turn beside it without rules: the median.
    pub of_no_agent: f64,
}

/// What arrived a second through one flow, in pairs of turns.
struct Turns {
    /// With rules.
    with: Vec<f64>,
    /// Without them.
    without: Vec<f64>,
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
    let testbed = testbed()?;
    let flows = Flow::value_variants();
    let agents = arguments.policies.iter().map(|&policies| Mode::Agent { policies });
    let modes: Vec<Mode> = [Mode::Floor].into_iter().chain(agents).collect();
    let progress = progress(arguments.rounds as usize * modes.len() * arguments.routes.len() * flows.len());
    let mut measured: BTreeMap<(Flow, Route), Vec<(Mode, Turns)>> = BTreeMap::new();
    for mode in modes {
        let agent = if mode == Mode::Floor {
            on_nodes(&testbed, FLOOR_RULES)?;
            None
        } else {
            Some(Running::start(&testbed, mode, &Against::default()).with_context(|| mode.to_string())?)
        };
        let table = if agent.is_some() { AGENT } else { FLOOR };
        for &route in &arguments.routes {
            for &flow in flows {
                let what = format!("{flow}, {route}, {mode}");
                progress.set_message(what.clone());
                let turns = measure(&testbed, route, flow, table, arguments, &progress).context(what)?;
                measured.entry((flow, route)).or_default().push((mode, turns));
            }
        }
        match agent {
            Some(running) => running.stop()?,
            None => on_nodes(&testbed, &format!("delete table inet {FLOOR}"))?,
        }
    }
    progress.finish_and_clear();
    let mut rows = Vec::new();
    for ((flow, route), modes) in measured {
        let row = |mode: Mode, rates: Vec<f64>, of_no_agent| {
            let rate = median(&rates);
            Row { flow, route, mode: mode.to_string(), rates, rate, of_no_agent }
        };
        let without = modes.iter().flat_map(|(_, turns)| turns.without.iter().copied()).collect();
        rows.push(row(Mode::NoAgent, without, 1.0));
        rows.extend(modes.into_iter().map(|(mode, Turns { with, without })| {
            let shares: Vec<f64> =
                with.iter().zip(without).map(|(with, without)| share(*with, without)).collect();
            row(mode, with, median(&shares))
        }));
    }
    show(arguments.output, &rows)
}

/// A turn's rate over that of the turn beside it. Nothing arrives while TCP waits to send again what a full queue lost, which it
/// does for 200 ms, with rules and without.
fn share(with: f64, without: f64) -> f64 {
    if with == without { 1.0 } else { with / without }
}

fn on_nodes(testbed: &Testbed, rules: &str) -> Result<()> {
    NODES.iter().try_for_each(|node| nft(testbed.namespace(node)?, rules))
}

/// Measures one flow in turns; the rules of `table` have seen its first packet.
fn measure(
    testbed: &Testbed,
    route: Route,
    flow: Flow,
    table: &str,
    arguments: &Arguments,
    progress: &ProgressBar,
) -> Result<Turns> {
    let ends = Ends::start(testbed, route, flow)?;
    sleep(Duration::from_secs_f64(arguments.warm_up));
    // Takes the table's chains out of the way of packets, and puts them back.
    let [asleep, awake] = &[" { flags dormant; }", ""].map(|flags| format!("add table inet {table}{flags}"));
    let turn = |sleeps: bool| -> Result<f64> {
        on_nodes(testbed, if sleeps { asleep } else { awake })?;
        let (begun, before) = (Instant::now(), ends.arrived.load(Ordering::Relaxed));
        sleep(Duration::from_secs_f64(arguments.seconds));
        let (took, arrived) = (begun.elapsed(), ends.arrived.load(Ordering::Relaxed) - before);
        Ok(arrived as f64 / took.as_secs_f64())
    };
    let mut turns = Turns { with: Vec::new(), without: Vec::new() };
    for round in 0..arguments.rounds {
        // What comes second in one pair comes first in the next.
        for sleeps in [round % 2 == 0, round % 2 != 0] {
            if sleeps { &mut turns.without } else { &mut turns.with }.push(turn(sleeps)?);
        }
        progress.inc(1);
    }
    on_nodes(testbed, awake)?;
    ends.stop()?;
    for rates in [&turns.with, &turns.without] {
        ensure!(median(rates) > 0.0, "nothing arrived in most turns");
    }
    Ok(turns)
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
                server.spawn(move || keep_to(1).and_then(|()| take_bytes(&listener, &count)))?
            }
            Flow::Packets => {
                let socket = server.run(|| UdpSocket::bind(to))??;
                server.spawn(move || keep_to(1).and_then(|()| take_packets(&socket, &end, &count)))?
            }
        };
        let end = Arc::clone(&over);
        let sender = client.spawn(move || {
            keep_to(0)?;
            match flow {
                Flow::Bytes => send_bytes(to, &end),
                Flow::Packets => send_packets(to, &end),
            }
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
    socket.set_nonblocking(true)?;
    let mut datagram = [0; 128];
    while !over.load(Ordering::Relaxed) {
        if socket.recv(&mut datagram).is_ok() {
            arrived.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_in_which_tcp_waits_counts_against_its_side() {
        assert_eq!(share(9.0, 10.0), 0.9);
        assert_eq!(share(0.0, 10.0), 0.0);
        assert_eq!(share(0.0, 0.0), 1.0);
        // Of a flow most turns are compared all the same.
        assert_eq!(median(&[share(10.0, 0.0), share(9.0, 10.0), share(8.0, 10.0)]), 0.9);
    }
}
