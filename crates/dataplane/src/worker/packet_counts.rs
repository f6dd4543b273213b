//! Counts of evaluated packets, by everything that `kube_verdict_packets_total` distinguishes.
//!
//! From: a worker, one class for each verdict. To: the agent's status, as the sum over all workers.
//! Invariant: counting a packet writes one cell of an array that exists before the first packet.

use std::iter::Sum;
use std::sync::atomic::{AtomicU64, Ordering};

use policy::{Decision, Direction, Packet, Protocol, Reason, Verdict};

/// What is counted separately. There are [`PacketClass::COUNT`] classes, whatever is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PacketClass {
    /// The verdict.
    pub verdict: Verdict,
    /// The direction that decided: see [`Decision::direction`].
    pub direction: Direction,
    /// Why, in that direction. Rule 0 stands for every rule.
    pub reason: Reason,
    /// The transport protocol.
    pub protocol: ProtocolClass,
    /// The IP family.
    pub family: FamilyClass,
}

/// The protocols that are counted separately: those that a policy can name, and ICMP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProtocolClass {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// ICMP.
    Icmp,
    /// ICMP for IPv6.
    Icmpv6,
    /// Any other protocol.
    Other,
    /// The packet could not be parsed.
    Unknown,
}

impl ProtocolClass {
    /// All classes, in the order of their numbers.
    pub const ALL: [Self; 7] =
        [Self::Tcp, Self::Udp, Self::Sctp, Self::Icmp, Self::Icmpv6, Self::Other, Self::Unknown];

    /// The protocol as Kubernetes and the kernel write it, or `other` or `unknown`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
            Self::Icmp => "ICMP",
            Self::Icmpv6 => "ICMPv6",
            Self::Other => "other",
            Self::Unknown => "unknown",
        }
    }
}

impl From<Protocol> for ProtocolClass {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::TCP => Self::Tcp,
            Protocol::UDP => Self::Udp,
            Protocol::SCTP => Self::Sctp,
            Protocol::ICMP => Self::Icmp,
            Protocol::ICMPV6 => Self::Icmpv6,
            _ => Self::Other,
        }
    }
}

/// The IP families.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FamilyClass {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// The packet could not be parsed.
    Unknown,
}

impl FamilyClass {
    /// All classes, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Ipv4, Self::Ipv6, Self::Unknown];

    /// The family as Kubernetes writes it, or `unknown`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
            Self::Unknown => "unknown",
        }
    }
}

const VERDICTS: [Verdict; 2] = [Verdict::Allow, Verdict::Deny];
const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

impl PacketClass {
    /// The number of classes.
    pub const COUNT: usize = VERDICTS.len()
        * DIRECTIONS.len()
        * Reason::ALL.len()
        * ProtocolClass::ALL.len()
        * FamilyClass::ALL.len();

    /// The class of a packet, `None` if it could not be parsed, with this decision.
    #[inline]
    pub fn new(decision: &Decision, packet: Option<&Packet>) -> Self {
        let direction = decision.direction();
        let (protocol, family) = match packet {
            None => (ProtocolClass::Unknown, FamilyClass::Unknown),
            Some(packet) if packet.source().is_ipv4() => (packet.protocol.into(), FamilyClass::Ipv4),
            Some(packet) => (packet.protocol.into(), FamilyClass::Ipv6),
        };
        Self {
            verdict: decision.verdict(),
            direction,
            reason: decision.outcome(direction).reason,
            protocol,
            family,
        }
    }

    /// All classes, including those that no packet can have, in the order of their index.
    pub fn all() -> impl Iterator<Item = Self> {
        VERDICTS.into_iter().flat_map(|verdict| {
            DIRECTIONS.into_iter().flat_map(move |direction| {
                Reason::ALL.into_iter().flat_map(move |reason| {
                    ProtocolClass::ALL.into_iter().flat_map(move |protocol| {
                        FamilyClass::ALL.into_iter().map(move |family| Self {
                            verdict,
                            direction,
                            reason,
                            protocol,
                            family,
                        })
                    })
                })
            })
        })
    }

    /// The position of the class in arrays of [`PacketClass::COUNT`] elements.
    #[inline]
    fn index(self) -> usize {
        let verdict = usize::from(self.verdict == Verdict::Deny);
        let direction = usize::from(self.direction == Direction::Egress);
        let mut index = verdict * DIRECTIONS.len() + direction;
        index = index * Reason::ALL.len() + self.reason.index();
        index = index * ProtocolClass::ALL.len() + self.protocol as usize;
        index * FamilyClass::ALL.len() + self.family as usize
    }
}

/// How many packets of each class were evaluated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PacketCounts(Box<[u64; PacketClass::COUNT]>);

impl Default for PacketCounts {
    fn default() -> Self {
        Self(Box::new([0; PacketClass::COUNT]))
    }
}

impl PacketCounts {
    /// The classes that have packets, each with its count, in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = (PacketClass, u64)> + '_ {
        PacketClass::all().zip(self.0.iter().copied()).filter(|(_, count)| *count > 0)
    }

    /// The number of packets with this verdict.
    pub fn with_verdict(&self, verdict: Verdict) -> u64 {
        self.iter().filter(|(class, _)| class.verdict == verdict).map(|(_, count)| count).sum()
    }

    /// The number of packets that could not be parsed.
    pub fn unparsable(&self) -> u64 {
        self.iter().filter(|(class, _)| class.reason == Reason::Unparsable).map(|(_, count)| count).sum()
    }
}

impl Sum for PacketCounts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |mut sum, counts| {
            for (sum, count) in sum.0.iter_mut().zip(counts.0.iter()) {
                *sum += count;
            }
            sum
        })
    }
}

/// The counts of one worker. Only the worker writes them, any thread may read them.
#[derive(Debug)]
pub(super) struct PacketCells([AtomicU64; PacketClass::COUNT]);

impl Default for PacketCells {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; PacketClass::COUNT])
    }
}

impl PacketCells {
    /// The cell of a class.
    #[inline]
    pub(super) fn cell(&self, class: PacketClass) -> &AtomicU64 {
        &self.0[class.index()]
    }

    /// The numbers now.
    pub(super) fn read(&self) -> PacketCounts {
        let mut counts = PacketCounts::default();
        for (count, cell) in counts.0.iter_mut().zip(&self.0) {
            *count = cell.load(Ordering::Relaxed);
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use policy::{Outcome, RuleId};

    use super::*;

    fn packet(family: &str, protocol: Protocol) -> Packet {
        let address = |host: u8| -> IpAddr {
            match family {
                "IPv4" => format!("10.244.1.{host}"),
                _ => format!("fd00:10:244:1::{host}"),
            }
            .parse()
            .expect("an address")
        };
        Packet::new(address(1), address(2), protocol)
    }

    #[test]
    fn each_class_has_its_own_cell() {
        let all: Vec<_> = PacketClass::all().collect();
        assert_eq!(all.len(), PacketClass::COUNT);
        for (index, class) in all.into_iter().enumerate() {
            assert_eq!(class.index(), index, "{class:?}");
        }
    }

    #[test]
    fn a_packet_is_counted_by_what_decided_it() {
        let denied = Decision {
            egress: Outcome::allow(Reason::NotIsolated),
            ingress: Outcome::deny(Reason::DefaultDeny),
        };
        let by_rule = |rule| Decision {
            egress: Outcome::allow(Reason::Rule(RuleId(rule))),
            ingress: Outcome::allow(Reason::OtherNode),
        };
        let (v4, v6) = (packet("IPv4", Protocol::TCP), packet("IPv6", Protocol(47)));
        let cells = PacketCells::default();
        for (decision, packet) in [
            (denied, Some(v4)),
            (denied, Some(v4)),
            (denied, Some(v6)),
            (by_rule(3), Some(v6)),
            (by_rule(9), Some(v6)),
            (Decision::UNPARSABLE, None),
        ] {
            cells.cell(PacketClass::new(&decision, packet.as_ref())).fetch_add(1, Ordering::Relaxed);
        }
        let counts: PacketCounts = [cells.read(), cells.read()].into_iter().sum();
        let found: Vec<_> = counts
            .iter()
            .map(|(class, count)| {
                let PacketClass { verdict, direction, reason, protocol, family } = class;
                (verdict, direction, reason.code(), protocol.name(), family.name(), count)
            })
            .collect();
        assert_eq!(
            found,
            [
                (Verdict::Allow, Direction::Egress, "rule", "other", "IPv6", 4),
                (Verdict::Deny, Direction::Ingress, "default-deny", "TCP", "IPv4", 4),
                (Verdict::Deny, Direction::Ingress, "default-deny", "other", "IPv6", 2),
                (Verdict::Deny, Direction::Egress, "unparsable", "unknown", "unknown", 2),
            ]
        );
        assert_eq!(counts.with_verdict(Verdict::Allow), 4);
        assert_eq!(counts.with_verdict(Verdict::Deny), 8);
        assert_eq!(counts.unparsable(), 2);
    }
}
