//! Clients that hold the agent's HTTP connections open delay neither policy nor other clients.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use std::fs;
use std::io::{ErrorKind::WouldBlock, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use integration::agent::{HTTP_PORT, command};
use integration::namespace::NetworkNamespace;
use integration::{Agent, Direction, Family, Launch, Scenario, Stream, Testbed, allowed};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, socket};

/// The number of connections that are held open.
const HELD: usize = 10_000;

/// The number of closed connections that are reopened in each round: 10,000 a second.
const REOPENED: usize = 500;

/// How long a probe may take.
const BOUND: Duration = Duration::from_secs(1);

/// A port on which /metrics alone is served.
const METRICS_PORT: u16 = 9477;

const OPEN: &str = "podSelector: {}\ningress:\n- ports: [{port: 5432}]";
const CLOSED: &str = "podSelector: {}\ningress:\n- ports: [{port: 1}]";

/// Holds incomplete requests to two ports open, and replaces those that the agent closes, until it is
/// dropped.
struct Holder {
    stop: Arc<AtomicBool>,
    opened: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Holder {
    fn start(namespace: &NetworkNamespace) -> Self {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert!(hard as usize > HELD + 1_000, "{hard} open files are too few for this test");
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        let (stop, opened) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopping, count) = (Arc::clone(&stop), Arc::clone(&opened));
        let hold = move || {
            let mut held: Vec<TcpStream> = Vec::new();
            while !stopping.load(Relaxed) {
                // Removes those that the agent has closed.
                held.retain(|stream| stream.peek(&mut [0]).is_err_and(|error| error.kind() == WouldBlock));
                let most = if count.load(Relaxed) < HELD { HELD } else { held.len() + REOPENED };
                for number in held.len()..most.min(HELD) {
                    let port = if number % 2 == 0 { HTTP_PORT } else { METRICS_PORT };
                    let mut stream = start_connecting(port);
                    // While the listener's backlog is full, it is not connected yet.
                    let _ = stream.write_all(b"GET /livez HTTP/1.1\r\nHost: ");
                    held.push(stream);
                    count.fetch_add(1, Relaxed);
                    if stopping.load(Relaxed) {
                        return;
                    }
                }
                sleep(Duration::from_millis(50));
            }
        };
        let hold = namespace.spawn(hold).unwrap();
        let thread = Some(thread::spawn(move || hold.join().unwrap().unwrap()));
        Self { stop, opened, thread }
    }

    fn wait_held(&self) {
        let end = Instant::now() + Duration::from_secs(60);
        while self.opened.load(Relaxed) < HELD {
            assert!(Instant::now() < end, "only {} were opened", self.opened.load(Relaxed));
            sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Starts to open a connection.
fn start_connecting(port: u16) -> TcpStream {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let stream = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
    let address = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
    match connect(stream.as_raw_fd(), &address) {
        Ok(()) | Err(Errno::EINPROGRESS) => stream.into(),
        Err(error) => panic!("connecting to port {port}: {error}"),
    }
}

#[test]
fn ten_thousand_half_sent_requests_delay_neither_a_probe_nor_a_change_of_policy() {
    let folder = tempfile::tempdir().unwrap();
    let http_socket = folder.path().join("http.sock");
    let http_socket = http_socket.to_str().unwrap();
    let metrics = format!("127.0.0.1:{METRICS_PORT}");
    let mut scenario = Scenario::new(
        Testbed::new()
            .node("node-a", "10.244.1.0/24", "fd00:10:244:1::/64")
            .pod("web/a", "node-a", &[], &["80"])
            .pod("db/s", "node-a", &[], &["5432"]),
    );
    scenario.policy("db/allow", OPEN);
    // Limits as of a container, but with a low hard limit, as a busy node may have.
    let wrapper = ["prlimit", "--nofile=1024:2048"];
    let flags = ["--http-socket", http_socket, "--metrics-address", &metrics];
    let launch = Launch { flags: &flags, wrapper: &wrapper, ..Launch::default() };
    let mut agent = Agent::start(&scenario.testbed, "node-a", &launch).unwrap();
    agent.wait_ready().unwrap();
    assert!(agent.log().contains("open_files=2048"), "the soft limit is raised: {}", agent.log());
    scenario.put_agent(agent);
    let node = Arc::clone(scenario.testbed.namespace("node-a").unwrap());
    let stream =
        Stream::open(&scenario.testbed, "web/a", "db/s", "5432".parse().unwrap(), Family::V4).unwrap();

    let holder = Holder::start(&node);
    holder.wait_held();
    stream.wait_progress(20).unwrap();
    let written = scenario.testbed.manifests().policy("db/allow", CLOSED).unwrap();
    sleep(BOUND);
    let arrived = scenario.testbed.server("db/s").unwrap().last_arrival(stream.client()).unwrap();
    let arrived = arrived.saturating_duration_since(written);
    eprintln!("last byte {arrived:?} after the edit");
    assert!(arrived < BOUND / 2, "bytes passed {arrived:?} after the edit");

    for address in [&["--http-socket", http_socket][..], &[]] {
        for check in ["live", "ready"] {
            let begun = Instant::now();
            let arguments = [&["probe", check], address].concat();
            let (code, out, err) = command(&node, &arguments).unwrap();
            let took = begun.elapsed();
            eprintln!("{arguments:?}: {took:?}");
            assert_eq!((code, out.as_str()), (0, "ok\n"), "{arguments:?}: {err}");
            assert!(took < BOUND, "{arguments:?} took {took:?}");
        }
    }
    let samples = integration::http::get(&node, METRICS_PORT, "/metrics").unwrap();
    assert!(samples.body.contains("kube_verdict_ready 1"), "{}", samples.body);
    scenario.policy("db/allow", OPEN);
    scenario.expect("web/a", "db/s", "5432", &allowed(Direction::Ingress, "db/allow", 0));
    let descriptors =
        fs::read_dir(format!("/proc/{}/fd", scenario.agent("node-a").process())).unwrap().count();
    assert!(descriptors < 1_000, "the agent has {descriptors} files open");
    scenario.agent("node-a").wait_log("too many HTTP connections").unwrap();
    drop(holder);
}
