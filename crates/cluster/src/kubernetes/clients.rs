//! The client by which every request goes out, made anew where its credentials may be stale.
//!
//! The client library reads a token's file each minute, and a client certificate never again. So after a failure that other
//! credentials may mend, kubeconfig and token are read anew, however often requests fail not more often than [`Clients`] was told.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::{Client, Config};
use tokio::time::Instant;

use super::configuration::Access;
use super::failure::chain;
use super::{CONNECT, KubernetesError};

/// See the module. Clones share the client.
#[derive(Clone)]
pub(super) struct Clients {
    access: Access,
    /// Between two readings of the credentials.
    pause: Duration,
    current: Arc<Mutex<Current>>,
}

struct Current {
    client: Client,
    made: Instant,
}

impl Clients {
    /// By this configuration as it is now; also says the URL of the API server. To be called in a runtime.
    pub async fn new(access: Access, pause: Duration) -> Result<(Self, String), KubernetesError> {
        let (client, server) = connect(&access).await?;
        let current = Arc::new(Mutex::new(Current { client, made: Instant::now() }));
        Ok((Self { access, pause, current }, server))
    }

    /// The client for the next request.
    pub fn client(&self) -> Client {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).client.clone()
    }

    /// A request failed in a way that other credentials may mend.
    pub async fn renew(&self) {
        {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            if current.made.elapsed() < self.pause {
                return;
            }
            // Other requests that fail meanwhile wait for this one.
            current.made = Instant::now();
        }
        match connect(&self.access).await {
            Ok((client, _)) => self.current.lock().unwrap_or_else(PoisonError::into_inner).client = client,
            Err(error) => tracing::debug!(
                error = chain(&error),
                "the credentials can't be read: going on with the old ones"
            ),
        }
    }
}

async fn connect(access: &Access) -> Result<(Client, String), KubernetesError> {
    let mut config: Config = access.load().await?;
    // Requests are repeated where it is counted.
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT);
    let server = config.cluster_url.to_string();
    let client = Client::try_from(config).map_err(|error| KubernetesError::Client(chain(&error)))?;
    Ok((client, server))
}
