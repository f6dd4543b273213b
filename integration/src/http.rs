//! HTTP requests to an agent, in its node's namespace.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use ureq::Agent;

use crate::namespace::NetworkNamespace;

/// The limit for connecting, and for each read.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A response.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HttpResponse {
    /// The status code, such as 200.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// Requests `http://127.0.0.1:<port><path>` in a namespace.
pub fn get(namespace: &NetworkNamespace, port: u16, path: &str) -> Result<HttpResponse> {
    let url = format!("http://{}:{port}{path}", Ipv4Addr::LOCALHOST);
    namespace.run(|| request(&url))?.with_context(|| format!("requesting {url} in {}", namespace.name()))
}

/// Each request has its own client: an open connection of an earlier request might belong to another
/// namespace.
fn request(url: &str) -> Result<HttpResponse> {
    let client: Agent = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        // The environment's proxy is outside the namespace.
        .proxy(None)
        .timeout_connect(Some(TIMEOUT))
        .timeout_per_read(Some(TIMEOUT))
        .build()
        .into();
    let mut response = client.get(url).call()?;
    let status = response.status().as_u16();
    // Without ureq's limit of 10 MB: a status names every policy.
    let body = response.body_mut().with_config().read_to_string()?;
    Ok(HttpResponse { status, body })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Requests `/` from a server that answers exactly this text.
    fn answered(text: &str) -> Result<HttpResponse> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                let lines = BufReader::new(&stream).lines().map(Result::unwrap);
                let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                assert_eq!(head[0], "GET / HTTP/1.1");
                stream.write_all(text.as_bytes()).unwrap();
            });
            request(&url)
        })
    }

    #[test]
    fn responses_are_parsed() {
        let plain = answered("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\nno").unwrap();
        assert_eq!((plain.status, plain.body.as_str()), (503, "no"));
        let chunked =
            answered("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
                .unwrap();
        assert_eq!(chunked.body, "abc");
        assert!(answered("nonsense").is_err());
    }
}
