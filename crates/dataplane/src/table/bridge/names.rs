//! The names of the bridge table and its chains, and what its rules share.

use super::sets::{OWN_4, OWN_6};
use super::table_id::TABLE;
use crate::drops::DropReason;
use crate::nft::expression::Meta;
use crate::table::drops::Drops;
use crate::table::link_rules::Link;

pub(super) const PREROUTING: &str = "prerouting";
pub(super) const FORWARD: &str = "forward";
pub(super) const INPUT: &str = "input";
pub(super) const ISOLATED_4: &str = "isolated4";
pub(super) const ISOLATED_6: &str = "isolated6";
pub(super) const OPEN_4: &str = "open4";
pub(super) const OPEN_6: &str = "open6";
pub(super) const LINK_LOCAL_ISOLATED: &str = "link-local-isolated";
pub(super) const LINK_LOCAL_OPEN: &str = "link-local-open";
pub(super) const ICMP: &str = "icmp-errors";
pub(super) const ICMPV6: &str = "icmpv6-messages";
pub(super) const UNMATCHED: &str = "unmatched";
pub(super) const EXEMPT: &str = "exempt";
pub(super) const UNSPECIFIED: &str = "unspecified";
pub(super) const CHAINS: [&str; 11] = [
    ISOLATED_4,
    ISOLATED_6,
    OPEN_4,
    OPEN_6,
    LINK_LOCAL_ISOLATED,
    LINK_LOCAL_OPEN,
    ICMP,
    ICMPV6,
    UNMATCHED,
    EXEMPT,
    UNSPECIFIED,
];

const REASONS: [DropReason; 7] = [
    DropReason::Overlay,
    DropReason::SpoofedSource,
    DropReason::EtherType,
    DropReason::RouterAdvertisement,
    DropReason::NeighbourDiscovery,
    DropReason::IsolatedScope,
    DropReason::UnboundDestination,
];

/// The drop chains of this table.
pub(in crate::table) const DROPS: Drops = Drops::new(TABLE, 190, &REASONS);

/// `ETH_P_IP`, `ETH_P_IPV6`, `ETH_P_ARP` in network order.
pub(super) const IP: [u8; 2] = [0x08, 0x00];
pub(super) const IPV6: [u8; 2] = [0x86, 0xdd];
pub(super) const ARP: [u8; 2] = [0x08, 0x06];

/// How this table's rules match families, and where they look up a port's addresses.
pub(super) const LINK: Link = Link {
    family: Meta::Protocol,
    ipv4: &IP,
    ipv6: &IPV6,
    mixes_families: false,
    own_4: OWN_4,
    own_6: OWN_6,
};
