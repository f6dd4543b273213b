//! Attacks through new ports, by pods that changed before the agent started, and in special clusters: with
//! node addresses that no object names, with multicast snooping, and with more senders than counters.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use integration::attack::layout::{self, FailMode};
use integration::attack::message::{self, Path, flag};
use integration::attack::packet::{fragments, packet, packet_with_extension};
use integration::attack::{Flow, Mark, Receivers, Topology, frame, overlay, wire};
use integration::cluster::OUTSIDE;
use integration::command::ip;
use integration::namespace::NetworkNamespace;
use integration::port::Transport;
use integration::probe::probe;
use integration::{Agent, Attachment, Family, Launch, Links, Scenario};

/// How long a packet may take to arrive.
const SETTLE: Duration = Duration::from_millis(300);
/// Within this time, the agent has bound a new port and updated its status.
const SETTLED: Duration = Duration::from_millis(1500);

/// A scenario with receivers in all of its pods.
struct Trial {
    scenario: Scenario,
    topology: Topology,
    receivers: Receivers,
    marks: u32,
    got_through: Vec<String>,
}

impl Trial {
    fn new(scenario: Scenario) -> Self {
        let topology = Topology::of(&scenario.testbed).unwrap();
        let receivers = Receivers::open(&scenario.testbed).unwrap();
        Self { scenario, topology, receivers, marks: 0, got_through: Vec::new() }
    }

    fn mark(&mut self) -> Mark {
        self.marks += 1;
        Mark(self.marks)
    }

    fn namespace(&self, name: &str) -> Arc<NetworkNamespace> {
        Arc::clone(self.scenario.testbed.namespace(name).unwrap())
    }

    fn send(&self, from: &str, frame: Vec<u8>) {
        wire::send_frames(&self.namespace(from), &self.topology[from].interface, &[frame]).unwrap();
    }

    fn must_miss(&mut self, what: impl Into<String>, mark: Mark, at: &str) {
        sleep(SETTLE);
        if self.receivers.received(mark, at) {
            self.got_through.push(format!("{} (at {at})", what.into()));
        }
    }

    /// Sends a datagram by an unprivileged socket, which must not arrive.
    fn datagram(&mut self, from: &str, to: &str) {
        for family in Family::BOTH {
            let mark = self.mark();
            let address = SocketAddr::new(self.topology[to].address(family), 9);
            let _ = wire::send_datagram(&self.namespace(from), mark.port(), address, &mark.bytes());
            self.must_miss(format!("{from} to {to}, {family:?}"), mark, to);
        }
    }

    #[track_caller]
    fn check(self) {
        let Self { scenario, got_through, .. } = self;
        drop(scenario);
        assert!(got_through.is_empty(), "got through: {got_through:#?}");
    }
}

fn begin() -> Scenario {
    layout::begin(Links::Vxlan, Attachment::Bridge, FailMode::Closed)
}

/// A scenario of the same cluster before its first agent.
fn before_the_agent() -> Scenario {
    let mut scenario = Scenario::new(layout::cluster(Links::Vxlan, Attachment::Bridge));
    scenario.policy(
        "victim/from-friend",
        "{podSelector: {}, ingress: [{from: [{namespaceSelector: \
                                           {matchLabels: {kubernetes.io/metadata.name: friend}}}]}]}",
    );
    scenario
}

fn restart(scenario: &mut Scenario, flags: &[&str]) {
    scenario.take_agent("node-a").kill().unwrap();
    let launch = Launch { flags, ..Launch::default() };
    let mut agent = Agent::start(&scenario.testbed, "node-a", &launch).unwrap();
    agent.wait_ready().unwrap();
    scenario.put_agent(agent);
}

/// Changes a pod's addresses, as a process with CAP_NET_ADMIN in its namespace can.
fn change_addresses(namespace: &NetworkNamespace, [old4, old6]: [IpAddr; 2], [new4, new6]: [IpAddr; 2]) {
    let lines = format!(
        "addr del {old4}/24 dev eth0\n\
         addr del {old6}/64 dev eth0\n\
         addr add {new4}/24 dev eth0\n\
         addr add {new6}/64 dev eth0 nodad\n\
         route replace default via 10.244.1.1\n\
         route replace ::/0 via fd00:10:244:1::1\n"
    );
    ip(namespace, &lines).unwrap();
}

fn text(mac: frame::Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn tool(namespace: &NetworkNamespace, program: &str, arguments: &[&str]) -> String {
    let output = namespace.run(|| std::process::Command::new(program).args(arguments).output());
    String::from_utf8_lossy(&output.unwrap().unwrap().stdout).into_owned()
}

/// Fragments from a new port must be dropped. Otherwise netfilter would complete another pod's datagram with
/// them.
fn fragments_of_a_new_port(has_agent: bool) {
    let mut scenario = begin();
    let flow =
        Flow::open(&scenario.testbed, ("friend/f", "victim/v"), Transport::Udp, Family::V4, 6000).unwrap();
    if !has_agent {
        scenario.agent("node-a").kill().unwrap();
    }
    let mut trial = Trial::new(scenario);
    let mark = trial.mark();
    let path = Path::new(flow.client_address.ip(), flow.server_address.ip());
    let data = [&[0; 64][..], &mark.bytes(), &[0; 40]].concat();
    let ports = (flow.client_address.port(), flow.server_address.port());
    let parts = fragments(path, &message::udp(path, ports, &data), 99, &[64]);
    trial.scenario.testbed.attach_pod("evil/n", "node-a", &[], &[]).unwrap();
    let new = trial.namespace("evil/n");
    let interface = wire::interface(&new, "eth0").unwrap();
    let (to, from) = (trial.topology["victim/v"].mac(), trial.topology["friend/f"].mac());
    wire::send_frames(&new, &interface, &[frame::of_packet(to, interface.mac, &parts[1])]).unwrap();
    sleep(Duration::from_millis(5));
    trial.send("friend/f", frame::of_packet(to, from, &parts[0]));
    trial.must_miss("a new port's fragment in friend/f's datagram", mark, "victim/v");
    trial.check();
}

#[test]
fn a_new_port_completes_no_datagram_of_another() {
    fragments_of_a_new_port(true);
}

#[test]
fn a_new_port_completes_no_datagram_of_another_while_no_agent_runs() {
    fragments_of_a_new_port(false);
}

/// Sends ARP from a new port, from which the bridge could learn another pod's hardware address.
#[test]
fn a_new_port_draws_no_packets_to_itself_while_no_agent_runs() {
    let mut scenario = begin();
    let victim = Topology::of(&scenario.testbed).unwrap()["victim/v"].mac();
    let mut flow =
        Flow::open(&scenario.testbed, ("friend/g", "victim/v"), Transport::Udp, Family::V4, 6000).unwrap();
    scenario.agent("node-a").kill().unwrap();
    scenario.testbed.attach_pod("evil/n", "node-a", &[], &[]).unwrap();
    let mut trial = Trial::new(scenario);
    let sender = (victim, Ipv4Addr::new(10, 244, 1, 200));
    let arp = frame::Arp { operation: 1, sender, target: ([0; 6], Ipv4Addr::new(10, 244, 1, 1)) };
    trial.send("evil/n", frame::arp(frame::BROADCAST, victim, arp, &[]));
    let mark = trial.mark();
    flow.client_sends(&mark.bytes()).unwrap();
    trial.must_miss("what friend/g sends to victim/v", mark, "evil/n");
    trial.check();
}

/// A pod that took a free address while no agent ran does not own it when the next pod gets it.
#[test]
fn a_free_address_that_was_taken_while_no_agent_ran_is_the_next_pods() {
    let mut scenario = begin();
    scenario.agent("node-a").kill().unwrap();
    scenario.testbed.attach_pod("evil/n", "node-a", &[], &[]).unwrap();
    let own = scenario.testbed.addresses("evil/n").unwrap();
    let next = own.map(|address| match address {
        IpAddr::V4(address) => IpAddr::from(Ipv4Addr::from(u32::from(address) + 1)),
        IpAddr::V6(address) => IpAddr::from(Ipv6Addr::from(u128::from(address) + 1)),
    });
    change_addresses(scenario.testbed.namespace("evil/n").unwrap(), own, next);
    scenario.testbed.manifests().write_cluster(scenario.testbed.cluster()).unwrap();
    restart(&mut scenario, &["--fail-mode=closed"]);
    scenario.testbed.attach_pod("friend/n", "node-a", &[], &[]).unwrap();
    assert_eq!(scenario.testbed.addresses("friend/n").unwrap(), next);
    scenario.change(|testbed| testbed.manifests().write_cluster(testbed.cluster()).map(drop));
    sleep(SETTLED);
    let mut trial = Trial::new(scenario);
    trial.datagram("evil/n", "victim/v");
    trial.check();
}

/// A pod that took another pod's addresses before the first agent started is not that pod.
#[test]
fn an_address_that_was_taken_before_the_first_agent_is_not_the_takers() {
    let mut scenario = before_the_agent();
    let [own, friends] = ["evil/a", "friend/f"].map(|pod| scenario.testbed.addresses(pod).unwrap());
    change_addresses(scenario.testbed.namespace("evil/a").unwrap(), own, friends);
    scenario.start_agents(&["--fail-mode=closed"]);
    let mut trial = Trial::new(scenario);
    trial.datagram("evil/a", "victim/v");
    trial.check();
}

/// A pod that took another pod's hardware address before the first agent started does not receive that pod's
/// packets. The bridge would learn the address from the pod's own packets.
#[test]
fn a_hardware_address_that_was_taken_before_the_first_agent_is_not_the_takers() {
    let mut scenario = before_the_agent();
    let victim = Topology::of(&scenario.testbed).unwrap()["victim/v"].mac();
    let line = format!("link set eth0 address {}\n", text(victim));
    ip(scenario.testbed.namespace("evil/a").unwrap(), &line).unwrap();
    scenario.start_agents(&["--fail-mode=closed"]);
    let mut trial = Trial::new(scenario);
    let path = Path::new(trial.topology["evil/a"].v4(), trial.topology.nodes[0].gateway4());
    let own = packet(path, &message::udp(path, (1, 2), b"x"));
    trial.send("evil/a", frame::of_packet(trial.topology["evil/a"].gateway.mac, victim, &own));
    let mark = trial.mark();
    let to = SocketAddr::new(trial.topology["victim/v"].v4().into(), 9);
    wire::send_datagram(
        trial.scenario.testbed.namespace("friend/g").unwrap(),
        mark.port(),
        to,
        &mark.bytes(),
    )
    .unwrap();
    trial.must_miss("what friend/g sends to victim/v", mark, "evil/a");
    sleep(SETTLED);
    let status = trial.scenario.agent("node-a").status().unwrap();
    let conflicts = status["origins"]["conflicts"].as_array().unwrap();
    assert!(conflicts.iter().any(|conflict| conflict["address"] == text(victim)), "{conflicts:?}");
    trial.check();
}

/// The port of a routed pod that removed its addresses is not taken for an uplink by the next agent.
#[test]
fn a_routed_port_stays_one_when_its_pod_changes_its_addresses() {
    let mut scenario = layout::begin(Links::Routes, Attachment::Routed, FailMode::Closed);
    let [own4, own6] = scenario.testbed.addresses("evil/b").unwrap();
    let lines = format!(
        "addr del {own4}/24 dev eth0\naddr del {own6}/64 dev eth0\naddr add 203.0.113.6/32 dev eth0\n"
    );
    ip(scenario.testbed.namespace("evil/b").unwrap(), &lines).unwrap();
    restart(&mut scenario, &["--fail-mode=closed", "--no-bridge"]);
    sleep(SETTLED);
    let mut trial = Trial::new(scenario);
    for (claimed, to) in [("friend/g", "victim/v"), (OUTSIDE, "open/o"), ("open/p", "open/o")] {
        for family in Family::BOTH {
            let mark = trial.mark();
            let path = trial.topology.path(claimed, to, family);
            let forged = packet(path, &message::udp(path, (mark.port(), 9), &mark.bytes()));
            let (from, gateway) = (trial.topology["evil/b"].mac(), trial.topology["evil/b"].gateway.mac);
            trial.send("evil/b", frame::of_packet(gateway, from, &forged));
            trial.must_miss(format!("evil/b as {claimed}, {family:?}"), mark, to);
        }
    }
    trial.check();
}

/// Sends VXLAN to addresses of the other node that its Node object does not name.
#[test]
fn s32_no_pod_sends_vxlan_to_an_address_that_no_node_object_names() {
    for flags in [&["--fail-mode=closed"][..], &["--fail-mode=closed", "--overlay-sources=nodes"]] {
        let mut scenario = before_the_agent();
        let lines = "addr add 192.0.2.77/24 dev eth0\naddr add 198.51.100.7/32 dev lo\n";
        ip(scenario.testbed.namespace("node-b").unwrap(), lines).unwrap();
        let line = "route add 198.51.100.7/32 via 192.0.2.11\n";
        ip(scenario.testbed.namespace("node-a").unwrap(), line).unwrap();
        scenario.start_agents(flags);
        let mut trial = Trial::new(scenario);
        for to in ["192.0.2.77", "198.51.100.7", "10.244.2.255"] {
            let mark = trial.mark();
            let inner = overlay::inner(&trial.topology, 1, "friend/f", "victim/w", Family::V4, mark);
            let address = SocketAddr::new(to.parse().unwrap(), overlay::VXLAN_PORT);
            let data = overlay::vxlan(1, &inner);
            wire::send_datagram(&trial.namespace("evil/a"), mark.port(), address, &data).unwrap();
            trial.must_miss(format!("VXLAN to {to} with {flags:?}"), mark, "victim/w");
        }
        trial.check();
    }
}

/// A pod that sends multicast listener queries could become the bridge's querier. Then other pods'
/// memberships would expire, and neighbour discovery would fail.
#[test]
fn no_pod_is_the_bridges_querier() {
    let trial = Trial::new(begin());
    let node = trial.namespace("node-a");
    ip(&node, "link set cni0 type bridge mcast_snooping 1 mcast_startup_query_interval 0\n").unwrap();
    let victim = trial.topology["victim/v"].v6();
    let device = trial.scenario.testbed.device("victim/v").unwrap().to_owned();
    let all: IpAddr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into();
    for from in ["evil/a", "closed/c"] {
        let host = trial.topology[from].clone();
        let path = Path::new(host.link_local(), all);
        let query = message::icmp(path, 130, 0, [0x03, 0xe8, 0, 0], &[0; 16]);
        let mut bytes = packet_with_extension(path, &query, 0, &[0, 0, 5, 2, 0, 0, 1, 0]);
        bytes[7] = 1;
        for _ in 0..3 {
            trial.send(from, frame::of_packet(frame::group_mac(all), host.mac(), &bytes));
            sleep(Duration::from_millis(400));
        }
    }
    // Simulates the expiry of the membership after 260 seconds.
    sleep(Duration::from_millis(1500));
    let group = frame::solicited_node(victim).to_string();
    tool(&node, "bridge", &["mdb", "del", "dev", "cni0", "port", &device, "grp", &group, "temp"]);
    ip(&node, "neigh flush all\n").unwrap();
    let target = "ping".parse().unwrap();
    let observed = node.run(|| probe(victim.into(), target, Duration::from_secs(2))).unwrap().unwrap();
    assert!(observed.answer.reached(), "the node no longer reaches victim/v: {}", observed.answer);
    trial.check();
}

/// Drops of another sender are recorded after those of very many senders.
#[test]
fn counts_do_not_run_out() {
    let mut trial = Trial::new(layout::begin(Links::Routes, Attachment::Bridge, FailMode::Closed));
    let reset = |path| packet(path, &message::tcp(path, (1000, 80), flag::ACK | flag::RST, (1, 1), &[]));
    let (outside, victim) = (trial.topology[OUTSIDE].clone(), trial.topology["victim/v"].v4());
    for block in 0_u32..9 {
        let frames: Vec<_> = (0..2048)
            .map(|number| {
                let source = Ipv4Addr::from(0x0a63_0000 + block * 2048 + number);
                frame::of_packet(outside.gateway.mac, outside.mac(), &reset(Path::new(source, victim)))
            })
            .collect();
        wire::send_frames(&trial.namespace(OUTSIDE), &outside.interface, &frames).unwrap();
        sleep(Duration::from_millis(100));
    }
    sleep(Duration::from_millis(2500));
    let before = trial.scenario.agent("node-a").audit_end();
    let path = trial.topology.path("evil/a", "victim/v", Family::V4);
    let (to, from) = (trial.topology.next_hop("evil/a", "victim/v"), trial.topology["evil/a"].mac());
    trial.send("evil/a", frame::of_packet(to, from, &reset(path)));
    sleep(Duration::from_millis(2500));
    let lines = trial.scenario.agent("node-a").drops_after(before).unwrap();
    assert!(lines.iter().any(|line| line.is_from("evil/a")), "no line about evil/a");
    trial.check();
}
