//! The ends and ports that an assertion names.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use policy::Protocol;

use crate::partition::ports::WITH_PORTS;

/// Which ends an assertion is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Pattern {
    /// `*`: every workload.
    Workloads,
    /// `web/*`: every workload of a namespace.
    Namespace(Arc<str>),
    /// `web/frontend`: a workload, whatever its kind.
    Workload(Arc<str>, Arc<str>),
    /// `outside`: every address outside of the cluster.
    Outside,
    /// `192.0.2.7`, `198.51.100.0/24`: the addresses in a block that are outside of the cluster.
    Block(IpNet),
}

/// Which destination ports an assertion is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Ports {
    /// Every protocol and port.
    All,
    /// `5432`, `5432/TCP`, `9100-9199`.
    Range(Protocol, u16, u16),
    /// `http`, `http/TCP`: a port of the destination's containers.
    Named(String, Protocol),
    /// `ICMP`: a protocol without ports.
    Others,
}

/// How to write an end.
const ENDS: &str = "write NAMESPACE/WORKLOAD, NAMESPACE/*, *, outside, an IP address or a CIDR";

impl Pattern {
    /// Parses an end without ports.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "*" => return Ok(Self::Workloads),
            "outside" => return Ok(Self::Outside),
            _ => {}
        }
        if let Some(block) = block(text) {
            return Ok(Self::Block(block));
        }
        match text.split_once('/') {
            Some((namespace, "*")) if is_namespace(namespace) => Ok(Self::Namespace(namespace.into())),
            Some((namespace, name)) if is_namespace(namespace) && is_name(name) => {
                Ok(Self::Workload(namespace.into(), name.into()))
            }
            _ => Err(format!("{text:?} is no end of a connection: {ENDS}")),
        }
    }

    /// Parses an end with ports, as in `db/postgres:5432`. IPv6 addresses with ports need brackets.
    pub(super) fn parse_with_ports(text: &str) -> Result<(Self, Ports), String> {
        if block(text).is_some() {
            return Ok((Self::parse(text)?, Ports::All));
        }
        let bracketed = text.strip_prefix('[').and_then(|rest| rest.split_once("]:"));
        match bracketed.or_else(|| text.split_once(':')) {
            Some((end, ports)) => Ok((Self::parse(end)?, Ports::parse(ports)?)),
            None => Ok((Self::parse(text)?, Ports::All)),
        }
    }
}

/// A CIDR or an address, canonical.
fn block(text: &str) -> Option<IpNet> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(IpNet::from(address.to_canonical()));
    }
    text.parse::<IpNet>().ok().map(|net| net.trunc())
}

/// The characters of names of namespaces (RFC 1123 label).
fn is_namespace(text: &str) -> bool {
    is_name(text) && !text.contains('.')
}

/// The characters of names of Kubernetes objects (RFC 1123 subdomain).
fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    !text.is_empty() && text.bytes().all(allowed)
}

impl Ports {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "*" => return Ok(Self::All),
            "" => return Err("a port is missing after the colon".to_owned()),
            _ => {}
        }
        let (port, protocol) = match text.split_once('/') {
            Some((port, protocol)) => {
                (port, protocol.parse::<Protocol>().map_err(|error| error.to_string())?)
            }
            None => match text.parse::<Protocol>() {
                Ok(protocol) if text.parse::<u8>().is_err() => ("", protocol),
                _ => (text, Protocol::TCP),
            },
        };
        match (WITH_PORTS.contains(&protocol), port) {
            (false, "") => return Ok(Self::Others),
            (false, _) => return Err(format!("{text:?}: {protocol} has no ports")),
            (true, "") => return Ok(Self::Range(protocol, 1, u16::MAX)),
            (true, _) => {}
        }
        let number = |text: &str| match text.parse::<u16>() {
            Ok(number @ 1..) => Ok(number),
            _ => Err(format!("{text:?} is not a port: ports are 1 to 65535")),
        };
        match port.split_once('-') {
            _ if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                let number = number(port)?;
                Ok(Self::Range(protocol, number, number))
            }
            Some((first, last)) if port.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') => {
                let (first, last) = (number(first)?, number(last)?);
                match first <= last {
                    true => Ok(Self::Range(protocol, first, last)),
                    false => Err(format!("{port:?}: the first port is above the last")),
                }
            }
            _ if is_name(port) => Ok(Self::Named(port.to_owned(), protocol)),
            _ => Err(format!("{port:?} is not a port: write a number, a range or the name of a port")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_with_ports_are_parsed() {
        let workload = || Pattern::Workload("db".into(), "postgres".into());
        let net = |text: &str| Pattern::Block(text.parse().expect("a CIDR"));
        for (text, end, ports) in [
            ("db/postgres", workload(), Ports::All),
            ("db/postgres:*", workload(), Ports::All),
            ("db/postgres:5432", workload(), Ports::Range(Protocol::TCP, 5432, 5432)),
            ("db/postgres:5432/UDP", workload(), Ports::Range(Protocol::UDP, 5432, 5432)),
            ("db/postgres:sql", workload(), Ports::Named("sql".to_owned(), Protocol::TCP)),
            ("db/postgres:9100-9199", workload(), Ports::Range(Protocol::TCP, 9100, 9199)),
            ("db/postgres:UDP", workload(), Ports::Range(Protocol::UDP, 1, 65535)),
            ("db/*:ICMP", Pattern::Namespace("db".into()), Ports::Others),
            ("*", Pattern::Workloads, Ports::All),
            ("outside:443", Pattern::Outside, Ports::Range(Protocol::TCP, 443, 443)),
            ("192.0.2.0/24:443", net("192.0.2.0/24"), Ports::Range(Protocol::TCP, 443, 443)),
            ("2001:db8::1", net("2001:db8::1/128"), Ports::All),
            ("[2001:db8::/32]:443", net("2001:db8::/32"), Ports::Range(Protocol::TCP, 443, 443)),
        ] {
            assert_eq!(Pattern::parse_with_ports(text), Ok((end, ports)), "{text}");
        }
    }

    #[test]
    fn what_is_no_end_or_port_is_refused() {
        for text in ["", "db", "db/", "/x", "db/a/b", "db/po\u{1b}[2J", "DB/x", "10.0.0.0/40"] {
            Pattern::parse(text).expect_err(text);
        }
        for text in ["db/a:0", "db/a:70000", "db/a:90-80", "db/a:80/ICMP", "db/a:80/TPC", "db/a:x y", "db/a:"]
        {
            Pattern::parse_with_ports(text).expect_err(text);
        }
    }
}
