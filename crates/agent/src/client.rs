//! Asks a running agent by HTTP.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::status::Status;

/// An agent on this machine answers at once or not at all.
const PATIENCE: Duration = Duration::from_secs(2);

/// More than any agent's status can be.
const LONGEST_ANSWER: u64 = 64 << 20;

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
    let answer = match place {
        Place::Port(port) => {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
            let mut stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(|| {
                format!("no agent answers on {place}: is one running, with this --http-port?")
            })?;
            stream.set_read_timeout(Some(PATIENCE)).and(stream.set_write_timeout(Some(PATIENCE)))?;
            ask(&mut stream, path)
        }
        Place::Socket(socket) => {
            let mut stream = UnixStream::connect(socket).with_context(|| {
                format!("no agent answers on {place}: is one running, with this --http-socket?")
            })?;
            stream.set_read_timeout(Some(PATIENCE)).and(stream.set_write_timeout(Some(PATIENCE)))?;
            ask(&mut stream, path)
        }
    };
    let answer = answer.with_context(|| format!("asking the agent on {place}"))?;
    parsed(&answer).with_context(|| format!("what listens on {place} does not speak HTTP"))
}

/// HTTP/1.0, so that the answer ends with the connection and comes in one piece.
fn ask(stream: &mut (impl Read + Write), path: &str) -> io::Result<String> {
    // In one piece: an agent that is slow need not put it together.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(LONGEST_ANSWER).read_to_string(&mut answer)?;
    Ok(answer)
}

fn parsed(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut words = head.lines().next()?.split(' ');
    words.next()?.starts_with("HTTP/").then_some(())?;
    Some((words.next()?.parse().ok()?, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
