//! Whether a policy selects a pod, and whether a rule's peers and ports match a connection. One function for
//! each noun of the API.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::decision::Direction;
use crate::inventory::{Inventory, Pod};
use crate::labels::Labels;
use crate::packet::Packet;
use crate::reference::addresses::{is_address_of_node, pod_at};
use crate::selector::{Match, Selector};
use crate::spec::{IpBlock, NamespaceMatch, Peer, PolicySpec, PortMatch, PortNumbers, RuleSpec, Subject};

/// A connection as the rules of one direction see it.
pub(super) struct Connection<'a> {
    packet: &'a Packet,
    /// The address of the peer.
    peer: IpAddr,
    /// The pod that has this address.
    peer_pod: Option<&'a Pod>,
    /// The pod that resolves named ports: always the destination (semantics 17).
    destination_pod: Option<&'a Pod>,
}

impl<'a> Connection<'a> {
    pub(super) fn new(inventory: &'a Inventory, packet: &'a Packet, direction: Direction) -> Self {
        let peer = match direction {
            Direction::Ingress => packet.source(),
            Direction::Egress => packet.destination(),
        };
        let pod = |address| pod_at(inventory, address);
        Self { packet, peer, peer_pod: pod(peer), destination_pod: pod(packet.destination()) }
    }
}

/// Whether the policy applies to the pod: BOTH its namespace and its labels must be selected (semantics 4).
pub(super) fn selects(inventory: &Inventory, policy: &PolicySpec, pod: &Pod) -> Match {
    let Subject { namespaces, pods } = &policy.subject;
    namespace_matches(inventory, namespaces, &pod.name.namespace).min(pods.matches(&pod.labels))
}

fn namespace_matches(inventory: &Inventory, selector: &NamespaceMatch, namespace: &str) -> Match {
    match selector {
        NamespaceMatch::Named(name) => Match::from(**name == *namespace),
        NamespaceMatch::Labels(selector) => match inventory.namespaces.get(namespace) {
            Some(known) => selector.matches_namespace(namespace, &known.labels),
            // The namespace is not known (yet), and so are its labels (semantics 37).
            None => selector.matches_namespace(namespace, &Labels::unknown()),
        },
    }
}

/// Whether ANY of the rule's peers matches; a rule without peers matches every peer (semantics 3, 6).
pub(super) fn peers_match(inventory: &Inventory, connection: &Connection<'_>, rule: &RuleSpec) -> Match {
    let Some(peers) = &rule.peers else { return Match::Yes };
    peers.iter().map(|peer| peer_matches(inventory, connection, peer)).max().unwrap_or(Match::No)
}

fn peer_matches(inventory: &Inventory, connection: &Connection<'_>, peer: &Peer) -> Match {
    match peer {
        // BOTH selectors must match (semantics 5, 6). Only a pod can match: never an address outside the
        // cluster, not even for `{}` (semantics 7).
        Peer::Pods { namespaces, pods } => match connection.peer_pod {
            Some(pod) => {
                let namespace = namespace_matches(inventory, namespaces, &pod.name.namespace);
                namespace.min(pods.matches(&pod.labels))
            }
            None => Match::No,
        },
        // Blocks match addresses of pods too (semantics 12).
        Peer::Block(block) => Match::from(block_matches(block, connection.peer)),
        // ANY node with labels that match, and the address (semantics 56).
        Peer::Nodes(selector) => Match::from(nodes_match(inventory, connection, selector, Match::Yes)),
        // What could not be understood matches nothing (semantics 28).
        Peer::Nothing => Match::No,
    }
}

/// Whether ANY of the rule's peers might match a node whose labels are unknown.
pub(super) fn nodes_might_match(inventory: &Inventory, connection: &Connection<'_>, rule: &RuleSpec) -> bool {
    rule.peers.iter().flatten().any(|peer| match peer {
        Peer::Nodes(selector) => nodes_match(inventory, connection, selector, Match::Unknown),
        _ => false,
    })
}

/// Whether ANY node has the peer's address, and labels that the selector matches like this.
fn nodes_match(
    inventory: &Inventory,
    connection: &Connection<'_>,
    selector: &Selector,
    matches: Match,
) -> bool {
    inventory.nodes.values().any(|node| {
        let is_reported = || node.reported_addresses.iter().any(|a| a.to_canonical() == connection.peer);
        selector.matches(&node.labels) == matches
            && (is_address_of_node(inventory, node, connection.peer) || is_reported())
    })
}

/// Whether ANY of the rule's peers might match an unknown pod at the peer's address.
pub(super) fn peers_might_match(connection: &Connection<'_>, rule: &RuleSpec) -> bool {
    let might_match = |peer: &Peer| match peer {
        Peer::Pods { namespaces, pods } => {
            *pods != Selector::Nothing && *namespaces != NamespaceMatch::Labels(Selector::Nothing)
        }
        Peer::Block(block) => block_matches(block, connection.peer),
        // An address that a node has is not that of an unknown pod.
        Peer::Nodes(_) | Peer::Nothing => false,
    };
    rule.peers.as_ref().is_none_or(|peers| peers.iter().any(might_match))
}

/// Whether the block contains the address and NONE of its exceptions does (semantics 13).
fn block_matches(block: &IpBlock, address: IpAddr) -> bool {
    holds(&block.cidr, address) && !block.except.iter().any(|except| holds(&except, address))
}

/// A block within `::ffff:0:0/96` contains IPv4 addresses (semantics 26). No other block mixes the families.
fn holds(net: &IpNet, address: IpAddr) -> bool {
    let mapped = match address {
        IpAddr::V4(address) => IpAddr::V6(address.to_ipv6_mapped()),
        IpAddr::V6(address) => IpAddr::V6(address),
    };
    let is_mapped_block =
        matches!(net, IpNet::V6(net) if net.prefix_len() >= 96 && net.addr().to_ipv4_mapped().is_some());
    net.contains(&address) || (is_mapped_block && net.contains(&mapped))
}

/// Whether ANY of the rule's ports matches; a rule without ports matches every packet (semantics 3).
pub(super) fn ports_match(connection: &Connection<'_>, rule: &RuleSpec) -> bool {
    match &rule.ports {
        None => true,
        Some(ports) => ports.iter().any(|port| port_matches(connection, port)),
    }
}

/// Whether ANY of the rule's ports might match. A destination that is not a known pod may give its port any
/// name.
pub(super) fn ports_might_match(connection: &Connection<'_>, rule: &RuleSpec) -> bool {
    let packet = connection.packet;
    let might_match = |port: &PortMatch| match &port.numbers {
        PortNumbers::Named(_) if connection.destination_pod.is_none() => {
            port.protocol.is_none_or(|protocol| protocol == packet.protocol)
                && packet.destination_port.is_some()
        }
        _ => port_matches(connection, port),
    };
    rule.ports.as_ref().is_none_or(|ports| ports.iter().any(might_match))
}

fn port_matches(connection: &Connection<'_>, port: &PortMatch) -> bool {
    let packet = connection.packet;
    // BOTH the protocol and the number must match. An unknown protocol matches only itself (semantics 14).
    if port.protocol.is_some_and(|protocol| protocol != packet.protocol) {
        return false;
    }
    match &port.numbers {
        // Every port of the protocol (semantics 15).
        PortNumbers::Any => true,
        // Both ends count (semantics 16). A packet that carries no port matches only rules without ports
        // (semantics 27).
        PortNumbers::Range(first, last) => {
            packet.destination_port.is_some_and(|number| (*first..=*last).contains(&number))
        }
        // ANY port of the destination pod with this name and the packet's protocol (semantics 18). A
        // destination that is no pod, or has no such name, does not match.
        PortNumbers::Named(name) => connection.destination_pod.is_some_and(|pod| {
            pod.ports.iter().any(|named| {
                named.name == *name
                    && named.protocol == packet.protocol
                    && Some(named.number) == packet.destination_port
            })
        }),
        // What could not be understood matches nothing (semantics 28).
        PortNumbers::Nothing => false,
    }
}
