//! A new port: how long it takes until its binding is in force, and whether its first connection waits for
//! that.
//!
//! Pods start one after the other on one node, and are known to the cluster before. So the figures are the
//! time from the interface to the kernel's sets, without the API server's. Each connects to a pod that a
//! policy isolates as soon as its address is set (`start`), which is earlier than any container starts. The
//! same without an agent shows the kernel's own time.

mod order;
mod start;

use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use integration::agent::{Agent, Launch};
use integration::{ClusterSpec, Family, Testbed};
use serde::{Deserialize, Serialize};

pub use self::order::Order;
use self::start::{Outcome, Pod};
use crate::load::ByteServer;
use crate::report::{Figures, Output, progress, show};

const NODE: &str = "node-a";
const CIDRS: [&str; 2] = ["10.244.1.0/24", "fd00:10:244:1::/64"];
const SERVER: &str = "bench/server";
/// The server's port.
const PORT: u16 = 9000;
/// Selects the server, and allows the new pods.
const POLICY: &str = "
podSelector: {matchLabels: {app: server}}
policyTypes: [Ingress]
ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]
";
/// Pods that the cluster knows. They start repeatedly in turn, each with its own addresses.
const PODS: usize = 100;
/// The last octet of the first one's IPv4 address, after those of the testbed.
const FIRST: u8 = 100;
/// A connection that takes longer is late.
const LATE: Duration = Duration::from_millis(200);
/// A connection that takes longer lost its first packet: TCP waits a second before it retransmits it.
const RESENT: Duration = Duration::from_millis(900);

/// What to measure.
#[derive(clap::Args)]
pub struct Arguments {
    /// How many pods start in each row.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    starts: u32,
    /// Which happens first: the address is set, or the interface is up.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "up-first,address-first")]
    orders: Vec<Order>,
    /// How figures are shown.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// What runs on the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeMode {
    /// Nothing.
    NoAgent,
    /// The agent.
    Agent,
}

/// Milliseconds, over all starts of a row.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Times {
    /// Half of them take at most this long.
    pub p50: f64,
    /// 99 of 100 take at most this long.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

/// One row of figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// What ran on the node.
    pub mode: NodeMode,
    /// How the interface was set up.
    pub order: Order,
    /// IPv4 or IPv6: of the connection, and of the binding that was awaited.
    pub family: String,
    /// How many pods started.
    pub starts: u32,
    /// How long their first connections took.
    pub connect_ms: Times,
    /// Connections that took more than 0.2 s.
    pub late: u32,
    /// Connections that took more than 0.9 s, or failed: their first packet was lost.
    pub resent: u32,
    /// From the address being set until it was in the kernel's set; none without an agent.
    pub bound_ms: Option<Times>,
    /// All values of `connect_ms`, in the order of the starts.
    pub connects_ms: Vec<f64>,
    /// All values of `bound_ms`, in the order of the starts.
    pub bounds_ms: Vec<f64>,
}

impl fmt::Display for NodeMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoAgent => "no agent",
            Self::Agent => "agent",
        })
    }
}

impl Times {
    /// `None` if there are no times.
    fn of(milliseconds: &[f64]) -> Option<Self> {
        let mut sorted = milliseconds.to_vec();
        sorted.sort_by(f64::total_cmp);
        // The smallest value that this share of all values does not exceed.
        let at = |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).checked_sub(1)?).copied();
        Some(Self { p50: at(50)?, p99: at(99)?, max: at(100)? })
    }

    fn cells(self) -> [String; 3] {
        [self.p50, self.p99, self.max].map(|time| format!("{time:.2}"))
    }
}

impl Figures for Row {
    const NAME: &'static str = "ports";

    fn header() -> Vec<&'static str> {
        vec![
            "mode",
            "order",
            "family",
            "starts",
            "connect ms",
            "p99",
            "worst",
            "late",
            "sent again",
            "bound ms",
            "p99",
            "worst",
        ]
    }

    fn row(&self) -> Vec<String> {
        let mut cells =
            vec![self.mode.to_string(), self.order.to_string(), self.family.clone(), self.starts.to_string()];
        cells.extend(self.connect_ms.cells());
        cells.extend([self.late.to_string(), self.resent.to_string()]);
        cells.extend(self.bound_ms.map_or_else(Default::default, Times::cells));
        cells
    }
}

/// One row's starts and their results.
struct Case {
    order: Order,
    family: Family,
    outcomes: Vec<Outcome>,
}

/// Measures, and shows the figures.
pub fn run(arguments: &Arguments) -> Result<()> {
    let testbed = ClusterSpec::new()
        .node(NODE, CIDRS[0], CIDRS[1])
        .pod(SERVER, NODE, &[("app", "server")], &[])
        .build()?;
    testbed.manifests().write("new-pods.yaml", &manifests())?;
    testbed.manifests().policy("bench/server", POLICY)?;
    let servers = testbed.addresses(SERVER)?.map(|address| SocketAddr::new(address, PORT));
    let serve = |server: &SocketAddr| ByteServer::start(testbed.namespace(SERVER)?, *server, 1);
    let _servers: Vec<ByteServer> = servers.iter().map(serve).collect::<Result<_>>()?;

    let steps = 2 * arguments.orders.len() * Family::BOTH.len();
    let progress = progress(arguments.starts as usize * steps);
    let (mut number, mut rows) = (0, Vec::new());
    for mode in [NodeMode::NoAgent, NodeMode::Agent] {
        let mut agent = match mode {
            NodeMode::NoAgent => None,
            NodeMode::Agent => Some(Agent::start(&testbed, NODE, &Launch::default())?),
        };
        if let Some(agent) = &mut agent {
            agent.wait_ready()?;
        }
        let mut cases = cases(&arguments.orders);
        for _ in 0..arguments.starts {
            for case in &mut cases {
                let what = format!("{mode}: {}, {}", case.order, name(case.family));
                progress.set_message(what.clone());
                let outcome = case.start(&testbed, number, servers, mode);
                let outcome = outcome.with_context(|| format!("start {number}, {what}"));
                if let (Err(_), Some(agent)) = (&outcome, &agent) {
                    agent.print_state();
                }
                case.outcomes.push(outcome?);
                number += 1;
                progress.inc(1);
            }
        }
        rows.extend(cases.iter().filter_map(|case| row(mode, case)));
        if let Some(mut agent) = agent {
            agent.terminate()?;
            testbed.namespace(NODE)?.run(dataplane::table::Table::remove)??;
        }
    }
    progress.finish_and_clear();
    show(arguments.output, &rows)
}

fn cases(orders: &[Order]) -> Vec<Case> {
    let of = |order: &Order| Family::BOTH.map(|family| Case { order: *order, family, outcomes: Vec::new() });
    orders.iter().flat_map(of).collect()
}

impl Case {
    fn start(
        &self,
        testbed: &Testbed,
        number: usize,
        servers: [SocketAddr; 2],
        mode: NodeMode,
    ) -> Result<Outcome> {
        let [v4, v6] = addresses(number % PODS);
        let pod = Pod { number, addresses: [(v4, 24), (v6, 64)] };
        let server = servers[self.family as usize];
        pod.start(testbed.namespace(NODE)?, self.order, self.family, server, mode == NodeMode::Agent)
    }
}

fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// The addresses of the pod with this number, in the node's [`CIDRS`].
fn addresses(pod: usize) -> [IpAddr; 2] {
    let last = FIRST + u8::try_from(pod % PODS).unwrap_or_default();
    let v6 = [0xfd00, 0x10, 0x244, 1, 0, 0, 0, u16::from(last)];
    [Ipv4Addr::new(10, 244, 1, last).into(), v6.into()]
}

/// The new pods' manifests.
fn manifests() -> String {
    let mut text = String::new();
    for pod in 0..PODS {
        let [v4, v6] = addresses(pod);
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: Pod\n\
             metadata: {{name: new-{pod}, namespace: bench, labels: {{app: client}}}}\n\
             spec: {{nodeName: {NODE}, containers: [{{name: client}}]}}\n\
             status: {{phase: Running, podIP: \"{v4}\", podIPs: [{{ip: \"{v4}\"}}, {{ip: \"{v6}\"}}]}}\n"
        );
    }
    text
}

/// `None` if there were no starts.
fn row(mode: NodeMode, case: &Case) -> Option<Row> {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let connects_ms: Vec<f64> = case.outcomes.iter().map(|outcome| milliseconds(outcome.connect)).collect();
    let bounds_ms: Vec<f64> =
        case.outcomes.iter().filter_map(|outcome| outcome.bound.map(milliseconds)).collect();
    let longer =
        |than: Duration| case.outcomes.iter().filter(|outcome| outcome.connect > than).count() as u32;
    Some(Row {
        mode,
        order: case.order,
        family: name(case.family).to_owned(),
        starts: case.outcomes.len() as u32,
        connect_ms: Times::of(&connects_ms)?,
        late: longer(LATE),
        resent: longer(RESENT),
        bound_ms: Times::of(&bounds_ms),
        connects_ms,
        bounds_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measured_values() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(Times::of(&hundred), Some(Times { p50: 50.0, p99: 99.0, max: 100.0 }));
        assert_eq!(Times::of(&[7.0]), Some(Times { p50: 7.0, p99: 7.0, max: 7.0 }));
        assert_eq!(Times::of(&[]), None);
        // Two of 200 may be longer than the p99.
        let two_hundred: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(Times::of(&two_hundred).map(|times| times.p99), Some(198.0));
    }

    #[test]
    fn a_lost_first_packet_is_late_too() {
        let outcome = |connect, bound: Option<u64>| Outcome {
            connect: Duration::from_millis(connect),
            bound: bound.map(Duration::from_millis),
        };
        let outcomes = vec![outcome(1, Some(5)), outcome(300, Some(7)), outcome(1_050, Some(900))];
        let case = Case { order: Order::UpFirst, family: Family::BOTH[0], outcomes };
        let row = row(NodeMode::Agent, &case).unwrap();
        assert_eq!((row.starts, row.late, row.resent), (3, 2, 1));
        assert_eq!(row.bound_ms.map(|times| (times.p50, times.max)), Some((7.0, 900.0)));
        assert_eq!(row.row().len(), Row::header().len());
        let alone = Case { outcomes: vec![outcome(1, None)], ..case };
        let row = super::row(NodeMode::NoAgent, &alone).unwrap();
        assert_eq!((row.bound_ms, row.row().len()), (None, Row::header().len()));
    }

    #[test]
    fn each_pod_has_its_own_addresses_in_the_nodes_networks() {
        let all: std::collections::BTreeSet<IpAddr> = (0..PODS).flat_map(addresses).collect();
        assert_eq!(all.len(), PODS * 2);
        for cidr in CIDRS {
            let cidr: ipnet::IpNet = cidr.parse().unwrap();
            assert_eq!(all.iter().filter(|address| cidr.contains(*address)).count(), PODS);
        }
        assert_eq!(manifests().matches("kind: Pod").count(), PODS);
    }
}
