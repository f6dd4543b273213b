//! A simple API server whose objects are replaced as a whole. It has paginated lists, and watches that end
//! when something changes. It can be stopped, or be unreachable for a while.
//!
//! It is for tests of whole agents. `crates/cluster/tests/api` has one that misbehaves, for tests of the
//! source alone.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::namespace::NetworkNamespace;

/// Objects by the path of their list, such as `/api/v1/pods`.
pub type Objects = BTreeMap<&'static str, Vec<Value>>;

/// The path of the list of policies.
pub const POLICIES: &str = "/apis/networking.k8s.io/v1/networkpolicies";

/// See the module's documentation.
#[derive(Debug)]
pub struct StaticApi {
    address: SocketAddr,
    is_down: Arc<AtomicBool>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// The state that connections share.
#[derive(Debug)]
struct Shared {
    held: Mutex<Held>,
    connections: Mutex<Vec<TcpStream>>,
    /// Connections with a watch that has not ended.
    watches: Mutex<Vec<TcpStream>>,
    is_cut: AtomicBool,
}

/// The served objects.
#[derive(Debug)]
struct Held {
    version: u64,
    objects: Arc<Objects>,
    /// Policies that are published once all other lists of this version are watched.
    policies: Option<Vec<Value>>,
    /// Lists that have a watch from this version.
    watched: BTreeSet<String>,
}

impl StaticApi {
    /// Serves objects in a network namespace, on a port of 127.0.0.1; 0 for any port.
    pub fn start(namespace: &NetworkNamespace, port: u16, objects: Objects) -> Result<Self> {
        let listener =
            namespace.run(|| TcpListener::bind(("127.0.0.1", port)))?.context("binding the API server")?;
        let address = listener.local_addr().context("the API server's address")?;
        let held =
            Held { version: 1000, objects: Arc::new(objects), policies: None, watched: BTreeSet::new() };
        let shared = Arc::new(Shared {
            held: Mutex::new(held),
            connections: Mutex::default(),
            watches: Mutex::default(),
            is_cut: AtomicBool::new(false),
        });
        let is_down = Arc::new(AtomicBool::new(false));
        let (ends, theirs) = (Arc::clone(&is_down), Arc::clone(&shared));
        let thread = thread::spawn(move || {
            for stream in listener.incoming().map_while(io::Result::ok) {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(clone) = stream.try_clone() else { continue };
                if theirs.is_cut.load(Ordering::Relaxed) {
                    continue;
                }
                lock(&theirs.connections).push(clone);
                let shared = Arc::clone(&theirs);
                // Ends when the connection does.
                thread::spawn(move || serve(&stream, &shared));
            }
        });
        Ok(Self { address, is_down, shared, thread: Some(thread) })
    }

    /// Replaces all objects. Policies are replaced last, so a client with the new policies also has the new
    /// objects of all other kinds.
    pub fn replace(&self, mut objects: Objects) {
        let mut held = lock(&self.shared.held);
        let policies = objects.insert(POLICIES, held.objects.get(POLICIES).cloned().unwrap_or_default());
        held.version += 1;
        (held.objects, held.policies, held.watched) = (Arc::new(objects), policies, BTreeSet::new());
        drop(held);
        self.shared.end_watches();
    }

    /// Makes it unreachable, or reachable again. While it is unreachable, connections are closed at once.
    pub fn cut(&self, is_cut: bool) {
        self.shared.is_cut.store(is_cut, Ordering::Relaxed);
        if is_cut {
            self.shared.hang_up();
        }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Writes a kubeconfig for it.
    pub fn write_kubeconfig(&self, path: PathBuf) -> Result<PathBuf> {
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        write(&path, &kubeconfig.to_string())?;
        Ok(path)
    }

    /// Stops it: closes its connections and refuses new ones. `namespace` is its own.
    pub fn stop(mut self, namespace: &NetworkNamespace) -> Result<()> {
        self.is_down.store(true, Ordering::Relaxed);
        // Wakes the thread, whose listener closes when it ends.
        let _ = namespace.run(|| TcpStream::connect(self.address))?;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.shared.hang_up();
        Ok(())
    }
}

impl Shared {
    fn hang_up(&self) {
        lock(&self.watches).clear();
        for connection in lock(&self.connections).drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Records the start of a watch; false if its version is too old.
    fn watch(&self, path: &str, version: Option<&str>) -> bool {
        let mut held = lock(&self.held);
        if version.is_none_or(|version| version != held.version.to_string()) {
            return false;
        }
        held.watched.insert(path.to_owned());
        let are_watched = held.objects.keys().all(|list| *list == POLICIES || held.watched.contains(*list));
        if are_watched && let Some(policies) = held.policies.take() {
            let mut objects = Objects::clone(&held.objects);
            objects.insert(POLICIES, policies);
            (held.version, held.objects) = (held.version + 1, Arc::new(objects));
            drop(held);
            self.end_watches();
        }
        true
    }

    /// Sends the head of a watch's response, and ends the watch at once if something has changed meanwhile.
    fn begin_watch(&self, mut stream: &TcpStream, version: Option<&str>, head: &[u8]) -> io::Result<()> {
        let mut watches = lock(&self.watches);
        stream.write_all(head)?;
        if version.is_none_or(|version| version != lock(&self.held).version.to_string()) {
            return stream.write_all(b"0\r\n\r\n");
        }
        watches.push(stream.try_clone()?);
        Ok(())
    }

    /// Ends watches, as a server does at their timeout. Their clients then resume from their version, which
    /// is too old.
    fn end_watches(&self) {
        for mut watch in lock(&self.watches).drain(..) {
            // The client may be gone.
            let _ = watch.write_all(b"0\r\n\r\n");
        }
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers the requests of a connection, one after the other.
fn serve(stream: &TcpStream, shared: &Shared) {
    let mut requests = BufReader::new(stream);
    while let Ok(Some(target)) = request(&mut requests) {
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let parameter = |name: &str| {
            query
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value)
        };
        let answered = if parameter("watch") == Some("true") {
            if !shared.watch(path, parameter("resourceVersion")) {
                let gone = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410});
                if answer(stream, "410 Gone", &gone.to_string()).is_err() {
                    return;
                }
                continue;
            }
            // The watch has no events and stays open.
            let head =
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
            shared.begin_watch(stream, parameter("resourceVersion"), head)
        } else {
            let number = |name| parameter(name).and_then(|text| text.parse::<usize>().ok());
            let (version, objects) = {
                let held = lock(&shared.held);
                (held.version.to_string(), Arc::clone(&held.objects))
            };
            let all = objects.get(path).map(Vec::as_slice).unwrap_or_default();
            let from = number("continue").unwrap_or(0).min(all.len());
            let to = number("limit").map_or(all.len(), |limit| (from + limit).min(all.len()));
            let next = if to < all.len() { to.to_string() } else { String::new() };
            let page =
                json!({"metadata": {"resourceVersion": version, "continue": next}, "items": all[from..to]});
            answer(stream, "200 OK", &page.to_string())
        };
        if answered.is_err() {
            return;
        }
    }
}

/// The target of the next request, whose body is skipped; `None` at the end.
fn request(requests: &mut impl BufRead) -> io::Result<Option<String>> {
    let (mut first, mut length) = (String::new(), 0);
    if requests.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    loop {
        let mut header = String::new();
        if requests.read_line(&mut header)? == 0 {
            return Ok(None);
        }
        if header.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    io::copy(&mut io::Read::take(&mut *requests, length), &mut io::sink())?;
    Ok(first.split(' ').nth(1).map(str::to_owned))
}

fn answer(mut stream: &TcpStream, status: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}
