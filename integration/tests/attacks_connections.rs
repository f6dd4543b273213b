//! Connections that were allowed: what a peer can do with them after a change forbids them, or after another
//! pod has the address of one end.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use std::thread::sleep;
use std::time::Duration;

use integration::attack::message::{self, Path, flag};
use integration::attack::suite::AttackContext;
use integration::attack::{Case, Flow, Mark, Suite, frame, packet, wire};
use integration::command::{ip, nft};
use integration::port::Transport;
use integration::{Attachment, ClusterSpec, Family, Links, Scenario, Testbed};

/// Sysctls by which conntrack entries expire within a second instead of minutes.
const SHORT_CONNTRACK_TIMEOUTS: [(&str, &str); 3] = [
    ("net.netfilter.nf_conntrack_tcp_timeout_close", "1"),
    ("net.netfilter.nf_conntrack_udp_timeout", "1"),
    ("net.netfilter.nf_conntrack_udp_timeout_stream", "1"),
];

/// Within this time, TCP retransmits unacknowledged data, after 0.2, 0.6, 1.4 and 3.0 seconds. The last pause
/// is longer than the conntrack timeout.
const RETRANSMISSIONS: Duration = Duration::from_millis(4_000);

const ALLOWED: &str = "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: \
                       {kubernetes.io/metadata.name: web}}}]}]}";
const FORBIDDEN: &str = "{podSelector: {}, ingress: []}";

/// For a pod whose kernel does not have the connection (any more): its answers would end the connection that
/// the attacker revives.
const SILENT: &str = "table inet silent {
  chain c {
    type filter hook output priority 0
    tcp flags & rst == rst drop
    icmp type destination-unreachable drop
    icmpv6 type destination-unreachable drop
  }
}
";

fn scenario(cluster: ClusterSpec) -> Scenario {
    let mut scenario = Scenario::new(cluster);
    for node in ["node-a", "node-b"] {
        scenario.testbed.namespace(node).unwrap().sysctls(&SHORT_CONNTRACK_TIMEOUTS).unwrap();
    }
    scenario.policy("db/allow-web", ALLOWED);
    let routed = scenario.testbed.cluster().attachment == Attachment::Routed;
    scenario.start_agents(if routed { &["--no-bridge"] } else { &[] });
    scenario
}

/// Opens a flow for each pair of pods, transport and family.
fn flows(testbed: &Testbed, pairs: &[(&str, &str)], first_port: u16) -> Vec<Flow> {
    let mut flows = Vec::new();
    for (number, pair) in (first_port..).zip(pairs) {
        for transport in [Transport::Tcp, Transport::Udp] {
            for family in Family::BOTH {
                flows.push(Flow::open(testbed, *pair, transport, family, number).unwrap());
            }
        }
    }
    flows
}

fn name(what: &str, flow: &Flow) -> String {
    format!("{what} of {} between {} and {}", flow.transport, flow.client, flow.server)
}

/// Sends data in a frame from the client of a flow, as if the flow continued.
fn client_data(context: AttackContext<'_>, flow: &Flow, servers: Mark, data: &[u8]) -> anyhow::Result<()> {
    let AttackContext { testbed, topology, receivers } = context;
    let (client, server) = (flow.client.as_str(), flow.server.as_str());
    let path = Path::new(flow.client_address.ip(), flow.server_address.ip());
    let ports = (flow.client_address.port(), flow.server_address.port());
    let message = match flow.transport {
        Transport::Udp => message::udp(path, ports, data),
        _ => {
            // Acknowledges the data of the server's packet, if it has arrived.
            let header = if flow.family == Family::V4 { 14 + 20 } else { 14 + 40 };
            let word = |frame: &[u8], at: usize| {
                frame.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_be_bytes)
            };
            let seen = receivers.first(servers, client).unwrap_or_default();
            let seq = word(&seen, header + 8).unwrap_or(1);
            let ack = word(&seen, header + 4).unwrap_or(1).wrapping_add(Mark::LENGTH as u32);
            message::tcp(path, ports, flag::PSH | flag::ACK, (seq, ack), data)
        }
    };
    let packet = packet::packet(path, &message);
    let frame = frame::of_packet(topology.next_hop(client, server), topology[client].mac(), &packet);
    wire::send_frames(testbed.namespace(client)?, &topology[client].interface, &[frame])
}

/// A connection that a change forbids stays cut, although its client makes its conntrack entry expire and its
/// server retransmits.
fn revoked(title: &str, links: Links, attachment: Attachment) {
    let cluster = ClusterSpec::of_two_nodes()
        .links(links)
        .attachment(attachment)
        .pod("web/a", "node-a", &[], &[])
        .pod("web/b", "node-b", &[], &[])
        .pod("db/s", "node-a", &[], &[]);
    let scenario = scenario(cluster);
    let mut flows = flows(&scenario.testbed, &[("web/a", "db/s"), ("web/b", "db/s")], 6000);
    let mut suite = Suite::new(scenario).unwrap();
    suite.scenario.policy("db/allow-web", FORBIDDEN);
    let mut servers = Vec::new();
    suite
        .kind("revoked", |suite| {
            for flow in flows.iter_mut().filter(|flow| flow.transport == Transport::Tcp) {
                let (case, reset) = (name("the server's data", flow), flow.reset_by_client());
                let case = Case::new(case, &flow.server, &flow.client).family(flow.family);
                // Sent while the connection is revoked, and retransmitted until the server gives up.
                servers.push(suite.attempt(case, |_, mark| reset.and(flow.server_sends(&mark.bytes()))));
            }
            sleep(Duration::from_millis(50));
            for client in ["web/a", "web/b"] {
                nft(suite.scenario.testbed.namespace(client).unwrap(), SILENT).unwrap();
            }
            sleep(RETRANSMISSIONS);
            for flow in flows.iter_mut().filter(|flow| flow.transport == Transport::Udp) {
                let case = name("the server's data", flow);
                let case = Case::new(case, &flow.server, &flow.client).family(flow.family);
                servers.push(suite.attempt(case, |_, mark| flow.server_sends(&mark.bytes())));
            }
            sleep(Duration::from_millis(200));
            // Sorted in the order in which the servers sent.
            flows.sort_by_key(|flow| flow.transport);
            for (flow, servers) in flows.iter().zip(&servers) {
                let case = name("the client's data", flow);
                let case = Case::new(case, &flow.client, &flow.server).family(flow.family);
                suite.attempt(case, |context, mark| client_data(context, flow, *servers, &mark.bytes()));
            }
        })
        .unwrap();
    let (scenario, report) = suite.finish();
    drop(scenario);
    report.check(title);
}

/// A pod that gets the addresses of a deleted pod receives nothing from that pod's peers.
fn reused(title: &str, links: Links, attachment: Attachment) {
    let cluster = ClusterSpec::of_two_nodes()
        .links(links)
        .attachment(attachment)
        .pod("web/a", "node-a", &[], &["80"])
        .pod("web/b", "node-b", &[], &["80"])
        .pod("app/old", "node-a", &[], &[]);
    let mut scenario = scenario(cluster);
    scenario.policy("db/allow-web", FORBIDDEN);
    let peers = ["web/a", "web/b"];
    // The peer is the originator of the first flows, and the responder of the second ones.
    let mut to_old = flows(&scenario.testbed, &peers.map(|peer| (peer, "app/old")), 6000);
    let mut from_old = flows(&scenario.testbed, &peers.map(|peer| ("app/old", peer)), 7000);
    let addresses = scenario.testbed.addresses("app/old").unwrap();
    remove_pod(&mut scenario, "app/old");
    scenario.testbed.attach_pod("db/new", "node-a", &[], &[]).unwrap();
    assert_eq!(scenario.testbed.addresses("db/new").unwrap(), addresses);
    nft(scenario.testbed.namespace("db/new").unwrap(), SILENT).unwrap();
    for neighbour in ["web/a", "node-a"] {
        ip(scenario.testbed.namespace(neighbour).unwrap(), "neigh flush all\n").unwrap();
    }
    let mut suite = Suite::new(scenario).unwrap();
    let attempts = |suite: &mut Suite, when: &str, to_old: &mut [Flow], from_old: &mut [Flow]| {
        for flow in to_old {
            let case = name(&format!("{when}: more data"), flow);
            let case = Case::new(case, &flow.client, "db/new").family(flow.family);
            suite.attempt(case, |_, mark| flow.client_sends(&mark.bytes()));
        }
        for flow in from_old {
            let case = name(&format!("{when}: more replies"), flow);
            let case = Case::new(case, &flow.server, "db/new").family(flow.family);
            suite.attempt(case, |_, mark| flow.server_sends(&mark.bytes()));
        }
    };
    suite
        .kind("address reuse", |suite| {
            attempts(suite, "pod not known yet", &mut to_old, &mut from_old);
            suite.scenario.change(|testbed| testbed.manifests().write_cluster(testbed.cluster()).map(drop));
            attempts(suite, "pod known", &mut to_old, &mut from_old);
            // The new pod's own connections to the same peers work.
            for family in Family::BOTH {
                for to in peers {
                    let case = Case::new(format!("db/new reaches {to}"), "db/new", to).family(family);
                    let target = "80".parse().unwrap();
                    let testbed = &suite.scenario.testbed;
                    let observed =
                        testbed.probe("db/new", to, target, family, Duration::from_secs(5)).unwrap();
                    let reached =
                        anyhow::Context::context(observed.answer.reached().then_some(()), "timed out");
                    suite.record_allowed(case, reached);
                }
            }
        })
        .unwrap();
    let (scenario, report) = suite.finish();
    drop(scenario);
    report.check(title);
}

/// Removes a pod and waits until every agent has applied that.
fn remove_pod(scenario: &mut Scenario, pod: &str) {
    let nodes = ["node-a", "node-b"];
    let before = nodes.map(|node| scenario.agent(node).applied_generation().unwrap());
    scenario.testbed.remove_pod(pod).unwrap();
    for (node, before) in nodes.iter().zip(before) {
        scenario.agent(node).wait_applied_after(before).unwrap();
    }
}

#[test]
fn s35_revoked_connections_stay_cut_on_a_bridge() {
    revoked("revoked, VXLAN, bridge", Links::Vxlan, Attachment::Bridge);
}

#[test]
fn revoked_connections_stay_cut_between_routed_pods() {
    revoked("revoked, host-gw, routed", Links::Routes, Attachment::Routed);
}

#[test]
fn s36_an_address_has_no_connections_of_its_last_owner_on_a_bridge() {
    reused("address reuse, VXLAN, bridge", Links::Vxlan, Attachment::Bridge);
}

#[test]
fn an_address_has_no_connections_of_its_last_owner_of_routed_pods() {
    reused("address reuse, host-gw, routed", Links::Routes, Attachment::Routed);
}
