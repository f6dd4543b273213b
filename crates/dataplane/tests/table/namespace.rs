//! A fresh network namespace for each test, entered by its own thread.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getpid, gettid};

/// Runs `test` in a network namespace that ends with it. Fails without root: a test that can't run has not
/// passed. On failure it prints the ruleset.
pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let outcome = thread::spawn(move || -> Result<(), Box<dyn Any + Send>> {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            panic!("this test needs root, to create a network namespace ({error}): run the tests as root");
        }
        run("ip", &["link", "set", "lo", "up"]);
        let outcome = catch_unwind(AssertUnwindSafe(test));
        if outcome.is_err() {
            eprintln!("the ruleset at failure:\n{}", run("nft", &["list", "ruleset"]));
            let (pid, tid) = (getpid(), gettid());
            eprintln!("to enter while the thread lives: nsenter --net=/proc/{pid}/task/{tid}/ns/net");
        }
        outcome
    })
    .join();
    if let Err(panic) = outcome.and_then(|outcome| outcome) {
        resume_unwind(panic);
    }
}

/// Another network namespace, whose thread waits for work. It ends with this value.
pub(crate) struct NetworkNamespace {
    /// The thread's id, by which the kernel finds the namespace.
    pub tid: i32,
    work: Sender<Box<dyn FnOnce() + Send>>,
}

impl NetworkNamespace {
    pub(crate) fn new() -> Self {
        let (work, waiting) = channel::<Box<dyn FnOnce() + Send>>();
        let (ready, is_ready) = channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may make a network namespace");
            ready.send(gettid().as_raw()).expect("the test waits");
            waiting.into_iter().for_each(|work| work());
        });
        Self { tid: is_ready.recv().expect("the namespace is there"), work }
    }

    /// Runs `work` in the namespace and returns its result.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = channel();
        let work = move || drop(done.send(work()));
        self.work.send(Box::new(work)).expect("the thread of the namespace lives");
        result.recv().expect("the work in the namespace succeeds")
    }
}

/// Waits until each device of this thread's namespace that has a carrier passes packets too. Before that the
/// kernel drops what is sent (net/core/link_watch.c).
pub(crate) fn wait_for_links() {
    let deadline = Instant::now() + Duration::from_secs(5);
    let late = |flags: InterfaceFlags| {
        flags.contains(InterfaceFlags::IFF_LOWER_UP) && !flags.contains(InterfaceFlags::IFF_RUNNING)
    };
    while getifaddrs().expect("the devices of this namespace").any(|device| late(device.flags)) {
        assert!(
            Instant::now() < deadline,
            "a device has a carrier and does not run: {}",
            run("ip", &["link"])
        );
        thread::sleep(Duration::from_millis(1));
    }
}

/// Drops all privileges of this thread for good.
pub(crate) fn drop_privileges() {
    const UNPRIVILEGED: libc::uid_t = 65534;
    // SAFETY: the call takes only numbers. It bypasses the C library, whose function of that name would
    // change the threads of all other tests too.
    let answer = unsafe { libc::syscall(libc::SYS_setresuid, UNPRIVILEGED, UNPRIVILEGED, UNPRIVILEGED) };
    assert_eq!(answer, 0, "root may drop its privileges");
}

/// Runs a program in the namespace of this thread and returns its output. The program must succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output =
        Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap_or_else(|error| {
            panic!("{program} can't be run ({error}): install it (packages nftables, iproute2)")
        });
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?} failed: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The table as listed by `nft`, with `QUEUE` in place of the queue statement: kernels have it in two forms,
/// and `nft` prints one of them only if iptables' libraries are installed. `GENERATION` replaces the
/// cache generation of flow keys, which starts with the time of day.
pub(crate) fn list_table() -> String {
    let text = run("nft", &["list", "table", "inet", "kube-verdict"]);
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        let bare = line.trim_start().starts_with(['q', 'Q']).then(|| line.split_once("comment ")).flatten();
        let bare = bare.map(|(_, comment)| format!("\t\tQUEUE comment {comment}"));
        let queue = line.split_once(" != @open-").and_then(|(match_, rest)| {
            let (set, rest) = rest.split_once(' ')?;
            let (_, comment) = rest.split_once("comment ")?;
            Some(format!("{match_} != @open-{set} QUEUE comment {comment}"))
        });
        let line = without_generation(line);
        lines.push(bare.or(queue).unwrap_or(line));
    }
    lines.join("\n") + "\n"
}

/// Replaces each number within a concatenation, which `nft` calls one of an invalid type, by `GENERATION`.
/// 0 and 1 are verdict bits, or stand for the port of a protocol without ports.
fn without_generation(line: &str) -> String {
    let mut words = Vec::new();
    for word in line.split(' ') {
        let number = word.strip_prefix("0x").and_then(|number| u32::from_str_radix(number, 16).ok());
        if words.last() == Some(&".") && number.is_some_and(|number| number > 1) {
            words.push("GENERATION");
        } else if words.last() != Some(&"GENERATION") || !["[invalid", "type]"].contains(&word) {
            words.push(word);
        }
    }
    words.join(" ")
}

/// The addresses or networks in a set.
pub(crate) fn list_set(name: &str) -> Vec<String> {
    let text = run("nft", &["list", "set", "inet", "kube-verdict", name]);
    let Some((_, elements)) = text.split_once("elements = {") else { return Vec::new() };
    let (elements, _) = elements.split_once('}').expect("a closing brace");
    let mut elements: Vec<String> = elements.split(',').map(|element| element.trim().to_owned()).collect();
    elements.sort();
    elements
}
