//! New connections between two pods of one node: without an agent, over the floor, and with the agent.
//!
//! All are measured in one testbed, in turns, round after round, so that what else the machine does falls on all alike;
//! the figures of each are medians over the rounds.

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use dataplane::table::Table;
use indicatif::ProgressBar;
use integration::agent::{Agent, Launch};
use integration::{Cluster, Testbed};
use ipnet::IpNet;
use serde::Serialize;

use crate::floor::Floor;
use crate::load::{self, ByteServer, Sample, Shape};
use crate::report::{Figures, Output, median, show};

/// The node, and its two pods.
const NODE: &str = "node-a";
const CLIENT: &str = "bench/client";
const SERVER: &str = "bench/server";
/// The server's port. The testbed has no server of its own there.
const PORT: u16 = 9000;

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// Numbers of clients, each a thread with one connection at a time.
    #[arg(long, value_delimiter = ',', default_value = "1,8")]
    clients: Vec<usize>,
    /// Numbers of policies that select the server; the last of them is the one that allows the client.
    #[arg(long, value_delimiter = ',', default_value = "1,500")]
    policies: Vec<usize>,
    /// How often each is measured; an odd number has a middle.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds that count, in each run.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Seconds before them that don't.
    #[arg(long, default_value_t = 0.5)]
    warm_up: f64,
    /// How figures are shown.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// What stands between the two pods.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Mode {
    /// Connection tracking and the rules of services, as on every node.
    NoAgent,
    /// A program that accepts every packet unseen.
    Floor,
    /// The agent with so many policies that select the server. All clients are one pod, so that nearly every connection is of a
    /// pair that the kernel remembers.
    Agent { policies: usize },
    /// The agent that remembers nothing: what the first connection of a pair costs.
    Asking { policies: usize },
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAgent => f.write_str("no agent"),
            Self::Floor => f.write_str("accept-all (floor)"),
            Self::Agent { policies: 1 } => f.write_str("agent, 1 policy"),
            Self::Agent { policies } => write!(f, "agent, {policies} policies"),
            Self::Asking { policies: 1 } => f.write_str("agent, 1 policy, first of a pair"),
            Self::Asking { policies } => write!(f, "agent, {policies} policies, first of a pair"),
        }
    }
}

/// One row of figures.
#[derive(Clone, Debug, Serialize)]
struct Row {
    mode: String,
    clients: usize,
    /// Connections a second, in each round.
    rates: Vec<f64>,
    /// Their median.
    rate: f64,
    /// The median rate over that without an agent.
    of_no_agent: f64,
    /// Medians over the rounds of each round's percentile of the time that `connect` took.
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    /// The p50 less that without an agent.
    p50_above_us: f64,
    failures: u64,
}

impl Figures for Row {
    const NAME: &'static str = "connections";

    fn header() -> Vec<&'static str> {
        vec!["mode", "clients", "conn/s", "of no agent", "p50 us", "above", "p99 us", "p99.9 us", "failed"]
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.mode.clone(),
            self.clients.to_string(),
            format!("{:.0}", self.rate),
            format!("{:.3}", self.of_no_agent),
            format!("{:.1}", self.p50_us),
            format!("{:+.1}", self.p50_above_us),
            format!("{:.0}", self.p99_us),
            format!("{:.0}", self.p999_us),
            self.failures.to_string(),
        ]
    }
}

/// Measures, and shows the figures.
pub fn run(arguments: &Arguments) -> Result<()> {
    let modes: Vec<Mode> = [Mode::NoAgent, Mode::Floor]
        .into_iter()
        .chain(arguments.policies.iter().map(|&policies| Mode::Agent { policies }))
        .chain(arguments.policies.iter().map(|&policies| Mode::Asking { policies }))
        .collect();
    let testbed = Cluster::new()
        .node(NODE, "10.244.1.0/24", "fd00:10:244:1::/64")
        .pod(CLIENT, NODE, &[("app", "client")], &[])
        .pod(SERVER, NODE, &[("app", "server")], &[])
        .build()?;
    // A client that comes back to a port finds its old connection's entry; what is closed should go soon.
    testbed.namespace(NODE)?.sysctl("net.netfilter.nf_conntrack_tcp_timeout_close", "1")?;
    let [address, _] = testbed.addresses(SERVER)?;
    let server = SocketAddr::new(address, PORT);
    let most = arguments.clients.iter().copied().max().unwrap_or(1);
    let _server = ByteServer::start(testbed.namespace(SERVER)?, server, most)?;

    let progress = progress(arguments, &modes);
    let mut samples: BTreeMap<(Mode, usize), Vec<Sample>> = BTreeMap::new();
    for round in 0..arguments.rounds as usize {
        // Each round begins with another one, so that none always follows the same.
        for turn in 0..modes.len() {
            let mode = modes[(round + turn) % modes.len()];
            let running = Running::start(&testbed, mode).with_context(|| mode.to_string())?;
            for &clients in &arguments.clients {
                progress.set_message(format!("{mode}, {clients} clients"));
                let shape = Shape {
                    clients,
                    warm_up: Duration::from_secs_f64(arguments.warm_up),
                    measured: Duration::from_secs_f64(arguments.seconds),
                };
                let sample = load::run(testbed.namespace(CLIENT)?, server, shape)?;
                samples.entry((mode, clients)).or_default().push(sample);
                progress.inc(1);
            }
            running.stop(&testbed)?;
        }
    }
    progress.finish_and_clear();
    show(arguments.output, &rows(&samples))
}

fn progress(arguments: &Arguments, modes: &[Mode]) -> ProgressBar {
    let runs = arguments.rounds as usize * modes.len() * arguments.clients.len();
    let style = indicatif::ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}");
    ProgressBar::new(runs as u64)
        .with_style(style.unwrap_or_else(|_| indicatif::ProgressStyle::default_bar()))
}

fn rows(samples: &BTreeMap<(Mode, usize), Vec<Sample>>) -> Vec<Row> {
    let rates = |of: &[Sample]| of.iter().map(|sample| sample.rate).collect::<Vec<_>>();
    let percentile = |of: &[Sample], quantile: f64| {
        median(
            &of.iter()
                .map(|sample| sample.connect.value_at_quantile(quantile) as f64 / 1e3)
                .collect::<Vec<_>>(),
        )
    };
    samples
        .iter()
        .map(|((mode, clients), of)| {
            let without = samples.get(&(Mode::NoAgent, *clients)).map_or(&[][..], Vec::as_slice);
            let rate = median(&rates(of));
            let p50_us = percentile(of, 0.5);
            Row {
                mode: mode.to_string(),
                clients: *clients,
                rates: rates(of),
                rate,
                of_no_agent: rate / median(&rates(without)),
                p50_us,
                p99_us: percentile(of, 0.99),
                p999_us: percentile(of, 0.999),
                p50_above_us: p50_us - percentile(without, 0.5),
                failures: of.iter().map(|sample| sample.failures).sum(),
            }
        })
        .collect()
}

/// What a mode has started on the node.
enum Running {
    Nothing,
    Floor(Floor),
    Agent(Agent),
}

impl Running {
    fn start(testbed: &Testbed, mode: Mode) -> Result<Self> {
        Ok(match mode {
            Mode::NoAgent => Self::Nothing,
            Mode::Floor => {
                let cidrs: Vec<IpNet> = testbed.cluster().node_named(NODE)?.cidrs().into();
                let program = env::current_exe().context("finding this program")?;
                Self::Floor(Floor::start(&program, testbed.namespace(NODE)?, &cidrs)?)
            }
            Mode::Agent { policies } => Self::agent(testbed, policies, &[])?,
            Mode::Asking { policies } => Self::agent(testbed, policies, &["--remember=off"])?,
        })
    }

    fn agent(testbed: &Testbed, policies: usize, flags: &[&str]) -> Result<Self> {
        testbed.manifests().write("policies.yaml", &policies_for(policies))?;
        let mut agent = Agent::start(testbed, NODE, &Launch { flags, ..Launch::default() })?;
        agent.wait_ready()?;
        Ok(Self::Agent(agent))
    }

    /// Ends it and takes its rules away.
    fn stop(self, testbed: &Testbed) -> Result<()> {
        match self {
            Self::Nothing => return Ok(()),
            Self::Floor(floor) => drop(floor),
            Self::Agent(mut agent) => drop(agent.terminate()?),
        }
        testbed.namespace(NODE)?.run(Table::remove)??;
        Ok(())
    }
}

/// So many policies that select the server. The last by name allows the client; each of the others allows somebody else,
/// half of them by address and half by label.
fn policies_for(count: usize) -> String {
    let policy = |number: usize| {
        let peer = match number + 1 {
            last if last == count => "podSelector: {matchLabels: {app: client}}".to_owned(),
            other if other % 2 == 0 => format!("podSelector: {{matchLabels: {{app: other-{number}}}}}"),
            _ => format!("ipBlock: {{cidr: 172.16.{}.{}/32}}", number / 256 % 256, number % 256),
        };
        format!(
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
             metadata: {{name: policy-{number:05}, namespace: bench}}\n\
             spec:\n  podSelector: {{matchLabels: {{app: server}}}}\n  policyTypes: [Ingress]\n  \
             ingress:\n  - from: [{{{peer}}}]\n    ports: [{{port: {PORT}}}]\n"
        )
    };
    (0..count).map(policy).collect()
}
