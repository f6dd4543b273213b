//! The agent's HTTP server, on 127.0.0.1 alone: /livez, /readyz, /metrics, /status.

use std::net::{Ipv4Addr, SocketAddr};
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

/// Serves until the program ends. A port that is taken is tried again and again: enforcement doesn't wait for it.
pub async fn serve(port: u16, health: Arc<Health>) {
    let registry = Arc::new(metrics::registry(&health));
    let routes = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .route("/status", get(status))
        .with_state(Served { health, registry });
    let listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await;
    if let Err(error) = axum::serve(listener, routes).await {
        tracing::error!(%error, "the HTTP server has ended");
    }
}

async fn listen(address: SocketAddr) -> TcpListener {
    let mut told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                tracing::info!(%address, "serving /livez, /readyz, /metrics and /status");
                return listener;
            }
            Err(error) => {
                if !told {
                    tracing::warn!(%address, %error, "cannot serve HTTP yet; choose another --http-port if this lasts");
                    told = true;
                }
                tokio::time::sleep(TRY_AGAIN).await;
            }
        }
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
