//! New connections between two pods, on one node and on two: without an agent, over the baseline, with the
//! agent, and with another policy agent.
//!
//! All are measured in one testbed, in turns, round after round, so that other load on the machine affects
//! all alike. The figures of each are medians over the rounds.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::events;
use crate::load::{self, ByteServer, LoadPlan, Sample};
use crate::modes::{Against, CLIENT, Mode, Route, Running, testbed};
use crate::report::{Figures, Output, median, progress, show};

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// Numbers of clients, each a thread with one connection at a time.
    #[arg(long, value_delimiter = ',', default_value = "1,8,64")]
    clients: Vec<usize>,
    /// Whether the pods are on one node, or on two.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "same-node,across-nodes")]
    routes: Vec<Route>,
    /// Numbers of policies that select the server; the last policy allows the client.
    #[arg(long, value_delimiter = ',', default_value = "1,10,100,500,5000")]
    policies: Vec<usize>,
    /// Numbers of policies with which the agent is measured once more under pod events; without a value:
    /// none.
    #[arg(long, value_delimiter = ',', num_args = 0.., default_value = "500")]
    busy: Vec<usize>,
    /// How many of these pod events there are a second.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    events: u32,
    /// Numbers of policies with which the agent is measured once more with --verdict-cache-ttl off, which is
    /// the cost of the first connection of a flow key; without a value: none.
    #[arg(long, value_delimiter = ',', num_args = 0.., default_value = "500")]
    uncached: Vec<usize>,
    /// Measure another policy agent too: a shell command that runs it in the network namespace of each node,
    /// until it is ended. The node's name is in NODE, and Namespaces, Pods, Nodes and NetworkPolicies are
    /// YAML files in the folder MANIFESTS.
    #[arg(long, value_name = "COMMAND")]
    against: Option<String>,
    /// Seconds after which that agent is assumed to be in force. All other measurements in the same run wait
    /// as long.
    #[arg(long, default_value_t = 3.0)]
    against_wait: f64,
    /// How many rounds are measured; with an odd number the median is one of the values.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of each run that count.
    #[arg(long, default_value_t = 0.55)]
    seconds: f64,
    /// Seconds of warm-up before them.
    #[arg(long, default_value_t = 0.2)]
    warm_up: f64,
    /// How figures are shown.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// One row of figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// What is between the pods.
    pub mode: String,
    /// The route between the pods.
    pub route: Route,
    /// Threads, each with one connection at a time.
    pub clients: usize,
    /// Connections a second, in each round.
    pub rates: Vec<f64>,
    /// Their median.
    pub rate: f64,
    /// The median rate divided by that without an agent.
    pub of_no_agent: f64,
    /// The median rate divided by that of the baseline.
    #[serde(alias = "of_floor")]
    pub of_baseline: f64,
    /// The median over the rounds of each round's 50th percentile of the time that `connect` took, in
    /// microseconds.
    pub p50_us: f64,
    /// The same for the 99th percentile.
    pub p99_us: f64,
    /// The same for the 99.9th percentile.
    pub p999_us: f64,
    /// The p50 minus that without an agent.
    pub p50_above_us: f64,
    /// Microseconds of processor time that the agents of both nodes took for each connection: the median over
    /// the rounds. It includes the kernel's work inside their system calls.
    pub cpu_us: f64,
    /// Connections that failed.
    pub failures: u64,
}

impl Figures for Row {
    const NAME: &'static str = "connections";

    fn header() -> Vec<&'static str> {
        vec![
            "mode",
            "route",
            "clients",
            "conn/s",
            "/none",
            "/baseline",
            "p50 us",
            "above",
            "p99",
            "p99.9",
            "CPU us",
            "failed",
        ]
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.mode.clone(),
            self.route.to_string(),
            self.clients.to_string(),
            format!("{:.0}", self.rate),
            format!("{:.3}", self.of_no_agent),
            format!("{:.3}", self.of_baseline),
            format!("{:.1}", self.p50_us),
            format!("{:+.1}", self.p50_above_us),
            format!("{:.0}", self.p99_us),
            format!("{:.0}", self.p999_us),
            format!("{:.1}", self.cpu_us),
            self.failures.to_string(),
        ]
    }
}

/// The result of one run, and the agents' processor time for it.
struct Run {
    sample: Sample,
    cpu: Duration,
}

type Runs = BTreeMap<(Route, usize, Mode), Vec<Run>>;

/// Measures, and shows the figures.
pub fn run(arguments: &Arguments) -> Result<()> {
    let modes = arguments.modes();
    let testbed = testbed()?;
    let most = arguments.clients.iter().copied().max().unwrap_or(1);
    let serve =
        |route: &Route| ByteServer::start(testbed.namespace(route.server())?, route.address(&testbed)?, most);
    let _servers: Vec<ByteServer> = arguments.routes.iter().map(serve).collect::<Result<_>>()?;
    let against = arguments.against();

    let runs = arguments.rounds as usize * modes.len() * arguments.routes.len() * arguments.clients.len();
    let progress = progress(runs);
    let mut samples: Runs = BTreeMap::new();
    for round in 0..arguments.rounds as usize {
        // Each round starts with another mode, so that no mode always follows the same one.
        for turn in 0..modes.len() {
            let mode = modes[(round + turn) % modes.len()];
            let running = Running::start(&testbed, mode, &against).with_context(|| mode.to_string())?;
            for &route in &arguments.routes {
                for &clients in &arguments.clients {
                    progress.set_message(format!("{mode}, {route}, {clients} clients"));
                    let shape = LoadPlan {
                        clients,
                        warm_up: Duration::from_secs_f64(arguments.warm_up),
                        measured: Duration::from_secs_f64(arguments.seconds),
                    };
                    let before = running.cpu()?;
                    let (client, server) = (testbed.namespace(CLIENT)?, route.address(&testbed)?);
                    let sample =
                        events::during(&testbed, mode.events(), || load::run(client, server, shape))?;
                    let cpu = running.cpu()?.saturating_sub(before);
                    samples.entry((route, clients, mode)).or_default().push(Run { sample, cpu });
                    progress.inc(1);
                }
            }
            running.stop()?;
        }
    }
    progress.finish_and_clear();
    show(arguments.output, &rows(&samples))
}

impl Arguments {
    fn modes(&self) -> Vec<Mode> {
        let mut modes = vec![Mode::NoAgent, Mode::Baseline];
        modes.extend(self.policies.iter().map(|&policies| Mode::Agent { policies }));
        let busy = |&policies: &usize| Mode::Busy { policies, events: self.events };
        modes.extend(self.busy.iter().map(busy));
        modes.extend(self.uncached.iter().map(|&policies| Mode::Uncached { policies }));
        if self.against.is_some() {
            modes.extend(self.policies.iter().map(|&policies| Mode::Other { policies }));
        }
        modes
    }

    fn against(&self) -> Against {
        Against {
            command: self.against.clone().unwrap_or_default(),
            wait: Duration::from_secs_f64(self.against_wait),
        }
    }
}

fn rows(samples: &Runs) -> Vec<Row> {
    let values = |of: &[Run], value: &dyn Fn(&Run) -> f64| of.iter().map(value).collect::<Vec<_>>();
    let percentile = |of: &[Run], quantile: f64| {
        median(&values(of, &|run| run.sample.connect.value_at_quantile(quantile) as f64 / 1e3))
    };
    let rate = |of: &[Run]| median(&values(of, &|run| run.sample.rate));
    samples
        .iter()
        .map(|(&(route, clients, mode), of)| {
            let other = |mode| samples.get(&(route, clients, mode)).map_or(&[][..], Vec::as_slice);
            let p50_us = percentile(of, 0.5);
            Row {
                mode: mode.to_string(),
                route,
                clients,
                rates: values(of, &|run| run.sample.rate),
                rate: rate(of),
                of_no_agent: rate(of) / rate(other(Mode::NoAgent)),
                of_baseline: rate(of) / rate(other(Mode::Baseline)),
                p50_us,
                p99_us: percentile(of, 0.99),
                p999_us: percentile(of, 0.999),
                p50_above_us: p50_us - percentile(other(Mode::NoAgent), 0.5),
                // The warm-up's connections cost as much as the counted ones.
                cpu_us: median(&values(of, &|run| {
                    run.cpu.as_secs_f64() * 1e6 / run.sample.all_connections.max(1) as f64
                })),
                failures: of.iter().map(|run| run.sample.failures).sum(),
            }
        })
        .collect()
}
