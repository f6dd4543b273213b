//! Connections of one pod while another floods the same server with packets that policy denies.
//!
//! The sender takes a core, and the kernel drops its packets in softirqs, regardless of the rule that drops
//! them. So the same flood is also measured with a rule of another program that drops it where it enters. The
//! difference is the agent's cost.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use integration::agent::{Agent, Launch};
use integration::command::nft;
use integration::flood::{Varying, flood};
use integration::probe::Family;
use integration::{ClusterSpec, Testbed};
use serde::{Deserialize, Serialize};

use crate::load::{ByteServer, LoadPlan, Sample, run as load};
use crate::processes::cpu;
use crate::report::{Figures, Output, progress, show};

const NODE: &str = "node-a";
const CLIENT: &str = "bench/client";
const FLOODER: &str = "bench/flooder";
const SERVER: &str = "bench/server";
/// The server's port, which policy allows.
const PORT: u16 = 9000;
/// A port that policy does not allow.
const DENIED_PORT: u16 = 9;
const POLICY: &str = "
podSelector: {matchLabels: {app: server}}
policyTypes: [Ingress]
ingress: [{from: [{podSelector: {}}], ports: [{port: 9000}]}]
";
/// The rule that drops the flood where it enters the node.
const EARLY_DROP: &str =
    "table inet early {\nchain early {\ntype filter hook prerouting priority -400\nudp dport 9 drop\n}\n}\n";

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// How many seconds each flood lasts.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Concurrent clients, each with one connection after the other.
    #[arg(long, default_value_t = 1)]
    clients: usize,
    /// How figures are shown.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// The kind of flood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Case {
    None,
    /// One flow, dropped by another program's rule.
    Early,
    Flood(Varying),
}

impl Case {
    const ALL: [Self; 5] = [
        Self::None,
        Self::Early,
        Self::Flood(Varying::Nothing),
        Self::Flood(Varying::SourcePort),
        Self::Flood(Varying::DestinationPort),
    ];

    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Early => "dropped by another rule",
            Self::Flood(Varying::Nothing) => "one flow",
            Self::Flood(Varying::SourcePort) => "source ports",
            Self::Flood(Varying::DestinationPort) => "destination ports",
        }
    }
}

/// One row of figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The difference between packets of the flood.
    pub flood: String,
    /// Packets of the flood per second.
    pub flood_per_second: f64,
    /// Connections of the other pod per second.
    pub connections_per_second: f64,
    /// Microseconds to establish one: the median.
    pub connect_p50_us: f64,
    /// The 99th percentile.
    pub connect_p99_us: f64,
    /// Connections that were not established.
    pub failures: u64,
    /// Packets that workers denied.
    pub denied: f64,
    /// Packets that were dropped because a queue was full.
    pub queue_drops: f64,
    /// The agent's processor time, in percent of one core. Evaluating the connections is part of it.
    pub agent_percent: f64,
}

impl Figures for Row {
    const NAME: &'static str = "floods";

    fn header() -> Vec<&'static str> {
        vec![
            "flood",
            "packets/s",
            "connects/s",
            "p50 us",
            "p99 us",
            "lost",
            "denied",
            "queue drops",
            "agent %",
        ]
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.flood.clone(),
            format!("{:.0}", self.flood_per_second),
            format!("{:.0}", self.connections_per_second),
            format!("{:.1}", self.connect_p50_us),
            format!("{:.1}", self.connect_p99_us),
            self.failures.to_string(),
            format!("{:.0}", self.denied),
            format!("{:.0}", self.queue_drops),
            format!("{:.1}", self.agent_percent),
        ]
    }
}

/// Measures, and shows the figures.
pub fn run(arguments: &Arguments) -> Result<()> {
    let progress = progress(Case::ALL.len());
    let mut rows = Vec::new();
    for case in Case::ALL {
        progress.set_message(case.name());
        rows.push(measure(case, arguments).with_context(|| format!("{case:?}"))?);
        progress.inc(1);
    }
    progress.finish_and_clear();
    show(arguments.output, &rows)
}

fn measure(case: Case, arguments: &Arguments) -> Result<Row> {
    let testbed = ClusterSpec::new()
        .node(NODE, "10.244.1.0/24", "fd00:10:244:1::/64")
        .pod(CLIENT, NODE, &[("app", "client")], &[])
        .pod(FLOODER, NODE, &[("app", "flooder")], &[])
        .pod(SERVER, NODE, &[("app", "server")], &[])
        .build()?;
    testbed.manifests().policy("bench/server", POLICY)?;
    let mut agent = Agent::start(&testbed, NODE, &Launch::default())?;
    agent.wait_ready()?;
    if case == Case::Early {
        nft(testbed.namespace(NODE)?, EARLY_DROP)?;
    }
    let to = Family::V4.of(testbed.addresses(SERVER)?);
    let server = SocketAddr::new(to, PORT);
    let _server = ByteServer::start(testbed.namespace(SERVER)?, server, arguments.clients)?;
    let time = Duration::from_secs(arguments.seconds);
    let before = cpu(agent.process())?;
    let flooding = start_flood(&testbed, case, to, time)?;
    let shape = LoadPlan { clients: arguments.clients, warm_up: Duration::ZERO, measured: time };
    let Sample { failures, rate, connect, .. } = load(testbed.namespace(CLIENT)?, server, shape)?;
    let sent = match flooding {
        Some(thread) => thread.join().map_err(|_| anyhow!("the flooding thread panicked"))???,
        None => 0,
    };
    let micros = |quantile| connect.value_at_quantile(quantile) as f64 / 1e3;
    Ok(Row {
        flood: case.name().to_owned(),
        flood_per_second: sent as f64 / time.as_secs_f64(),
        connections_per_second: rate,
        connect_p50_us: micros(0.5),
        connect_p99_us: micros(0.99),
        failures,
        denied: agent.metric("kube_verdict_packets_total", "deny")?,
        queue_drops: agent.metric("kube_verdict_queue_full_drops_total", "")?
            + agent.metric("kube_verdict_queue_socket_drops_total", "")?,
        agent_percent: (cpu(agent.process())? - before).as_secs_f64() / time.as_secs_f64() * 100.0,
    })
}

type Flooding = std::thread::JoinHandle<Result<std::io::Result<u64>>>;

fn start_flood(testbed: &Testbed, case: Case, to: IpAddr, time: Duration) -> Result<Option<Flooding>> {
    let varying = match case {
        Case::None => return Ok(None),
        Case::Early => Varying::Nothing,
        Case::Flood(varying) => varying,
    };
    testbed.namespace(FLOODER)?.spawn(move || flood(to, DENIED_PORT, varying, time)).map(Some)
}
