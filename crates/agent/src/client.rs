//! Asks a running agent by HTTP.
//!
//! Invariant: a question ends within [`TIMEOUT`] and takes no more memory than [`LONGEST_ANSWER`], whatever program has the place: any
//! process of the node may have taken the port.

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

/// From connecting to the last byte. An agent on this machine answers at once; a kubelet gives up after five seconds.
const TIMEOUT: Duration = Duration::from_secs(4);

/// Before a connection that was closed without an answer is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(10);

/// In bytes. A status takes some 150 for each policy.
const LONGEST_ANSWER: usize = 32 << 20;

/// Where an agent is asked.
#[derive(Clone, Debug)]
pub enum Place {
    /// On this port of 127.0.0.1: its --http-port.
    Port(u16),
    /// On this Unix socket: its --http-socket.
    Socket(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => write!(f, "127.0.0.1:{port}"),
            Self::Socket(socket) => write!(f, "{}", socket.display()),
        }
    }
}

/// The status of the agent that serves HTTP on this port of 127.0.0.1.
pub fn status(port: u16) -> anyhow::Result<Status> {
    let place = Place::Port(port);
    let (code, body) = get(&place, "/status")?;
    ensure!(code == 200, "the agent on {place} answers {code}");
    serde_json::from_str(&body)
        .with_context(|| format!("what listens on {place} is not a kube-verdict agent"))
}

/// An agent's answer: the HTTP status code and the body.
pub fn get(place: &Place, path: &str) -> anyhow::Result<(u16, String)> {
    let deadline = Deadline(Instant::now() + TIMEOUT);
    let answer = loop {
        let mut stream = place.connect(deadline).with_context(|| {
            let flag = match place {
                Place::Port(_) => "--http-port",
                Place::Socket(_) => "--http-socket",
            };
            format!("no agent answers on {place}: is one running, with this {flag}?")
        })?;
        match ask(&mut *stream, path, deadline) {
            // The agent had to make room, or is just ending.
            Err(error) if is_closed(&error) && deadline.left().is_ok() => thread::sleep(TRY_AGAIN),
            answer => break answer,
        }
    };
    let answer = answer.with_context(|| format!("asking the agent on {place}"))?;
    parsed(&answer).with_context(|| format!("what listens on {place} does not speak HTTP"))
}

/// When a question ends.
#[derive(Clone, Copy, Debug)]
struct Deadline(Instant);

impl Deadline {
    /// More than zero, which would be no limit at all to the kernel.
    fn left(self) -> io::Result<Duration> {
        let left = self.0.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

/// A connection whose reads and writes can be limited in time.
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

impl Place {
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

/// The standard library's way waits for ever where the listener's backlog is full.
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

/// HTTP/1.0, so that the answer ends with the connection and comes in one piece.
fn ask(stream: &mut dyn Stream, path: &str, deadline: Deadline) -> io::Result<String> {
    stream.limit(deadline.left()?)?;
    // In one piece: an agent that is slow need not put it together.
    stream
        .write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())
        .map_err(timed_out)?;
    let (mut answer, mut piece) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        stream.limit(deadline.left()?)?;
        match stream.read(&mut piece) {
            Ok(0) if answer.is_empty() => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&piece[..length]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // What has come is not all of it.
            Err(error) if is_closed(&error) && !answer.is_empty() => {
                return Err(io::Error::other("the connection closed before the answer was complete"));
            }
            Err(error) => return Err(timed_out(error)),
        }
        if answer.len() > LONGEST_ANSWER {
            return Err(io::Error::other(format!("the answer is longer than {} MiB", LONGEST_ANSWER >> 20)));
        }
    }
    String::from_utf8(answer).map_err(|error| io::Error::new(ErrorKind::InvalidData, error.utf8_error()))
}

/// To the kernel a time limit is a call that would block.
fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::WouldBlock => ErrorKind::TimedOut.into(),
        _ => error,
    }
}

fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

fn parsed(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut words = head.lines().next()?.split(' ');
    words.next()?.starts_with("HTTP/").then_some(())?;
    Some((words.next()?.parse().ok()?, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A program on a port that does this with each client, until the test is over.
    fn program(mut serve: impl FnMut(TcpStream) + Send + 'static) -> Place {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        thread::spawn(move || listener.incoming().for_each(|stream| serve(stream.expect("a client"))));
        Place::Port(port)
    }

    fn asked(mut stream: &TcpStream) {
        let mut request = [0; 1024];
        assert!(stream.read(&mut request).expect("a request") > 0);
    }

    fn failed(place: &Place) -> (String, Duration) {
        let started = Instant::now();
        let error = get(place, "/livez").expect_err("no answer");
        (format!("{error:#}"), started.elapsed())
    }

    #[test]
    fn an_answer_is_a_code_and_a_body() {
        let cases = [
            ("HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nok\n", Some((200, "ok\n"))),
            ("HTTP/1.1 503 Service Unavailable\r\n\r\n", Some((503, ""))),
            ("SSH-2.0-server\r\n", None),
            ("220 mail 200 ready\r\n\r\n", None),
            ("HTTP/1.0 two OK\r\n\r\n", None),
            ("", None),
        ];
        for (answer, expected) in cases {
            assert_eq!(parsed(answer), expected.map(|(code, body)| (code, body.to_owned())), "{answer:?}");
        }
    }

    #[test]
    fn a_program_that_answers_byte_by_byte_without_end_is_given_up() {
        let place = program(|mut stream| {
            asked(&stream);
            while stream.write_all(b"x").is_ok() {
                thread::sleep(Duration::from_millis(50));
            }
        });
        let (error, elapsed) = failed(&place);
        assert!(error.contains("timed out"), "{error}");
        assert!(elapsed < 2 * TIMEOUT, "{elapsed:?}");
    }

    #[test]
    fn a_program_that_answers_without_measure_is_given_up() {
        let place = program(|mut stream| {
            asked(&stream);
            let piece = vec![b'x'; 1 << 20];
            while stream.write_all(&piece).is_ok() {}
        });
        let (error, _) = failed(&place);
        assert!(error.contains("longer than 32 MiB"), "{error}");
    }

    #[test]
    fn a_socket_that_nothing_accepts_from_is_given_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("http.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        // What waits to be accepted fills the backlog.
        socket::listen(&listener, socket::Backlog::new(1).expect("in range")).expect("a shorter backlog");
        let mut waiting = Vec::new();
        while let Ok(stream) = connect(&path, Duration::from_millis(100)) {
            waiting.push(stream);
        }
        let (error, elapsed) = failed(&Place::Socket(path));
        assert!(error.contains("no agent answers") && error.contains("timed out"), "{error}");
        assert!(elapsed < 2 * TIMEOUT, "{elapsed:?}");
    }

    #[test]
    fn a_connection_that_is_closed_without_an_answer_is_tried_again() {
        let mut clients = 0;
        let place = program(move |mut stream| {
            clients += 1;
            if clients > 2 {
                asked(&stream);
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nok\n").expect("answered");
            }
        });
        assert_eq!(get(&place, "/livez").expect("an answer"), (200, "ok\n".to_owned()));
    }
}
