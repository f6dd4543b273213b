//! One try to reach something: by TCP, UDP, SCTP or ping, in one family, and what came of it.

use std::fmt;
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::str::FromStr;
use std::time::Duration;

use anyhow::Result;

use crate::port::{Port, Transport};
use crate::server::Greeting;
use crate::socket::{self, Attempt};

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

    /// The address of this family among a pod's or host's two.
    pub fn of(self, addresses: [IpAddr; 2]) -> IpAddr {
        match self {
            Self::V4 => addresses[0],
            Self::V6 => addresses[1],
        }
    }
}

/// What is tried: a port (`80`, `53/UDP`, `9/SCTP`) or `ping`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// A connection or a datagram to a port.
    Port(u16, Transport),
    /// An ICMP or ICMPv6 echo request.
    Ping,
}

impl FromStr for Way {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "ping" {
            return Ok(Self::Ping);
        }
        let port: Port = text.parse()?;
        Ok(Self::Port(port.number, port.transport))
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(number, transport) => write!(f, "{number}/{transport}"),
            Self::Ping => f.write_str("ping"),
        }
    }
}

/// What came of a try.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// A server greeted.
    Reached(Greeting),
    /// The echo reply came.
    Replied,
    /// Nothing came in time: what a denied packet must look like.
    TimedOut,
    /// The other side refused: what a denied packet must never look like.
    Refused,
    /// Something else went wrong.
    Failed(String),
}

impl Answer {
    /// Whether the other side was reached.
    pub fn reached(&self) -> bool {
        matches!(self, Self::Reached(_) | Self::Replied)
    }

    pub(crate) fn of_error(error: &io::Error) -> Self {
        match error.kind() {
            // A read that times out on a blocking socket says that it would block.
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

/// A try and its answer, with what it takes to find it in an audit log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Observed {
    /// The client's address and port (for a ping: the identifier in place of the port).
    pub source: SocketAddr,
    /// Where to; port 0 for a ping.
    pub destination: SocketAddr,
    /// What was tried.
    pub way: Way,
    /// What came of it.
    pub answer: Answer,
}

/// Tries to reach `to` from the namespace of the calling thread; waits at most `patience` for each step of it.
pub fn probe(to: IpAddr, way: Way, patience: Duration) -> Result<Observed> {
    let port = match way {
        Way::Port(port, _) => port,
        Way::Ping => 0,
    };
    let destination = SocketAddr::new(to, port);
    let (source, answer) = match way {
        Way::Ping => answer(socket::ping(to, patience)?, |()| Ok(Answer::Replied)),
        Way::Port(_, Transport::Udp) => {
            answer(datagram(destination, patience)?, |greeting| Ok(Answer::Reached(greeting)))
        }
        Way::Port(_, transport) => answer(socket::connection(transport, destination, patience)?, |stream| {
            greeting_of(stream, patience).map(Answer::Reached)
        }),
    };
    Ok(Observed { source, destination, way, answer })
}

fn answer<T>(attempt: Attempt<T>, read: impl FnOnce(T) -> io::Result<Answer>) -> (SocketAddr, Answer) {
    (attempt.local, attempt.outcome.and_then(read).unwrap_or_else(|error| Answer::of_error(&error)))
}

/// Reads the greeting of a server from a new connection.
fn greeting_of(stream: TcpStream, patience: Duration) -> io::Result<Greeting> {
    stream.set_read_timeout(Some(patience))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    line.parse()
}

/// Sends a datagram and waits for the server's answer.
fn datagram(to: SocketAddr, patience: Duration) -> io::Result<Attempt<Greeting>> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(patience))?;
    let local = socket.local_addr()?;
    let exchange = || -> io::Result<Greeting> {
        socket.send(b"probe")?;
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer)?;
        String::from_utf8_lossy(&buffer[..length]).lines().next().unwrap_or_default().parse()
    };
    Ok(Attempt { local, outcome: exchange() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_are_read() {
        assert_eq!("ping".parse::<Way>().unwrap(), Way::Ping);
        assert_eq!("53/UDP".parse::<Way>().unwrap(), Way::Port(53, Transport::Udp));
        assert_eq!("80".parse::<Way>().unwrap().to_string(), "80/TCP");
    }

    #[test]
    fn a_closed_port_refuses() {
        let observed =
            probe("127.0.0.1".parse().unwrap(), Way::Port(1, Transport::Tcp), Duration::from_secs(1));
        assert_eq!(observed.unwrap().answer, Answer::Refused);
    }
}
