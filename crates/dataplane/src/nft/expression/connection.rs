//! Properties of a packet's connection that a rule loads.

use rustables::sys;

/// A property of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ConntrackKey {
    /// The connection mark, 32 bits in host order.
    Mark,
    /// The packet's direction in the connection, a byte: [`ORIGINAL`] or [`REPLY`]. An ICMP error has the
    /// direction opposite to the packet that it quotes (`nf_conntrack_inet_error`), and the mark of that
    /// packet's connection.
    Direction,
    /// The connection's state, as bits of a 32-bit number in host order, such as [`RELATED`]. A packet
    /// without a connection has a state as well.
    State,
}

/// `NF_CT_STATE_BIT(IP_CT_RELATED)`: an ICMP error about a connection, or the first packet of one that a
/// helper expects.
pub(crate) const RELATED: u32 = 1 << 2;
/// `NF_CT_STATE_INVALID_BIT`: the packet belongs to no connection.
pub(crate) const INVALID: u32 = 1 << 0;
/// `NF_CT_STATE_UNTRACKED_BIT`: the packet is exempt from connection tracking.
pub(crate) const UNTRACKED: u32 = 1 << 6;
/// `IP_CT_DIR_ORIGINAL`: the direction of the connection's first packet.
pub(crate) const ORIGINAL: u8 = 0;
/// `IP_CT_DIR_REPLY`: opposite to the direction of the connection's first packet.
pub(crate) const REPLY: u8 = 1;

impl ConntrackKey {
    pub(super) fn number(self) -> u32 {
        match self {
            Self::Mark => sys::NFT_CT_MARK,
            Self::Direction => sys::NFT_CT_DIRECTION,
            Self::State => sys::NFT_CT_STATE,
        }
    }
}
