//! The server in a pod. It sends its own name and the client's address, and echoes what it receives.
//!
//! One thread serves all ports of a pod. On a connection, it first writes a [`Greeting`] line. It answers a
//! datagram with that line followed by the datagram. It records when the last byte arrived from each client,
//! because no byte of a cut connection may arrive.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;

use crate::namespace::NetworkNamespace;
use crate::port::{PodPort, Transport};
use crate::socket;

/// The first line that a server sends: its pod, and the client's address and port as the server sees them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Greeting {
    /// The pod (`namespace/name`), or the host.
    pub server: String,
    /// The client as the server sees it, after all address translation.
    pub client: SocketAddr,
}

impl fmt::Display for Greeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {}", self.server, self.client)
    }
}

impl FromStr for Greeting {
    type Err = io::Error;

    fn from_str(line: &str) -> io::Result<Self> {
        let parsed = line.trim_end().split_once(' ').and_then(|(server, client)| {
            Some(Self { server: server.to_owned(), client: client.parse().ok()? })
        });
        parsed.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, format!("{line:?} is not a greeting")))
    }
}

/// When the last byte arrived from each client. Shared with the server.
#[derive(Clone, Debug, Default)]
pub struct Arrivals(Arc<Mutex<HashMap<Arrival, Instant>>>);

/// A client, the server's port, and whether that is a UDP port. A client may use one port number for several
/// ports of the server.
type Arrival = (SocketAddr, u16, bool);

impl Arrivals {
    /// When the last byte arrived from a client, which is named by its address as the server sees it; `None`
    /// if none has arrived.
    pub fn last(&self, client: SocketAddr) -> Option<Instant> {
        let arrivals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        arrivals.iter().filter(|((of, ..), _)| *of == client).map(|(_, at)| *at).max()
    }

    /// When the last byte arrived from a client at one port of the server; `None` if none has arrived.
    pub fn last_at(&self, (port, transport): (u16, Transport), client: SocketAddr) -> Option<Instant> {
        let arrivals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        arrivals.get(&(client, port, transport == Transport::Udp)).copied()
    }

    fn record(&self, client: SocketAddr, port: u16, is_datagram: bool) {
        let mut arrivals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        arrivals.insert((client, port, is_datagram), Instant::now());
        // Under load, each connection has its own client port. Old entries are removed.
        if arrivals.len() > 10_000 {
            arrivals.retain(|_, at| at.elapsed() < Duration::from_secs(60));
        }
    }
}

/// A running server, which stops when this is dropped.
#[derive(Debug)]
pub struct Server {
    arrivals: Arrivals,
    /// Closing this end of a pipe wakes the thread and ends it.
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<Result<io::Result<()>>>>,
}

impl Server {
    /// Starts the server of `name` on each of its addresses and ports. When this returns, the server listens.
    pub fn start(
        namespace: &NetworkNamespace,
        name: &str,
        addresses: &[IpAddr],
        ports: &[PodPort],
    ) -> Result<Self> {
        let mut server = namespace
            .run(|| ServerLoop::listen(name, addresses, ports))?
            .with_context(|| format!("starting the server of {name} in {}", namespace.name()))?;
        // An agent that inherited the write end of the pipe would keep the server running.
        let (stopped, stop) = pipe2(OFlag::O_CLOEXEC)?;
        let arrivals = server.arrivals.clone();
        let thread = namespace.spawn(move || server.serve(&stopped))?;
        Ok(Self { arrivals, stop: Some(stop), thread: Some(thread) })
    }

    /// When the last byte arrived from a client, which is named by its address as the server sees it; `None`
    /// if none has arrived.
    pub fn last_arrival(&self, client: SocketAddr) -> Option<Instant> {
        self.arrivals.last(client)
    }

    /// A handle that shows when the last byte arrived from each client, now and later.
    pub fn arrivals(&self) -> Arrivals {
        self.arrivals.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The state of the server's thread.
struct ServerLoop {
    name: String,
    listeners: Vec<TcpListener>,
    /// UDP sockets, each with its port.
    datagrams: Vec<(u16, UdpSocket)>,
    connections: Vec<Connection>,
    arrivals: Arrivals,
}

/// A connection and the bytes that are still to be written to it.
struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    /// The server's port.
    port: u16,
    pending: Vec<u8>,
}

/// The server stops reading from a connection whose client has not read this many pending bytes.
const MAX_PENDING: usize = 64 * 1024;

impl ServerLoop {
    fn listen(name: &str, addresses: &[IpAddr], ports: &[PodPort]) -> io::Result<Self> {
        let mut listeners = Vec::new();
        let mut datagrams = Vec::new();
        for address in addresses {
            for port in ports {
                let at = SocketAddr::new(*address, port.number);
                if port.transport == Transport::Udp {
                    let socket = UdpSocket::bind(at)?;
                    socket::keep_many_datagrams(&socket)?;
                    socket.set_nonblocking(true)?;
                    datagrams.push((port.number, socket));
                } else {
                    listeners.push(socket::listener(port.transport, at)?);
                }
            }
        }
        Ok(Self {
            name: name.to_owned(),
            listeners,
            datagrams,
            connections: Vec::new(),
            arrivals: Arrivals::default(),
        })
    }

    fn serve(&mut self, stopped: &OwnedFd) -> io::Result<()> {
        loop {
            let mut fds = vec![PollFd::new(stopped.as_fd(), PollFlags::POLLIN)];
            fds.extend(self.listeners.iter().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
            fds.extend(self.datagrams.iter().map(|(_, fd)| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
            fds.extend(self.connections.iter().map(|c| PollFd::new(c.stream.as_fd(), c.events())));
            match poll(&mut fds, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => continue,
                other => other?,
            };
            let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
            let (first, rest) = ready.split_at(1);
            if first == [true] {
                return Ok(());
            }
            let (listeners, rest) = rest.split_at(self.listeners.len());
            let (datagrams, connections) = rest.split_at(self.datagrams.len());
            self.work_on_connections(connections);
            self.answer_datagrams(datagrams);
            self.accept(listeners);
        }
    }

    fn work_on_connections(&mut self, ready: &[bool]) {
        let mut ready = ready.iter();
        let arrivals = &self.arrivals;
        self.connections.retain_mut(|connection| match ready.next() {
            Some(true) => connection.work(arrivals).is_ok(),
            _ => true,
        });
    }

    fn answer_datagrams(&self, ready: &[bool]) {
        let mut buffer = [0; 2048];
        let ready = self.datagrams.iter().zip(ready).filter(|(_, ready)| **ready);
        for ((port, socket), _) in ready {
            while let Ok((length, client)) = socket.recv_from(&mut buffer) {
                self.arrivals.record(client, *port, true);
                let mut answer = Greeting { server: self.name.clone(), client }.to_string().into_bytes();
                answer.extend_from_slice(&buffer[..length]);
                // The client may be gone.
                let _ = socket.send_to(&answer, client);
            }
        }
    }

    fn accept(&mut self, ready: &[bool]) {
        for listener in
            self.listeners.iter().zip(ready).filter_map(|(listener, ready)| ready.then_some(listener))
        {
            while let Ok((stream, peer)) = listener.accept() {
                let greeting = Greeting { server: self.name.clone(), client: peer };
                let Ok(port) = stream.local_addr().map(|address| address.port()) else { continue };
                let pending = greeting.to_string().into_bytes();
                let mut connection = Connection { stream, peer, port, pending };
                // SCTP refuses this option of TCP, and does not need it.
                let _ = connection.stream.set_nodelay(true);
                if connection.stream.set_nonblocking(true).is_ok() && connection.flush().is_ok() {
                    self.connections.push(connection);
                }
            }
        }
    }
}

impl Connection {
    fn events(&self) -> PollFlags {
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLOUT, !self.pending.is_empty());
        events.set(PollFlags::POLLIN, self.pending.len() < MAX_PENDING);
        events
    }

    /// Reads the available bytes and writes pending ones. An error ends the connection.
    fn work(&mut self, arrivals: &Arrivals) -> io::Result<()> {
        let mut buffer = [0; 4096];
        while self.pending.len() < MAX_PENDING {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => {
                    arrivals.record(self.peer, self.port, false);
                    self.pending.extend_from_slice(&buffer[..length]);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.pending.is_empty() {
            match self.stream.write(&self.pending) {
                Ok(written) => drop(self.pending.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_is_parsed() {
        let greeting = Greeting { server: "web/a".into(), client: "[fd00::1]:80".parse().unwrap() };
        assert_eq!(greeting.to_string().parse::<Greeting>().unwrap(), greeting);
        assert!("nonsense".parse::<Greeting>().is_err());
    }

    /// Found by a chaos run: a denied attempt had the same client port as a stream to another port of the
    /// server, and so seemed to have arrived.
    #[test]
    fn a_client_may_use_one_port_number_for_several_ports_of_the_server() {
        let arrivals = Arrivals::default();
        let client: SocketAddr = "192.0.2.1:4000".parse().expect("an address");
        arrivals.record(client, 9187, false);
        let last = arrivals.last_at((9187, Transport::Tcp), client);
        assert!(last.is_some() && arrivals.last(client) == last);
        assert_eq!(arrivals.last_at((5432, Transport::Tcp), client), None);
        assert_eq!(arrivals.last_at((9187, Transport::Udp), client), None);
    }
}
