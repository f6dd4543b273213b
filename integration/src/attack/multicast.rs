//! Multicast and broadcast: they must neither reach a pod that is isolated for ingress, nor leave a pod that
//! is isolated for egress.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::case::Case;
use super::frame::{self, Mac};
use super::link_local::udp_frame;
use super::message::{self, Path};
use super::packet::packet_for;
use super::suite::Suite;
use super::topology::Topology;
use super::wire;
use crate::probe::Family;

/// Addresses that more than one pod receives. 10.244.1.255 is the broadcast address of node-a's pods.
const GROUPS: [&str; 11] = [
    "224.0.0.1",
    "224.0.0.251",
    "239.1.1.1",
    "255.255.255.255",
    "10.244.1.255",
    "10.244.1.0",
    "ff01::1",
    "ff02::1",
    "ff02::fb",
    "ff05::1",
    "ff0e::1",
];

/// All attempts.
pub fn all(suite: &mut Suite) {
    to_groups(suite);
    by_socket(suite);
    echo_to_all(suite);
    group_frame_for_one(suite);
    frame_for_one_with_group(suite);
    membership(suite);
}

fn groups() -> impl Iterator<Item = (IpAddr, Family)> {
    let parsed = GROUPS.iter().filter_map(|group| group.parse::<IpAddr>().ok());
    parsed.map(|group| (group, if group.is_ipv6() { Family::V6 } else { Family::V4 }))
}

/// An attempt of an unrestricted pod, whose packets isolated pods must not receive. And an attempt of an
/// egress-isolated pod, whose packets neither another pod nor the node must receive.
fn cases(name: &str, family: Family) -> [Case; 2] {
    [
        Case::new(name, "evil/a", "victim/v").nor("evil/b").family(family),
        Case::new(name, "closed/c", "open/o").nor("evil/a").nor("victim/v").nor("node-a").family(family),
    ]
}

/// Sends UDP to groups and broadcast addresses.
fn to_groups(suite: &mut Suite) {
    for (group, family) in groups() {
        for case in cases(&format!("UDP to {group}"), family) {
            let from = case.from.clone();
            suite.frame(case.dropped_on_bridge("isolated-scope|unbound-destination"), |topology, mark| {
                group_frame(topology, &from, frame::group_mac(group), group, &mark.bytes(), mark.port())
            });
        }
    }
}

/// Sends UDP to groups and broadcast addresses by unprivileged sockets.
fn by_socket(suite: &mut Suite) {
    for (group, family) in groups().filter(|(group, _)| *group != IpAddr::from([10, 244, 1, 0])) {
        for case in cases(&format!("UDP to {group} by a socket"), family) {
            let from = case.from.clone();
            suite.attempt(case, |context, mark| {
                let interface = &context.topology[&from].interface;
                let to = match group {
                    IpAddr::V6(group) => wire::scoped(group, mark.port(), interface),
                    group => SocketAddr::new(group, mark.port()),
                };
                wire::send_datagram(context.testbed.namespace(&from)?, mark.port(), to, &mark.bytes())
            });
        }
    }
}

/// Sends an echo request to all hosts of the link.
fn echo_to_all(suite: &mut Suite) {
    for group in
        [IpAddr::from(Ipv4Addr::new(224, 0, 0, 1)), "ff02::1".parse().unwrap_or(Ipv6Addr::UNSPECIFIED.into())]
    {
        let family = if group.is_ipv6() { Family::V6 } else { Family::V4 };
        for case in cases(&format!("echo to {group}"), family) {
            let from = case.from.clone();
            suite.frame(case.dropped_on_bridge("isolated-scope"), |topology, mark| {
                let host = &topology[&from];
                let path = Path::new(host.address(family), group);
                let message = message::echo(path, false, mark.port(), &mark.bytes());
                frame::of_packet(frame::group_mac(group), host.mac(), &packet_for(path, &message, 1))
            });
        }
    }
}

/// Sends frames to a group's or all stations' hardware address that carry a packet for one pod.
fn group_frame_for_one(suite: &mut Suite) {
    let macs: [(&str, Mac); 2] = [("broadcast", frame::BROADCAST), ("multicast", [1, 0, 0x5e, 0, 0, 1])];
    for (what, mac) in macs {
        for family in Family::BOTH {
            // With a packet for the isolated pod, or for a pod that may be reached. The isolated pod must
            // receive neither.
            for (from, to, not) in [
                ("evil/a", "victim/v", "victim/v"),
                ("evil/a", "open/o", "victim/v"),
                ("closed/c", "open/o", "open/o"),
            ] {
                let case =
                    Case::new(format!("{what} frame with a packet for {to}"), from, not).family(family);
                let case = case.dropped_on_bridge("isolated-scope|unbound-destination");
                suite.frame(case, |topology, mark| {
                    let path = topology.path(from, to, family);
                    udp_frame(topology, from, mac, path, mark.ports(), &mark.bytes())
                });
            }
        }
    }
}

/// Sends frames to one pod's hardware address that carry a packet for a group.
fn frame_for_one_with_group(suite: &mut Suite) {
    for (from, to) in [("evil/a", "victim/v"), ("closed/c", "open/o")] {
        for (group, family) in groups() {
            let case = Case::new(format!("frame for one with a packet for {group}"), from, to).family(family);
            suite.frame(case.dropped_on_bridge("isolated-scope|unbound-destination"), |topology, mark| {
                group_frame(topology, from, topology.next_hop(from, to), group, &mark.bytes(), mark.port())
            });
        }
    }
}

/// Sends IGMP and MLD to one pod, and with a payload to all. The exceptions for group membership must not
/// become a tunnel.
fn membership(suite: &mut Suite) {
    for (from, to) in [("evil/a", "victim/v"), ("closed/c", "open/o")] {
        let case = |name: &str, family| Case::new(name, from, to).family(family);
        suite.frame(case("IGMP to one pod", Family::V4), |topology, mark| {
            let path = topology.path(from, to, Family::V4);
            let report = message::raw(message::protocol::IGMP, &igmp(&mark.bytes()));
            frame::of_packet(topology.next_hop(from, to), topology[from].mac(), &packet_for(path, &report, 1))
        });
        suite.frame(case("IGMP to all with a payload", Family::V4), |topology, mark| {
            let group = Ipv4Addr::new(224, 0, 0, 1);
            let path = Path::new(topology[from].v4(), group);
            let report = message::raw(message::protocol::IGMP, &igmp(&mark.bytes()));
            let packet = packet_for(path, &report, 1);
            frame::of_packet(frame::group_mac(group.into()), topology[from].mac(), &packet)
        });
        for (name, group) in [("MLD to one pod", None), ("MLD to all with a payload", Some("ff02::1"))] {
            suite.frame(case(name, Family::V6), |topology, mark| {
                let group: Option<IpAddr> = group.and_then(|group| group.parse().ok());
                let path =
                    Path::new(topology[from].link_local(), group.unwrap_or(topology[to].address(Family::V6)));
                let mac = group.map_or(topology.next_hop(from, to), frame::group_mac);
                // A Multicast Listener Report of version 2 without records, followed by other bytes.
                let report = message::icmp(path, 143, 0, [0; 4], &[&mark.bytes()[..], &[0; 400]].concat());
                frame::of_packet(mac, topology[from].mac(), &packet_for(path, &report, 1))
            });
        }
    }
}

/// An IGMP membership report, followed by other bytes.
fn igmp(behind: &[u8]) -> Vec<u8> {
    let mut bytes = [&[0x16, 0, 0, 0, 239, 1, 1, 1][..], behind, &[0; 400]].concat();
    let sum = message::checksum(&bytes).to_be_bytes();
    bytes[2..4].copy_from_slice(&sum);
    bytes
}

fn group_frame(topology: &Topology, from: &str, mac: Mac, group: IpAddr, data: &[u8], port: u16) -> Vec<u8> {
    let family = if group.is_ipv6() { Family::V6 } else { Family::V4 };
    let path = Path::new(topology[from].address(family), group);
    udp_frame(topology, from, mac, path, (port, port), data)
}
