//! The agent's HTTP server.
//!
//! It serves /livez, /readyz, /metrics and /status on 127.0.0.1, and on a Unix socket if configured. If two
//! agents run on a node, only one has the port, but each has its own socket, by which a probe reaches the
//! agent of its container. With `--metrics-address`, it also serves /metrics alone on another address, for
//! scrapes from other hosts. Each listener has its own limit of connections ([`connections`]), so that
//! clients of one listener don't delay those of another.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use clap::Args;
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
use nix::sys::stat::{Mode, fchmod};
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpSocket, UnixListener};

use self::address::MetricsAddress;
use self::connections::{Limits, serve};
use crate::descriptors::OpenFiles;
use crate::health::Health;
use crate::metrics;
use crate::status::Status;
use crate::terminal::Text;
use crate::values::number;

mod address;
mod connections;

/// The default port on 127.0.0.1.
pub(crate) const DEFAULT_PORT: u16 = 9476;

/// How often to retry binding a port: the agent from which this one takes over may still have it.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How many connections may wait to be accepted. The system limits it further (`net.core.somaxconn`, 4,096 on
/// most systems).
const BACKLOG: u32 = 1 << 16;

#[derive(Clone)]
struct Served {
    health: Arc<Health>,
    registry: Arc<Registry>,
}

/// The flags about HTTP.
#[derive(Clone, Debug, Args)]
pub(crate) struct HttpArguments {
    /// Port on 127.0.0.1 for /livez, /readyz, /metrics and /status; 0 serves none.
    #[arg(
        long,
        visible_alias = "metrics-port",
        value_name = "PORT",
        default_value_t = DEFAULT_PORT,
        value_parser = number(0..=u16::MAX, DEFAULT_PORT)
    )]
    http_port: u16,

    /// Unix socket on which the same is served, for `kube-verdict probe`: if two agents run on a node, only
    /// one has the port.
    #[arg(long, value_name = "FILE")]
    http_socket: Option<PathBuf>,

    /// Address on which only /metrics is served: IP:PORT, or :PORT for all addresses of the node.
    #[arg(long, value_name = "IP:PORT")]
    metrics_address: Option<MetricsAddress>,
}

/// The list of listeners: `127.0.0.1:9476, /run/kube-verdict/http.sock`.
impl fmt::Display for HttpArguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = (self.http_port != 0).then(|| format!("127.0.0.1:{}", self.http_port));
        let metrics = self.metrics_address.map(|address| format!("{} (metrics)", address.candidates()[0]));
        let socket = self.http_socket.as_ref().map(|path| path.display().to_string());
        let all: Vec<String> = [port, metrics, socket].into_iter().flatten().collect();
        f.write_str(if all.is_empty() { "off" } else { "" })?;
        f.write_str(&all.join(", "))
    }
}

impl HttpArguments {
    /// Serves on all listeners until the program ends. Retries to bind a port that is taken: enforcement
    /// doesn't wait for it.
    ///
    /// `files` is how many files the agent may have open; HTTP leaves most of them to other purposes.
    pub(crate) fn serve(self, health: &Arc<Health>, files: OpenFiles) {
        const EVERYTHING: &str = "/livez, /readyz, /metrics and /status";
        let served = Served { health: Arc::clone(health), registry: Arc::new(metrics::registry(health)) };
        let everything = everything().with_state(served.clone());
        let limits = Limits::of(files);
        if self.http_port != 0 {
            let (routes, address) =
                (everything.clone(), SocketAddr::from((Ipv4Addr::LOCALHOST, self.http_port)));
            tokio::spawn(async move {
                serve(listen(&[address], "--http-port", EVERYTHING).await, "--http-port", routes, limits)
                    .await;
            });
        }
        if let Some(address) = self.metrics_address {
            let routes = Router::new().route("/metrics", get(metrics_text)).with_state(served);
            tokio::spawn(async move {
                let listener = listen(&address.candidates(), "--metrics-address", "/metrics").await;
                serve(listener, "--metrics-address", routes, limits).await;
            });
        }
        if let Some(socket) = self.http_socket {
            match bind(&socket) {
                Ok(listener) => drop(tokio::spawn(serve(listener, "--http-socket", everything, limits))),
                Err(error) => {
                    tracing::error!(socket = %socket.display(), %error, "cannot serve HTTP on --http-socket");
                }
            }
        }
    }
}

/// Binds a Unix socket. Replaces a socket file that exists: it belonged to an agent that has ended. Any other
/// file stays. Only the agent's own user can connect.
fn bind(path: &Path) -> io::Result<UnixListener> {
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    // The file gets the socket's mode (unix_bind_bsd). Set it before binding, so that others can connect at
    // no time.
    fchmod(listener.as_fd(), Mode::S_IRUSR | Mode::S_IWUSR)?;
    socket::bind(listener.as_raw_fd(), &UnixAddr::new(path)?)?;
    socket::listen(&listener, Backlog::MAXCONN)?;
    UnixListener::from_std(listener.into())
}

fn everything() -> Router<Served> {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .route("/status", get(status))
}

/// Binds the first of these addresses that can be bound.
fn bind_tcp(addresses: &[SocketAddr]) -> io::Result<TcpListener> {
    let mut last = io::ErrorKind::InvalidInput.into();
    for address in addresses {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let listener = socket.and_then(|socket| {
            socket.set_reuseaddr(true)?;
            socket.bind(*address)?;
            // Use the largest backlog that the system allows: if it is full, a client retries only after a
            // second.
            socket.listen(BACKLOG)
        });
        match listener {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn listen(addresses: &[SocketAddr], flag: &str, paths: &str) -> TcpListener {
    let mut has_warned = false;
    loop {
        let error = match bind_tcp(addresses) {
            Ok(listener) => {
                let address = listener.local_addr().ok().or(addresses.first().copied());
                tracing::info!(address = address.map(tracing::field::display), "serving {paths}");
                return listener;
            }
            Err(error) => error,
        };
        if !has_warned {
            let address = addresses.first().map(tracing::field::display);
            tracing::warn!(address, %error, "cannot serve {paths} yet; choose another {flag} if this lasts");
            has_warned = true;
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

/// 200 unless the agent must be restarted.
async fn livez(State(served): State<Served>) -> (StatusCode, String) {
    match served.health.dead() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(why) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{}\n", Text::new(why))),
    }
}

/// 200 if policy is in force, else 503 with every reason why not, one per line.
async fn readyz(State(served): State<Served>) -> (StatusCode, String) {
    let reasons = served.health.not_ready();
    if reasons.is_empty() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    let reasons = Text::lines(reasons.into_iter().map(Text::new));
    (StatusCode::SERVICE_UNAVAILABLE, format!("{reasons}\n"))
}

async fn metrics_text(State(served): State<Served>) -> Response {
    match metrics::text(&served.registry) {
        Ok(text) => {
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, content_type)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn status(State(served): State<Served>) -> Json<Status> {
    Json(served.health.status())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn the_socket_of_an_ended_agent_is_replaced_and_a_file_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("http.sock");
        drop(bind(&socket).expect("a new socket"));
        let mode = std::fs::metadata(&socket).expect("it exists").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "only the agent's own user can connect");
        bind(&socket).expect("it replaces the existing socket");
        let file = folder.path().join("notes");
        std::fs::write(&file, "kept").expect("a file");
        bind(&file).expect_err("a file exists");
        assert_eq!(std::fs::read_to_string(&file).expect("the file"), "kept");
    }

    #[tokio::test]
    async fn a_taken_port_is_served_once_it_is_free() {
        let taken = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = taken.local_addr().expect("its address");
        let waiting =
            tokio::spawn(async move { listen(&[address], "--http-port", "/livez").await.local_addr() });
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!waiting.is_finished(), "it waits for the port");
        drop(taken);
        assert_eq!(waiting.await.expect("no panic").expect("its address"), address);
    }
}
