//! The thread that notices when other programs change this agent's tables.
//!
//! From: nftables' notifications of committed batches (`NFNLGRP_NFTABLES`): what was changed, each message
//! with the netlink port of the socket that did it, then the new generation with that program's name. To: a
//! callback, once for each batch of another program that changed one of the agent's tables. Invariant: no
//! such batch goes unreported; if notifications were lost, all tables count as changed.
//!
//! Batches that concern only other tables, such as kube-proxy's, end here: only a header and one name of each
//! message are read. The socket's filter drops the agent's own batches.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::SigSet;
use rustables::sys;

use super::error::TableError;
use super::handle::Table;
use super::names::TABLE;
use super::socket::open;
use crate::netlink::{AttributeReader, PortId, Received, Socket};
use crate::nft::message_kind;
use crate::nft::queue::text;

/// The size of the receive buffer. The notifications of a batch that replaces 100,000 elements take about 20
/// MiB.
const RECEIVE_BUFFER: usize = 64 << 20;
/// How often the thread records that no notification is left to read. The recorded time of a change is at
/// most this much too early, unless the thread was kept from running.
const HEARTBEAT: Duration = Duration::from_millis(50);
/// How long to wait after an unexpected error.
const PAUSE: Duration = Duration::from_secs(1);

/// The attribute that names the table in all messages about one: `NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE` and so
/// on are the same number.
const NAME_OF_TABLE: u16 = sys::NFTA_TABLE_NAME;
const _: () = assert!(
    sys::NFTA_CHAIN_TABLE == NAME_OF_TABLE
        && sys::NFTA_RULE_TABLE == NAME_OF_TABLE
        && sys::NFTA_SET_TABLE == NAME_OF_TABLE
        && sys::NFTA_SET_ELEM_LIST_TABLE == NAME_OF_TABLE
        && sys::NFTA_OBJ_TABLE == NAME_OF_TABLE
);

/// A batch of another program that changed this agent's tables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForeignChange {
    /// When the thread last found no notification. That is never later than the commit of the batch, and up
    /// to 50 ms earlier, or more if the thread was kept from running.
    pub since: SystemTime,
    /// The program that committed it.
    pub program: Program,
    /// The first object that it changed. The deletion of a table takes precedence over all else.
    pub what: Changed,
    /// The ruleset's generation after the batch; `None` if notifications were lost.
    pub generation: Option<u32>,
}

impl ForeignChange {
    /// Whether it was committed before rules were written that replaced this generation of the ruleset
    /// ([`Table::restore`](super::Table::restore)).
    pub fn is_undone_by(&self, replaced: u32) -> bool {
        // Generations wrap to zero after four billion.
        self.generation.is_some_and(|generation| replaced.wrapping_sub(generation).cast_signed() >= 0)
    }
}

/// The program that committed a batch, as reported by the kernel.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Program {
    /// The name of its thread, up to 15 bytes; `None` if notifications were lost.
    pub name: Option<String>,
    /// The thread's id in the initial process namespace. For a program with one thread it is the process id.
    pub pid: Option<u32>,
}

/// What a batch changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Changed {
    /// An object in a table.
    Object {
        /// Whether it was deleted; added or changed if not.
        is_deleted: bool,
        /// For example `rule of chain postrouting`.
        object: String,
        /// For example `inet kube-verdict`.
        table: String,
    },
    /// Notifications were lost: any table may have changed.
    Unknown,
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object { is_deleted, object, table } => {
                let verb = if *is_deleted { "deleted" } else { "added or changed" };
                // The kernel allows any bytes in a name.
                write!(f, "{verb} {} in table {table}", object.escape_debug())
            }
            Self::Unknown => f.write_str("unknown: nftables' notifications were lost"),
        }
    }
}

/// A socket that already receives notifications, opened before the agent's tables are installed so that none
/// is missed.
#[derive(Debug)]
pub struct RulesListener {
    socket: Socket,
}

/// The running thread: see the module. Dropping this value ends the thread.
#[derive(Debug)]
pub struct RulesMonitor {
    wake: Arc<EventFd>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl RulesListener {
    /// Listens in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`TableError`] if the kernel refuses.
    pub fn open() -> Result<Self, TableError> {
        let socket = open()?;
        socket.join(sys::NFNLGRP_NFTABLES, RECEIVE_BUFFER).map_err(TableError::from_reading)?;
        Ok(Self { socket })
    }

    /// Starts the thread, after the rules were installed. `report` is called on that thread with each foreign
    /// change since then.
    ///
    /// # Errors
    /// [`io::Error`] if a file descriptor or the thread can't be created.
    pub fn start(
        self,
        table: &Table,
        report: impl FnMut(ForeignChange) + Send + 'static,
    ) -> io::Result<RulesMonitor> {
        let ours = table.socket.port().map_err(|error| error.errno())?;
        self.socket.filter(&all_but(ours)).map_err(|error| error.errno())?;
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let stop = Arc::<AtomicBool>::default();
        let reader = Reader {
            socket: self.socket,
            batches: Batches { ours, is_installed: false, changed: None },
            wake: Arc::clone(&wake),
            stop: Arc::clone(&stop),
            report,
        };
        let thread = thread::Builder::new().name("rules".to_owned()).spawn(move || {
            // Signals are for other threads.
            let _ = SigSet::all().thread_block();
            reader.run();
        })?;
        Ok(RulesMonitor { wake, stop, thread: Some(thread) })
    }
}

impl RulesMonitor {
    /// Whether the thread has ended, after which no change is noticed.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for RulesMonitor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // If the counter is full, it has woken the thread already.
        let _ = self.wake.write(1);
        if let Some(thread) = self.thread.take() {
            // A panic was printed already.
            let _ = thread.join();
        }
    }
}

/// A filter that drops notifications of this agent's own changes, except new generations: so large changes
/// need no space in the buffer.
fn all_but(ours: PortId) -> [libc::sock_filter; 6] {
    // Offsets in `struct nlmsghdr`, which classic BPF loads in network order: the type at 4, the port at 12.
    let load = |size: u32, at| statement(libc::BPF_LD | size | libc::BPF_ABS, at);
    let skip_if = |value, then, otherwise| libc::sock_filter {
        jt: then,
        jf: otherwise,
        ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value)
    };
    let give = |bytes| statement(libc::BPF_RET | libc::BPF_K, bytes);
    let new_generation = message_kind(sys::NFT_MSG_NEWGEN);
    [
        load(libc::BPF_H, 4),
        skip_if(u16::from_be_bytes(new_generation.to_ne_bytes()).into(), 2, 0),
        load(libc::BPF_W, 12),
        skip_if(u32::from_be_bytes(ours.0.to_ne_bytes()), 1, 0),
        give(u32::MAX),
        give(0),
    ]
}

#[expect(clippy::cast_possible_truncation, reason = "a code has 16 bits")]
fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

struct Reader<T> {
    socket: Socket,
    batches: Batches,
    wake: Arc<EventFd>,
    stop: Arc<AtomicBool>,
    report: T,
}

impl<T: FnMut(ForeignChange)> Reader<T> {
    fn run(mut self) {
        // At this time nothing was left to read, so what is read next was committed later. A notification
        // carries no time, and the thread may have been kept from reading it.
        let mut idle_at = SystemTime::now();
        while !self.stop.load(Ordering::Acquire) {
            let now = SystemTime::now();
            if !self.is_readable(PollTimeout::ZERO) {
                idle_at = now;
                let heartbeat = PollTimeout::try_from(HEARTBEAT).unwrap_or(PollTimeout::NONE);
                if !self.is_readable(heartbeat) {
                    continue;
                }
            }
            self.receive(idle_at);
        }
    }

    /// Waits until there is something to receive, until the thread is to end, or until the timeout.
    fn is_readable(&self, timeout: PollTimeout) -> bool {
        let mut descriptors = [
            PollFd::new(self.socket.descriptor(), PollFlags::POLLIN),
            PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
        ];
        // An interrupted wait is a short one.
        let _ = poll(&mut descriptors, timeout);
        descriptors[0].revents().is_some_and(|events| !events.is_empty())
    }

    /// Receives one datagram, which arrived no earlier than `since`.
    fn receive(&mut self, since: SystemTime) {
        let mut found = Vec::new();
        let batches = &mut self.batches;
        let received = self.socket.receive(|message| {
            if let Ok(message) = message {
                found.extend(batches.take(message, since));
            }
        });
        if let Err(error) = received {
            if error.errno() != Errno::ENOBUFS {
                tracing::warn!(%error, "cannot receive nftables' notifications: writing the rules again");
                thread::sleep(PAUSE);
            }
            self.batches.is_installed = true;
            found.push(ForeignChange {
                since,
                program: Program::default(),
                what: Changed::Unknown,
                generation: None,
            });
        }
        found.into_iter().for_each(&mut self.report);
    }
}

/// Assembles the messages of one batch.
struct Batches {
    /// The socket that changes this agent's tables.
    ours: PortId,
    /// Whether this agent's installation has been received. Earlier changes of the tables don't concern this
    /// agent.
    is_installed: bool,
    /// What another program's batch changed in this agent's tables, if anything, and when that was read.
    changed: Option<(Changed, SystemTime)>,
}

impl Batches {
    /// A batch ends with its generation. Returns what another program's batch changed in this agent's tables.
    fn take(&mut self, message: Received<'_>, now: SystemTime) -> Option<ForeignChange> {
        if message.kind == message_kind(sys::NFT_MSG_NEWGEN) {
            let changed = self.changed.take();
            self.is_installed |= message.port == self.ours;
            // Nothing was recorded for a batch of this agent.
            let (what, since) = changed.filter(|_| self.is_installed)?;
            let generation = number(message.attributes, sys::NFTA_GEN_ID);
            return Some(ForeignChange { since, program: program(message.attributes), what, generation });
        }
        // A table's deletion comes after those of its contents, and says more.
        let deletes_table = u32::from(message.kind & 0xff) == sys::NFT_MSG_DELTABLE;
        if message.port != self.ours && (self.changed.is_none() || deletes_table) {
            let since = self.changed.as_ref().map_or(now, |(_, since)| *since);
            self.changed = changed(&message).map(|changed| (changed, since)).or(self.changed.take());
        }
        None
    }
}

/// What a message says about this agent's tables; `None` if it is about another table.
fn changed(message: &Received<'_>) -> Option<Changed> {
    let family = match message.family.into() {
        libc::NFPROTO_INET => "inet",
        libc::NFPROTO_BRIDGE => "bridge",
        _ => return None,
    };
    let name = |kind| attribute(message.attributes, kind).map(text);
    if name(NAME_OF_TABLE)? != TABLE.as_bytes() {
        return None;
    }
    let named = |kind: &str, attribute| match name(attribute) {
        Some(name) => format!("{kind} {}", String::from_utf8_lossy(name)),
        None => kind.to_owned(),
    };
    let (is_deleted, object) = match u32::from(message.kind & 0xff) {
        sys::NFT_MSG_NEWTABLE => (false, "the table itself".to_owned()),
        sys::NFT_MSG_DELTABLE => (true, "the table itself".to_owned()),
        sys::NFT_MSG_NEWCHAIN => (false, named("chain", sys::NFTA_CHAIN_NAME)),
        sys::NFT_MSG_DELCHAIN => (true, named("chain", sys::NFTA_CHAIN_NAME)),
        sys::NFT_MSG_NEWRULE => (false, named("a rule of chain", sys::NFTA_RULE_CHAIN)),
        sys::NFT_MSG_DELRULE => (true, named("a rule of chain", sys::NFTA_RULE_CHAIN)),
        sys::NFT_MSG_NEWSET => (false, named("set", sys::NFTA_SET_NAME)),
        sys::NFT_MSG_DELSET => (true, named("set", sys::NFTA_SET_NAME)),
        sys::NFT_MSG_NEWSETELEM => (false, named("an element of set", sys::NFTA_SET_ELEM_LIST_SET)),
        sys::NFT_MSG_DELSETELEM => (true, named("an element of set", sys::NFTA_SET_ELEM_LIST_SET)),
        sys::NFT_MSG_DELOBJ => (true, named("object", sys::NFTA_OBJ_NAME)),
        // Additions besides this agent's objects, and counts, change no verdict of its rules.
        _ => return None,
    };
    Some(Changed::Object { is_deleted, object, table: format!("{family} {TABLE}") })
}

/// The program, from the message that ends a batch.
fn program(generation: &[u8]) -> Program {
    let name = attribute(generation, sys::NFTA_GEN_PROC_NAME)
        .map(|name| String::from_utf8_lossy(text(name)).into_owned());
    Program { name, pid: number(generation, sys::NFTA_GEN_PROC_PID) }
}

fn number(attributes: &[u8], kind: u16) -> Option<u32> {
    Some(u32::from_be_bytes(attribute(attributes, kind)?.try_into().ok()?))
}

fn attribute(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    AttributeReader::new(attributes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

#[cfg(test)]
mod tests;
