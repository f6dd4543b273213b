//! Asks a running agent for its status.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::status::Status;

/// An agent on this machine answers at once or not at all.
const PATIENCE: Duration = Duration::from_secs(2);

/// More than any agent's status can be.
const LONGEST_ANSWER: u64 = 64 << 20;

/// The status of the agent that serves HTTP on this port of 127.0.0.1.
pub fn status(port: u16) -> anyhow::Result<Status> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)
        .with_context(|| format!("no agent answers on {address}: is one running, with this --http-port?"))?;
    let answer = ask(&mut stream).with_context(|| format!("asking the agent on {address}"))?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .with_context(|| format!("what listens on {address} does not speak HTTP"))?;
    let line = head.lines().next().unwrap_or_default();
    ensure!(line.split(' ').nth(1) == Some("200"), "the agent on {address} answers {line:?}");
    serde_json::from_str(body)
        .with_context(|| format!("what listens on {address} is not a kube-verdict agent"))
}

/// HTTP/1.0, so that the answer ends with the connection and comes in one piece.
fn ask(stream: &mut TcpStream) -> std::io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /status HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(LONGEST_ANSWER).read_to_string(&mut answer)?;
    Ok(answer)
}
