//! The agent's HTTP server, on 127.0.0.1: /livez, /readyz, /metrics, /status; and, where it is asked for, /metrics alone on
//! another address, for who scrapes from elsewhere. On a Unix socket the same: of two agents of one node only one has the port, but
//! each has a socket of its own, by which a probe finds the agent of its own container.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::Listener;
use axum::{Json, Router};
use clap::Args;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, UnixListener};

use crate::health::Health;
use crate::metrics;
use crate::status::Status;

/// The port on 127.0.0.1 unless told otherwise.
pub const DEFAULT_PORT: u16 = 9476;

/// How long to wait before the port is tried again: the agent that this one takes over from may still hold it.
const TRY_AGAIN: Duration = Duration::from_secs(1);

#[derive(Clone)]
struct Served {
    health: Arc<Health>,
    registry: Arc<Registry>,
}

/// Where the agent serves HTTP.
#[derive(Clone, Debug, Args)]
pub struct Places {
    /// Port on 127.0.0.1 for /livez, /readyz, /metrics and /status; 0 serves none.
    #[arg(long, visible_alias = "metrics-port", value_name = "PORT", default_value_t = DEFAULT_PORT)]
    http_port: u16,

    /// Serve the same on this Unix socket, too, for `kube-verdict probe`: of two agents of one node only one has the port.
    #[arg(long, value_name = "FILE")]
    http_socket: Option<PathBuf>,

    /// Serve /metrics, and nothing else, on this address, too: IP:PORT, or :PORT for all addresses of the node.
    #[arg(long, value_name = "IP:PORT")]
    metrics_address: Option<MetricsAddress>,
}

impl Places {
    /// Serves on all of them until the program ends. A port that is taken is tried again and again: enforcement doesn't wait
    /// for it.
    pub fn serve(self, health: &Arc<Health>) {
        const EVERYTHING: &str = "/livez, /readyz, /metrics and /status";
        let served = Served { health: Arc::clone(health), registry: Arc::new(metrics::registry(health)) };
        let everything = everything().with_state(served.clone());
        if self.http_port != 0 {
            let (routes, address) =
                (everything.clone(), SocketAddr::from((Ipv4Addr::LOCALHOST, self.http_port)));
            tokio::spawn(async move {
                answer(listen(&[address], "--http-port", EVERYTHING).await, routes).await;
            });
        }
        if let Some(address) = self.metrics_address {
            let routes = Router::new().route("/metrics", get(metrics_text)).with_state(served);
            tokio::spawn(async move {
                answer(listen(&address.candidates(), "--metrics-address", "/metrics").await, routes).await;
            });
        }
        if let Some(socket) = self.http_socket {
            match bind(&socket) {
                Ok(listener) => drop(tokio::spawn(answer(listener, everything))),
                Err(error) => {
                    tracing::error!(socket = %socket.display(), %error, "cannot serve HTTP on --http-socket");
                }
            }
        }
    }
}

/// A socket that lies there already is a dead agent's, and is replaced; anything else is not ours to touch.
fn bind(socket: &Path) -> io::Result<UnixListener> {
    if std::fs::symlink_metadata(socket).is_ok_and(|found| found.file_type().is_socket()) {
        std::fs::remove_file(socket)?;
    }
    UnixListener::bind(socket)
}

fn everything() -> Router<Served> {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .route("/status", get(status))
}

/// Where /metrics alone is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MetricsAddress {
    /// On this address.
    One(SocketAddr),
    /// On this port of all addresses, of both families where the node has both.
    All(u16),
}

impl MetricsAddress {
    /// The first that can be bound is served. A node without IPv6 can't bind the first of all addresses.
    fn candidates(self) -> Vec<SocketAddr> {
        match self {
            Self::One(address) => vec![address],
            Self::All(port) => {
                vec![(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()]
            }
        }
    }
}

impl FromStr for MetricsAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("{text:?} is no address: write 192.0.2.1:9080, [2001:db8::1]:9080 or :9080");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
        match host {
            "" => Ok(Self::All(port)),
            "localhost" => Ok(Self::One((Ipv4Addr::LOCALHOST, port).into())),
            _ => {
                let address: SocketAddr = text.parse().map_err(|_| wrong())?;
                Ok(if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
                    Self::All(port)
                } else {
                    Self::One(address)
                })
            }
        }
    }
}

async fn answer<L>(listener: L, routes: Router)
where
    L: Listener<Addr: fmt::Debug>,
{
    if let Err(error) = axum::serve(listener, routes).await {
        tracing::error!(%error, "an HTTP server has ended");
    }
}

async fn listen(addresses: &[SocketAddr], flag: &str, paths: &str) -> TcpListener {
    let mut told = false;
    loop {
        let error = match TcpListener::bind(addresses).await {
            Ok(listener) => {
                let address = listener.local_addr().ok().or(addresses.first().copied());
                tracing::info!(address = address.map(tracing::field::display), "serving {paths}");
                return listener;
            }
            Err(error) => error,
        };
        if !told {
            let address = addresses.first().map(tracing::field::display);
            tracing::warn!(address, %error, "cannot serve {paths} yet; choose another {flag} if this lasts");
            told = true;
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
}

/// 200 unless the agent must be started anew.
async fn livez(State(served): State<Served>) -> (StatusCode, String) {
    match served.health.dead() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(why) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n")),
    }
}

/// 200 if policy is in force, else every reason why not, one a line.
async fn readyz(State(served): State<Served>) -> (StatusCode, String) {
    let reasons = served.health.not_ready();
    if reasons.is_empty() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n")
}

async fn metrics_text(State(served): State<Served>) -> Response {
    match metrics::text(&served.registry) {
        Ok(text) => {
            let form = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, form)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn status(State(served): State<Served>) -> Json<Status> {
    Json(served.health.status())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metrics_address_as_people_write_it() {
        let one = |text: &str| Ok(MetricsAddress::One(text.parse().expect("an address")));
        let cases = [
            (":9080", Ok(MetricsAddress::All(9080))),
            ("[::]:9080", Ok(MetricsAddress::All(9080))),
            ("0.0.0.0:9080", one("0.0.0.0:9080")),
            ("localhost:9080", one("127.0.0.1:9080")),
            ("192.0.2.1:1", one("192.0.2.1:1")),
            ("[2001:db8::1]:65535", one("[2001:db8::1]:65535")),
        ];
        for (text, address) in cases {
            assert_eq!(text.parse(), address, "{text}");
        }
        for text in ["", "9080", ":", ":0", ":65536", ":http", "node-a:9080", "2001:db8::1", "192.0.2.1:"] {
            text.parse::<MetricsAddress>().expect_err(text);
        }
    }

    #[tokio::test]
    async fn a_dead_agents_socket_is_replaced_and_a_file_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("http.sock");
        drop(bind(&socket).expect("a new socket"));
        bind(&socket).expect("in place of the one that was left");
        let file = folder.path().join("notes");
        std::fs::write(&file, "kept").expect("a file");
        bind(&file).expect_err("a file lies there");
        assert_eq!(std::fs::read_to_string(&file).expect("the file"), "kept");
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_served_once_it_is_free() {
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = taken.local_addr().expect("its address");
        let waiting =
            tokio::spawn(async move { listen(&[address], "--http-port", "/livez").await.local_addr() });
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!waiting.is_finished(), "it waits and does not end the program");
        drop(taken);
        assert_eq!(waiting.await.expect("no panic").expect("its address"), address);
    }
}
