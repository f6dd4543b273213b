//! The program in the pods of our scenarios: a server or a client. It is linked statically, as the only file
//! of its image. A client prints its results as one line of JSON.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use integration::attack::message::{Path, udp};
use integration::attack::packet::packet;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};

/// The timeout of one connection. TCP retransmits a lost SYN after a second.
const TIMEOUT: Duration = Duration::from_secs(3);

fn main() -> Result<()> {
    let started = Instant::now();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["serve", port] => serve(port.parse()?),
        ["first", to, port, seconds] => {
            first(started, to.parse()?, port.parse()?, Duration::from_secs(seconds.parse()?))?;
            // The process does not exit, so that the pod keeps its address until the scenario is over.
            loop {
                thread::park();
            }
        }
        ["knock", port, addresses, seconds] => {
            let addresses: Result<Vec<IpAddr>, _> = addresses.split(',').map(str::parse).collect();
            knock(port.parse()?, &addresses?, Duration::from_secs(seconds.parse()?))
        }
        ["load", to, seconds] => load(to.parse()?, Duration::from_secs(seconds.parse()?)),
        ["ask", text, to] => {
            println!("{}", request(to.parse()?, text.as_bytes())?);
            Ok(())
        }
        ["forge", source, to, packets] => forge(source.parse()?, to.parse()?, packets.parse()?),
        _ => bail!(
            "serve PORT | first ADDRESS:PORT PORT SECONDS | knock PORT ADDRESS,... SECONDS | load \
             ADDRESS:PORT SECONDS \
             | ask WORD ADDRESS:PORT | forge SOURCE ADDRESS:PORT PACKETS"
        ),
    }
}

/// Answers every connection with the name of the pod, and counts the datagrams from each address. The request
/// `datagrams` is answered with these counts.
fn serve(port: u16) -> Result<()> {
    let name = std::env::var("HOSTNAME").unwrap_or_default();
    let any = SocketAddr::from(([0; 4], port));
    let listener = TcpListener::bind(any).with_context(|| format!("listening at {any}"))?;
    let socket = UdpSocket::bind(any).with_context(|| format!("listening at {any}"))?;
    let counts: Mutex<BTreeMap<String, u64>> = Mutex::default();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 64];
            loop {
                if let Ok((_, from)) = socket.recv_from(&mut buffer)
                    && let Ok(mut counts) = counts.lock()
                {
                    *counts.entry(from.ip().to_string()).or_default() += 1;
                }
            }
        });
        for connection in listener.incoming() {
            let (Ok(mut connection), name, counts) = (connection, &name, &counts) else { continue };
            scope.spawn(move || {
                let _ = connection.set_read_timeout(Some(TIMEOUT));
                let mut buffer = [0; 16];
                let length = connection.read(&mut buffer).unwrap_or_default();
                let answer = if buffer.get(..length) == Some(b"datagrams") {
                    let counts = counts.lock().map(|counts| counts.clone()).unwrap_or_default();
                    let counts: Vec<String> =
                        counts.iter().map(|(from, count)| format!("\"{from}\":{count}")).collect();
                    format!("{{{}}}", counts.join(","))
                } else {
                    name.clone()
                };
                let _ = connection.write_all(answer.as_bytes());
            });
        }
    });
    Ok(())
}

/// Opens a connection every 20 ms, each on its own thread, and sends a datagram with each. Prints when the
/// first connection succeeded, counted from the start of this process, and how many datagrams arrived at
/// `port`.
fn first(started: Instant, to: SocketAddr, port: u16, how_long: Duration) -> Result<()> {
    let any = SocketAddr::from(([0; 4], port));
    let knocked_at = UdpSocket::bind(any).with_context(|| format!("listening at {any}"))?;
    let (tries, successes) = (AtomicU64::new(0), AtomicU64::new(0));
    let first: Mutex<Option<Duration>> = Mutex::default();
    let slowest: Mutex<Duration> = Mutex::default();
    let datagrams = UdpSocket::bind(SocketAddr::from(([0; 4], 0)));
    thread::scope(|scope| {
        while started.elapsed() < how_long {
            if let Ok(socket) = &datagrams {
                let _ = socket.send_to(b"first", to);
            }
            tries.fetch_add(1, Ordering::Relaxed);
            scope.spawn(|| {
                let began = Instant::now();
                if TcpStream::connect_timeout(&to, TIMEOUT).is_ok() {
                    successes.fetch_add(1, Ordering::Relaxed);
                    if let (Ok(mut first), Ok(mut slowest)) = (first.lock(), slowest.lock()) {
                        let at = started.elapsed();
                        *first = Some(first.map_or(at, |earlier| earlier.min(at)));
                        *slowest = slowest.max(began.elapsed());
                    }
                }
            });
            sleep(Duration::from_millis(20));
        }
    });
    let first =
        first.into_inner().unwrap_or_default().map_or("null".to_owned(), |at| at.as_millis().to_string());
    // The kernel has buffered the datagrams that arrived, up to the buffer's size.
    knocked_at.set_nonblocking(true)?;
    let mut knocks = 0;
    while knocked_at.recv(&mut [0; 64]).is_ok() {
        knocks += 1;
    }
    println!(
        "{{\"tries\":{},\"successes\":{},\"first_ms\":{first},\"slowest_ms\":{},\"knocks\":{knocks}}}",
        tries.into_inner(),
        successes.into_inner(),
        slowest.into_inner().unwrap_or_default().as_millis()
    );
    Ok(())
}

/// Sends a datagram to each address every 20 ms, whether or not a pod has the address.
fn knock(port: u16, addresses: &[IpAddr], how_long: Duration) -> Result<()> {
    let socket = UdpSocket::bind(SocketAddr::from(([0; 4], 0)))?;
    let started = Instant::now();
    while started.elapsed() < how_long {
        for address in addresses {
            // An error can refer to an earlier datagram, to an address without a pod.
            let _ = socket.send_to(b"knock", (*address, port));
        }
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Opens one connection after the other on four threads, and counts those that were answered and those that
/// were not.
fn load(to: SocketAddr, how_long: Duration) -> Result<()> {
    let (answered, lost) = (AtomicU64::new(0), AtomicU64::new(0));
    let over = AtomicBool::new(false);
    let slowest: Mutex<Duration> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let counter = if request(to, b"load").is_ok() { &answered } else { &lost };
                    counter.fetch_add(1, Ordering::Relaxed);
                    if let Ok(mut slowest) = slowest.lock() {
                        *slowest = slowest.max(began.elapsed());
                    }
                    // Each connection leaves an entry in the conntrack table.
                    sleep(Duration::from_millis(4));
                }
            });
        }
        sleep(how_long);
        over.store(true, Ordering::Relaxed);
    });
    println!(
        "{{\"answered\":{},\"lost\":{},\"slowest_ms\":{}}}",
        answered.into_inner(),
        lost.into_inner(),
        slowest.into_inner().unwrap_or_default().as_millis()
    );
    Ok(())
}

/// Sends datagrams with an IPv4 header from this program, with any source. Needs CAP_NET_RAW.
fn forge(source: Ipv4Addr, to: SocketAddrV4, packets: u32) -> Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)
        .context("opening a raw socket")?;
    let path = Path { source: source.into(), destination: (*to.ip()).into() };
    let packet = packet(path, &udp(path, (40_000, to.port()), b"forged"));
    for _ in 0..packets {
        sendto(socket.as_raw_fd(), &packet, &SockaddrIn::from(to), MsgFlags::empty())
            .with_context(|| format!("sending to {to} as {source}"))?;
    }
    Ok(())
}

/// Sends a request and returns the answer.
fn request(to: SocketAddr, text: &[u8]) -> Result<String> {
    let mut connection = TcpStream::connect_timeout(&to, TIMEOUT)?;
    connection.set_read_timeout(Some(TIMEOUT))?;
    connection.write_all(text)?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    if answer.is_empty() {
        bail!("{to} closed the connection without an answer")
    }
    Ok(answer)
}
