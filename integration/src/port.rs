//! A port of a pod, and its protocol.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Result, bail};

/// A transport protocol that a port can have.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP, where the kernel has it.
    Sctp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// A port of a pod: `80`, `53/UDP`, `http=8080/TCP`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PodPort {
    /// The name that policies may use for it.
    pub name: Option<String>,
    /// Its number.
    pub number: u16,
    /// Its protocol.
    pub transport: Transport,
}

impl FromStr for PodPort {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, rest) = match text.split_once('=') {
            Some((name, rest)) => (Some(name.to_owned()), rest),
            None => (None, text),
        };
        let (number, transport) = rest.split_once('/').unwrap_or((rest, "TCP"));
        let transport = match transport {
            "TCP" => Transport::Tcp,
            "UDP" => Transport::Udp,
            "SCTP" => Transport::Sctp,
            other => bail!("port {text:?}: {other:?} is not TCP, UDP or SCTP"),
        };
        let number =
            number.parse().with_context(|| format!("port {text:?}: {number:?} is not a port number"))?;
        Ok(Self { name, number, transport })
    }
}

impl fmt::Display for PodPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.transport)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_parsed() {
        let port: PodPort = "http=8080/TCP".parse().unwrap();
        assert_eq!((port.name.as_deref(), port.number, port.transport), (Some("http"), 8080, Transport::Tcp));
        assert_eq!("53/UDP".parse::<PodPort>().unwrap().transport, Transport::Udp);
        assert!("80/ICMP".parse::<PodPort>().is_err());
        assert!("x".parse::<PodPort>().is_err());
    }
}
