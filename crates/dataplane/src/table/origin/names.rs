//! The chains that check where packets enter, and what their rules share.

use super::sets::{BEHIND_4, BEHIND_6};
use crate::drops::DropReason;
use crate::nft::expression::Meta;
use crate::numbers::{NFPROTO_IPV4, NFPROTO_IPV6};
use crate::table::drops::Drops;
use crate::table::link_rules::Link;
use crate::table::names::INET;

/// Checks packets where they enter.
pub(in crate::table) const PREROUTING: &str = "prerouting";
/// Before `NF_IP_PRI_CONNTRACK_DEFRAG` (-400): a reassembled datagram has the interface of its first
/// fragment.
pub(in crate::table) const BEFORE_DEFRAGMENTATION: i32 = libc::NF_IP_PRI_CONNTRACK_DEFRAG - 50;
pub(super) const FROM_PORT: &str = "from-port";
pub(super) const FROM_ELSEWHERE: &str = "from-elsewhere";
pub(super) const FROM_EXEMPT: &str = "from-exempt";
pub(super) const ICMP: &str = "icmp-from-port";
pub(super) const FROM_ISOLATED: &str = "from-isolated";
/// Queues packets of new ports.
pub(in crate::table) const NFQUEUE: &str = "queue-port";
pub(super) const CHAINS: [&str; 6] = [FROM_PORT, FROM_ELSEWHERE, FROM_EXEMPT, ICMP, FROM_ISOLATED, NFQUEUE];

const REASONS: [DropReason; 11] = [
    DropReason::SpoofedSource,
    DropReason::NeighbourDiscovery,
    DropReason::RouterAdvertisement,
    DropReason::IsolatedScope,
    DropReason::Overlay,
    DropReason::ForeignOverlay,
    DropReason::LocalSource,
    DropReason::InvalidTcp,
    DropReason::Revoked,
    DropReason::DeniedFlow,
    DropReason::QueueQuota,
];

/// The drop chains of this table.
pub(in crate::table) const DROPS: Drops = Drops::new(INET, 290, &REASONS);

/// How this table's rules match families, and where they find a routed port's addresses.
pub(super) const LINK: Link = Link {
    family: Meta::Family,
    ipv4: &[NFPROTO_IPV4],
    ipv6: &[NFPROTO_IPV6],
    mixes_families: true,
    own_4: BEHIND_4,
    own_6: BEHIND_6,
};
