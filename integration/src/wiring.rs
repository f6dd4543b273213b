//! How the nodes' namespaces are connected: the `ip` commands and nftables rules of each, as text.
//!
//! ```text
//!   pod eth0 -- cni0 (node) eth0 -- lan0 (outside) -- eth0 (other node) cni0 -- eth0 pod
//!                     \_ flannel.1 ~~~~~ VXLAN ~~~~~ flannel.1 _/
//! ```

use std::fmt::Write as _;
use std::net::IpAddr;

use crate::cluster::{ClusterSpec, Links};
use crate::port::Transport;
use crate::probe::Family;
use crate::specs::{NodeSpec, ServiceSpec};

/// The addresses of the host outside, which is also the nodes' default gateway.
pub(crate) const OUTSIDE_ADDRESSES: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

/// Sysctls of every namespace: addresses are usable at once, and root may send pings.
pub(crate) const EVERYWHERE: [(&str, &str); 5] = [
    ("net.ipv4.ping_group_range", "0 0"),
    ("net.ipv6.conf.all.accept_dad", "0"),
    ("net.ipv6.conf.default.accept_dad", "0"),
    ("net.ipv6.conf.default.accept_ra", "0"),
    ("net.ipv4.conf.all.rp_filter", "0"),
];

/// Sysctls of a node.
pub(crate) const NODE: [(&str, &str); 2] =
    [("net.ipv4.ip_forward", "1"), ("net.ipv6.conf.all.forwarding", "1")];

/// Sysctls of the module br_netfilter that pass packets between pods of one node through the inet hooks.
pub(crate) const BRIDGED: [&str; 2] =
    ["net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"];

/// Flannel's VXLAN: its network identifier and port.
const VXLAN: &str = "vxlan id 1 dstport 8472 nolearning";

/// Commands for the host outside: its bridge, to which every node is attached, and routes to the pods.
pub(crate) fn outside(cluster: &ClusterSpec, namespace_of: impl Fn(&str) -> String) -> String {
    let [address4, address6] = OUTSIDE_ADDRESSES;
    let mut text = format!(
        "link set lo up\n\
         link add lan0 type bridge mcast_snooping 0\n\
         addr add {address4}/24 dev lan0\n\
         addr add {address6}/64 dev lan0 nodad\n\
         link set lan0 up\n"
    );
    for (number, node) in cluster.nodes.iter().enumerate() {
        let namespace = namespace_of(&node.name);
        let _ = write!(
            text,
            "link add node{number} type veth peer name eth0 netns {namespace}\n\
             link set node{number} master lan0 up\n"
        );
        text.push_str(&routes(node, "lan0"));
    }
    text
}

/// Commands for a node: its address, the bridge of its pods if they have one, and the routes to other nodes.
pub(crate) fn node(cluster: &ClusterSpec, node: &NodeSpec) -> String {
    let NodeSpec { address4, address6, .. } = node;
    let [outside4, outside6] = OUTSIDE_ADDRESSES;
    let mut text = format!(
        "link set lo up\n\
         addr add {address4}/24 dev eth0\n\
         addr add {address6}/64 dev eth0 nodad\n\
         link set eth0 up\n\
         route add default via {outside4}\n\
         route add ::/0 via {outside6}\n"
    );
    text.push_str(&cluster.attachment.node(node));
    let others = || cluster.nodes.iter().filter(|other| other.name != node.name);
    match cluster.links {
        Links::Routes => others().for_each(|other| text.push_str(&routes(other, "eth0"))),
        Links::Vxlan => {
            let _ = write!(
                text,
                "link add flannel.1 address {} type {VXLAN} local {address4} dev eth0\n\
                 addr add {}/32 dev flannel.1\n\
                 addr add {}/128 dev flannel.1 nodad\n\
                 link set flannel.1 up\n",
                vtep(node),
                node.cidr4.network(),
                node.cidr6.network(),
            );
            others().for_each(|other| text.push_str(&tunnel(other)));
        }
    }
    text
}

/// Rules for a node: Flannel's masquerading, and services as kube-proxy translates them. The mark `0x4000`
/// selects a packet for masquerading, here and in kube-proxy.
pub(crate) fn rules(cluster: &ClusterSpec) -> String {
    let cidrs = |at: usize| {
        let all: Vec<String> = cluster.nodes.iter().map(|node| node.cidrs()[at].to_string()).collect();
        all.join(", ")
    };
    let (pods4, pods6) = (cidrs(0), cidrs(1));
    let mut chains = String::new();
    let mut jumps = String::new();
    for (number, service) in cluster.services.iter().enumerate() {
        for family in Family::BOTH {
            service_rules(cluster, number, service, family, &mut chains, &mut jumps);
        }
    }
    format!(
        "table inet services {{\n\
           {chains}\
           chain services {{\n{jumps}}}\n\
           chain prerouting {{ type nat hook prerouting priority dstnat; jump services; }}\n\
           chain output {{ type nat hook output priority -100; jump services; }}\n\
           chain postrouting {{\n\
             type nat hook postrouting priority srcnat;\n\
             meta mark & 0x4000 == 0x4000 meta mark set meta mark xor 0x4000 masquerade\n\
             ip saddr {{ {pods4} }} ip daddr != {{ {pods4} }} masquerade\n\
             ip6 saddr {{ {pods6} }} ip6 daddr != {{ {pods6} }} masquerade\n\
           }}\n\
         }}\n"
    )
}

/// One service in one family: a chain that selects the pods in turn, and a chain for each pod. A pod that
/// reaches itself through the service must see the node's address as the client's. Otherwise its answer would
/// not pass the node.
fn service_rules(
    cluster: &ClusterSpec,
    number: usize,
    service: &ServiceSpec,
    family: Family,
    chains: &mut String,
    jumps: &mut String,
) {
    let address = family.of(service.addresses);
    let ip = keyword(address);
    let version = if address.is_ipv4() { 4 } else { 6 };
    let service_chain = format!("service-{number}-v{version}");
    let transport = match service.port.transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
        Transport::Sctp => "sctp",
    };
    let mut choices = Vec::new();
    let pods = cluster.pods.iter().filter(|pod| service.pods.contains(&pod.full_name()));
    for (at, pod) in pods.enumerate() {
        let to = family.of(pod.addresses);
        let chain = format!("pod-{number}-{at}-v{version}");
        let target = service.target;
        let to_port = if to.is_ipv4() { format!("{to}:{target}") } else { format!("[{to}]:{target}") };
        let _ = write!(
            chains,
            "chain {chain} {{\n\
               {ip} saddr {to} meta mark set meta mark or 0x4000\n\
               meta l4proto {transport} dnat {ip} to {to_port}\n\
             }}\n"
        );
        choices.push(format!("{at} : goto {chain}"));
    }
    let port = service.port.number;
    let _ = write!(
        chains,
        "chain {service_chain} {{\nnumgen inc mod {} vmap {{ {} }}\n}}\n",
        choices.len(),
        choices.join(", ")
    );
    let _ = writeln!(jumps, "{ip} daddr {address} {transport} dport {port} jump {service_chain}");
}

fn keyword(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ip" } else { "ip6" }
}

/// Routes to the pods of `node` through its own address.
fn routes(node: &NodeSpec, device: &str) -> String {
    let NodeSpec { cidr4, cidr6, address4, address6, .. } = node;
    format!(
        "route add {cidr4} via {address4} dev {device}\n\
         route add {cidr6} via {address6} dev {device}\n"
    )
}

/// Routes to the pods of `other` through `flannel.1`, with the neighbour entries that flanneld would create.
fn tunnel(other: &NodeSpec) -> String {
    let (network4, network6) = (other.cidr4.network(), other.cidr6.network());
    let NodeSpec { cidr4, cidr6, .. } = other;
    let mac = vtep(other);
    format!(
        "neigh add {network4} lladdr {mac} dev flannel.1 nud permanent\n\
         neigh add {network6} lladdr {mac} dev flannel.1 nud permanent\n\
         route add {cidr4} via {network4} dev flannel.1 onlink\n\
         route add {cidr6} via {network6} dev flannel.1 onlink\n"
    )
}

/// The hardware address of a node's `flannel.1`: locally administered, with the last byte of the node's IPv4
/// address.
pub(crate) fn vtep_bytes(node: &NodeSpec) -> [u8; 6] {
    [0x02, 0, 0, 0, 0x01, node.address4.octets()[3]]
}

fn vtep(node: &NodeSpec) -> String {
    vtep_bytes(node).map(|byte| format!("{byte:02x}")).join(":")
}

/// The forwarding table of `flannel.1`: lines for the program `bridge`.
pub(crate) fn forwarding(cluster: &ClusterSpec, node: &NodeSpec) -> String {
    let others = cluster.nodes.iter().filter(|other| other.name != node.name);
    others
        .map(|other| format!("fdb add {} dev flannel.1 dst {} self permanent\n", vtep(other), other.address4))
        .collect()
}
