//! New connections, one after another: connect, send one byte, receive one byte, reset.
//!
//! A client is a thread in a network namespace that has one connection at a time. The reset leaves nothing on
//! either side: without TIME_WAIT ports are free again at once.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use integration::namespace::NetworkNamespace;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, Shutdown, SockFlag, SockType, SockaddrStorage, connect, setsockopt, shutdown, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// The byte that is sent, and sent back.
const BYTE: [u8; 1] = [b'.'];
/// A connection that takes longer has failed: on one machine, that means that a packet was dropped.
const TIMEOUT_MS: i64 = 900;

/// Answers each connection's byte with a byte, in a namespace, until it is dropped.
#[derive(Debug)]
pub struct ByteServer {
    listener: TcpListener,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl ByteServer {
    /// Listens on `address` with `threads` threads, each with one connection at a time.
    pub fn start(namespace: &NetworkNamespace, address: SocketAddr, threads: usize) -> Result<Self> {
        let listener = namespace
            .run(|| TcpListener::bind(address))?
            .with_context(|| format!("listening on {address} in {}", namespace.name()))?;
        let start = |_| {
            let listener = listener.try_clone()?;
            namespace.spawn(move || serve(&listener))
        };
        let threads = (0..threads).map(start).collect::<Result<_>>()?;
        Ok(Self { listener, threads })
    }
}

impl Drop for ByteServer {
    fn drop(&mut self) {
        // Shutting the listener down wakes every thread that waits in accept (EINVAL).
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn serve(listener: &TcpListener) {
    let mut byte = [0; 1];
    loop {
        match listener.accept() {
            Ok((mut stream, _)) => {
                if stream.read_exact(&mut byte).and_then(|()| stream.write_all(&byte)).is_ok() {
                    // The client closes first, by a reset: this end must not close before.
                    let _ = stream.read(&mut byte);
                }
            }
            // A client that reset its connection before it was accepted.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(_) => return,
        }
    }
}

/// How many clients run, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct LoadPlan {
    /// Threads, each with one connection at a time.
    pub clients: usize,
    /// The time before connections are counted.
    pub warm_up: Duration,
    /// The time while connections are counted.
    pub measured: Duration,
}

/// The result of one run.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Connections that began after the warm-up and succeeded.
    pub connections: u64,
    /// Those, and all connections of the warm-up.
    pub all_connections: u64,
    /// Connections that began after the warm-up and failed.
    pub failures: u64,
    /// Connections per second.
    pub rate: f64,
    /// Nanoseconds that `connect` took, for each successful connection.
    pub connect: Histogram<u64>,
}

/// Opens connections to `server` from `namespace`, as fast as possible.
pub fn run(namespace: &NetworkNamespace, server: SocketAddr, shape: LoadPlan) -> Result<Sample> {
    if shape.clients == 0 {
        bail!("a load needs at least one client");
    }
    let start = Arc::new(Barrier::new(shape.clients));
    let clients: Vec<_> = (0..shape.clients)
        .map(|_| {
            let start = Arc::clone(&start);
            namespace.spawn(move || client(server, shape, &start))
        })
        .collect::<Result<_>>()?;
    let mut sample =
        Sample { connections: 0, all_connections: 0, failures: 0, rate: 0.0, connect: histogram()? };
    for thread in clients {
        let Ok(result) = thread.join() else { bail!("a client thread panicked") };
        let one = result??;
        sample.connections += one.connections;
        sample.all_connections += one.all_connections;
        sample.failures += one.failures;
        sample.rate += one.rate;
        sample.connect.add(&one.connect)?;
    }
    Ok(sample)
}

/// From a microsecond to ten seconds, three digits.
fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1_000, 10_000_000_000, 3)?)
}

fn client(server: SocketAddr, shape: LoadPlan, start: &Barrier) -> Result<Sample> {
    let mut connect = histogram()?;
    let (mut connections, mut failures, mut warm_up) = (0, 0, 0);
    start.wait();
    let begin = Instant::now() + shape.warm_up;
    while Instant::now() < begin {
        // A failure here will occur later too, and is counted then.
        let _ = connection(server);
        warm_up += 1;
    }
    let started = Instant::now();
    let end = started + shape.measured;
    let mut now = started;
    while now < end {
        match connection(server) {
            Ok(took) => {
                connections += 1;
                connect.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
            }
            Err(_) => failures += 1,
        }
        now = Instant::now();
    }
    let rate = connections as f64 / (now - started).as_secs_f64();
    Ok(Sample { connections, all_connections: warm_up + connections, failures, rate, connect })
}

/// Opens and resets one connection. Returns how long its `connect` took.
fn connection(server: SocketAddr) -> std::io::Result<Duration> {
    let family = if server.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // The send timeout also bounds a blocking connect (socket(7)): one call instead of poll's four.
    let timeout = TimeVal::milliseconds(TIMEOUT_MS);
    setsockopt(&fd, sockopt::SendTimeout, &timeout)?;
    let begun = Instant::now();
    connect(fd.as_raw_fd(), &SockaddrStorage::from(server))?;
    let took = begun.elapsed();
    setsockopt(&fd, sockopt::ReceiveTimeout, &timeout)?;
    setsockopt(&fd, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    let mut stream = TcpStream::from(fd);
    stream.write_all(&BYTE)?;
    let mut answer = [0; 1];
    stream.read_exact(&mut answer)?;
    drop(stream);
    Ok(took)
}
