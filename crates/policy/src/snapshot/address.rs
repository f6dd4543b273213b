//! The forms in which addresses are stored and looked up.

use std::net::{IpAddr, Ipv4Addr};

/// An address as a number: both families share one space (semantics 26).
pub(crate) type AddressKey = u128;

/// An address that is looked up by its bits. Generic, so that a verdict about two IPv4 addresses, the common
/// case, is compiled without steps for IPv6.
pub(crate) trait Address: Copy + Eq + Into<IpAddr> {
    /// The bits of the canonical address.
    fn bits(self) -> AddressBits;
}

/// The bits of an address.
pub(crate) enum AddressBits {
    Ipv4(u32),
    Ipv6(u128),
}

impl Address for Ipv4Addr {
    #[inline(always)]
    fn bits(self) -> AddressBits {
        AddressBits::Ipv4(self.into())
    }
}

/// For canonical addresses.
impl Address for IpAddr {
    #[inline(always)]
    fn bits(self) -> AddressBits {
        match self {
            Self::V4(address) => address.bits(),
            Self::V6(address) => AddressBits::Ipv6(address.into()),
        }
    }
}

/// The key of `address`.
#[inline]
pub(crate) fn key_of(address: IpAddr) -> AddressKey {
    match address {
        IpAddr::V4(address) => 0xffff_0000_0000 | u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

/// The canonical address of `key`.
pub(crate) fn address_of(key: AddressKey) -> IpAddr {
    IpAddr::V6(key.into()).to_canonical()
}
