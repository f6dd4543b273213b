//! Tuples of revoked connections, which stay revoked when connection tracking forgets them (semantics 35).
//!
//! The mark REVOKED ends with its conntrack entry: after a forged RST, a timeout or an overflow of the table.
//! The next packet of either end would then begin a connection. So a set contains the tuple as well, in both
//! orientations, until policy allows the connection again or it has sent no packet for an hour.

use std::net::IpAddr;
use std::time::Duration;

use policy::{Packet, Protocol};

use super::drops;
use super::error::TableError;
use super::family::{Family, WITH_PORTS};
use super::names::INET;
use super::rule::rule;
use crate::drops::DropReason;
use crate::netlink::Socket;
use crate::nft::batch::Batch;
use crate::nft::expression::{Address, Expression, KeyPart, Meta, Payload};
use crate::nft::rule::Rule;
use crate::nft::set::{Carries, Elements, Key, KeyType, Set};

/// Tuples of revoked connections, IPv4.
pub(super) const REVOKED_4: &str = "revoked4";

/// Tuples of revoked connections, IPv6.
pub(super) const REVOKED_6: &str = "revoked6";

/// How long a revoked connection stays revoked without a packet.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(3600);

/// Maximum number of tuples in each set, two for each connection. Further connections are revoked only by
/// their marks.
const MAX_TUPLES: u32 = 131_072;

const SET_4: Set = Set {
    table: INET,
    name: REVOKED_4,
    id: 301,
    key: &[KeyType::Ipv4, KeyType::Ipv4, KeyType::Protocol, KeyType::Port, KeyType::Port],
    carries: Carries::Timeouts,
    size: Some(MAX_TUPLES),
};

const SET_6: Set = Set {
    name: REVOKED_6,
    id: 302,
    key: &[KeyType::Ipv6, KeyType::Ipv6, KeyType::Protocol, KeyType::Port, KeyType::Port],
    ..SET_4
};

/// Creates the sets if they don't exist. Their elements outlive an agent.
pub(super) fn create(batch: &mut Batch) {
    SET_4.create(batch);
    SET_6.create(batch);
}

/// Drops a packet of a revoked connection, and restarts its timeout.
pub(super) fn drop_rule(chain: &'static str, family: &Family, set: &'static str) -> Rule {
    let words = family.words;
    let payload = |payload, at| Expression::LoadKeyPart(KeyPart::Payload(payload), at);
    let mut expressions = family.is_it().to_vec();
    expressions.extend([
        Expression::LoadMeta(Meta::Transport),
        Expression::InSet(WITH_PORTS),
        payload((family.payload)(Address::Source), 0),
        payload((family.payload)(Address::Destination), words),
        Expression::LoadKeyPart(KeyPart::Transport, 2 * words),
        payload(Payload::SourcePort, 2 * words + 1),
        payload(Payload::DestinationPort, 2 * words + 2),
        Expression::InSet(set),
        Expression::RefreshInSet(set, SILENCE_TIMEOUT),
        Expression::Goto(drops::chain(DropReason::Revoked)),
    ]);
    rule(chain, "drop packets of revoked connections", expressions)
}

/// Adds connections.
pub(super) fn add<'a>(connections: impl IntoIterator<Item = &'a Packet>, batch: &mut Batch) {
    for (set, elements) in elements(connections) {
        set.add_for(&elements, SILENCE_TIMEOUT, batch);
    }
}

/// Removes the connections that are in the sets.
pub(super) fn destroy<'a>(connections: impl IntoIterator<Item = &'a Packet>, batch: &mut Batch) {
    for (set, elements) in elements(connections) {
        set.destroy(&elements, batch);
    }
}

/// The connections in the sets, each in one or both of its orientations.
///
/// # Errors
/// [`TableError`] if a set can't be read.
pub(super) fn read(socket: &mut Socket) -> Result<Vec<Packet>, TableError> {
    let mut connections = Vec::new();
    for set in [SET_4, SET_6] {
        let keys = set.read(socket).map_err(TableError::from_reading)?;
        connections.extend(keys.keys().filter_map(|key| packet(key)));
    }
    Ok(connections)
}

/// The tuples of these connections in both orientations, by family.
pub(super) fn elements<'a>(connections: impl IntoIterator<Item = &'a Packet>) -> [(Set, Elements); 2] {
    let mut sets = [(SET_4, Elements::new()), (SET_6, Elements::new())];
    for connection in connections {
        let (_, of_family) = &mut sets[usize::from(connection.destination().is_ipv6())];
        for way in [*connection, connection.reversed()] {
            of_family.extend(key(&way).map(|key| (key, None)));
        }
    }
    sets
}

/// The tuple of a connection; `None` for protocols other than TCP, UDP and SCTP.
fn key(packet: &Packet) -> Option<Vec<u8>> {
    let (source, destination) = (packet.source_port?, packet.destination_port?);
    let has_ports = matches!(packet.protocol, Protocol::TCP | Protocol::UDP | Protocol::SCTP);
    has_ports.then(|| {
        Key::default()
            .address(packet.source())
            .address(packet.destination())
            .with(&[packet.protocol.0])
            .with(&source.to_be_bytes())
            .with(&destination.to_be_bytes())
            .bytes()
    })
}

/// The connection with this tuple.
fn packet(key: &[u8]) -> Option<Packet> {
    let words: Vec<&[u8]> = key.chunks(4).collect();
    let length = words.len().checked_sub(3)? * 2;
    let address = |bytes: &[u8]| match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    };
    let (source, destination) = (address(key.get(..length)?)?, address(key.get(length..2 * length)?)?);
    let rest = key.get(2 * length..)?;
    let port = |at: usize| Some(u16::from_be_bytes(rest.get(at..at + 2)?.try_into().ok()?));
    let mut packet = Packet::new(source, destination, Protocol(*rest.first()?));
    (packet.source_port, packet.destination_port) = (Some(port(4)?), Some(port(8)?));
    Some(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tuple_is_read_back() {
        for (source, destination) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
            let mut connection = Packet::new(source, destination, Protocol::UDP);
            (connection.source_port, connection.destination_port) = (Some(4000), Some(53));
            assert_eq!(packet(&key(&connection).unwrap()), Some(connection));
        }
        assert_eq!(key(&Packet::new([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), Protocol::ICMP)), None);
    }
}
