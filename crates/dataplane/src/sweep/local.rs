//! The node's own addresses, as the rules see them (`fib saddr type local`).

use std::io;
use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;

/// Every address of every interface of a network namespace. Node objects list only some of them: they lack
/// those of the pods' bridge and of Flannel's own interface.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LocalAddresses {
    /// Sorted, each once.
    addresses: Vec<IpAddr>,
}

impl LocalAddresses {
    /// Reads the current addresses of the calling thread's network namespace.
    pub fn read() -> io::Result<Self> {
        let interfaces = getifaddrs().map_err(io::Error::from)?;
        Ok(interfaces
            .filter_map(|interface| interface.address)
            .filter_map(|address| ip_of(&address))
            .collect())
    }

    /// Whether `address` is the node's own. All of 127.0.0.0/8 is its own.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.addresses.binary_search(&address).is_ok()
    }
}

impl FromIterator<IpAddr> for LocalAddresses {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addresses: I) -> Self {
        let mut addresses: Vec<_> = addresses.into_iter().map(|address| address.to_canonical()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        Self { addresses }
    }
}

fn ip_of(address: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    let ipv4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    ipv4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_addresses_are_those_of_its_interfaces_and_127_0_0_0_8() {
        let local: LocalAddresses = ["10.244.1.1", "192.0.2.7", "fd00::1", "192.0.2.7"]
            .map(|address| address.parse().unwrap())
            .into_iter()
            .collect();
        for (address, expected) in [
            ("10.244.1.1", true),
            ("fd00::1", true),
            ("127.0.0.53", true),
            ("::1", true),
            ("10.244.1.2", false),
            ("fd00::2", false),
        ] {
            assert_eq!(local.contains(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn the_address_of_a_locally_bound_ipv4_socket_is_the_nodes_own() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(LocalAddresses::read().unwrap().contains(socket.local_addr().unwrap().ip()));
    }
}
