//! `--metrics-address`: the address on which only /metrics is served.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// The address on which only /metrics is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum MetricsAddress {
    /// This address.
    One(SocketAddr),
    /// This port on all addresses, of both families if the node has both.
    All(u16),
}

impl MetricsAddress {
    /// The addresses to try: the first that can be bound is served. A node without IPv6 can't bind the IPv6
    /// address of `All`.
    pub(super) fn candidates(self) -> Vec<SocketAddr> {
        match self {
            Self::One(address) => vec![address],
            Self::All(port) => {
                vec![(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()]
            }
        }
    }
}

impl FromStr for MetricsAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong =
            || format!("{text:?} is not an address: write 192.0.2.1:9080, [2001:db8::1]:9080 or :9080");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
        match host {
            "" => Ok(Self::All(port)),
            "localhost" => Ok(Self::One((Ipv4Addr::LOCALHOST, port).into())),
            _ => {
                let address: SocketAddr = text.parse().map_err(|_| wrong())?;
                Ok(if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
                    Self::All(port)
                } else {
                    Self::One(address)
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_of_a_metrics_address_are_parsed() {
        let one = |text: &str| Ok(MetricsAddress::One(text.parse().expect("an address")));
        let cases = [
            (":9080", Ok(MetricsAddress::All(9080))),
            ("[::]:9080", Ok(MetricsAddress::All(9080))),
            ("0.0.0.0:9080", one("0.0.0.0:9080")),
            ("localhost:9080", one("127.0.0.1:9080")),
            ("192.0.2.1:1", one("192.0.2.1:1")),
            ("[2001:db8::1]:65535", one("[2001:db8::1]:65535")),
        ];
        for (text, address) in cases {
            assert_eq!(text.parse(), address, "{text}");
        }
        for text in ["", "9080", ":", ":0", ":65536", ":http", "node-a:9080", "2001:db8::1", "192.0.2.1:"] {
            text.parse::<MetricsAddress>().expect_err(text);
        }
    }
}
