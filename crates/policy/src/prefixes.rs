//! A compact list of address prefixes: 5 bytes for each IPv4 prefix, 17 for each IPv6 prefix.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Prefixes of both families. The order within each family is kept.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Prefixes {
    ipv4: Box<[Ipv4Net]>,
    ipv6: Box<[Ipv6Net]>,
}

impl Prefixes {
    /// The IPv4 prefixes, then the IPv6 prefixes.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> + '_ {
        let ipv4 = self.ipv4.iter().copied().map(IpNet::V4);
        ipv4.chain(self.ipv6.iter().copied().map(IpNet::V6))
    }

    /// The number of prefixes.
    pub fn len(&self) -> usize {
        self.ipv4.len() + self.ipv6.len()
    }

    /// Whether the list is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl FromIterator<IpNet> for Prefixes {
    fn from_iter<I: IntoIterator<Item = IpNet>>(prefixes: I) -> Self {
        let (mut ipv4, mut ipv6) = (Vec::new(), Vec::new());
        for prefix in prefixes {
            match prefix {
                IpNet::V4(prefix) => ipv4.push(prefix),
                IpNet::V6(prefix) => ipv6.push(prefix),
            }
        }
        Self { ipv4: ipv4.into(), ipv6: ipv6.into() }
    }
}

impl Serialize for Prefixes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Prefixes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Vec::<IpNet>::deserialize(deserializer)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_of_ipv4_take_five_bytes() {
        let all =
            ["10.0.0.0/8", "fd00::/8", "192.0.2.1/32"].map(|text| text.parse::<IpNet>().expect("a prefix"));
        let prefixes: Prefixes = all.into_iter().collect();
        assert_eq!(prefixes.iter().collect::<Vec<_>>(), [all[0], all[2], all[1]]);
        assert_eq!((size_of_val(&*prefixes.ipv4), size_of_val(&*prefixes.ipv6)), (10, 17));
        assert_eq!((prefixes.len(), prefixes.is_empty(), Prefixes::default().is_empty()), (3, false, true));
    }
}
