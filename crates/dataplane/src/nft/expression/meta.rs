//! Metadata of a packet that a rule loads.

use rustables::sys::{self, nft_registers};

use crate::netlink::Attributes;

/// Metadata of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Meta {
    /// The packet mark, 32 bits in host order.
    Mark,
    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`, a byte.
    Family,
    /// The transport protocol's number, a byte.
    Transport,
    /// The index of the interface through which the packet entered, 32 bits in host order; 0 if the hook has
    /// none. In a bridge, the port.
    Iif,
    /// The index of the interface through which the packet leaves, in the same form.
    Oif,
    /// The kind of [`Meta::Iif`], such as `veth`: 16 bytes, padded with zeros. Ends the rule for a device
    /// without a kind.
    IifKind,
    /// The kind of [`Meta::Oif`], in the same form.
    OifKind,
    /// The name of the bridge through whose port the frame entered: 16 bytes, padded with zeros.
    BridgeName,
    /// The name of the bridge through whose port the frame leaves, in the same form.
    OutBridgeName,
    /// The protocol after the link layer's header (`ETH_P_`), 16 bits in network order.
    Protocol,
    /// Bytes from the network header on, 32 bits in host order.
    Length,
}

impl Meta {
    pub(super) fn encode(self, data: &mut Attributes<'_>, register: nft_registers) {
        data.be32(sys::NFTA_META_KEY, self.number()).be32(sys::NFTA_META_DREG, register);
    }

    pub(super) fn number(self) -> u32 {
        match self {
            Self::Mark => sys::NFT_META_MARK,
            Self::Family => sys::NFT_META_NFPROTO,
            Self::Transport => sys::NFT_META_L4PROTO,
            Self::Iif => sys::NFT_META_IIF,
            Self::Oif => sys::NFT_META_OIF,
            Self::IifKind => sys::NFT_META_IIFKIND,
            Self::OifKind => sys::NFT_META_OIFKIND,
            Self::BridgeName => sys::NFT_META_BRI_IIFNAME,
            Self::OutBridgeName => sys::NFT_META_BRI_OIFNAME,
            Self::Protocol => sys::NFT_META_PROTOCOL,
            Self::Length => sys::NFT_META_LEN,
        }
    }
}
