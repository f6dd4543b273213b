//! Follows the objects of one kind: lists them page by page, watches them from there, and never gives up.
//!
//! ```text
//!            +--------------------- 410 Gone, an answer that can't be read --------------------+
//!            v                                                                                 |
//!   list: Began, Listed, Listed, ..., Complete  ->  watch: Applied, Deleted, ...  -------------+
//!                                                     ^            | ends, breaks, is silent
//!                                                     +------------+ goes on at the last version seen
//! ```
//!
//! The client library has a watcher of its own. This one is here since that one tells neither how far it has come nor that a watch
//! hung, begins its waits anew before each list, and holds whole pages of whole objects.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures_util::{AsyncBufReadExt, StreamExt};
use kube::api::{ListParams, WatchParams};
use kube::core::Request;
use policy::PolicySpec;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

use super::clients::Clients;
use super::failure::Failure;
use super::object::{EventType, Identity, Object, Outline, Page, PageMetadata, Slim, WatchLine};
use crate::connection::{Connections, FailureClass};
use crate::convert::Kind;
use crate::interner::Interner;

/// What is heard of the objects of a kind.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Event {
    /// A list begins: what is known and not listed before [`Event::Complete`] is gone. It can begin again before it is complete.
    Began,
    /// Is there, says the list.
    Listed(Object),
    /// The list is complete.
    Complete,
    /// Is there, in this form now.
    Applied(Object),
    /// Is there, in another form now, which is too large to be read while others wait.
    Large {
        identity: Identity,
        /// Isolates the pods that it selects, if it is a policy.
        isolation: Option<Arc<PolicySpec>>,
    },
    /// Is gone.
    Deleted(Identity),
    /// Before any list was complete: this kind may not be read, or isn't there.
    Refused,
}

/// What is waited for, and how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// For the answer to a request, and for each page of a list.
    pub answer: Duration,
    /// For anything to come on a watch. The API server sends a bookmark at least each 75 s.
    pub silence: Duration,
    /// The first wait after a failure. Each further wait is twice as long...
    pub shortest: Duration,
    /// ... up to this. As much again is added at random, so that the agents of a cluster don't all come at once.
    pub longest: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(30),
            silence: Duration::from_secs(100),
            shortest: Duration::from_millis(200),
            longest: Duration::from_secs(5),
        }
    }
}

/// Objects in one page, at most: of 10 KB each they take a megabyte while they are read, and as much again the page that follows.
const PAGE: u32 = 100;

/// Bytes in one page, at most: a longer one is asked for again with fewer objects. One object may be longer; the API server takes
/// 1.5 MB (etcd's `--max-request-bytes`). As values in memory they take about four times as much.
const PAGE_BYTES: usize = 2 << 20;

/// How many times fewer objects the next page has after one that was too long, and more after one that was short.
const PAGE_STEP: u32 = 4;

/// Largest object that is read from a watch as a whole, in bytes: reading and converting this much takes up to 4 ms. Of a
/// larger one an outline is read. If that is not enough, the object is listed on its own later, so that the events behind it
/// don't wait.
const LARGE: usize = 64 << 10;

/// The verb of a list, as failures name it.
const LIST: &str = "list";

/// The same of a watch.
const VERB: &str = "watch";

/// After this the API server ends a watch, in seconds: it then starts another, with a fresh token.
const WATCH: u32 = 290;

/// A watch that ends sooner without a word was not a watch.
const TOO_SHORT: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Follower {
    pub clients: Clients,
    pub connections: Connections,
    pub patience: Patience,
    /// Nobody receives once the program ends.
    pub events: mpsc::Sender<(Kind, Event)>,
    pub interner: Arc<Interner>,
    /// Whether the agent does without this kind if it may not read it.
    pub dispensable: bool,
}

impl Follower {
    /// Follows the objects of the API type `T`, which are of `kind`, until nobody receives.
    pub async fn follow<T: kube::Resource<DynamicType = ()> + 'static>(self, kind: Kind) {
        let mut following = Following {
            kind,
            request: Request::new(kind.url_path()),
            version: None,
            page: PAGE,
            follower: self,
        };
        let mut backoff = following.follower.patience.backoff();
        let mut listed = false;
        while !following.follower.events.is_closed() {
            let step = match following.version.clone() {
                None => following.list::<T>(listed).await.inspect(|()| listed = true),
                Some(version) => following.watch::<T>(&version).await,
            };
            let Err((failure, came)) = step.map_err(|Broken { failure, came }| (failure, came)) else {
                backoff = following.follower.patience.backoff();
                continue;
            };
            let Follower { clients, connections, patience, dispensable, .. } = &following.follower;
            connections.failed(kind, failure.class, &failure.sentence, *dispensable);
            match failure.class {
                FailureClass::Gone | FailureClass::Malformed => following.version = None,
                FailureClass::Unauthorized | FailureClass::Unreachable => clients.renew().await,
                FailureClass::Forbidden | FailureClass::Missing if !listed => {
                    following.tell(Event::Refused).await
                }
                _ => {}
            }
            if came {
                backoff = patience.backoff();
            }
            sleep(backoff.next().unwrap_or(patience.longest)).await;
        }
    }
}

impl Patience {
    fn backoff(&self) -> ExponentialBackoff {
        ExponentialBuilder::default()
            .with_min_delay(self.shortest)
            .with_max_delay(self.longest)
            .with_factor(2.0)
            .without_max_times()
            .with_jitter()
            .build()
    }
}

/// A list or a watch that failed.
struct Broken {
    failure: Failure,
    /// Whether anything good had come before.
    came: bool,
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self { failure, came: false }
    }
}

struct Following {
    kind: Kind,
    request: Request,
    /// Where the next watch begins; `None` if the list must be read first.
    version: Option<String>,
    /// Objects in the next page, at least 1.
    page: u32,
    follower: Follower,
}

impl Following {
    async fn tell(&self, event: Event) {
        // If nobody receives, the program ends.
        let _ = self.follower.events.send((self.kind, event)).await;
    }

    /// Lists all objects, consistently: every page is of the same version.
    async fn list<T: kube::Resource<DynamicType = ()> + 'static>(
        &mut self,
        again: bool,
    ) -> Result<(), Broken> {
        if again {
            self.follower.connections.relisting(self.kind);
        }
        self.tell(Event::Began).await;
        let mut page = self.page(None).await?;
        let metadata = loop {
            let metadata = PageMetadata::of(&page).map_err(|error| self.malformed(&error))?;
            // While this page is read, the API server prepares the next.
            let (events, interner) = (self.follower.events.clone(), Arc::clone(&self.follower.interner));
            let told = tell_all::<T>(self.kind, events, interner, page);
            let ((), next) = tokio::try_join!(told, async {
                match metadata.next() {
                    Some(next) => self.page(Some(next)).await.map(Some),
                    None => Ok(None),
                }
            })?;
            match next {
                Some(next) => page = next,
                None => break metadata,
            }
        };
        let version = metadata.resource_version.filter(|version| !version.is_empty());
        let version =
            version.ok_or_else(|| Failure::malformed("the list has no resourceVersion", LIST, self.kind))?;
        self.follower.connections.seen(self.kind, &version);
        self.version = Some(version);
        self.tell(Event::Complete).await;
        Ok(())
    }

    /// The text of a page of the list: of the first, or of the one that `next` leads to.
    async fn page(&mut self, next: Option<&str>) -> Result<String, Failure> {
        loop {
            let patience = self.follower.patience.answer;
            let longest = if self.page == 1 { usize::MAX } else { PAGE_BYTES };
            let answer = timeout(patience, self.page_up_to(next, longest)).await;
            match answer.map_err(|_| self.hung(LIST, patience))?? {
                Some(page) => {
                    if page.len() < PAGE_BYTES / PAGE_STEP as usize {
                        self.page = (self.page * PAGE_STEP).min(PAGE);
                    }
                    return Ok(page);
                }
                None => self.page = (self.page / PAGE_STEP).max(1),
            }
        }
    }

    /// The same, of [`Following::page`] objects; `None` if it takes more bytes than `longest`.
    async fn page_up_to(&self, next: Option<&str>, longest: usize) -> Result<Option<String>, Failure> {
        let mut params = ListParams::default().limit(self.page);
        params.continue_token = next.map(str::to_owned);
        let failed = |error: &kube::Error| Failure::of(error, LIST, self.kind);
        let request =
            self.request.list(&params).map_err(|error| failed(&kube::Error::BuildRequest(error)))?;
        let client = self.follower.clients.client();
        let mut body = pin!(client.request_stream(request).await.map_err(|error| failed(&error))?);
        let mut page = Vec::new();
        loop {
            let bytes = body.fill_buf().await.map_err(|error| failed(&kube::Error::ReadEvents(error)))?;
            if bytes.is_empty() {
                let page = String::from_utf8(page);
                return page.map(Some).map_err(|error| failed(&kube::Error::FromUtf8(error)));
            }
            if page.len() + bytes.len() > longest {
                return Ok(None);
            }
            page.extend_from_slice(bytes);
            let read = bytes.len();
            body.consume_unpin(read);
        }
    }

    fn malformed(&self, error: &serde_json::Error) -> Failure {
        Failure::malformed(&error.to_string(), LIST, self.kind)
    }

    /// Watches from `version` on until the watch ends.
    async fn watch<T: kube::Resource<DynamicType = ()>>(&mut self, version: &str) -> Result<(), Broken> {
        let Patience { answer, silence, .. } = self.follower.patience;
        let params = WatchParams::default().timeout(WATCH);
        let request = self.request.watch(&params, version).map_err(kube::Error::BuildRequest);
        let request = request.map_err(|error| Failure::of(&error, VERB, self.kind))?;
        let client = self.follower.clients.client();
        let started = timeout(answer, client.request_stream(request)).await;
        let lines = started.map_err(|_| self.hung(VERB, answer))?;
        let mut lines = pin!(lines.map_err(|error| Failure::of(&error, VERB, self.kind))?.lines());
        self.follower.connections.watching(self.kind);
        let begun = Instant::now();
        let mut came = false;
        let broken = |failure, came| Broken { failure, came };
        loop {
            let Ok(line) = timeout(silence, lines.next()).await else {
                return Err(broken(self.hung(VERB, silence), came));
            };
            // A connection that breaks, within a line or between two, ends the watch as the API server does.
            let item = match line {
                Some(Ok(line)) => self.read_line::<T>(&line).map_err(|failure| broken(failure, came))?,
                Some(Err(_)) | None => None,
            };
            let Some(WatchItem { event, version }) = item else {
                if !came && begun.elapsed() < TOO_SHORT {
                    return Err(Failure::cut_short(VERB, self.kind).into());
                }
                self.follower.connections.reconnecting(self.kind);
                return Ok(());
            };
            if let Some(event) = event {
                self.tell(event).await;
            }
            came = true;
            if !version.is_empty() {
                self.follower.connections.seen(self.kind, &version);
                self.version = Some(version);
            }
        }
    }

    /// Reads a line of a watch; `None` if it broke off.
    fn read_line<T: kube::Resource<DynamicType = ()>>(
        &self,
        line: &str,
    ) -> Result<Option<WatchItem>, Failure> {
        let malformed = |error: serde_json::Error| Failure::malformed(&error.to_string(), VERB, self.kind);
        let WatchLine { what, object } = match serde_json::from_str(line) {
            Err(error) if error.is_eof() => return Ok(None),
            read => read.map_err(malformed)?,
        };
        let text = object.get();
        let event = match what {
            EventType::Added | EventType::Modified if text.len() > LARGE => {
                match Outline::of(self.kind, text, &self.follower.interner).map_err(malformed)? {
                    Outline::Small(object) => Event::Applied(object),
                    Outline::Large { identity, isolation } => Event::Large { identity, isolation },
                }
            }
            EventType::Added | EventType::Modified => {
                let slim: Slim<T> = serde_json::from_str(text).map_err(malformed)?;
                Event::Applied(slim.object(self.kind, &self.follower.interner))
            }
            EventType::Deleted => Event::Deleted(Identity::skim(text).map_err(malformed)?),
            EventType::Bookmark => {
                let version = Identity::skim(text).map_err(malformed)?.resource_version;
                return Ok(Some(WatchItem { event: None, version }));
            }
            EventType::Error => {
                let status = serde_json::from_str(text).map_err(malformed)?;
                return Err(Failure::answered(&status, VERB, self.kind));
            }
        };
        let version = match &event {
            Event::Applied(Object { identity, .. })
            | Event::Large { identity, .. }
            | Event::Deleted(identity) => identity.resource_version.clone(),
            _ => String::new(),
        };
        Ok(Some(WatchItem { event: Some(event), version }))
    }

    fn hung(&self, verb: &str, waited: Duration) -> Failure {
        Failure::hung(verb, self.kind, waited.as_secs_f64())
    }
}

/// What a line of a watch says.
struct WatchItem {
    event: Option<Event>,
    /// The version at which the watch is then; empty if that is not said.
    version: String,
}

/// Tells the objects of a page. They are read on a thread apart, so that the next page comes in meanwhile.
async fn tell_all<T: kube::Resource<DynamicType = ()> + 'static>(
    kind: Kind,
    events: mpsc::Sender<(Kind, Event)>,
    interner: Arc<Interner>,
    page: String,
) -> Result<(), Failure> {
    let read = spawn_blocking(move || Page::<T>::objects(&page, kind, &interner)).await;
    // Should reading fail by a fault of ours, the list is not taken to be complete without these objects.
    let read = read.map_err(|error| Failure::malformed(&error.to_string(), LIST, kind))?;
    let read = read.map_err(|error| Failure::malformed(&error.to_string(), LIST, kind))?;
    for object in read {
        // The receiver is gone only when the program is ending.
        let _ = events.send((kind, Event::Listed(object))).await;
    }
    Ok(())
}
