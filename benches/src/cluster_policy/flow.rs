//! Datagrams that a pod sends continuously, on one flow or each on a new one, and when the last one arrived.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use integration::Testbed;

/// The pause between two datagrams, which is the resolution of the figures.
const PAUSE: Duration = Duration::from_micros(500);
/// How long the receiver waits for a datagram before it checks whether it must end.
const RECEIVE_TIMEOUT: Duration = Duration::from_millis(100);

/// See the module. It ends when this is dropped.
pub(super) struct Flow {
    stop: Arc<AtomicBool>,
    /// Microseconds from `epoch` to the last arrival; 0 if there was none.
    last: Arc<AtomicU64>,
    epoch: Instant,
    threads: Vec<JoinHandle<Result<Result<()>>>>,
}

impl Flow {
    /// All datagrams on one flow between two pods, to this port.
    pub(super) fn established(testbed: &Testbed, pods: (&str, &str), port: u16) -> Result<Self> {
        let socket = |server: SocketAddr| {
            let socket = connected(server)?;
            Ok(move || Ok(socket.send(b".").map(drop)))
        };
        Self::start(testbed, pods, port, socket)
    }

    /// Each datagram from another source port.
    pub(super) fn new_each_time(testbed: &Testbed, pods: (&str, &str), port: u16) -> Result<Self> {
        let socket = |server| Ok(move || Ok(connected(server)?.send(b".").map(drop)));
        Self::start(testbed, pods, port, socket)
    }

    fn start<S>(
        testbed: &Testbed,
        (client, server): (&str, &str),
        port: u16,
        sender: impl FnOnce(SocketAddr) -> Result<S> + Send + 'static,
    ) -> Result<Self>
    where
        S: FnMut() -> Result<std::io::Result<()>>,
    {
        let address = SocketAddr::new(testbed.addresses(server)?[0], port);
        let socket = testbed.namespace(server)?.run(|| UdpSocket::bind(address))?;
        let socket = socket.with_context(|| format!("receiving at {address}"))?;
        socket.set_read_timeout(Some(RECEIVE_TIMEOUT))?;
        let mut flow =
            Self { stop: Arc::default(), last: Arc::default(), epoch: Instant::now(), threads: Vec::new() };
        let (stop, last, epoch) = (Arc::clone(&flow.stop), Arc::clone(&flow.last), flow.epoch);
        flow.threads.push(testbed.namespace(server)?.spawn(move || receive(&socket, epoch, &last, &stop))?);
        let stop = Arc::clone(&flow.stop);
        flow.threads.push(testbed.namespace(client)?.spawn(move || {
            let mut send = sender(address)?;
            while !stop.load(Ordering::Acquire) {
                // An error of the kernel can be about an earlier datagram, such as one that was dropped.
                let _ = send()?;
                sleep(PAUSE);
            }
            Ok(())
        })?);
        Ok(flow)
    }

    /// When the last datagram arrived.
    pub(super) fn last_arrival(&self) -> Instant {
        self.epoch + Duration::from_micros(self.last.load(Ordering::Acquire))
    }

    /// Waits until a datagram arrives after a time.
    pub(super) fn wait_arrival_after(&self, at: Instant, timeout: Duration) -> Result<()> {
        let end = Instant::now() + timeout;
        while self.last_arrival() <= at {
            if Instant::now() > end {
                bail!("no datagram arrived within {timeout:?}, although policy allows them");
            }
            sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Ends it. Fails if the sender or the receiver failed.
    pub(super) fn stop(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| anyhow!("a thread of a flow panicked"))???;
        }
        Ok(())
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

fn connected(server: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(server)?;
    Ok(socket)
}

fn receive(socket: &UdpSocket, epoch: Instant, last: &AtomicU64, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Acquire) {
        match socket.recv(&mut [0; 16]) {
            Ok(_) => last.store(u64::try_from(epoch.elapsed().as_micros())?, Ordering::Release),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error).context("receiving datagrams"),
        }
    }
    Ok(())
}
