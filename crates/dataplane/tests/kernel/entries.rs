//! Creates and deletes entries of the kernel's connection tracking table.

use std::net::IpAddr;

use dataplane::marks::Mark;
use dataplane::netlink::{ACK, Attributes, CREATE, Header, Messages, REQUEST, Socket};

const CT_NEW: u16 = 1 << 8;
const CT_DELETE: u16 = 1 << 8 | 2;

/// A connection to create: its ends as it was opened, and after DNAT and SNAT.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewEntry {
    pub protocol: u8,
    pub from: (IpAddr, u16),
    pub to: (IpAddr, u16),
    /// The source of the replies: different from `to` after DNAT.
    pub reply_from: (IpAddr, u16),
    /// The destination of the replies: different from `from` after SNAT.
    pub reply_to: (IpAddr, u16),
    pub mark: Mark,
    pub zone: Option<u16>,
}

impl NewEntry {
    /// A UDP connection without NAT.
    pub(crate) fn udp(from: (&str, u16), to: (&str, u16)) -> Self {
        let end = |(address, port): (&str, u16)| (address.parse().unwrap(), port);
        let (from, to) = (end(from), end(to));
        Self { protocol: 17, from, to, reply_from: to, reply_to: from, mark: Mark::NONE, zone: None }
    }

    /// The same connection over TCP.
    pub(crate) fn tcp(self) -> Self {
        Self { protocol: 6, ..self }
    }

    /// The same connection, redirected to another destination by DNAT.
    pub(crate) fn with_dnat_to(self, (address, port): (&str, u16)) -> Self {
        Self { reply_from: (address.parse().unwrap(), port), ..self }
    }

    /// The same connection, with its source replaced by SNAT.
    pub(crate) fn with_snat_to(self, (address, port): (&str, u16)) -> Self {
        Self { reply_to: (address.parse().unwrap(), port), ..self }
    }

    /// The same connection with a mark.
    pub(crate) fn marked(self, mark: Mark) -> Self {
        Self { mark, ..self }
    }

    /// The same connection in a conntrack zone.
    pub(crate) fn in_zone(self, zone: u16) -> Self {
        Self { zone: Some(zone), ..self }
    }

    fn family(&self) -> u8 {
        if self.from.0.is_ipv4() { 2 } else { 10 }
    }

    fn name(&self, attributes: &mut Attributes<'_>) {
        attributes.nested(1, |tuple| self.tuple(tuple, self.from, self.to));
        if let Some(zone) = self.zone {
            attributes.be16(18, zone);
        }
    }

    fn tuple(&self, tuple: &mut Attributes<'_>, from: (IpAddr, u16), to: (IpAddr, u16)) {
        tuple.nested(1, |addresses| {
            for (address, at) in [(from.0, 0), (to.0, 1)] {
                match address {
                    IpAddr::V4(address) => addresses.bytes(1 + at, &address.octets()),
                    IpAddr::V6(address) => addresses.bytes(3 + at, &address.octets()),
                };
            }
        });
        tuple.nested(2, |protocol| {
            protocol.u8(1, self.protocol);
            match self.protocol {
                // An echo has an identifier instead of ports, a type and a code.
                1 => protocol.be16(4, self.from.1).u8(5, if from == self.from { 8 } else { 0 }).u8(6, 0),
                58 => protocol.be16(7, self.from.1).u8(8, if from == self.from { 128 } else { 129 }).u8(9, 0),
                _ => protocol.be16(2, from.1).be16(3, to.1),
            };
        });
    }
}

/// Creates these connections.
pub(crate) fn make(connections: impl IntoIterator<Item = NewEntry>) {
    let mut socket = Socket::open().unwrap();
    let mut messages = Messages::default();
    let mut connections = connections.into_iter().peekable();
    while let Some(entry) = connections.next() {
        let last = socket.next_sequence();
        let header = Header { kind: CT_NEW, flags: REQUEST | CREATE, sequence: last, family: entry.family() };
        messages.push(header, |attributes| {
            entry.name(attributes);
            attributes.nested(2, |tuple| entry.tuple(tuple, entry.reply_from, entry.reply_to));
            attributes.be32(7, 600).be32(8, entry.mark.0);
            if entry.protocol == 6 {
                // Established.
                attributes.nested(4, |info| {
                    info.nested(1, |tcp| {
                        tcp.u8(1, 3);
                    });
                });
            }
        });
        if messages.as_bytes().len() > 60_000 || connections.peek().is_none() {
            messages.answer_latest();
            socket.send_and_wait(messages.as_bytes(), last).unwrap();
            messages.clear();
        }
    }
}

/// Deletes a connection.
pub(crate) fn delete(entry: NewEntry) {
    let mut socket = Socket::open().unwrap();
    let mut messages = Messages::default();
    let sequence = socket.next_sequence();
    let header = Header { kind: CT_DELETE, flags: REQUEST | ACK, sequence, family: entry.family() };
    messages.push(header, |attributes| entry.name(attributes));
    socket.send_and_wait(messages.as_bytes(), sequence).unwrap();
}
