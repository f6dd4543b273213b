//! The kernel's table of connections, over ctnetlink (`nf_conntrack_netlink.c`): visited entry by entry, and the marks
//! of entries changed under a mask.
//!
//! From: the kernel. To: the sweep. Invariant: only the bits under a change's mask change. Entries are not made, and deleted only where
//! their address has gone to another pod: a TCP flow whose entry is deleted comes back as a new connection. A superseded agent changes
//! nothing ([`Conntrack::open_for`]).

use std::collections::BTreeSet;
use std::net::IpAddr;

use nix::errno::Errno;

use crate::netlink::{AttributeReader, DUMP, Header, Messages, NetlinkError, REQUEST, Received, Socket};
use crate::queues::QueueRange;
use crate::table::{OwnRules, TableError};

pub mod entry;
mod filter;
use entry::EntryRef;
pub use entry::{Entry, EntryName, Tuple};
use filter::End;

/// `NFNL_SUBSYS_CTNETLINK` in the high byte.
const CTNETLINK: u16 = 1 << 8;
/// `IPCTNL_MSG_CT_NEW`: with `NLM_F_CREATE` it makes entries, without it changes those that exist.
const CT_NEW: u16 = CTNETLINK;
/// `IPCTNL_MSG_CT_GET`.
const CT_GET: u16 = CTNETLINK | 1;
/// `IPCTNL_MSG_CT_DELETE`.
const CT_DELETE: u16 = CTNETLINK | 2;
/// `IPCTNL_MSG_CT_GET_STATS`.
const CT_GET_STATS: u16 = CTNETLINK | 5;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_MARK: u16 = 8;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_MARK_MASK: u16 = 21;

const CTA_STATS_GLOBAL_ENTRIES: u16 = 1;
const CTA_STATS_GLOBAL_MAX_ENTRIES: u16 = 2;

/// Both families in one pass over the table.
const ANY_FAMILY: u8 = 0;
/// Changes are sent when they have grown to this many bytes, so a sweep needs no more memory for a large table. Below
/// the kernel's default limit for one message to it (`net.core.wmem_default`, 208 KiB).
const CHANGES: usize = 64 * 1024;

/// Of more addresses than this, all entries are read: those of one pod, in both families.
const FEW_ADDRESSES: usize = 2;
/// Of an address two passes are made over the table, in which the kernel looks at each of its buckets and entries; it
/// takes six to nine times as long to write an entry down. With fewer entries than this for each address, one pass that
/// writes all of them down is done sooner.
const MANY_ENTRIES: usize = 10_000;

/// A way to the table of connections of one network namespace.
#[derive(Debug)]
pub struct Conntrack {
    reader: Socket,
    writer: Writer,
    /// Cleared where the kernel refuses to pass entries over.
    filters: bool,
}

/// What becomes of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryChange {
    /// Its mark changes.
    Mark(MarkChange),
    /// It is deleted: the next packet of either end is a first one.
    Delete,
}

impl From<MarkChange> for EntryChange {
    fn from(change: MarkChange) -> Self {
        Self::Mark(change)
    }
}

/// What becomes of an entry's mark: the bits under `mask` become `value`, the others stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MarkChange {
    /// The bits to set among those of the mask.
    pub value: u32,
    /// The bits to change.
    pub mask: u32,
}

/// What a visit met.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Visited {
    /// Entries handed over.
    pub entries: u64,
    /// Entries whose mark was changed.
    pub changed: u64,
    /// Entries that were to change and had ended meanwhile.
    pub gone: u64,
}

/// There is no way to the table of connections, or none to the rules.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// To the table of connections.
    #[error(transparent)]
    Conntrack(#[from] ConntrackError),
    /// To the rules.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// The table of connections can't be read or changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConntrackError {
    /// No socket, no right, or no such kernel feature.
    #[error(
        "the kernel's table of connections can't be read: {0}; it takes CAP_NET_ADMIN and the module nf_conntrack_netlink"
    )]
    Read(#[source] NetlinkError),
    /// A mark can't be changed.
    #[error(
        "the mark of a connection can't be changed: {0}; it takes CAP_NET_ADMIN and the module nf_conntrack_netlink"
    )]
    Change(#[source] NetlinkError),
    /// The rules can't be read, so it is not known whether they are still this agent's.
    #[error("the rules can't be read, so no connection is changed: {0}")]
    Rules(#[source] NetlinkError),
    /// The rules are another agent's, and so are the connections.
    #[error(
        "another agent has taken the rules over: they send packets to queues {0} now, so this agent may not change connections"
    )]
    Superseded(QueueRange),
}

impl Conntrack {
    /// The table of the calling thread's network namespace.
    pub fn open() -> Result<Self, ConntrackError> {
        let open = || Socket::open().map_err(ConntrackError::Read);
        Ok(Self { reader: open()?, writer: Writer::new(open()?), filters: true })
    }

    /// The same, for the agent that serves these queues: once the rules in the kernel name others, nothing is changed any more, and
    /// changes end with [`ConntrackError::Superseded`]. The rules are read before each message of changes, which has 64 KiB at most.
    ///
    /// # Errors
    /// [`TableError`] if there is no socket.
    pub fn open_for(queues: QueueRange) -> Result<Self, OpenError> {
        let mut conntrack = Self::open()?;
        conntrack.writer.own_rules = Some(OwnRules::open(queues)?);
        Ok(conntrack)
    }

    /// Hands every confirmed entry to `each`, and makes the changes that it asks for while the table
    /// is still being read. Connections that begin or end meanwhile may be missed; of those that live throughout, none is.
    pub fn visit<C: Into<EntryChange>>(
        &mut self,
        each: impl FnMut(&Entry<'_>) -> Option<C>,
    ) -> Result<Visited, ConntrackError> {
        self.pass(None, each)
    }

    /// [`Conntrack::visit`], for whom entries count that have one of `addresses` at an end of [`Entry::evaluated`]. Others are
    /// handed over as well where that is done sooner, or where the kernel can't tell them apart (before 5.8); and one that has
    /// two of them may be handed over twice, the second time with the mark that it has then.
    pub fn visit_of<C: Into<EntryChange>>(
        &mut self,
        addresses: &BTreeSet<IpAddr>,
        mut each: impl FnMut(&Entry<'_>) -> Option<C>,
    ) -> Result<Visited, ConntrackError> {
        // A kernel that does not count them is older than the filter.
        let are_many = |(entries, _)| entries as usize >= MANY_ENTRIES * addresses.len();
        let is_worth_it = self.filters
            && addresses.len() <= FEW_ADDRESSES
            && statistics(&mut self.reader).is_ok_and(are_many);
        if !is_worth_it {
            return self.pass(None, each);
        }
        let mut sum = Visited::default();
        for end in addresses.iter().flat_map(|address| [End::Source(*address), End::Destination(*address)]) {
            match self.pass(Some(end), &mut each) {
                Ok(visited) => {
                    sum.entries += visited.entries;
                    sum.changed += visited.changed;
                    sum.gone += visited.gone;
                }
                Err(ConntrackError::Read(NetlinkError::Refused { .. })) => {
                    self.filters = false;
                    return self.pass(None, each);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(sum)
    }

    /// Deletes the connections that have one of these addresses at an end. Returns how many.
    pub fn delete_of(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<u64, ConntrackError> {
        let delete = |entry: &Entry<'_>| {
            let packet = entry.evaluated();
            let ends =
                [packet.source(), packet.destination(), entry.original.destination, entry.reply.destination];
            ends.iter().any(|end| addresses.contains(end)).then_some(EntryChange::Delete)
        };
        Ok(self.visit_of(addresses, delete)?.changed)
    }

    /// Changes the marks of these entries. An entry that has ended meanwhile counts as gone. If another connection between the same ends
    /// has begun since, its mark is changed instead.
    ///
    /// # Errors
    /// [`ConntrackError::Change`] if the kernel refuses; some marks may have been changed.
    pub fn change_marks<'a>(
        &mut self,
        changes: impl IntoIterator<Item = (&'a EntryName, MarkChange)>,
    ) -> Result<Visited, ConntrackError> {
        let writer = &mut self.writer;
        writer.begin();
        let mut entries = 0;
        for (name, change) in changes {
            entries += 1;
            writer.push(&name.as_ref(), change.into())?;
        }
        writer.flush()?;
        Ok(Visited { entries, changed: writer.changed, gone: writer.gone })
    }

    /// The mark of an entry; `None` if it has ended, or if another with another number has begun between the same ends.
    ///
    /// # Errors
    /// [`ConntrackError::Read`] if the kernel refuses.
    pub fn mark(&mut self, entry: &EntryName) -> Result<Option<u32>, ConntrackError> {
        let entry = entry.as_ref();
        let sequence = self.reader.next_sequence();
        let mut request = Messages::default();
        request.push(Header { kind: CT_GET, flags: REQUEST, sequence, family: entry.family }, |attributes| {
            entry.write(attributes);
        });
        let read = |answer: Received<'_>| {
            Entry::parse(&answer).map(|found| (found.id == entry.id).then_some(found.mark))
        };
        match self.reader.ask(request.as_bytes(), sequence, read) {
            Err(NetlinkError::Refused { errno: Errno::ENOENT, .. }) => Ok(None),
            mark => mark.map_err(ConntrackError::Read),
        }
    }

    /// One pass over the table, or over the entries at an end.
    fn pass<C: Into<EntryChange>>(
        &mut self,
        end: Option<End>,
        mut each: impl FnMut(&Entry<'_>) -> Option<C>,
    ) -> Result<Visited, ConntrackError> {
        let Self { reader, writer, .. } = self;
        writer.begin();
        let mut request = Messages::default();
        let sequence = reader.next_sequence();
        let family = end.map_or(ANY_FAMILY, End::family);
        let header = Header { kind: CT_GET, flags: REQUEST | DUMP, sequence, family };
        request.push(header, |attributes| {
            if let Some(end) = end {
                end.write(attributes);
            }
        });
        let mut entries = 0;
        let mut failed = None;
        let read = reader.dump(request.as_bytes(), |message| {
            // An entry that lacks what every entry has is none of a kind that a packet of ours could belong to.
            let Some(entry) = Entry::parse(&message) else { return };
            entries += 1;
            if failed.is_none()
                && let Some(change) = each(&entry)
            {
                failed = writer.push(&entry.name_ref(), change.into()).err();
            }
        });
        let flushed = writer.flush();
        read.map_err(ConntrackError::Read)?;
        failed.map_or(flushed, Err)?;
        Ok(Visited { entries, changed: writer.changed, gone: writer.gone })
    }
}

/// How many entries the table has, and the most there can be (since Linux 4.18).
pub(crate) fn statistics(socket: &mut Socket) -> Result<(u32, u32), NetlinkError> {
    let sequence = socket.next_sequence();
    let mut request = Messages::default();
    request.push(Header { kind: CT_GET_STATS, flags: REQUEST, sequence, family: ANY_FAMILY }, |_| {});
    socket.ask(request.as_bytes(), sequence, |answer| {
        let number = |kind| {
            let (_, value) = AttributeReader::new(answer.attributes).find(|(k, _)| *k == kind)?;
            Some(u32::from_be_bytes(value.try_into().ok()?))
        };
        Some((number(CTA_STATS_GLOBAL_ENTRIES)?, number(CTA_STATS_GLOBAL_MAX_ENTRIES)?))
    })
}

/// Sends changes many at a time.
#[derive(Debug)]
struct Writer {
    socket: Socket,
    /// Asked before each message; `None` if all changes are made.
    own_rules: Option<OwnRules>,
    /// Changes not sent yet.
    pending: Messages,
    /// How many `pending` holds.
    count: u64,
    /// The sequence number of the latest.
    latest: u32,
    changed: u64,
    gone: u64,
}

impl Writer {
    fn new(socket: Socket) -> Self {
        let own_rules = None;
        Self { socket, own_rules, pending: Messages::default(), count: 0, latest: 0, changed: 0, gone: 0 }
    }

    /// Forgets what an earlier visit left.
    fn begin(&mut self) {
        self.pending.clear();
        (self.count, self.changed, self.gone) = (0, 0, 0);
    }

    /// Adds a change; sends what has gathered if that is much.
    fn push(&mut self, entry: &EntryRef<'_>, change: EntryChange) -> Result<(), ConntrackError> {
        let sequence = self.socket.next_sequence();
        let kind = match change {
            EntryChange::Mark(_) => CT_NEW,
            EntryChange::Delete => CT_DELETE,
        };
        let header = Header { kind, flags: REQUEST, sequence, family: entry.family };
        self.pending.push(header, |attributes| {
            entry.write(attributes);
            match change {
                EntryChange::Mark(MarkChange { value, mask }) => {
                    attributes.be32(CTA_MARK, value & mask).be32(CTA_MARK_MASK, mask);
                }
                // Not another one that has begun between the same ends meanwhile.
                EntryChange::Delete => drop(attributes.be32(CTA_ID, entry.id)),
            }
        });
        self.count += 1;
        self.latest = sequence;
        if self.pending.as_bytes().len() < CHANGES { Ok(()) } else { self.flush() }
    }

    /// Sends what has gathered, unless the rules are another agent's.
    fn flush(&mut self) -> Result<(), ConntrackError> {
        if self.count == 0 {
            return Ok(());
        }
        let refused = match self.own_rules.as_mut().map(OwnRules::superseded_by) {
            None | Some(Ok(None)) => return self.send().map_err(ConntrackError::Change),
            Some(Ok(Some(queues))) => ConntrackError::Superseded(queues),
            Some(Err(error)) => ConntrackError::Rules(error),
        };
        self.pending.clear();
        self.count = 0;
        Err(refused)
    }

    /// Sends what has gathered and reads the answers: the kernel answers each refusal, and the last message in any case.
    fn send(&mut self) -> Result<(), NetlinkError> {
        let last = self.latest;
        self.pending.answer_latest();
        let sent = self.socket.send(self.pending.as_bytes());
        let count = std::mem::take(&mut self.count);
        self.pending.clear();
        sent?;
        let (mut gone, mut refused, mut answered) = (0, None, false);
        while !answered {
            self.socket.receive(|message| {
                let Err((sequence, errno)) = message else { return };
                match errno {
                    Errno::UnknownErrno => {}
                    Errno::ENOENT => gone += 1,
                    _ => drop(refused.get_or_insert(NetlinkError::Refused { sequence, errno })),
                }
                answered |= sequence == last;
            })?;
        }
        self.gone += gone;
        self.changed += count - gone;
        refused.map_or(Ok(()), Err)
    }
}
