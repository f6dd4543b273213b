//! A connection on which the client sends continuously, while the server records when each piece arrives.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use integration::namespace::NetworkNamespace;

/// The pause between two writes of the client, which is the resolution of the figures.
pub(super) const PAUSE: Duration = Duration::from_micros(100);
/// The time limit for the connection to be established.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A connection on which the client sends continuously.
pub(super) struct Stream {
    stop: Arc<AtomicBool>,
    /// Microseconds from `epoch` to the latest arrival.
    latest: Arc<AtomicU64>,
    epoch: Instant,
    sender: JoinHandle<Result<Result<()>>>,
    receiver: JoinHandle<Result<Result<()>>>,
}

impl Stream {
    /// Opens a connection from `client` to the address `server` in the namespace `at`. The receiver gives up
    /// if nothing arrives for `idle`.
    pub(super) fn open(
        client: &NetworkNamespace,
        at: &NetworkNamespace,
        server: SocketAddr,
        idle: Duration,
    ) -> Result<Self> {
        let listener = at.run(|| TcpListener::bind(server))??;
        let stop = Arc::new(AtomicBool::new(false));
        let latest = Arc::new(AtomicU64::new(0));
        let epoch = Instant::now();
        let arrivals = Arc::clone(&latest);
        let receiver = at.spawn(move || receive(&listener, idle, epoch, &arrivals))?;
        let (began, begun) = mpsc::channel();
        let end = Arc::clone(&stop);
        let sender = client.spawn(move || send(server, &began, &end))?;
        if begun.recv_timeout(TIMEOUT).is_err() {
            bail!("the connection to be cut was not established");
        }
        Ok(Self { stop, latest, epoch, sender, receiver })
    }

    /// When the latest piece arrived.
    pub(super) fn last_arrival(&self) -> Instant {
        self.epoch + Duration::from_micros(self.latest.load(Ordering::Acquire))
    }

    /// Ends both sides. The receiver of a connection that was cut gets no notification, and gives up by
    /// itself.
    pub(super) fn close(self) -> Result<()> {
        self.stop.store(true, Ordering::Release);
        for thread in [self.sender, self.receiver] {
            let Ok(result) = thread.join() else { bail!("a thread of the connection panicked") };
            result??;
        }
        Ok(())
    }
}

fn send(server: SocketAddr, began: &mpsc::Sender<()>, stop: &AtomicBool) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&server, TIMEOUT).context("connecting to the server")?;
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(Duration::from_millis(200)))?;
    began.send(())?;
    while !stop.load(Ordering::Acquire) {
        // Once nothing passes, the socket's buffer may fill up: the write then fails as expected.
        let _ = stream.write(b".");
        sleep(PAUSE);
    }
    Ok(())
}

fn receive(listener: &TcpListener, idle: Duration, epoch: Instant, latest: &AtomicU64) -> Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(idle))?;
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return Ok(()),
            Ok(_) => latest.store(u64::try_from(epoch.elapsed().as_micros())?, Ordering::Release),
        }
    }
}
