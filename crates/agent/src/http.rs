//! The agent's HTTP server, on 127.0.0.1: /livez, /readyz, /metrics, /status; and, where it is asked for, /metrics alone on
//! another address, for who scrapes from elsewhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::health::Health;
use crate::metrics;
use crate::status::Status;

/// How long to wait before the port is tried again: the agent that this one takes over from may still hold it.
const TRY_AGAIN: Duration = Duration::from_secs(1);

#[derive(Clone)]
struct Served {
    health: Arc<Health>,
    registry: Arc<Registry>,
}

/// Serves everything on 127.0.0.1 until the program ends. A port that is taken is tried again and again: enforcement doesn't
/// wait for it.
pub async fn serve(port: u16, health: Arc<Health>) {
    let routes = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .route("/status", get(status));
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    serve_routes(&[address], "--http-port", "/livez, /readyz, /metrics and /status", routes, health).await;
}

/// Serves /metrics until the program ends, as [`serve`] does.
pub async fn serve_metrics(address: MetricsAddress, health: Arc<Health>) {
    let routes = Router::new().route("/metrics", get(metrics_text));
    serve_routes(&address.candidates(), "--metrics-address", "/metrics", routes, health).await;
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

async fn serve_routes(
    addresses: &[SocketAddr],
    flag: &str,
    paths: &str,
    routes: Router<Served>,
    health: Arc<Health>,
) {
    let registry = Arc::new(metrics::registry(&health));
    let listener = listen(addresses, flag, paths).await;
    if let Err(error) = axum::serve(listener, routes.with_state(Served { health, registry })).await {
        tracing::error!(%error, paths, "the HTTP server has ended");
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
