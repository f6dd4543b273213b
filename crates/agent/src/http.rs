//! The agent's HTTP server, on 127.0.0.1: /livez, /readyz, /metrics, /status; and, where it is asked for, /metrics alone on
//! another address, for who scrapes from elsewhere. On a Unix socket the same: of two agents of one node only one has the port, but
//! each has a socket of its own, by which a probe finds the agent of its own container. Each place has connections of its own
//! ([`connections`]), so that clients of one never keep those of another waiting.

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

/// The port on 127.0.0.1 unless told otherwise.
pub const DEFAULT_PORT: u16 = 9476;

/// How long to wait before the port is tried again: the agent that this one takes over from may still hold it.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Connections that may wait to be accepted, if the system allows as many (`net.core.somaxconn`, 4,096 on most).
const MOST_WAITING: u32 = 1 << 16;

#[derive(Clone)]
struct Served {
    health: Arc<Health>,
    registry: Arc<Registry>,
}

/// Where the agent serves HTTP.
#[derive(Clone, Debug, Args)]
pub struct Places {
    /// Port on 127.0.0.1 for /livez, /readyz, /metrics and /status; 0 serves none.
    #[arg(long, visible_alias = "metrics-port", value_name = "PORT", default_value_t = DEFAULT_PORT, value_parser = number(0..=u16::MAX, DEFAULT_PORT))]
    http_port: u16,

    /// Serve the same on this Unix socket, too, for `kube-verdict probe`: of two agents of one node only one has the port.
    #[arg(long, value_name = "FILE")]
    http_socket: Option<PathBuf>,

    /// Serve /metrics, and nothing else, on this address, too: IP:PORT, or :PORT for all addresses of the node.
    #[arg(long, value_name = "IP:PORT")]
    metrics_address: Option<MetricsAddress>,
}

/// Where, and nothing else: `127.0.0.1:9476, /run/kube-verdict/http.sock`.
impl fmt::Display for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = (self.http_port != 0).then(|| format!("127.0.0.1:{}", self.http_port));
        let metrics = self.metrics_address.map(|address| format!("{} (metrics)", address.candidates()[0]));
        let socket = self.http_socket.as_ref().map(|path| path.display().to_string());
        let all: Vec<String> = [port, metrics, socket].into_iter().flatten().collect();
        f.write_str(if all.is_empty() { "off" } else { "" })?;
        f.write_str(&all.join(", "))
    }
}

impl Places {
    /// Serves on all of them until the program ends. A port that is taken is tried again and again: enforcement doesn't wait
    /// for it.
    ///
    /// `files` is how many files the agent may have open: HTTP leaves most of them to the rest.
    pub fn serve(self, health: &Arc<Health>, files: OpenFiles) {
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

/// A socket that lies there already is a dead agent's, and is replaced; anything else is not ours to change. Only the agent's own user
/// can connect.
fn bind(path: &Path) -> io::Result<UnixListener> {
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    // Before it is bound, since the file gets the socket's mode (unix_bind_bsd): there is no moment in which others can connect.
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

/// On the first of these addresses that can be had.
fn bind_tcp(addresses: &[SocketAddr]) -> io::Result<TcpListener> {
    let mut last = io::ErrorKind::InvalidInput.into();
    for address in addresses {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let listener = socket.and_then(|socket| {
            socket.set_reuseaddr(true)?;
            socket.bind(*address)?;
            // As many as the system lets wait: where it is full, a client tries again only after a second.
            socket.listen(MOST_WAITING)
        });
        match listener {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn listen(addresses: &[SocketAddr], flag: &str, paths: &str) -> TcpListener {
    let mut told = false;
    loop {
        let error = match bind_tcp(addresses) {
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
        Some(why) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{}\n", Text::new(why))),
    }
}

/// 200 if policy is in force, else every reason why not, one a line.
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
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_dead_agents_socket_is_replaced_and_a_file_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("http.sock");
        drop(bind(&socket).expect("a new socket"));
        let mode = std::fs::metadata(&socket).expect("it lies there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "for the agent's own user alone");
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
