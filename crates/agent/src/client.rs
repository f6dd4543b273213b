//! HTTP client for a running agent.
//!
//! Invariant: a request ends within [`TIMEOUT`] and reads at most [`MAX_RESPONSE`] bytes, since any process
//! of the node may listen on the port.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, setsockopt, sockopt};
use nix::sys::time::TimeVal;

use crate::status::Status;

/// Time limit from connecting to the last byte. An agent on this machine answers at once, and the probes'
/// time limit in the manifests is five seconds.
const TIMEOUT: Duration = Duration::from_secs(4);

/// Pause before retrying a connection that was closed without a response.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// Longest accepted response, in bytes. A status takes some 150 bytes per policy.
const MAX_RESPONSE: usize = 32 << 20;

/// Where an agent serves HTTP.
#[derive(Clone, Debug)]
pub(crate) enum AgentAddress {
    /// A port on 127.0.0.1: the agent's --http-port.
    Port(u16),
    /// A Unix socket: the agent's --http-socket.
    Socket(PathBuf),
}

impl fmt::Display for AgentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => write!(f, "127.0.0.1:{port}"),
            Self::Socket(socket) => write!(f, "{}", socket.display()),
        }
    }
}

/// Requests the status of the agent on a port of 127.0.0.1.
pub(crate) fn status(port: u16) -> anyhow::Result<Status> {
    let address = AgentAddress::Port(port);
    let (code, body) = get(&address, "/status")?;
    ensure!(code == 200, "the agent on {address} answers {code}");
    serde_json::from_str(&body)
        .with_context(|| format!("what listens on {address} is not a kube-verdict agent"))
}

/// Requests a path, and returns the HTTP status code and the body.
pub(crate) fn get(address: &AgentAddress, path: &str) -> anyhow::Result<(u16, String)> {
    let deadline = Deadline(Instant::now() + TIMEOUT);
    let response = loop {
        let mut stream = address.connect(deadline).with_context(|| {
            let flag = match address {
                AgentAddress::Port(_) => "--http-port",
                AgentAddress::Socket(_) => "--http-socket",
            };
            format!("no agent answers on {address} (is one running, with this {flag}?)")
        })?;
        match exchange(&mut *stream, path, deadline) {
            // The agent closed the connection to serve others, or is shutting down.
            Err(error) if is_closed(&error) && deadline.left().is_ok() => thread::sleep(RETRY_PAUSE),
            response => break response,
        }
    };
    let response = response.with_context(|| format!("cannot query the agent on {address}"))?;
    parse(&response).with_context(|| format!("what listens on {address} does not speak HTTP"))
}

/// When a request times out.
#[derive(Clone, Copy, Debug)]
struct Deadline(Instant);

impl Deadline {
    /// Time left, always more than zero: to the kernel, zero means no limit.
    fn left(self) -> io::Result<Duration> {
        let left = self.0.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

/// A connection with a time limit on reads and writes.
trait Stream: Read + Write {
    fn limit(&self, time: Duration) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn limit(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time)).and(self.set_write_timeout(Some(time)))
    }
}

impl Stream for UnixStream {
    fn limit(&self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time)).and(self.set_write_timeout(Some(time)))
    }
}

impl AgentAddress {
    fn connect(&self, deadline: Deadline) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Port(port) => {
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
                Box::new(TcpStream::connect_timeout(&address, deadline.left()?)?)
            }
            Self::Socket(path) => Box::new(connect(path, deadline.left()?)?),
        })
    }
}

/// Connects to a Unix socket within a time limit. The standard library has none, and waits while the
/// listener's backlog is full.
fn connect(path: &Path, limit: Duration) -> io::Result<UnixStream> {
    let stream = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let micros = i64::try_from(limit.as_micros()).unwrap_or(i64::MAX).max(1);
    let limit = TimeVal::new(micros / 1_000_000, micros % 1_000_000);
    setsockopt(&stream, sockopt::SendTimeout, &limit)?;
    match socket::connect(stream.as_raw_fd(), &UnixAddr::new(path)?) {
        Err(Errno::EAGAIN) => Err(ErrorKind::TimedOut.into()),
        connected => {
            connected?;
            Ok(stream.into())
        }
    }
}

/// Sends a request and reads the response. HTTP/1.0, so that the response is not chunked and ends with the
/// connection.
fn exchange(stream: &mut dyn Stream, path: &str, deadline: Deadline) -> io::Result<String> {
    stream.limit(deadline.left()?)?;
    // In one write, so that the agent reads it in one piece.
    stream
        .write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())
        .map_err(timed_out)?;
    let (mut response, mut chunk) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        stream.limit(deadline.left()?)?;
        match stream.read(&mut chunk) {
            Ok(0) if response.is_empty() => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(0) => break,
            Ok(length) => response.extend_from_slice(&chunk[..length]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // The response is incomplete.
            Err(error) if is_closed(&error) && !response.is_empty() => {
                return Err(io::Error::other("the connection closed before the response was complete"));
            }
            Err(error) => return Err(timed_out(error)),
        }
        if response.len() > MAX_RESPONSE {
            return Err(io::Error::other(format!("the response is longer than {} MiB", MAX_RESPONSE >> 20)));
        }
    }
    String::from_utf8(response).map_err(|error| io::Error::new(ErrorKind::InvalidData, error.utf8_error()))
}

/// A read or write that exceeds its time limit fails with `WouldBlock`.
fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::WouldBlock => ErrorKind::TimedOut.into(),
        _ => error,
    }
}

fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

fn parse(response: &str) -> Option<(u16, String)> {
    let (head, body) = response.split_once("\r\n\r\n")?;
    let mut status_line = head.lines().next()?.split(' ');
    status_line.next()?.starts_with("HTTP/").then_some(())?;
    Some((status_line.next()?.parse().ok()?, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A server on a free port that calls `serve` for each client.
    fn program(mut serve: impl FnMut(TcpStream) + Send + 'static) -> AgentAddress {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        thread::spawn(move || listener.incoming().for_each(|stream| serve(stream.expect("a client"))));
        AgentAddress::Port(port)
    }

    fn read_request(mut stream: &TcpStream) {
        let mut request = [0; 1024];
        assert!(stream.read(&mut request).expect("a request") > 0);
    }

    fn failed(address: &AgentAddress) -> (String, Duration) {
        let started = Instant::now();
        let error = get(address, "/livez").expect_err("no answer");
        (format!("{error:#}"), started.elapsed())
    }

    #[test]
    fn a_response_is_a_code_and_a_body() {
        let cases = [
            ("HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nok\n", Some((200, "ok\n"))),
            ("HTTP/1.1 503 Service Unavailable\r\n\r\n", Some((503, ""))),
            ("SSH-2.0-server\r\n", None),
            ("220 mail 200 ready\r\n\r\n", None),
            ("HTTP/1.0 two OK\r\n\r\n", None),
            ("", None),
        ];
        for (answer, expected) in cases {
            assert_eq!(parse(answer), expected.map(|(code, body)| (code, body.to_owned())), "{answer:?}");
        }
    }

    #[test]
    fn a_response_without_end_times_out() {
        let address = program(|mut stream| {
            read_request(&stream);
            while stream.write_all(b"x").is_ok() {
                thread::sleep(Duration::from_millis(50));
            }
        });
        let (error, elapsed) = failed(&address);
        assert!(error.contains("timed out"), "{error}");
        assert!(elapsed < 2 * TIMEOUT, "{elapsed:?}");
    }

    #[test]
    fn a_response_that_is_too_long_is_refused() {
        let address = program(|mut stream| {
            read_request(&stream);
            let chunk = vec![b'x'; 1 << 20];
            while stream.write_all(&chunk).is_ok() {}
        });
        let (error, _) = failed(&address);
        assert!(error.contains("longer than 32 MiB"), "{error}");
    }

    #[test]
    fn a_socket_with_a_full_backlog_times_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("http.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        // Connections that wait to be accepted fill the backlog.
        socket::listen(&listener, socket::Backlog::new(1).expect("in range")).expect("a shorter backlog");
        let mut waiting = Vec::new();
        while let Ok(stream) = connect(&path, Duration::from_millis(100)) {
            waiting.push(stream);
        }
        let (error, elapsed) = failed(&AgentAddress::Socket(path));
        assert!(error.contains("no agent answers") && error.contains("timed out"), "{error}");
        assert!(elapsed < 2 * TIMEOUT, "{elapsed:?}");
    }

    #[test]
    fn a_connection_that_closes_without_a_response_is_retried() {
        let mut clients = 0;
        let address = program(move |mut stream| {
            clients += 1;
            if clients > 2 {
                read_request(&stream);
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nok\n").expect("answered");
            }
        });
        assert_eq!(get(&address, "/livez").expect("an answer"), (200, "ok\n".to_owned()));
    }
}
