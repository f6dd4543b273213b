//! Lists the objects of one kind page by page, watches them from that version on, and retries without end.
//!
//! ```text
//!            +------------------- 410 Gone, a response that can't be parsed ------------------+
//!            v                                                                                |
//!   list: Init, InitApply, InitApply, ..., InitDone  ->  watch: Apply, Delete, ...  ----------+
//!                                                          ^          | ends, breaks, is silent
//!                                                          +----------+ resumes at the last version seen
//! ```
//!
//! A kind that a CustomResourceDefinition defines is looked for first ([`super::discovery`]), and now and
//! then if the API server does not have it. Without its definition, it has no objects. If the definition
//! serves other versions only, the last known objects stay in force.
//!
//! The events are those of `kube::runtime::watcher`. With 50,000 pods and 1,000 policies, that watcher (kube
//! 5) and this source receive the same 618 MB until all is listed, and take 3.8 s and 3.3 s of processor
//! time. The peak of memory is 76 MB with that watcher and a program that keeps only the addresses and labels
//! of pods, and 90 MB here, with all converted objects. So neither is a reason. That watcher is not used
//! because it parses a large object while other events wait, does not report which version it has seen or
//! that a watch hung, and resets its backoff before each list.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{AsyncBufReadExt, StreamExt};
use kube::api::{ListParams, WatchParams};
use kube::core::Request;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

use super::clients::Clients;
use super::discovery::{Availability, DISCOVER, availability};
use super::failure::Failure;
use super::object::{PageMetadata, objects_of_page};
use super::timeouts::Timeouts;
use super::watcher_event::{WATCH, WatchItem, WatcherEvent};
use crate::convert::Kind;
use crate::interner::Interner;
use crate::watch_status::{FailureClass, WatchStatuses};

/// The most objects in one page. If each takes 10 KB, a page takes a megabyte while it is read, and the next
/// page as much again.
const PAGE: u32 = 100;

/// The most bytes in one page. A longer page is requested again with fewer objects. A page of a single object
/// may be longer; the API server accepts objects of up to 1.5 MB (etcd's `--max-request-bytes`). As values in
/// memory they take about four times as much.
const PAGE_BYTES: usize = 2 << 20;

/// The factor by which the page size shrinks after a page that was too long, and grows after one that was
/// short.
const PAGE_STEP: u32 = 4;

/// How often a list of an optional kind is refused before the agent works without it. An API server that
/// starts refuses requests until it has read the cluster's roles.
const REFUSALS: u32 = 3;

/// The verb of a list in failure messages.
const LIST: &str = "list";

/// The duration after which the API server ends a watch, in seconds. The next watch has a fresh token.
const WATCH_SECONDS: u32 = 290;

/// A watch that ends sooner than this without any event counts as failed.
const TOO_SHORT: Duration = Duration::from_secs(1);

/// Lists and watches one kind. See the module.
pub(super) struct Watcher {
    pub clients: Clients,
    pub watch_statuses: WatchStatuses,
    pub timeouts: Timeouts,
    /// The receiver is dropped when the program ends.
    pub events: mpsc::Sender<(Kind, WatcherEvent)>,
    pub interner: Arc<Interner>,
    /// Whether the agent works without this kind if it may not read it.
    pub optional: bool,
    /// Whether the state on disk has objects of this kind.
    pub is_restored: bool,
}

impl Watcher {
    /// Lists and watches the objects of `kind` until the receiver is dropped.
    pub(super) async fn run(self, kind: Kind) {
        let mut list_watch = ListWatch {
            kind,
            request: Request::new(kind.url_path()),
            version: None,
            page_size: PAGE,
            is_listed: false,
            absences: 0,
            refusals: 0,
            watcher: self,
        };
        let mut backoff = list_watch.watcher.timeouts.backoff();
        while !list_watch.watcher.events.is_closed() {
            let Err(Interrupted { failure, received }) = list_watch.step().await else {
                backoff = list_watch.watcher.timeouts.backoff();
                continue;
            };
            let Watcher { clients, watch_statuses, timeouts, optional, .. } = &list_watch.watcher;
            watch_statuses.failed(kind, failure.class, &failure.sentence, *optional);
            let mut pause = None;
            match failure.class {
                FailureClass::Gone | FailureClass::Malformed => list_watch.version = None,
                FailureClass::Missing if kind.is_custom() => {
                    list_watch.version = None;
                    list_watch.missing().await;
                    continue;
                }
                FailureClass::Unauthorized | FailureClass::Unreachable => clients.renew().await,
                FailureClass::Forbidden | FailureClass::Missing if !list_watch.is_listed => {
                    list_watch.refusals = list_watch.refusals.saturating_add(1);
                    if list_watch.refusals >= REFUSALS {
                        pause = kind.is_custom().then(|| timeouts.until_next_look());
                        list_watch.send(WatcherEvent::Unavailable).await
                    }
                }
                _ => {}
            }
            if received {
                backoff = timeouts.backoff();
            }
            sleep(pause.or_else(|| backoff.next()).unwrap_or(timeouts.max_backoff)).await;
        }
    }
}

/// A failed list or watch.
struct Interrupted {
    failure: Failure,
    /// Whether anything was received before the failure.
    received: bool,
}

impl From<Failure> for Interrupted {
    fn from(failure: Failure) -> Self {
        Self { failure, received: false }
    }
}

struct ListWatch {
    kind: Kind,
    request: Request,
    /// The version from which the next watch starts; `None` if the list must be read first.
    version: Option<String>,
    /// The number of objects in the next page, at least 1.
    page_size: u32,
    /// Whether a list was complete.
    is_listed: bool,
    /// How often in a row the API server did not have this kind.
    absences: u32,
    /// How often the agent was not permitted to list this kind.
    refusals: u32,
    watcher: Watcher,
}

impl ListWatch {
    async fn send(&self, event: WatcherEvent) {
        // Without a receiver, the program is ending.
        let _ = self.watcher.events.send((self.kind, event)).await;
    }

    /// The next step: looks for the kind, lists its objects or watches them.
    async fn step(&mut self) -> Result<(), Interrupted> {
        match self.version.clone() {
            Some(version) => self.watch(&version).await,
            None => match self.availability().await? {
                Availability::Served => {
                    self.list(self.is_listed).await?;
                    (self.is_listed, self.absences) = (true, 0);
                    Ok(())
                }
                Availability::OtherVersions(versions) => {
                    self.only_in(&versions).await;
                    Ok(())
                }
                Availability::Absent => {
                    self.absent().await;
                    Ok(())
                }
            },
        }
    }

    /// In which versions the API server has this kind.
    async fn availability(&self) -> Result<Availability, Failure> {
        let waited = self.watcher.timeouts.response;
        let found = timeout(waited, availability(&self.watcher.clients.client(), self.kind)).await;
        found.map_err(|_| self.hung(DISCOVER, waited))?
    }

    /// Handles that a list or watch found no such kind.
    async fn missing(&mut self) {
        match self.availability().await {
            Ok(Availability::OtherVersions(versions)) => self.only_in(&versions).await,
            Ok(Availability::Served | Availability::Absent) => self.absent().await,
            // It may be there in another version.
            Err(_) => sleep(self.watcher.timeouts.until_next_look()).await,
        }
    }

    /// Handles that the API server has this kind, but not in the version that is converted: its objects still
    /// exist, so the last known ones stay in force. Looks again after a while.
    async fn only_in(&mut self, versions: &[String]) {
        self.absences = 0;
        let failure = Failure::other_versions(self.kind, versions);
        let Watcher { watch_statuses, optional, .. } = &self.watcher;
        watch_statuses.failed(self.kind, failure.class, &failure.sentence, *optional);
        self.send(WatcherEvent::OtherVersions(failure.sentence)).await;
        sleep(self.watcher.timeouts.until_next_look()).await;
    }

    /// Handles that the API server does not have this kind: then there are no objects of it. If there were
    /// objects before, this must be seen twice in a row: one of several API servers may lag behind.
    async fn absent(&mut self) {
        self.absences = self.absences.saturating_add(1);
        let needed = if self.is_listed || self.watcher.is_restored { 2 } else { 1 };
        if self.absences == needed {
            self.watcher.watch_statuses.absent(self.kind);
            self.send(WatcherEvent::Init).await;
            self.send(WatcherEvent::InitDone).await;
        }
        sleep(self.watcher.timeouts.until_next_look()).await;
    }

    /// Lists all objects. The list is consistent: every page is of the same version.
    async fn list(&mut self, again: bool) -> Result<(), Interrupted> {
        if again {
            self.watcher.watch_statuses.relisting(self.kind);
        }
        self.send(WatcherEvent::Init).await;
        let mut page = self.page(None).await?;
        let metadata = loop {
            let metadata = PageMetadata::of(&page).map_err(|error| self.malformed(&error))?;
            // While this page is converted, the next one is requested.
            let (events, interner) = (self.watcher.events.clone(), Arc::clone(&self.watcher.interner));
            let sent = send_page(self.kind, events, interner, page);
            let ((), next) = tokio::try_join!(sent, async {
                match metadata.next_page() {
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
        self.watcher.watch_statuses.seen(self.kind, &version);
        self.version = Some(version);
        self.send(WatcherEvent::InitDone).await;
        Ok(())
    }

    /// The text of a page of the list: the first page, or the one with the continue token `next`.
    async fn page(&mut self, next: Option<&str>) -> Result<String, Failure> {
        loop {
            let timeouts = self.watcher.timeouts.response;
            let longest = if self.page_size == 1 { usize::MAX } else { PAGE_BYTES };
            let answer = timeout(timeouts, self.page_up_to(next, longest)).await;
            match answer.map_err(|_| self.hung(LIST, timeouts))?? {
                Some(page) => {
                    if page.len() < PAGE_BYTES / PAGE_STEP as usize {
                        self.page_size = (self.page_size * PAGE_STEP).min(PAGE);
                    }
                    return Ok(page);
                }
                None => self.page_size = (self.page_size / PAGE_STEP).max(1),
            }
        }
    }

    /// The text of a page of at most [`ListWatch::page_size`] objects; `None` if it has more than `longest`
    /// bytes.
    async fn page_up_to(&self, next: Option<&str>, longest: usize) -> Result<Option<String>, Failure> {
        let mut params = ListParams::default().limit(self.page_size);
        params.continue_token = next.map(str::to_owned);
        let failed = |error: &kube::Error| Failure::of(error, LIST, self.kind);
        let request =
            self.request.list(&params).map_err(|error| failed(&kube::Error::BuildRequest(error)))?;
        let client = self.watcher.clients.client();
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

    /// Watches from `version` on, until the watch ends.
    async fn watch(&mut self, version: &str) -> Result<(), Interrupted> {
        let Timeouts { response, idle, .. } = self.watcher.timeouts;
        let params = WatchParams::default().timeout(WATCH_SECONDS);
        let request = self.request.watch(&params, version).map_err(kube::Error::BuildRequest);
        let request = request.map_err(|error| Failure::of(&error, WATCH, self.kind))?;
        let client = self.watcher.clients.client();
        let started = timeout(response, client.request_stream(request)).await;
        let lines = started.map_err(|_| self.hung(WATCH, response))?;
        let mut lines = pin!(lines.map_err(|error| Failure::of(&error, WATCH, self.kind))?.lines());
        self.watcher.watch_statuses.watching(self.kind);
        let begun = Instant::now();
        let mut received = false;
        let interrupted = |failure, received| Interrupted { failure, received };
        loop {
            let Ok(line) = timeout(idle, lines.next()).await else {
                return Err(interrupted(self.hung(WATCH, idle), received));
            };
            // A connection that breaks, within a line or between two, is treated like a watch that the API
            // server ends.
            let item = match line {
                Some(Ok(line)) => WatchItem::read(self.kind, &line, &self.watcher.interner)
                    .map_err(|failure| interrupted(failure, received))?,
                Some(Err(_)) | None => None,
            };
            let Some(WatchItem { event, version }) = item else {
                if !received && begun.elapsed() < TOO_SHORT {
                    return Err(Failure::cut_short(WATCH, self.kind).into());
                }
                self.watcher.watch_statuses.reconnecting(self.kind);
                return Ok(());
            };
            if let Some(event) = event {
                self.send(event).await;
            }
            received = true;
            if !version.is_empty() {
                self.watcher.watch_statuses.seen(self.kind, &version);
                self.version = Some(version);
            }
        }
    }

    fn hung(&self, verb: &str, waited: Duration) -> Failure {
        Failure::hung(verb, self.kind, waited.as_secs_f64())
    }
}

/// Sends the objects of a page. They are parsed on a separate thread, so that the next page is received in
/// the meantime.
async fn send_page(
    kind: Kind,
    events: mpsc::Sender<(Kind, WatcherEvent)>,
    interner: Arc<Interner>,
    page: String,
) -> Result<(), Failure> {
    let read = spawn_blocking(move || objects_of_page(&page, kind, &interner)).await;
    // If parsing panics, the list must not count as complete without these objects.
    let read = read.map_err(|error| Failure::malformed(&error.to_string(), LIST, kind))?;
    let read = read.map_err(|error| Failure::malformed(&error.to_string(), LIST, kind))?;
    for object in read {
        // The receiver is dropped only when the program is ending.
        let _ = events.send((kind, WatcherEvent::InitApply(object))).await;
    }
    Ok(())
}
