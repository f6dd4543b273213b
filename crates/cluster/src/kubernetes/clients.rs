//! The client for all requests, replaced when its credentials may be stale.
//!
//! The client library reads a token's file every minute, and a client certificate never again. So after a
//! failure that other credentials may fix, kubeconfig and token are read again, at most once per `pause`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::{Client, Config};
use tokio::time::Instant;

use super::configuration::Access;
use super::error::KubernetesError;
use crate::error_chain::chain;

/// The time limit for connecting. A server that is up accepts a connection sooner.
const CONNECT: Duration = Duration::from_secs(5);

/// Holds the current client. Clones share it.
#[derive(Clone)]
pub(crate) struct Clients {
    access: Access,
    /// The shortest time between two reads of the credentials.
    pause: Duration,
    current: Arc<Mutex<Current>>,
}

struct Current {
    client: Client,
    made: Instant,
}

impl Clients {
    /// Connects with the current configuration, and also returns the URL of the API server. Must be called in
    /// a runtime.
    pub(crate) async fn new(access: Access, pause: Duration) -> Result<(Self, String), KubernetesError> {
        let (client, server) = connect(&access).await?;
        let current = Arc::new(Mutex::new(Current { client, made: Instant::now() }));
        Ok((Self { access, pause, current }, server))
    }

    /// The client for the next request.
    pub(crate) fn client(&self) -> Client {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).client.clone()
    }

    /// Reads the credentials again. Called when a request failed in a way that other credentials may fix.
    pub(super) async fn renew(&self) {
        {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            if current.made.elapsed() < self.pause {
                return;
            }
            // Other requests that fail in the meantime do not read them too.
            current.made = Instant::now();
        }
        match connect(&self.access).await {
            Ok((client, _)) => self.current.lock().unwrap_or_else(PoisonError::into_inner).client = client,
            Err(error) => {
                tracing::debug!(error = chain(&error), "credentials could not be read; keeping the old ones")
            }
        }
    }
}

async fn connect(access: &Access) -> Result<(Client, String), KubernetesError> {
    let mut config: Config = access.load().await?;
    // Requests are retried by the callers, which count the failures.
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT);
    let server = config.cluster_url.to_string();
    let client = Client::try_from(config).map_err(KubernetesError::Client)?;
    Ok((client, server))
}
