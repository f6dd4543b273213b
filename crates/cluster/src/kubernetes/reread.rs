//! Reads single objects again: objects that were too large to be read from a watch, and policies whose rules
//! fit the budget now.
//!
//! From: an object's key. To: the object as the API server has it. Invariant: there is at most one request in
//! flight and a pause after each, so at most one large object is in memory at a time and the load on the API
//! server is small.

use std::sync::Arc;
use std::time::Duration;

use kube::api::ListParams;
use kube::core::Request;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};

use super::clients::Clients;
use super::failure::Failure;
use super::object::{Object, objects_of_page};
use crate::error_chain::chain;
use crate::interner::Interner;
use crate::key::Key;
use crate::problem::ResourceVersion;

/// The pause between two requests.
const PAUSE: Duration = Duration::from_millis(50);

/// The pause after a failed request.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// The verb of the request. Agents may list and watch objects, but not get one.
const VERB: &str = "list";

/// Reads one object at a time. See the module.
pub(super) struct Rereader {
    clients: Clients,
    interner: Arc<Interner>,
    /// The timeout of a request.
    answer_timeout: Duration,
    /// The request in flight.
    request: JoinSet<Reread>,
}

/// The result of reading an object again.
#[derive(Debug)]
pub(super) struct Reread {
    pub key: Key,
    /// The version that was expected when the request was sent.
    pub expected: ResourceVersion,
    /// The response; `None` if the object could not be read.
    pub answer: Option<Answer>,
}

/// The API server's response about an object.
#[derive(Debug)]
pub(super) enum Answer {
    There(Box<Object>),
    /// There is no object of this name.
    Gone,
}

impl Rereader {
    /// A rereader without a request.
    pub(super) fn new(clients: Clients, interner: Arc<Interner>, answer_timeout: Duration) -> Self {
        Self { clients, interner, answer_timeout, request: JoinSet::new() }
    }

    /// Whether another request may start.
    pub(super) fn is_idle(&self) -> bool {
        self.request.is_empty()
    }

    /// Starts to read an object again. Must be called only while [`Rereader::is_idle`]. `expected` is
    /// returned with the result.
    pub(super) fn start(&mut self, key: Key, expected: ResourceVersion) {
        let (clients, interner, answer_timeout) =
            (self.clients.clone(), Arc::clone(&self.interner), self.answer_timeout);
        self.request.spawn(async move {
            let answer = timeout(answer_timeout, read(&clients, &key, interner)).await;
            let answer = answer.map_err(|_| Failure::hung(VERB, key.kind(), answer_timeout.as_secs_f64()));
            let (answer, pause) = match answer.and_then(|answer| answer) {
                Ok(answer) => (Some(answer), PAUSE),
                Err(failure) => {
                    let error = failure.sentence;
                    tracing::warn!(object = %key, error, "object re-read failed; retrying");
                    (None, PAUSE_AFTER_FAILURE)
                }
            };
            sleep(pause).await;
            Reread { key, expected, answer }
        });
    }

    /// Waits for the result of the request. Pending while no request is in flight.
    pub(super) async fn answer(&mut self) -> Option<Reread> {
        match self.request.join_next().await {
            // A panic has been printed already.
            Some(answer) => answer.ok(),
            None => std::future::pending().await,
        }
    }
}

/// Reads the object as the API server has it now.
async fn read(clients: &Clients, key: &Key, interner: Arc<Interner>) -> Result<Answer, Failure> {
    let kind = key.kind();
    let (namespace, name) = key.namespace_and_name();
    let failed = |error: &kube::Error| Failure::of(error, VERB, kind);
    // With namespace and name the API server looks up one object instead of scanning all of them.
    let fields = format!("metadata.name={name}");
    let request = Request::new(kind.url_path_in(namespace)).list(&ListParams::default().fields(&fields));
    let request = request.map_err(|error| failed(&kube::Error::BuildRequest(error)))?;
    let text = clients.client().request_text(request).await.map_err(|error| failed(&error))?;
    // On a thread other than the one that handles events, because a large policy takes 50 ms.
    let objects = spawn_blocking(move || objects_of_page(&text, kind, &interner));
    let malformed = |error: String| Failure::malformed(&error, VERB, kind);
    let objects = objects.await.map_err(|error| malformed(chain(&error)))?;
    let objects = objects.map_err(|error| malformed(error.to_string()))?;
    let is_it = |object: &Object| {
        object.identity.name == name && object.identity.namespace == namespace.unwrap_or_default()
    };
    Ok(objects.into_iter().find(is_it).map_or(Answer::Gone, |object| Answer::There(object.into())))
}
