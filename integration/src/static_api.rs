//! An API server whose objects never change: lists in pages, and watches on which nothing happens. It can go away.
//!
//! For agents that start with it, without it, or before it. `crates/cluster/tests/api` has one with bad days, for the source alone.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::namespace::Namespace;

/// Objects by the path of their list, such as `/api/v1/pods`.
pub type Objects = BTreeMap<&'static str, Vec<Value>>;

/// See the module.
#[derive(Debug)]
pub struct StaticApi {
    address: SocketAddr,
    is_down: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    thread: Option<JoinHandle<()>>,
}

impl StaticApi {
    /// Serves these in a network namespace, on this port of 127.0.0.1; 0 for any.
    pub fn start(namespace: &Namespace, port: u16, objects: Objects) -> Result<Self> {
        let listener =
            namespace.run(|| TcpListener::bind(("127.0.0.1", port)))?.context("binding the API server")?;
        let address = listener.local_addr().context("the API server's address")?;
        let (is_down, connections) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (ends, theirs, objects) = (Arc::clone(&is_down), Arc::clone(&connections), Arc::new(objects));
        let thread = thread::spawn(move || {
            for stream in listener.incoming().map_while(io::Result::ok) {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(clone) = stream.try_clone() else { continue };
                lock(&theirs).push(clone);
                let objects = Arc::clone(&objects);
                // Ends when the connection does.
                thread::spawn(move || serve(&stream, &objects));
            }
        });
        Ok(Self { address, is_down, connections, thread: Some(thread) })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Writes the file by which it is found.
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

    /// Goes away: connections break, and new ones are refused. `namespace` is the one that it is in.
    pub fn stop(mut self, namespace: &Namespace) -> Result<()> {
        self.is_down.store(true, Ordering::Relaxed);
        // Wakes the thread, whose listener closes when it ends.
        let _ = namespace.run(|| TcpStream::connect(self.address))?;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        for connection in lock(&self.connections).drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers the requests of a connection, one after the other.
fn serve(stream: &TcpStream, objects: &Objects) {
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
            // Says nothing, and stays.
            (&*stream).write_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
            )
        } else {
            let number = |name| parameter(name).and_then(|text| text.parse::<usize>().ok());
            let all = objects.get(path).map(Vec::as_slice).unwrap_or_default();
            let from = number("continue").unwrap_or(0).min(all.len());
            let to = number("limit").map_or(all.len(), |limit| (from + limit).min(all.len()));
            let next = if to < all.len() { to.to_string() } else { String::new() };
            let page =
                json!({"metadata": {"resourceVersion": "1000", "continue": next}, "items": all[from..to]});
            answer(stream, &page.to_string())
        };
        if answered.is_err() {
            return;
        }
    }
}

/// The target of the next request, whose body is passed over; `None` at the end.
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

fn answer(mut stream: &TcpStream, body: &str) -> io::Result<()> {
    let length = body.len();
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}
