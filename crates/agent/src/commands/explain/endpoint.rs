//! `--from` and `--to`: a pod, an address or a Service.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use policy::{Inventory, Pod, PodName};

use crate::exit::Usage;

/// A value of `--from` or `--to`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum EndpointArgument {
    /// An IP address.
    Address(IpAddr),
    /// A pod.
    Pod(PodName),
    /// A Service.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

impl FromStr for EndpointArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Address(address.to_canonical()));
        }
        let parts: Vec<&str> = text.split('/').collect();
        match parts[..] {
            [namespace, name] if !namespace.is_empty() && !name.is_empty() => {
                Ok(Self::Pod(PodName::new(namespace, name)))
            }
            ["svc" | "service", namespace, name] if !namespace.is_empty() && !name.is_empty() => {
                Ok(Self::Service { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => {
                Err("write a pod as NAMESPACE/NAME, a Service as svc/NAMESPACE/NAME, or an IP address"
                    .to_owned())
            }
        }
    }
}

/// An end of the connection, with its addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ResolvedEndpoint {
    /// The pod, unless an address was given.
    pub pod: Option<PodName>,
    /// At least one.
    pub addresses: Vec<IpAddr>,
}

impl fmt::Display for ResolvedEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.pod, self.addresses.first()) {
            (Some(pod), _) => pod.fmt(f),
            (None, Some(address)) => address.fmt(f),
            (None, None) => Ok(()),
        }
    }
}

impl EndpointArgument {
    /// Looks up the pod's addresses. A Service is an error: as a destination, it is resolved to its pods.
    pub(super) fn resolve(&self, inventory: &Inventory) -> Result<ResolvedEndpoint, Usage> {
        let name = match self {
            Self::Address(address) => return Ok(ResolvedEndpoint { pod: None, addresses: vec![*address] }),
            Self::Pod(name) => name,
            Self::Service { namespace, name } => {
                return Err(Usage(format!(
                    "--from svc/{namespace}/{name}: a Service opens no connections: give one of its pods"
                )));
            }
        };
        let pod = inventory.pods.get(name).ok_or_else(|| Usage(unknown(name, inventory)))?;
        if pod.addresses.is_empty() {
            return Err(Usage(without_address(pod, inventory)));
        }
        Ok(ResolvedEndpoint { pod: Some(name.clone()), addresses: pod.addresses.clone() })
    }
}

/// The pairs of addresses between the two: one for each IP family that both have, IPv4 first.
pub(super) fn pairs(from: &ResolvedEndpoint, to: &ResolvedEndpoint) -> Result<Vec<(IpAddr, IpAddr)>, Usage> {
    let first = |end: &ResolvedEndpoint, v4: bool| {
        end.addresses.iter().copied().find(|address| address.is_ipv4() == v4)
    };
    let pairs: Vec<_> =
        [true, false].into_iter().filter_map(|v4| Some((first(from, v4)?, first(to, v4)?))).collect();
    if pairs.is_empty() {
        return Err(Usage(format!("{from} and {to} have no IP family (IPv4 or IPv6) in common")));
    }
    Ok(pairs)
}

fn unknown(name: &PodName, inventory: &Inventory) -> String {
    let text = name.to_string();
    let mut near: Vec<(usize, String)> = inventory
        .pods
        .keys()
        .filter_map(|known| {
            let known_text = known.to_string();
            let distance = if known.name == name.name { 0 } else { distance(&known_text, &text) };
            (distance <= 2 || known.name.starts_with(&*name.name) && known.namespace == name.namespace)
                .then_some((distance, known_text))
        })
        .collect();
    near.sort();
    near.truncate(5);
    let near: Vec<_> = near.into_iter().map(|(_, name)| name).collect();
    if near.is_empty() {
        format!("the source has no pod {text} (it has {} pods)", inventory.pods.len())
    } else {
        format!("the source has no pod {text}; did you mean {}?", near.join(" or "))
    }
}

fn without_address(pod: &Pod, inventory: &Inventory) -> String {
    let name = &pod.name;
    if !pod.host_network {
        return format!("pod {name} has no address: it has not started yet, or is finished");
    }
    let node = pod.node.as_ref().and_then(|node| inventory.nodes.get(node));
    match node.and_then(|node| Some((&node.name, node.addresses.first()?))) {
        Some((node, address)) => format!(
            "pod {name} uses the network of its node, so no policy applies to it: give the address of node \
             {node}, {address}"
        ),
        None => format!(
            "pod {name} uses the network of its node, so no policy applies to it: give the node's address"
        ),
    }
}

/// The Levenshtein distance of two texts.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_and_addresses_are_parsed() {
        assert_eq!("web/a".parse(), Ok(EndpointArgument::Pod(PodName::new("web", "a"))));
        assert_eq!("::ffff:10.0.0.1".parse(), Ok(EndpointArgument::Address([10, 0, 0, 1].into())));
        let service = EndpointArgument::Service { namespace: "db".to_owned(), name: "s".to_owned() };
        for text in ["svc/db/s", "service/db/s"] {
            assert_eq!(text.parse(), Ok(service.clone()));
        }
        assert_eq!("svc/a".parse(), Ok(EndpointArgument::Pod(PodName::new("svc", "a"))));
        for text in ["web", "/a", "web/", "a/b/c", "", "svc//s", "svc/db/", "svc/db/s/t"] {
            text.parse::<EndpointArgument>().expect_err(text);
        }
    }

    #[test]
    fn distance_counts_insertions_removals_and_replacements() {
        for (a, b, letters) in
            [("web/a", "web/a", 0), ("web/a", "wbe/a", 2), ("", "ab", 2), ("kitten", "sitting", 3)]
        {
            assert_eq!(distance(a, b), letters, "{a} {b}");
        }
    }
}
