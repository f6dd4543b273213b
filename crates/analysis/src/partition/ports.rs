//! Classes of ports.
//!
//! From: the ports in policies, and those of containers. To: [`PortClass`]es. Invariant: of each protocol,
//! the classes cover the ports 1 to 65535, each once. Port 0 is reserved, and packets of TCP, UDP and SCTP
//! that carry no port do not occur after reassembly (semantics 27), so both are left out.

use std::collections::{BTreeMap, BTreeSet};

use policy::{Packet, PolicySpec, PortNumbers, Protocol};

/// Destination ports of one protocol that no rule distinguishes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PortClass {
    /// The ports `first` to `last` of a protocol with ports.
    Ports {
        /// TCP, UDP or SCTP.
        protocol: Protocol,
        /// At least 1.
        first: u16,
        /// At least `first`.
        last: u16,
    },
    /// Every other protocol, with one that stands for all: ICMP, unless a policy names it.
    Others(Protocol),
}

/// The protocols with ports.
pub const WITH_PORTS: [Protocol; 3] = [Protocol::TCP, Protocol::UDP, Protocol::SCTP];

impl PortClass {
    /// The packet with a port of this class.
    pub fn packet(self, mut packet: Packet) -> Packet {
        match self {
            Self::Ports { protocol, first, .. } => {
                packet.protocol = protocol;
                packet.to_port(first)
            }
            Self::Others(protocol) => {
                packet.protocol = protocol;
                packet
            }
        }
    }

    /// Whether the class is within these ports.
    pub fn is_within(self, protocol: Protocol, from: u16, to: u16) -> bool {
        match self {
            Self::Ports { protocol: own, first, last } => own == protocol && from <= first && last <= to,
            Self::Others(_) => false,
        }
    }
}

/// The first ports of classes, by protocol.
#[derive(Clone, Debug)]
pub struct Boundaries {
    starts: BTreeMap<Protocol, BTreeSet<u16>>,
    named: BTreeSet<Protocol>,
}

impl Default for Boundaries {
    fn default() -> Self {
        let starts = WITH_PORTS.map(|protocol| (protocol, BTreeSet::from([1]))).into_iter().collect();
        Self { starts, named: WITH_PORTS.into_iter().collect() }
    }
}

impl Boundaries {
    /// Adds the ports of a policy's rules.
    pub fn add_policy(&mut self, policy: &PolicySpec) {
        let rules = policy.ingress.iter().chain(&policy.egress);
        for port in rules.flat_map(|rule| rule.ports.iter().flatten()) {
            self.named.extend(port.protocol);
            // Names are ports of pods.
            if let PortNumbers::Range(first, last) = port.numbers {
                self.add(port.protocol, first, last);
            }
        }
    }

    /// Adds a range of ports, of every protocol if `protocol` is absent.
    pub fn add(&mut self, protocol: Option<Protocol>, first: u16, last: u16) {
        for (known, starts) in &mut self.starts {
            if protocol.is_none_or(|protocol| protocol == *known) {
                starts.insert(first.max(1));
                starts.extend(last.checked_add(1));
            }
        }
    }

    /// The classes, sorted.
    pub fn classes(&self) -> Vec<PortClass> {
        let mut classes = Vec::new();
        for (protocol, starts) in &self.starts {
            let mut starts = starts.iter().copied().peekable();
            while let Some(first) = starts.next() {
                let last = starts.peek().map_or(u16::MAX, |next| next - 1);
                classes.push(PortClass::Ports { protocol: *protocol, first, last });
            }
        }
        let mut candidates =
            [Protocol::ICMP, Protocol::ICMPV6].into_iter().chain((0..=u8::MAX).map(Protocol));
        classes.extend(candidates.find(|protocol| !self.named.contains(protocol)).map(PortClass::Others));
        classes.sort();
        classes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_begin_and_end_at_boundaries() {
        let mut boundaries = Boundaries::default();
        boundaries.add(Some(Protocol::TCP), 80, 90);
        boundaries.add(None, 65535, 65535);
        let tcp: Vec<(u16, u16)> = boundaries
            .classes()
            .into_iter()
            .filter_map(|class| match class {
                PortClass::Ports { protocol: Protocol::TCP, first, last } => Some((first, last)),
                _ => None,
            })
            .collect();
        assert_eq!(tcp, [(1, 79), (80, 90), (91, 65534), (65535, 65535)]);
        assert_eq!(boundaries.classes().len(), 4 + 2 + 2 + 1);
        assert!(boundaries.classes().contains(&PortClass::Others(Protocol::ICMP)));
    }
}
