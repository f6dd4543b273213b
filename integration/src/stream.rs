//! A long-lived connection that sends numbered messages and checks that all of them are echoed: over TCP and
//! SCTP in order. Datagrams may be reordered, since those that wait for the verdict of the first one are
//! overtaken by later ones.

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
use crate::probe::{Family, ProbeTarget};
use crate::server::Greeting;
use crate::socket;
use crate::testbed::Testbed;

/// The length of a message, which consists of its number.
const MESSAGE: usize = size_of::<u64>();

/// The default time between two messages.
const INTERVAL: Duration = Duration::from_millis(1);

/// A datagram without an echo within this time is lost.
const LOST_AFTER: Duration = Duration::from_secs(5);

/// How long to wait for overtaken datagrams after the echo of the last one.
const REORDER_WINDOW: Duration = Duration::from_millis(500);

/// How long opening a connection may take, and how long the last echoes may take at the end.
const TIMEOUT: Duration = Duration::from_secs(5);

/// See the module's documentation.
#[derive(Debug)]
pub struct Stream {
    transport: Transport,
    client: SocketAddr,
    progress: Arc<Progress>,
    thread: Option<JoinHandle<Result<io::Result<()>>>>,
}

/// The state that the stream's thread shares.
#[derive(Debug)]
struct Progress {
    stop: AtomicBool,
    sent: AtomicU64,
    echoed: AtomicU64,
    /// When the last echo arrived, and the longest time without one so far.
    echo: Mutex<(Instant, Duration)>,
    /// When each lost datagram was sent.
    lost: Mutex<Vec<Instant>>,
}

/// The totals of a finished stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamReport {
    /// Messages sent.
    pub sent: u64,
    /// Messages that were echoed.
    pub echoed: u64,
    /// The longest time between two echoes.
    pub longest_gap: Duration,
    /// When each datagram without an echo was sent. Empty for connections.
    pub lost: Vec<Instant>,
}

impl Stream {
    /// Opens a stream to a port of a pod (`80`, `53/UDP`), and waits for the first echoes.
    pub fn open(
        testbed: &Testbed,
        from: &str,
        to: &str,
        target: ProbeTarget,
        family: Family,
    ) -> Result<Self> {
        let stream = Self::open_with_interval(testbed, from, to, target, family, INTERVAL)?;
        stream.wait_progress(10)?;
        Ok(stream)
    }

    /// Opens a stream that sends a message in each `interval`, without waiting for an echo.
    pub fn open_with_interval(
        testbed: &Testbed,
        from: &str,
        to: &str,
        target: ProbeTarget,
        family: Family,
        interval: Duration,
    ) -> Result<Self> {
        let ProbeTarget::Port(port, transport) = target else { bail!("a ping is not a stream") };
        let to = SocketAddr::new(family.of(testbed.addresses(to)?), port);
        let namespace = testbed.namespace(from)?;
        let (client, channel) = namespace
            .run(|| Channel::open(transport, to))?
            .with_context(|| format!("opening a stream from {from} to {to}"))?;
        let progress = Arc::new(Progress {
            stop: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            echoed: AtomicU64::new(0),
            echo: Mutex::new((Instant::now(), Duration::ZERO)),
            lost: Mutex::default(),
        });
        let shared = Arc::clone(&progress);
        let thread = namespace.spawn(move || exchange(channel, interval, &shared))?;
        Ok(Self { transport, client, progress, thread: Some(thread) })
    }

    /// Its protocol.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The client's own address and port.
    pub fn client(&self) -> SocketAddr {
        self.client
    }

    /// How many messages were echoed so far.
    pub fn echoed(&self) -> u64 {
        self.progress.echoed.load(Ordering::Acquire)
    }

    /// When the last echo arrived.
    pub fn last_echo(&self) -> Instant {
        self.progress.echo.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Whether it has ended before it was asked to, which is a failure.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits until `count` more messages were echoed.
    pub fn wait_progress(&self, count: u64) -> Result<()> {
        let (begun, before) = (Instant::now(), self.echoed());
        while self.echoed() < before + count {
            let ended = self.has_ended();
            if ended || begun.elapsed() > TIMEOUT {
                let how = if ended { "has failed" } else { "has stalled" };
                bail!(
                    "the stream of {} {how}: {} of {count} messages were echoed in {:?}",
                    self.client,
                    self.echoed() - before,
                    begun.elapsed()
                );
            }
            sleep(INTERVAL);
        }
        Ok(())
    }

    /// Stops sending, waits for outstanding echoes, and returns the totals. Fails if a message was lost or
    /// echoed twice, or if a connection's echoes are out of order.
    pub fn finish(self) -> Result<StreamReport> {
        let client = self.client;
        let report = self.end()?;
        if report.echoed != report.sent {
            bail!("the stream of {client} lost messages: {report:?}");
        }
        Ok(report)
    }

    /// [`Stream::finish`], but lost datagrams are no failure.
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

/// The stream's socket.
enum Channel {
    Connection(TcpStream),
    Datagrams(UdpSocket),
}

impl Channel {
    fn open(transport: Transport, to: SocketAddr) -> io::Result<(SocketAddr, Self)> {
        if transport == Transport::Udp {
            let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
            let socket = UdpSocket::bind(any)?;
            socket::keep_many_datagrams(&socket)?;
            socket.connect(to)?;
            socket.set_nonblocking(true)?;
            return Ok((socket.local_addr()?, Self::Datagrams(socket)));
        }
        let attempt = socket::connection(transport, to, TIMEOUT)?;
        let stream = attempt.outcome?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let mut line = String::new();
        // Nothing follows the greeting before the first message is sent, so the reader buffers nothing else.
        BufReader::new(&stream).read_line(&mut line)?;
        line.parse::<Greeting>()?;
        // SCTP refuses this option of TCP, and does not need it.
        let _ = stream.set_nodelay(true);
        stream.set_nonblocking(true)?;
        Ok((attempt.local, Self::Connection(stream)))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Connection(stream) => stream.write(bytes),
            // Only a connection can have written a part of the next message.
            Self::Datagrams(socket) => socket.send(&bytes[..MESSAGE.min(bytes.len())]),
        }
    }

    /// Appends what was received; of a datagram, what follows the greeting.
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

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Connection(stream) => stream.as_fd(),
            Self::Datagrams(socket) => socket.as_fd(),
        }
    }
}

/// Sends and receives until it must stop and every message is echoed, or until the timeout after that.
fn exchange(mut channel: Channel, interval: Duration, progress: &Progress) -> io::Result<()> {
    let (mut outgoing, mut incoming) = (Vec::new(), Vec::new());
    let mut sequence = Sequence::default();
    let mut due = Instant::now();
    let mut stopped_at = None;
    loop {
        let now = Instant::now();
        if progress.stop.load(Ordering::Acquire) {
            let since = *stopped_at.get_or_insert(now);
            if sequence.is_complete(since.elapsed()) || since.elapsed() > TIMEOUT {
                sequence.mark_lost(Duration::ZERO);
                *progress.lost.lock().unwrap_or_else(PoisonError::into_inner) =
                    sequence.lost.into_values().collect();
                return Ok(());
            }
        } else if now >= due {
            due += interval;
            // While the socket's buffer is full, no further number is issued: exactly the written messages
            // must be echoed.
            if outgoing.is_empty() {
                outgoing.extend_from_slice(&sequence.next(now, &channel).to_be_bytes());
                progress.sent.store(sequence.next, Ordering::Release);
            }
            sequence.mark_lost(LOST_AFTER);
        }
        if !outgoing.is_empty() {
            match channel.write(&outgoing) {
                Ok(written) => drop(outgoing.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        let pause = due.saturating_duration_since(Instant::now()).clamp(INTERVAL, interval.max(INTERVAL));
        socket::wait(&channel, PollFlags::POLLIN, pause)?;
        match channel.read(&mut incoming) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        let whole = incoming.len() - incoming.len() % MESSAGE;
        for message in incoming.drain(..whole).collect::<Vec<u8>>().chunks_exact(MESSAGE) {
            sequence
                .received(message.try_into().map(u64::from_be_bytes).map_err(io::Error::other)?, &channel)?;
            progress.echoed.fetch_add(1, Ordering::AcqRel);
            let now = Instant::now();
            let mut echo = progress.echo.lock().unwrap_or_else(PoisonError::into_inner);
            echo.1 = echo.1.max(now.duration_since(echo.0));
            echo.0 = now;
        }
    }
}

/// The sequence numbers of messages: the next one, and those without an echo.
#[derive(Default)]
struct Sequence {
    next: u64,
    /// One more than the highest number that was echoed.
    expected: u64,
    /// Datagrams without an echo, with the time at which they were sent.
    outstanding: BTreeMap<u64, Instant>,
    /// Datagrams that are considered lost, with the time at which they were sent.
    lost: BTreeMap<u64, Instant>,
}

impl Sequence {
    /// Issues the number of the message that is sent now.
    fn next(&mut self, now: Instant, channel: &Channel) -> u64 {
        if let Channel::Datagrams(_) = channel {
            self.outstanding.insert(self.next, now);
        }
        self.next += 1;
        self.next - 1
    }

    /// Checks an echo: over a connection, it must be the next one; of datagrams, one that was not echoed yet.
    fn received(&mut self, number: u64, channel: &Channel) -> io::Result<()> {
        let in_place = match channel {
            Channel::Connection(_) => number == self.expected,
            Channel::Datagrams(_) => {
                self.outstanding.remove(&number).or_else(|| self.lost.remove(&number)).is_some()
            }
        };
        if !in_place {
            let expected = self.expected;
            return Err(io::Error::other(format!("message {number} was echoed instead of {expected}")));
        }
        self.expected = self.expected.max(number + 1);
        Ok(())
    }

    /// Whether every echo has arrived, `since` after sending stopped.
    fn is_complete(&self, since: Duration) -> bool {
        self.expected == self.next && (self.outstanding.is_empty() || since > REORDER_WINDOW)
    }

    /// Considers outstanding datagrams lost if they were sent at least `age` ago.
    fn mark_lost(&mut self, age: Duration) {
        while let Some(entry) = self.outstanding.first_entry() {
            if entry.get().elapsed() < age {
                return;
            }
            let (number, sent) = entry.remove_entry();
            self.lost.insert(number, sent);
        }
    }
}
