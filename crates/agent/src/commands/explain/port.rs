//! `--port`: destination port and protocol.

use std::str::FromStr;

use cluster::service::{Service, ServicePort};
use policy::{Inventory, Protocol};

use super::endpoint::ResolvedEndpoint;
use crate::exit::Usage;

/// A value of `--port`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum PortArgument {
    /// `5432/TCP`, or `5432`.
    Number(u16, Protocol),
    /// `postgres/TCP`: looked up on the destination pod, as for a policy.
    Name(String, Protocol),
    /// `ICMP`: a protocol without ports.
    None(Protocol),
}

impl FromStr for PortArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (port, protocol) = match text.split_once('/') {
            Some((port, protocol)) => {
                (port, protocol.parse::<Protocol>().map_err(|error| error.to_string())?)
            }
            // A number alone is a port, although protocols have numbers as well.
            None => match text.parse::<Protocol>() {
                Ok(protocol) if !is_number(text) => ("", protocol),
                _ => (text, Protocol::TCP),
            },
        };
        match (has_ports(protocol), port.is_empty()) {
            (true, true) => {
                return Err(format!("{protocol} has ports: add a number or a name, as in 80/{protocol}"));
            }
            (false, true) => return Ok(Self::None(protocol)),
            (false, false) => return Err(format!("{protocol} has no ports: write {protocol} alone")),
            (true, false) => {}
        }
        if is_number(port) {
            return match port.parse() {
                Ok(number @ 1..) => Ok(Self::Number(number, protocol)),
                _ => Err(format!("{port} is not a port: ports are 1 to 65535")),
            };
        }
        Ok(Self::Name(port.to_owned(), protocol))
    }
}

/// Whether a NetworkPolicy can contain ports of this protocol.
fn has_ports(protocol: Protocol) -> bool {
    [Protocol::TCP, Protocol::UDP, Protocol::SCTP].contains(&protocol)
}

fn is_number(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

impl PortArgument {
    /// The Service's port with this number or name and protocol. Ports of its pods are not considered.
    pub(super) fn of_service<'a>(&self, service: &'a Service) -> Result<&'a ServicePort, Usage> {
        let found = match self {
            Self::Number(number, protocol) => service
                .ports
                .iter()
                .find(|port| port.port == *number && port.protocol == *protocol)
                .ok_or_else(|| format!("{number}/{protocol}")),
            Self::Name(name, protocol) => service
                .ports
                .iter()
                .find(|port| port.name.as_ref() == Some(name) && port.protocol == *protocol)
                .ok_or_else(|| format!("{name}/{protocol}")),
            Self::None(protocol) => Err(protocol.to_string()),
        };
        found.map_err(|missing| {
            let known: Vec<_> = service.ports.iter().map(ToString::to_string).collect();
            Usage(if known.is_empty() {
                format!("Service {service} has no ports, so it forwards nothing")
            } else {
                format!("Service {service} does not forward {missing}; it has {}", known.join(", "))
            })
        })
    }

    /// Protocol and destination port. A port name is looked up on `to`, as a named port belongs to the
    /// destination (semantics 17, 18).
    pub(super) fn resolve(
        &self,
        to: &ResolvedEndpoint,
        inventory: &Inventory,
    ) -> Result<(Protocol, Option<u16>), Usage> {
        let (name, protocol) = match self {
            Self::Number(number, protocol) => return Ok((*protocol, Some(*number))),
            Self::None(protocol) => return Ok((*protocol, None)),
            Self::Name(name, protocol) => (name, *protocol),
        };
        let pod = to.pod.as_ref().and_then(|pod| inventory.pods.get(pod)).ok_or_else(|| {
            Usage(format!(
                "{to} is an address, and only a pod can have a port named {name:?}: give the number"
            ))
        })?;
        if let Some(port) = pod.ports.iter().find(|port| *port.name == **name && port.protocol == protocol) {
            return Ok((protocol, Some(port.number)));
        }
        let known: Vec<_> = pod.ports.iter().map(|port| format!("{}/{}", port.name, port.protocol)).collect();
        Err(Usage(if known.is_empty() {
            format!("{to} has no port named {name:?}, and no other named port: give the number")
        } else {
            format!("{to} has no port {name}/{protocol}; it has {}", known.join(", "))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_protocols_are_parsed() {
        let cases = [
            ("5432/TCP", PortArgument::Number(5432, Protocol::TCP)),
            ("53/udp", PortArgument::Number(53, Protocol::UDP)),
            ("80", PortArgument::Number(80, Protocol::TCP)),
            ("http/TCP", PortArgument::Name("http".to_owned(), Protocol::TCP)),
            ("http", PortArgument::Name("http".to_owned(), Protocol::TCP)),
            ("ICMP", PortArgument::None(Protocol::ICMP)),
            ("/47", PortArgument::None(Protocol(47))),
            ("7/132", PortArgument::Number(7, Protocol::SCTP)),
        ];
        for (text, port) in cases {
            assert_eq!(text.parse(), Ok(port), "{text}");
        }
    }

    #[test]
    fn an_invalid_port_is_refused() {
        for (text, why) in [
            ("0", "ports are 1 to 65535"),
            ("65536/TCP", "ports are 1 to 65535"),
            ("80/TPC", "TPC"),
            ("80/300", "300"),
            ("TCP", "TCP has ports: add a number or a name, as in 80/TCP"),
            ("/udp", "UDP has ports: add a number or a name, as in 80/UDP"),
            ("sctp", "SCTP has ports"),
            ("80/ICMP", "ICMP has no ports: write ICMP alone"),
            ("http/47", "has no ports"),
        ] {
            let error = text.parse::<PortArgument>().expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
