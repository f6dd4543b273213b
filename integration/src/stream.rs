//! A long-lived connection that carries numbered messages and checks that all come back whole, and over a connection
//! in order. Datagrams may overtake one another: those that wait for the verdict of the first are passed by those that
//! are sent when it has been given.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::poll::PollFlags;

use crate::cluster::Transport;
use crate::probe::{Family, Way};
use crate::server::Greeting;
use crate::socket;
use crate::testbed::Testbed;

/// A message is its number.
const MESSAGE: usize = size_of::<u64>();

/// One message is sent in this time.
const INTERVAL: Duration = Duration::from_millis(1);

/// How long a datagram may come after the last one that was sent.
const OVERTAKEN: Duration = Duration::from_millis(500);

/// How long a connection may take to be set up, and outstanding messages to come back at the end.
const PATIENCE: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub struct Stream {
    client: SocketAddr,
    progress: Arc<Progress>,
    thread: Option<JoinHandle<Result<io::Result<()>>>>,
}

/// How far it has got.
#[derive(Debug)]
struct Progress {
    stop: AtomicBool,
    sent: AtomicU64,
    echoed: AtomicU64,
    /// When the last echo came, and the longest time without one so far.
    echo: Mutex<(Instant, Duration)>,
}

/// What a finished stream tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamReport {
    /// Messages sent.
    pub sent: u64,
    /// Messages that came back.
    pub echoed: u64,
    /// The longest time between two of them.
    pub longest_gap: Duration,
}

impl Stream {
    /// Opens a stream to a port of a pod (`80`, `53/UDP`) and starts to send.
    pub fn open(testbed: &Testbed, from: &str, to: &str, way: Way, family: Family) -> Result<Self> {
        let Way::Port(port, transport) = way else { bail!("a ping is no stream") };
        let to = SocketAddr::new(family.of(testbed.addresses(to)?), port);
        let namespace = testbed.namespace(from)?;
        let (client, wire) = namespace
            .run(|| Wire::open(transport, to))?
            .with_context(|| format!("opening a stream from {from} to {to}"))?;
        let progress = Arc::new(Progress {
            stop: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            echoed: AtomicU64::new(0),
            echo: Mutex::new((Instant::now(), Duration::ZERO)),
        });
        let shared = Arc::clone(&progress);
        let thread = namespace.spawn(move || exchange(wire, &shared))?;
        let stream = Self { client, progress, thread: Some(thread) };
        stream.wait_progress(10)?;
        Ok(stream)
    }

    /// The client's own address and port.
    pub fn client(&self) -> SocketAddr {
        self.client
    }

    /// How many messages have come back.
    pub fn echoed(&self) -> u64 {
        self.progress.echoed.load(Ordering::Acquire)
    }

    /// When the last message came back.
    pub fn last_echo(&self) -> Instant {
        self.progress.echo.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Waits until `count` more messages have come back.
    pub fn wait_progress(&self, count: u64) -> Result<()> {
        let (begun, before) = (Instant::now(), self.echoed());
        while self.echoed() < before + count {
            let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            if ended || begun.elapsed() > PATIENCE {
                let how = if ended { "has failed" } else { "stands still" };
                bail!(
                    "the stream of {} {how}: {} of {count} messages came back in {:?}",
                    self.client,
                    self.echoed() - before,
                    begun.elapsed()
                );
            }
            sleep(INTERVAL);
        }
        Ok(())
    }

    /// Stops sending, waits for what is outstanding, and reports. Fails if one message was lost, came twice, or over a
    /// connection out of order.
    pub fn finish(mut self) -> Result<StreamReport> {
        self.progress.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join().map_err(|_| anyhow!("the stream's thread panicked"))?;
            ended?.with_context(|| format!("the stream of {}", self.client))?;
        }
        let sent = self.progress.sent.load(Ordering::Acquire);
        let longest_gap = self.progress.echo.lock().unwrap_or_else(PoisonError::into_inner).1;
        let report = StreamReport { sent, echoed: self.echoed(), longest_gap };
        if report.echoed != sent {
            bail!("the stream of {} lost messages: {report:?}", self.client);
        }
        Ok(report)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.progress.stop.store(true, Ordering::Release);
    }
}

/// A connected socket.
enum Wire {
    Connection(TcpStream),
    Datagrams(UdpSocket),
}

impl Wire {
    fn open(transport: Transport, to: SocketAddr) -> io::Result<(SocketAddr, Self)> {
        if transport == Transport::Udp {
            let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
            let socket = UdpSocket::bind(any)?;
            socket::keep_many_datagrams(&socket)?;
            socket.connect(to)?;
            socket.set_nonblocking(true)?;
            return Ok((socket.local_addr()?, Self::Datagrams(socket)));
        }
        let attempt = socket::connection(transport, to, PATIENCE)?;
        let stream = attempt.outcome?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut line = String::new();
        // Nothing follows the greeting before the first message is sent: the reader holds nothing back.
        BufReader::new(&stream).read_line(&mut line)?;
        line.parse::<Greeting>()?;
        // SCTP refuses TCP's option: there is nothing to turn off there.
        let _ = stream.set_nodelay(true);
        stream.set_nonblocking(true)?;
        Ok((attempt.local, Self::Connection(stream)))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Connection(stream) => stream.write(bytes),
            // A message to be sent may have been cut in two by an earlier write only on a connection.
            Self::Datagrams(socket) => socket.send(&bytes[..MESSAGE.min(bytes.len())]),
        }
    }

    /// Appends what has come: of a datagram what follows the greeting.
    fn read(&mut self, into: &mut Vec<u8>) -> io::Result<()> {
        let mut buffer = [0; 4096];
        match self {
            Self::Connection(stream) => match stream.read(&mut buffer)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                length => into.extend_from_slice(&buffer[..length]),
            },
            Self::Datagrams(socket) => {
                let length = socket.recv(&mut buffer)?;
                into.extend_from_slice(&buffer[length.saturating_sub(MESSAGE)..length]);
            }
        }
        Ok(())
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Connection(stream) => stream.as_fd(),
            Self::Datagrams(socket) => socket.as_fd(),
        }
    }
}

/// Sends and receives until it is told to stop and all is back, or nothing more comes.
fn exchange(mut wire: Wire, progress: &Progress) -> io::Result<()> {
    let (mut outgoing, mut incoming) = (Vec::new(), Vec::new());
    let (mut next, mut expected) = (0u64, 0u64);
    // Sent before one that is back, and not back themselves.
    let mut missing = BTreeSet::new();
    let mut due = Instant::now();
    let mut stopped_at = None;
    loop {
        let stopping = progress.stop.load(Ordering::Acquire);
        if stopping {
            let since = *stopped_at.get_or_insert_with(Instant::now);
            let is_over = missing.is_empty() || since.elapsed() > OVERTAKEN;
            if (expected == next && is_over) || since.elapsed() > PATIENCE {
                return Ok(());
            }
        } else if Instant::now() >= due {
            due += INTERVAL;
            // While the connection is stuck, numbers don't pile up: what was written is what must come back.
            if outgoing.is_empty() {
                outgoing.extend_from_slice(&next.to_be_bytes());
                next += 1;
                progress.sent.store(next, Ordering::Release);
            }
        }
        if !outgoing.is_empty() {
            match wire.write(&outgoing) {
                Ok(written) => drop(outgoing.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        socket::wait(&wire, PollFlags::POLLIN, INTERVAL)?;
        match wire.read(&mut incoming) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        let whole = incoming.len() - incoming.len() % MESSAGE;
        for message in incoming.drain(..whole).collect::<Vec<u8>>().chunks_exact(MESSAGE) {
            let number = message.try_into().map(u64::from_be_bytes).map_err(io::Error::other)?;
            let in_place = match wire {
                Wire::Connection(_) => number == expected,
                Wire::Datagrams(_) => number >= expected || missing.remove(&number),
            };
            if !in_place {
                return Err(io::Error::other(format!("message {number} came back in place of {expected}")));
            }
            missing.extend(expected..number);
            expected = expected.max(number + 1);
            progress.echoed.fetch_add(1, Ordering::AcqRel);
            let now = Instant::now();
            let mut echo = progress.echo.lock().unwrap_or_else(PoisonError::into_inner);
            echo.1 = echo.1.max(now.duration_since(echo.0));
            echo.0 = now;
        }
    }
}
