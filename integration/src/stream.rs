//! A long-lived connection that carries numbered messages and checks that all come back whole, and over a connection
//! in order. Datagrams may overtake one another: those that wait for the verdict of the first are passed by those that
//! are sent when it has been given.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::poll::PollFlags;

use crate::port::Transport;
use crate::probe::{Family, Way};
use crate::server::Greeting;
use crate::socket;
use crate::testbed::Testbed;

/// A message is its number.
const MESSAGE: usize = size_of::<u64>();

/// One message is sent in this time, unless the stream has a pace of its own.
const INTERVAL: Duration = Duration::from_millis(1);

/// A datagram that has not come back within this time is lost.
const LOST_AFTER: Duration = Duration::from_secs(5);

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
    /// When each datagram was sent that was lost.
    lost: Mutex<Vec<Instant>>,
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
    /// When each datagram was sent that did not come back. Over a connection none is lost.
    pub lost: Vec<Instant>,
}

impl Stream {
    /// Opens a stream to a port of a pod (`80`, `53/UDP`) and starts to send.
    pub fn open(testbed: &Testbed, from: &str, to: &str, way: Way, family: Family) -> Result<Self> {
        let stream = Self::open_every(testbed, from, to, way, family, INTERVAL)?;
        stream.wait_progress(10)?;
        Ok(stream)
    }

    /// Opens a stream that sends a message in each `interval`. Nothing need have come back yet.
    pub fn open_every(
        testbed: &Testbed,
        from: &str,
        to: &str,
        way: Way,
        family: Family,
        interval: Duration,
    ) -> Result<Self> {
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
            lost: Mutex::default(),
        });
        let shared = Arc::clone(&progress);
        let thread = namespace.spawn(move || exchange(wire, interval, &shared))?;
        Ok(Self { client, progress, thread: Some(thread) })
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

    /// Whether it has ended by itself, which is a failure.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until `count` more messages have come back.
    pub fn wait_progress(&self, count: u64) -> Result<()> {
        let (begun, before) = (Instant::now(), self.echoed());
        while self.echoed() < before + count {
            let ended = self.has_ended();
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
    pub fn finish(self) -> Result<StreamReport> {
        let client = self.client;
        let report = self.end()?;
        if report.echoed != report.sent {
            bail!("the stream of {client} lost messages: {report:?}");
        }
        Ok(report)
    }

    /// [`Stream::finish`], but datagrams may have been lost.
    pub fn end(mut self) -> Result<StreamReport> {
        self.progress.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join().map_err(|_| anyhow!("the stream's thread panicked"))?;
            ended?.with_context(|| format!("the stream of {}", self.client))?;
        }
        let sent = self.progress.sent.load(Ordering::Acquire);
        let longest_gap = self.progress.echo.lock().unwrap_or_else(PoisonError::into_inner).1;
        let lost = self.progress.lost.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(StreamReport { sent, echoed: self.echoed(), longest_gap, lost })
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
fn exchange(mut wire: Wire, interval: Duration, progress: &Progress) -> io::Result<()> {
    let (mut outgoing, mut incoming) = (Vec::new(), Vec::new());
    let mut numbers = Numbers::default();
    let mut due = Instant::now();
    let mut stopped_at = None;
    loop {
        let now = Instant::now();
        if progress.stop.load(Ordering::Acquire) {
            let since = *stopped_at.get_or_insert(now);
            if numbers.are_all_back(since.elapsed()) || since.elapsed() > PATIENCE {
                numbers.give_up(Duration::ZERO);
                *progress.lost.lock().unwrap_or_else(PoisonError::into_inner) =
                    numbers.lost.into_values().collect();
                return Ok(());
            }
        } else if now >= due {
            due += interval;
            // While the connection is stuck, numbers don't pile up: what was written is what must come back.
            if outgoing.is_empty() {
                outgoing.extend_from_slice(&numbers.next(now, &wire).to_be_bytes());
                progress.sent.store(numbers.next, Ordering::Release);
            }
            numbers.give_up(LOST_AFTER);
        }
        if !outgoing.is_empty() {
            match wire.write(&outgoing) {
                Ok(written) => drop(outgoing.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        let pause = due.saturating_duration_since(Instant::now()).clamp(INTERVAL, interval.max(INTERVAL));
        socket::wait(&wire, PollFlags::POLLIN, pause)?;
        match wire.read(&mut incoming) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        let whole = incoming.len() - incoming.len() % MESSAGE;
        for message in incoming.drain(..whole).collect::<Vec<u8>>().chunks_exact(MESSAGE) {
            numbers.back(message.try_into().map(u64::from_be_bytes).map_err(io::Error::other)?, &wire)?;
            progress.echoed.fetch_add(1, Ordering::AcqRel);
            let now = Instant::now();
            let mut echo = progress.echo.lock().unwrap_or_else(PoisonError::into_inner);
            echo.1 = echo.1.max(now.duration_since(echo.0));
            echo.0 = now;
        }
    }
}

/// The numbers of messages: which is sent next, and which are to come back.
#[derive(Default)]
struct Numbers {
    next: u64,
    /// Beyond the highest that has come back.
    expected: u64,
    /// Datagrams that have not come back, with when they were sent.
    outstanding: BTreeMap<u64, Instant>,
    /// Those of them that are given up.
    lost: BTreeMap<u64, Instant>,
}

impl Numbers {
    /// The number of the message that is sent now.
    fn next(&mut self, now: Instant, wire: &Wire) -> u64 {
        if let Wire::Datagrams(_) = wire {
            self.outstanding.insert(self.next, now);
        }
        self.next += 1;
        self.next - 1
    }

    /// A message came back: over a connection the next one, of datagrams one that has not come back yet.
    fn back(&mut self, number: u64, wire: &Wire) -> io::Result<()> {
        let in_place = match wire {
            Wire::Connection(_) => number == self.expected,
            Wire::Datagrams(_) => {
                self.outstanding.remove(&number).or_else(|| self.lost.remove(&number)).is_some()
            }
        };
        if !in_place {
            let expected = self.expected;
            return Err(io::Error::other(format!("message {number} came back in place of {expected}")));
        }
        self.expected = self.expected.max(number + 1);
        Ok(())
    }

    /// Whether nothing more is expected, `since` after sending stopped.
    fn are_all_back(&self, since: Duration) -> bool {
        self.expected == self.next && (self.outstanding.is_empty() || since > OVERTAKEN)
    }

    /// Counts outstanding datagrams that were sent at least `age` ago as lost.
    fn give_up(&mut self, age: Duration) {
        while let Some(entry) = self.outstanding.first_entry() {
            if entry.get().elapsed() < age {
                return;
            }
            let (number, sent) = entry.remove_entry();
            self.lost.insert(number, sent);
        }
    }
}
