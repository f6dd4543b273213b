//! The two ends of a long flow, each pinned to its own core.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, bail};
use integration::Testbed;

use super::flow::Flow;
use crate::modes::{CLIENT, PORT, Route};
use crate::processes::pin_to_core;

/// How much one call writes or reads.
const CHUNK: usize = 128 * 1024;
/// The payload of each datagram: as small as a DNS query or a metrics sample.
const DATAGRAM: [u8; 64] = [b'.'; 64];
/// How long an end waits for the other.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The sender and the receiver.
#[derive(Debug)]
pub(super) struct Ends {
    over: Arc<AtomicBool>,
    /// Bytes or packets.
    arrived: Arc<AtomicU64>,
    threads: [JoinHandle<Result<Result<()>>>; 2],
}

impl Ends {
    /// Starts both on a route; the receiver listens first.
    pub(super) fn start(testbed: &Testbed, route: Route, flow: Flow) -> Result<Self> {
        let (client, server) = (testbed.namespace(CLIENT)?, testbed.namespace(route.server())?);
        let to = route.address(testbed)?;
        let (over, arrived) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (end, count) = (Arc::clone(&over), Arc::clone(&arrived));
        let receiver = match flow {
            Flow::Bytes => {
                let listener = server.run(|| TcpListener::bind(to))??;
                server.spawn(move || pin_to_core(1).and_then(|()| receive_bytes(&listener, &count)))?
            }
            Flow::Packets => {
                let socket = server.run(|| UdpSocket::bind(to))??;
                server.spawn(move || pin_to_core(1).and_then(|()| receive_packets(&socket, &end, &count)))?
            }
        };
        let end = Arc::clone(&over);
        let sender = client.spawn(move || {
            pin_to_core(0)?;
            match flow {
                Flow::Bytes => send_bytes(to, &end),
                Flow::Packets => send_packets(to, &end),
            }
        })?;
        Ok(Self { over, arrived, threads: [sender, receiver] })
    }

    /// Bytes or packets that have arrived so far.
    pub(super) fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Ends both.
    pub(super) fn stop(self) -> Result<()> {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let Ok(result) = thread.join() else { bail!("an end of the flow panicked") };
            result??;
        }
        Ok(())
    }
}

fn send_bytes(to: SocketAddr, over: &AtomicBool) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, TIMEOUT)?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let piece = vec![b'.'; CHUNK];
    while !over.load(Ordering::Relaxed) {
        stream.write_all(&piece)?;
    }
    Ok(())
}

fn receive_bytes(listener: &TcpListener, arrived: &AtomicU64) -> Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut piece = vec![0; CHUNK];
    loop {
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            length => drop(arrived.fetch_add(length as u64, Ordering::Relaxed)),
        }
    }
}

fn send_packets(to: SocketAddr, over: &AtomicBool) -> Result<()> {
    // All runs use one port: an earlier flow has the same tuple, and is evaluated under the current policy.
    let socket = UdpSocket::bind(("0.0.0.0", PORT))?;
    socket.connect(to)?;
    while !over.load(Ordering::Relaxed) {
        // The receiver may not listen yet, or the device's queue may be full.
        let _ = socket.send(&DATAGRAM);
    }
    Ok(())
}

fn receive_packets(socket: &UdpSocket, over: &AtomicBool, arrived: &AtomicU64) -> Result<()> {
    socket.set_nonblocking(true)?;
    let mut datagram = [0; 128];
    while !over.load(Ordering::Relaxed) {
        if socket.recv(&mut datagram).is_ok() {
            arrived.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}
