//! Parses a packet that the kernel logged.

use policy::{Generation, Verdict};

use crate::drops::{DROP_PREFIX, DropReason};
use crate::link::{InterfaceIndex, Mac};
use crate::netlink::{AttributeReader, Received};
use crate::table::{DENIED_PREFIX, LOG_PREFIX};

// Attributes of a packet (`linux/netfilter/nfnetlink_log.h`).
const NFULA_PACKET_HDR: u16 = 1;
const NFULA_IFINDEX_INDEV: u16 = 4;
const NFULA_IFINDEX_PHYSINDEV: u16 = 6;
const NFULA_HWADDR: u16 = 8;
const NFULA_PAYLOAD: u16 = 9;
const NFULA_PREFIX: u16 = 10;
pub(super) const NFULA_SEQ: u16 = 12;
const NFULA_VLAN: u16 = 19;
const NFULA_VLAN_PROTO: u16 = 1;

/// A packet as the kernel logged it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Logged<'a> {
    pub(super) number: Option<u32>,
    /// The verdict that was cached, and the generation in force.
    pub(super) cached: Option<(Verdict, Generation)>,
    pub(super) dropped: Option<DropReason>,
    pub(super) hook: Option<u8>,
    pub(super) interface: InterfaceIndex,
    pub(super) mac: Option<Mac>,
    pub(super) ether_type: Option<u16>,
    pub(super) payload: Option<&'a [u8]>,
}

/// `ETH_P_IP` and `ETH_P_IPV6`.
pub(super) const ETH_P_IP: u16 = 0x0800;
pub(super) const ETH_P_IPV6: u16 = 0x86dd;

impl<'a> Logged<'a> {
    /// Fields that are missing or can't be parsed are `None`.
    pub(super) fn parse(message: &Received<'a>) -> Self {
        let mut logged = Self::default();
        for (kind, value) in AttributeReader::new(message.attributes) {
            match kind {
                NFULA_SEQ => logged.number = value.try_into().ok().map(u32::from_be_bytes),
                NFULA_PREFIX => {
                    (logged.cached, logged.dropped) = (cached(value), dropped(value));
                }
                // `struct nfulnl_msg_packet_hdr`: protocol, hook, padding.
                NFULA_PACKET_HDR => {
                    logged.ether_type = logged.ether_type.or(be16(value));
                    logged.hook = value.get(2).copied();
                }
                NFULA_VLAN => {
                    let tag = AttributeReader::new(value).find(|(kind, _)| *kind == NFULA_VLAN_PROTO);
                    logged.ether_type = tag.and_then(|(_, value)| be16(value)).or(logged.ether_type);
                }
                NFULA_IFINDEX_INDEV if logged.interface.0 == 0 => logged.interface = interface(value),
                NFULA_IFINDEX_PHYSINDEV => logged.interface = interface(value),
                // `struct nfulnl_msg_packet_hw`: length, padding, address.
                NFULA_HWADDR if be16(value) == Some(6) => {
                    logged.mac = value.get(4..10).and_then(|bytes| Some(Mac(bytes.try_into().ok()?)));
                }
                NFULA_PAYLOAD => logged.payload = Some(value),
                _ => {}
            }
        }
        logged
    }
}

fn be16(value: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(*value.first_chunk()?))
}

fn interface(value: &[u8]) -> InterfaceIndex {
    InterfaceIndex(value.try_into().map(u32::from_be_bytes).unwrap_or_default())
}

fn dropped(prefix: &[u8]) -> Option<DropReason> {
    let text = std::str::from_utf8(prefix.strip_suffix(&[0]).unwrap_or(prefix)).ok()?;
    DropReason::from_code(text.strip_prefix(DROP_PREFIX)?)
}

fn cached(prefix: &[u8]) -> Option<(Verdict, Generation)> {
    let text = std::str::from_utf8(prefix.strip_suffix(&[0]).unwrap_or(prefix)).ok()?;
    let text = text.strip_prefix(LOG_PREFIX)?;
    let (verdict, generation) = match text.strip_prefix(DENIED_PREFIX) {
        Some(generation) => (Verdict::Deny, generation),
        None => (Verdict::Allow, text),
    };
    Some((verdict, Generation(generation.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_carries_the_generation() {
        assert_eq!(cached(b"kube-verdict 17\0"), Some((Verdict::Allow, Generation(17))));
        assert_eq!(cached(b"kube-verdict denied 17\0"), Some((Verdict::Deny, Generation(17))));
        for other in [
            &b"kube-verdict \0"[..],
            b"kube-verdict 17 \0",
            b"kube-verdict denied\0",
            b"someone else",
            b"kube-verdict \xff",
            b"",
        ] {
            assert_eq!(cached(other), None, "{other:?}");
        }
        assert_eq!(dropped(b"kube-verdict drop spoofed-source\0"), Some(DropReason::SpoofedSource));
        assert_eq!(dropped(b"kube-verdict drop something\0"), None);
        assert_eq!(dropped(b"kube-verdict 17\0"), None);
    }
}
