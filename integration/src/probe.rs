//! A probe: one connection by TCP, UDP or SCTP, or one ping, in one address family, and its outcome.

use std::fmt;
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::str::FromStr;
use std::time::Duration;

use anyhow::Result;

use crate::port::{PodPort, Transport};
use crate::server::Greeting;
use crate::socket::{self, SocketOutcome};

/// An address family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, IPv4 first.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The address of this family, of the two of a pod or host.
    pub fn of(self, addresses: [IpAddr; 2]) -> IpAddr {
        match self {
            Self::V4 => addresses[0],
            Self::V6 => addresses[1],
        }
    }
}

/// What a probe reaches for: a port (`80`, `53/UDP`, `9/SCTP`) or `ping`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProbeTarget {
    /// A connection or a datagram to a port.
    Port(u16, Transport),
    /// An ICMP or ICMPv6 echo request.
    Ping,
}

impl FromStr for ProbeTarget {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "ping" {
            return Ok(Self::Ping);
        }
        let port: PodPort = text.parse()?;
        Ok(Self::Port(port.number, port.transport))
    }
}

impl fmt::Display for ProbeTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(number, transport) => write!(f, "{number}/{transport}"),
            Self::Ping => f.write_str("ping"),
        }
    }
}

/// The outcome of a probe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// A server answered with its greeting.
    Reached(Greeting),
    /// An echo reply arrived.
    Replied,
    /// Nothing arrived in time. This is how a denied connection must fail.
    TimedOut,
    /// The other side refused. A denied connection must never fail like this.
    Refused,
    /// Another error.
    Failed(String),
}

impl Answer {
    /// Whether the other side was reached.
    pub fn reached(&self) -> bool {
        matches!(self, Self::Reached(_) | Self::Replied)
    }

    pub(crate) fn of_error(error: &io::Error) -> Self {
        match error.kind() {
            // A read that times out on a blocking socket returns `WouldBlock`.
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Self::TimedOut,
            ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Self::Refused,
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reached(greeting) => write!(f, "reached {}", greeting.server),
            Self::Replied => f.write_str("got a reply"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Refused => f.write_str("was refused"),
            Self::Failed(error) => write!(f, "failed: {error}"),
        }
    }
}

/// A probe and its outcome, with the addresses and ports by which its audit record is found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Observed {
    /// The client's address and port. For a ping, the port is the identifier.
    pub source: SocketAddr,
    /// The destination. For a ping, the port is 0.
    pub destination: SocketAddr,
    /// What was probed.
    pub target: ProbeTarget,
    /// The outcome.
    pub answer: Answer,
}

/// Probes `to` from the namespace of the calling thread. Waits at most `timeout` for each step.
pub fn probe(to: IpAddr, target: ProbeTarget, timeout: Duration) -> Result<Observed> {
    let port = match target {
        ProbeTarget::Port(port, _) => port,
        ProbeTarget::Ping => 0,
    };
    let destination = SocketAddr::new(to, port);
    let (source, answer) = match target {
        ProbeTarget::Ping => answer(socket::ping(to, timeout)?, |()| Ok(Answer::Replied)),
        ProbeTarget::Port(_, Transport::Udp) => {
            answer(datagram(destination, timeout)?, |greeting| Ok(Answer::Reached(greeting)))
        }
        ProbeTarget::Port(_, transport) => {
            answer(socket::connection(transport, destination, timeout)?, |stream| {
                greeting_of(stream, timeout).map(Answer::Reached)
            })
        }
    };
    Ok(Observed { source, destination, target, answer })
}

fn answer<T>(attempt: SocketOutcome<T>, read: impl FnOnce(T) -> io::Result<Answer>) -> (SocketAddr, Answer) {
    (attempt.local, attempt.outcome.and_then(read).unwrap_or_else(|error| Answer::of_error(&error)))
}

/// Reads the greeting of a server from a new connection.
fn greeting_of(stream: TcpStream, timeout: Duration) -> io::Result<Greeting> {
    stream.set_read_timeout(Some(timeout))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    line.parse()
}

/// Sends a datagram and waits for the server's answer.
fn datagram(to: SocketAddr, timeout: Duration) -> io::Result<SocketOutcome<Greeting>> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(timeout))?;
    let local = socket.local_addr()?;
    let exchange = || -> io::Result<Greeting> {
        socket.send(b"probe")?;
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer)?;
        String::from_utf8_lossy(&buffer[..length]).lines().next().unwrap_or_default().parse()
    };
    Ok(SocketOutcome { local, outcome: exchange() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_parsed() {
        assert_eq!("ping".parse::<ProbeTarget>().unwrap(), ProbeTarget::Ping);
        assert_eq!("53/UDP".parse::<ProbeTarget>().unwrap(), ProbeTarget::Port(53, Transport::Udp));
        assert_eq!("80".parse::<ProbeTarget>().unwrap().to_string(), "80/TCP");
    }

    #[test]
    fn a_closed_port_refuses() {
        let observed =
            probe("127.0.0.1".parse().unwrap(), ProbeTarget::Port(1, Transport::Tcp), Duration::from_secs(1));
        assert_eq!(observed.unwrap().answer, Answer::Refused);
    }
}
