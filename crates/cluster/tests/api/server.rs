//! An API server as far as a client sees it, with lists in pages, watches with bookmarks, and versions. It
//! can inject faults.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use cluster::namespaces::Namespaces;
use cluster::{Interner, Kind, convert};
use futures_util::stream;
use policy::{Change, Inventory};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// How often an idle watch sends a bookmark.
const BOOKMARK: Duration = Duration::from_millis(100);

/// The faults of the server.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// 403 for these resources.
    pub forbidden: BTreeSet<&'static str>,
    /// The token that is accepted; empty: any.
    pub token: String,
    /// The next watch of each of these kinds stays silent.
    pub silent: Vec<Kind>,
    /// How many of the next continuation pages break off in the middle.
    pub torn_pages: usize,
    /// How many of the next lists of a single object fail.
    pub failing_rereads: usize,
    /// How many of the next continue tokens are expired.
    pub old_tokens: usize,
    /// The next watch of each of these kinds begins with a line that is not JSON.
    pub garbled: Vec<Kind>,
    /// The next watch of each of these kinds breaks off within its first line.
    pub torn_lines: Vec<Kind>,
    /// 403 for discovery.
    pub is_discovery_forbidden: bool,
    /// 403 for the next list of each of these kinds.
    pub refused_lists: Vec<Kind>,
    /// A watch from an expired version is answered with 410 instead of an error event.
    pub gone_at_once: bool,
}

#[derive(Debug, Default)]
struct Store {
    version: u64,
    /// By resource and `namespace/name`.
    objects: BTreeMap<(&'static str, String), Value>,
    /// The events, with their versions.
    log: Vec<(u64, &'static str, Value)>,
    /// Events up to this version are no longer available.
    compacted: u64,
    /// The remaining items of lists in progress.
    rests: BTreeMap<String, (u64, Vec<Value>)>,
    /// The number of times that all watches were ended.
    cut: u64,
    /// The custom kinds that are defined.
    defined: BTreeSet<Kind>,
    /// The custom kinds that are defined in version `v9` only.
    in_other_version: BTreeSet<Kind>,
    faults: Faults,
    /// The Events that were created.
    events: Vec<Value>,
    /// The number of lists that were started.
    lists: usize,
    /// The number of lists of a single object.
    rereads: usize,
    /// The limit of the last requested page of each kind.
    limits: BTreeMap<Kind, usize>,
}

impl Store {
    /// The `apiVersion` in which a custom kind that is defined is served.
    fn version_of(&self, kind: Kind) -> String {
        match self.in_other_version.contains(&kind) {
            true => format!("{}/v9", kind.group()),
            false => kind.api_version().into_owned(),
        }
    }
}

#[derive(Clone, Debug)]
struct Shared {
    store: Arc<Mutex<Store>>,
    changes: Arc<watch::Sender<u64>>,
}

/// See the module.
pub(crate) struct Server {
    shared: Shared,
    address: SocketAddr,
    /// `None` while the server is down.
    runtime: Option<Runtime>,
    folder: TempDir,
}

impl Server {
    /// Starts an empty server.
    pub(crate) fn start() -> Self {
        let shared = Shared { store: Arc::default(), changes: Arc::new(watch::Sender::new(0)) };
        let folder = tempfile::tempdir().expect("a folder");
        let mut server =
            Self { shared, address: SocketAddr::from(([127, 0, 0, 1], 0)), runtime: None, folder };
        server.store().version = 100;
        server.up();
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": format!("http://{}", server.address)}}],
            "users": [{"name": "test", "user": {"tokenFile": server.token()}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        std::fs::write(server.token(), "first").expect("a token");
        std::fs::write(server.kubeconfig(), kubeconfig.to_string()).expect("a kubeconfig");
        server
    }

    /// The kubeconfig of the server.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// The file with the clients' token.
    pub(crate) fn token(&self) -> PathBuf {
        self.folder.path().join("token")
    }

    /// All connections break, and no new one is accepted.
    pub(crate) fn down(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
    }

    /// Starts the server again at the same address.
    pub(crate) fn up(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind(self.address)).expect("the address");
        self.address = listener.local_addr().expect("an address");
        let routes = Router::new().fallback(answer).with_state(self.shared.clone());
        runtime.spawn(async move { axum::serve(listener, routes).await });
        self.runtime = Some(runtime);
    }

    /// Changes the faults.
    pub(crate) fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.store().faults);
    }

    /// Creates or changes an object.
    pub(crate) fn put(&self, kind: Kind, mut object: Value) {
        let mut store = self.store();
        store.version += 1;
        let version = store.version;
        let key = (resource(kind), full_name(&object));
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        object["metadata"]["uid"] = json!(format!("uid-{}", key.1));
        let what = if store.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        store.log.push((version, key.0, event(what, kind, &object)));
        store.objects.insert(key, object);
        drop(store);
        self.shared.changes.send_modify(|changes| *changes += 1);
    }

    /// Deletes an object.
    pub(crate) fn delete(&self, kind: Kind, name: &str) {
        let mut store = self.store();
        let Some(mut object) = store.objects.remove(&(resource(kind), name.to_owned())) else { return };
        store.version += 1;
        let version = store.version;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        store.log.push((version, resource(kind), event("DELETED", kind, &object)));
        drop(store);
        self.shared.changes.send_modify(|changes| *changes += 1);
    }

    /// Creates the CustomResourceDefinition of a kind.
    pub(crate) fn define(&self, kind: Kind) {
        self.store().defined.insert(kind);
    }

    /// Deletes the CustomResourceDefinition of a kind and its objects while no client watches.
    pub(crate) fn undefine(&self, kind: Kind) {
        let mut store = self.store();
        store.defined.remove(&kind);
        store.objects.retain(|(of, _), _| *of != resource(kind));
        drop(store);
        self.cut();
    }

    /// Serves a kind that is defined in another version only, or in its own again. Its objects stay.
    pub(crate) fn serve_in_other_version(&self, kind: Kind, other: bool) {
        let mut store = self.store();
        if other {
            store.in_other_version.insert(kind)
        } else {
            store.in_other_version.remove(&kind)
        };
        drop(store);
        self.cut();
    }

    /// Ends all watches, like a server that restarts.
    pub(crate) fn cut(&self) {
        self.store().cut += 1;
        self.shared.changes.send_modify(|changes| *changes += 1);
    }

    /// Drops the events until now, so a client with an older version must list again.
    pub(crate) fn compact(&self) {
        let mut store = self.store();
        store.compacted = store.version;
        store.rests.clear();
    }

    /// The Events that were created.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.store().events.clone()
    }

    /// The limit of the last requested page of this kind.
    pub(crate) fn limit(&self, kind: Kind) -> usize {
        self.store().limits[&kind]
    }

    /// The number of lists that were started.
    pub(crate) fn lists(&self) -> usize {
        self.store().lists
    }

    /// The number of lists of a single object.
    pub(crate) fn rereads(&self) -> usize {
        self.store().rereads
    }

    /// What a client should have, computed from the current objects, without any history.
    pub(crate) fn model(&self) -> Inventory {
        let (interner, mut inventory, mut namespaces) =
            (Interner::new(), Inventory::default(), Namespaces::default());
        for ((resource, _), object) in &self.store().objects {
            let kind = Kind::ALL.into_iter().find(|kind| kind.plural() == *resource).expect("a kind");
            match convert(kind, object, &[], &interner).expect("an object").change {
                Change::Namespace(namespace) => namespaces.described(namespace),
                change => {
                    if let Change::Pod(pod) = &change {
                        namespaces.pod_added(&pod.name.namespace);
                    }
                    inventory.apply(change);
                }
            }
        }
        namespaces.changes().into_iter().for_each(|change| inventory.apply(change));
        inventory
    }

    /// The versions of the existing policies.
    pub(crate) fn policy_versions(&self) -> BTreeMap<String, String> {
        let store = self.store();
        let policies = store.objects.iter().filter(|((resource, _), _)| resource.ends_with("policies"));
        let version =
            |object: &Value| object["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();
        policies.map(|((_, name), object)| (name.clone(), version(object))).collect()
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.shared.store()
    }
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether there is one more time left. Decrements the count.
fn once(left: &mut usize) -> bool {
    let is_left = *left > 0;
    *left = left.saturating_sub(1);
    is_left
}

fn once_for(left: &mut Vec<Kind>, kind: Kind) -> bool {
    let at = left.iter().position(|of| *of == kind);
    at.map(|at| left.swap_remove(at)).is_some()
}

fn resource(kind: Kind) -> &'static str {
    match kind {
        Kind::Namespace => "namespaces",
        Kind::Node => "nodes",
        Kind::Pod => "pods",
        Kind::NetworkPolicy => "networkpolicies",
        Kind::ClusterNetworkPolicy => "clusternetworkpolicies",
        Kind::AdminNetworkPolicy => "adminnetworkpolicies",
        Kind::BaselineAdminNetworkPolicy => "baselineadminnetworkpolicies",
    }
}

fn full_name(object: &Value) -> String {
    let text = |name: &str| object["metadata"][name].as_str();
    let name = text("name").expect("a name");
    text("namespace").map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"))
}

/// A line of a watch. Unlike in lists, objects have their kind here.
fn event(what: &str, kind: Kind, object: &Value) -> Value {
    let mut object = object.clone();
    object["apiVersion"] = json!(kind.api_version());
    object["kind"] = json!(kind.name());
    json!({"type": what, "object": object})
}

fn status(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason})
}

fn refusal(code: u16, reason: &str) -> Response {
    let code_of = StatusCode::from_u16(code).expect("a code");
    (code_of, status(code, reason).to_string()).into_response()
}

async fn answer(
    State(shared): State<Shared>,
    method: Method,
    headers: HeaderMap,
    uri: Uri,
    Query(query): Query<BTreeMap<String, String>>,
    body: String,
) -> Response {
    let path = uri.path();
    let last = path.rsplit('/').next().unwrap_or_default();
    if method == Method::POST && last == "events" {
        return create_event(&shared, &body);
    }
    let (cluster_wide, namespace) = match path.split_once("/namespaces/") {
        Some((group, rest)) => {
            let (namespace, plural) = rest.split_once('/').expect("objects of a namespace");
            (format!("{group}/{plural}"), Some(namespace))
        }
        None => (path.to_owned(), None),
    };
    if let Some(version) = path.strip_prefix("/apis/").filter(|version| version.split('/').count() == 2) {
        return discover(&shared.store(), version);
    }
    if let Some(group) = path.strip_prefix("/apis/").filter(|group| !group.contains('/')) {
        return group_of(&shared.store(), group);
    }
    let is_defined = |kind: &Kind| {
        let store = shared.store();
        !kind.is_custom() || store.defined.contains(kind) && !store.in_other_version.contains(kind)
    };
    let kind = Kind::ALL.into_iter().find(|kind| kind.url_path() == cluster_wide);
    let Some(kind) = kind else {
        return refusal(404, "NotFound");
    };
    // An API server checks permissions first.
    if !is_defined(&kind) && !shared.store().faults.forbidden.contains(resource(kind)) {
        return refusal(404, "NotFound");
    }
    {
        let store = shared.store();
        let token = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        if !store.faults.token.is_empty() && token != Some(&format!("Bearer {}", store.faults.token)) {
            return refusal(401, "Unauthorized");
        }
        if store.faults.forbidden.contains(resource(kind)) {
            return refusal(403, "Forbidden");
        }
    }
    if query.get("watch").is_some_and(|watch| watch == "true") {
        let from = query.get("resourceVersion").and_then(|version| version.parse().ok()).expect("a version");
        return watch(shared, kind, from);
    }
    if let Some(fields) = query.get("fieldSelector") {
        return list_one(&mut shared.store(), kind, namespace, fields);
    }
    if once_for(&mut shared.store().faults.refused_lists, kind) {
        return refusal(403, "Forbidden");
    }
    list(&shared, kind, &query)
}

/// The kinds of a group and version, like `policy.networking.k8s.io/v1alpha2`.
fn discover(store: &Store, version: &str) -> Response {
    if store.faults.is_discovery_forbidden {
        return refusal(403, "Forbidden");
    }
    let kinds: Vec<&Kind> = store.defined.iter().filter(|kind| store.version_of(**kind) == version).collect();
    if kinds.is_empty() {
        return refusal(404, "NotFound");
    }
    let resource = |kind: &&Kind| json!({"name": kind.plural(), "singularName": "", "namespaced": false, "kind": kind.name(), "verbs": ["list", "watch"]});
    let resources: Vec<Value> = kinds.iter().map(resource).collect();
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources})
        .to_string()
        .into_response()
}

/// The versions of a group.
fn group_of(store: &Store, group: &str) -> Response {
    if store.faults.is_discovery_forbidden {
        return refusal(403, "Forbidden");
    }
    let of_group = store.defined.iter().filter(|kind| kind.group() == group);
    let versions: BTreeSet<String> = of_group.map(|kind| store.version_of(*kind)).collect();
    if versions.is_empty() {
        return refusal(404, "NotFound");
    }
    let version = |text: &String| json!({"groupVersion": text, "version": text.rsplit('/').next()});
    let versions: Vec<Value> = versions.iter().map(version).collect();
    json!({"kind": "APIGroup", "apiVersion": "v1", "name": group, "versions": versions})
        .to_string()
        .into_response()
}

fn create_event(shared: &Shared, body: &str) -> Response {
    let mut store = shared.store();
    if store.faults.forbidden.contains("events") {
        return refusal(403, "Forbidden");
    }
    let event: Value = serde_json::from_str(body).expect("JSON");
    if store.events.iter().any(|known| known["metadata"]["name"] == event["metadata"]["name"]) {
        return refusal(409, "AlreadyExists");
    }
    store.events.push(event.clone());
    (StatusCode::CREATED, event.to_string()).into_response()
}

fn list(shared: &Shared, kind: Kind, query: &BTreeMap<String, String>) -> Response {
    let mut store = shared.store();
    let limit: usize = query.get("limit").and_then(|limit| limit.parse().ok()).expect("a limit");
    store.limits.insert(kind, limit);
    let (version, mut items) = match query.get("continue") {
        None => {
            store.lists += 1;
            let items = store.objects.iter().filter(|((of, _), _)| *of == resource(kind));
            (store.version, items.map(|(_, object)| object.clone()).collect::<Vec<_>>())
        }
        Some(token) => {
            if once(&mut store.faults.old_tokens) {
                return refusal(410, "Expired");
            }
            match store.rests.get(token) {
                Some(rest) => rest.clone(),
                None => return refusal(410, "Expired"),
            }
        }
    };
    let rest = items.split_off(limit.min(items.len()));
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if !rest.is_empty() {
        let token = format!("{}-{version}-{}", resource(kind), rest.len());
        metadata["continue"] = json!(token);
        store.rests.insert(token, (version, rest));
    }
    let text = json!({
        "kind": format!("{}List", kind.name()), "apiVersion": kind.api_version(), "metadata": metadata, "items": items,
    })
    .to_string();
    if query.contains_key("continue") && once(&mut store.faults.torn_pages) {
        let half = text[..text.len() / 2].to_owned();
        let broken = std::io::Error::other("torn");
        return Body::from_stream(stream::iter([Ok(half), Err(broken)])).into_response();
    }
    text.into_response()
}

/// Lists the one object with this name.
fn list_one(store: &mut Store, kind: Kind, namespace: Option<&str>, fields: &str) -> Response {
    store.rereads += 1;
    if once(&mut store.faults.failing_rereads) {
        return refusal(503, "ServiceUnavailable");
    }
    let name = fields.strip_prefix("metadata.name=").expect("a name");
    let name = namespace.map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"));
    let items: Vec<&Value> = store.objects.get(&(resource(kind), name)).into_iter().collect();
    json!({"metadata": {"resourceVersion": store.version.to_string()}, "items": items})
        .to_string()
        .into_response()
}

/// The state of a watch.
struct At {
    shared: Shared,
    kind: Kind,
    seen: u64,
    cut: u64,
    changes: watch::Receiver<u64>,
    bookmark: Instant,
    first: Vec<String>,
    silent: bool,
    over: bool,
}

fn watch(shared: Shared, kind: Kind, from: u64) -> Response {
    let at = {
        let mut store = shared.store();
        let is_old = from < store.compacted;
        if is_old && store.faults.gone_at_once {
            return refusal(410, "Expired");
        }
        let mut first = Vec::new();
        if is_old {
            first.push(json!({"type": "ERROR", "object": status(410, "Expired")}).to_string());
        } else if once_for(&mut store.faults.garbled, kind) {
            first.push("{\"type\": \"ADDED\", \"object\": {\"metadata\": ]}}".to_owned());
        }
        let is_torn = !is_old && once_for(&mut store.faults.torn_lines, kind);
        if is_torn {
            first.push("{\"type\": \"ADDED\", \"object\": {\"meta".to_owned());
        }
        let silent = !is_old && once_for(&mut store.faults.silent, kind);
        let (cut, changes) = (store.cut, shared.changes.subscribe());
        drop(store);
        At {
            shared,
            kind,
            seen: from,
            cut,
            changes,
            bookmark: Instant::now() + BOOKMARK,
            first,
            silent,
            over: is_old || is_torn,
        }
    };
    Body::from_stream(stream::unfold(at, next_lines)).into_response()
}

async fn next_lines(mut at: At) -> Option<(Result<String, Infallible>, At)> {
    loop {
        if let Some(line) = at.first.pop() {
            return Some((Ok(line + "\n"), at));
        }
        if at.over {
            return None;
        }
        let lines = {
            let store = at.shared.store();
            if store.cut != at.cut {
                return None;
            }
            let new =
                store.log.iter().filter(|(version, of, _)| *version > at.seen && *of == resource(at.kind));
            let lines: Vec<String> = new.map(|(_, _, event)| event.to_string() + "\n").collect();
            if !at.silent {
                at.seen = store.version;
            }
            lines
        };
        if !lines.is_empty() && !at.silent {
            at.bookmark = Instant::now() + BOOKMARK;
            return Some((Ok(lines.concat()), at));
        }
        tokio::select! {
            changed = at.changes.changed() => if changed.is_err() { return None },
            () = sleep_until(at.bookmark), if !at.silent => {
                at.bookmark = Instant::now() + BOOKMARK;
                let object = json!({"metadata": {"resourceVersion": at.seen.to_string()}});
                return Some((Ok(event("BOOKMARK", at.kind, &object).to_string() + "\n"), at));
            }
        }
    }
}
