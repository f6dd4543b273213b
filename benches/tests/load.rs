//! The load generator and the baseline do what their figures claim: connections are really made, packets
//! really queued, failures really counted. Needs root: network namespaces.
#![allow(clippy::unwrap_used, reason = "what goes wrong here is what the test reports")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use benches::baseline::Baseline;
use benches::load::{self, ByteServer, LoadPlan};
use dataplane::queue_statistics::QueueStatistics;
use dataplane::table::Table;
use integration::command::nft;
use integration::{ClusterSpec, Testbed};
use ipnet::IpNet;

const NODE: &str = "node-a";
const CLIENT: &str = "bench/client";
const SERVER: &str = "bench/server";

const SHORT: LoadPlan =
    LoadPlan { clients: 2, warm_up: Duration::from_millis(50), measured: Duration::from_millis(250) };

fn testbed() -> Testbed {
    ClusterSpec::new()
        .node(NODE, "10.244.1.0/24", "fd00:10:244:1::/64")
        .pod(CLIENT, NODE, &[], &[])
        .pod(SERVER, NODE, &[], &[])
        .build()
        .unwrap()
}

fn server(testbed: &Testbed) -> (SocketAddr, ByteServer) {
    let address = SocketAddr::new(testbed.addresses(SERVER).unwrap()[0], 9000);
    let server = ByteServer::start(testbed.namespace(SERVER).unwrap(), address, SHORT.clients).unwrap();
    (address, server)
}

#[test]
fn connections_are_made_and_timed() {
    let testbed = testbed();
    let (address, _server) = server(&testbed);
    let sample = load::run(testbed.namespace(CLIENT).unwrap(), address, SHORT).unwrap();
    assert!(sample.connections > 100, "{sample:?}");
    assert_eq!(sample.failures, 0);
    assert_eq!(sample.connect.len(), sample.connections);
    assert!(sample.connect.value_at_quantile(0.5) < 10_000_000, "below 10 ms: {sample:?}");
    let expected = sample.connections as f64 / SHORT.measured.as_secs_f64();
    assert!((sample.rate / expected - 1.0).abs() < 0.2, "{} for {expected}", sample.rate);
}

#[test]
fn each_connection_over_the_baseline_is_queued_once() {
    let testbed = testbed();
    let (address, _server) = server(&testbed);
    let node = testbed.namespace(NODE).unwrap();
    let cidrs: Vec<IpNet> = testbed.cluster().node_named(NODE).unwrap().cidrs().into();
    let baseline = Baseline::start(Path::new(env!("CARGO_BIN_EXE_benches")), node, &cidrs).unwrap();
    let sample = load::run(testbed.namespace(CLIENT).unwrap(), address, SHORT).unwrap();
    let queues = node.run(QueueStatistics::read).unwrap().unwrap();
    drop(baseline);
    assert!(node.run(Table::remove).unwrap().unwrap(), "the table stays until it is removed");
    assert_eq!(sample.failures, 0);
    let queued: u64 = queues.iter().map(|queue| u64::from(queue.last_packet)).sum();
    // The warm-up's connections are queued too, and not in the sample.
    assert!(queued >= sample.connections, "{queued} queued of {} connections", sample.connections);
    assert!(queued < sample.connections * 2, "{queued} queued of {} connections", sample.connections);
}

#[test]
fn dropped_connections_are_failures() {
    let testbed = testbed();
    let (address, _server) = server(&testbed);
    let rule = "table inet drops {\n chain forward {\n type filter hook forward priority 0;\n tcp dport 9000 drop\n }\n}\n";
    nft(testbed.namespace(NODE).unwrap(), rule).unwrap();
    let sample = load::run(testbed.namespace(CLIENT).unwrap(), address, SHORT).unwrap();
    assert_eq!((sample.connections, sample.failures), (0, SHORT.clients as u64));
}
