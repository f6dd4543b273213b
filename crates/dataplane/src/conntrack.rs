//! The kernel's connection tracking table, over ctnetlink (`nf_conntrack_netlink.c`): visits entries, and
//! changes their marks under a mask.
//!
//! From: the kernel. To: the sweep. Invariant: only the bits under a change's mask change. Entries are never
//! created. They are deleted only where their address now belongs to another pod, because a TCP flow
//! continues as a new connection after its entry is deleted. A superseded agent changes nothing
//! ([`Conntrack::open_for`]).

use std::collections::BTreeSet;
use std::net::IpAddr;

use nix::errno::Errno;

use crate::marks::Mark;
use crate::netlink::{AttributeReader, DUMP, Header, Messages, NetlinkError, REQUEST, Received, Socket};
use crate::queues::QueueRange;
use crate::table::{OwnRules, TableError};

mod attributes;
pub mod entry;
mod filter;
use attributes::{CTA_ID, CTA_MARK, CTA_MARK_MASK};
use entry::EntryRef;
pub use entry::{ConntrackId, Entry, EntryName, Tuple};
use filter::End;

/// `NFNL_SUBSYS_CTNETLINK` in the high byte.
const CTNETLINK: u16 = 1 << 8;
/// `IPCTNL_MSG_CT_NEW`: creates entries with `NLM_F_CREATE`, and changes existing ones without it.
const CT_NEW: u16 = CTNETLINK;
/// `IPCTNL_MSG_CT_GET`.
const CT_GET: u16 = CTNETLINK | 1;
/// `IPCTNL_MSG_CT_DELETE`.
const CT_DELETE: u16 = CTNETLINK | 2;
/// `IPCTNL_MSG_CT_GET_STATS`.
const CT_GET_STATS: u16 = CTNETLINK | 5;

const CTA_STATS_GLOBAL_ENTRIES: u16 = 1;
const CTA_STATS_GLOBAL_MAX_ENTRIES: u16 = 2;

/// Both families in one pass over the table.
const ANY_FAMILY: u8 = 0;
/// Pending changes are sent when they have this many bytes, so that a sweep needs no more memory for a large
/// table. This is below the kernel's default limit for one sent message (`net.core.wmem_default`, 208 KiB).
const MAX_PENDING: usize = 64 * 1024;

/// For more addresses than this, all entries are read. One pod has two: one in each family.
const MAX_FILTERED_ADDRESSES: usize = 2;
/// With fewer entries than this per address, one pass that reads all entries is faster than filtering. A
/// filter takes two passes over the table for each address, in which the kernel looks at each bucket and
/// entry. Dumping an entry takes six to nine times as long as looking at it.
const MIN_FILTERED_ENTRIES: usize = 10_000;

/// Access to the connection tracking table of one network namespace.
#[derive(Debug)]
pub struct Conntrack {
    reader: Socket,
    writer: Writer,
    /// Whether the kernel supports filtered dumps; cleared once it refuses one.
    filters: bool,
}

/// A change of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryChange {
    /// Its mark changes.
    Mark(MarkChange),
    /// It is deleted: the next packet from either end begins a new connection.
    Delete,
}

impl From<MarkChange> for EntryChange {
    fn from(change: MarkChange) -> Self {
        Self::Mark(change)
    }
}

/// A change of an entry's mark: the bits under `mask` become those of `value`, the others stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MarkChange {
    /// The new bits; only those under the mask count.
    pub value: Mark,
    /// The bits to change.
    pub mask: Mark,
}

/// The counts of a visit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VisitCounts {
    /// Entries that were visited.
    pub entries: u64,
    /// Entries that were changed or deleted.
    pub changed: u64,
    /// Entries that had ended before their change.
    pub gone: u64,
}

/// The connection tracking table or the rules can't be accessed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The connection tracking table.
    #[error(transparent)]
    Conntrack(#[from] ConntrackError),
    /// The rules.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// The connection tracking table can't be read or changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConntrackError {
    /// There is no socket, no permission, or no such kernel feature.
    #[error(
        "the kernel's connection tracking table can't be read (this requires CAP_NET_ADMIN and the module \
         nf_conntrack_netlink)"
    )]
    Read(#[source] NetlinkError),
    /// A mark can't be changed.
    #[error(
        "the mark of a connection can't be changed (this requires CAP_NET_ADMIN and the module \
         nf_conntrack_netlink)"
    )]
    Change(#[source] NetlinkError),
    /// The rules can't be read, so it is unknown whether they are still this agent's.
    #[error("the rules can't be read, so no connection is changed")]
    Rules(#[source] NetlinkError),
    /// Another agent has taken over the rules, and with them the connections.
    #[error(
        "another agent has taken the rules over: they send packets to queues {0} now, so this agent may not \
         change connections"
    )]
    Superseded(QueueRange),
}

impl Conntrack {
    /// Opens the table of the calling thread's network namespace.
    pub fn open() -> Result<Self, ConntrackError> {
        let open = || Socket::open().map_err(ConntrackError::Read);
        Ok(Self { reader: open()?, writer: Writer::new(open()?), filters: true })
    }

    /// Opens the table for the agent that serves these queues: once the rules in the kernel use other queues,
    /// all changes fail with [`ConntrackError::Superseded`]. The rules are read before each message of
    /// changes, which has 64 KiB at most.
    ///
    /// # Errors
    /// [`OpenError`] if a socket can't be opened.
    pub fn open_for(queues: QueueRange) -> Result<Self, OpenError> {
        let mut conntrack = Self::open()?;
        conntrack.writer.own_rules = Some(OwnRules::open(queues)?);
        Ok(conntrack)
    }

    /// Passes every confirmed entry to `each`, and makes the changes that it returns while the table is still
    /// being read. Connections that begin or end during the visit may be missed. Connections that exist
    /// throughout are not missed.
    pub fn visit<C: Into<EntryChange>>(
        &mut self,
        each: impl FnMut(&Entry<'_>) -> Option<C>,
    ) -> Result<VisitCounts, ConntrackError> {
        self.pass(None, each)
    }

    /// Visits at least the entries that have one of `addresses` at an end of [`Entry::evaluated`]. Other
    /// entries are passed to `each` as well where that is faster, or where the kernel can't filter them
    /// (before 5.8). An entry with two of the addresses may be passed twice, the second time with the mark
    /// that it has then.
    pub fn visit_of<C: Into<EntryChange>>(
        &mut self,
        addresses: &BTreeSet<IpAddr>,
        mut each: impl FnMut(&Entry<'_>) -> Option<C>,
    ) -> Result<VisitCounts, ConntrackError> {
        // A kernel that does not report the count does not have the filter either.
        let are_many = |(entries, _)| entries as usize >= MIN_FILTERED_ENTRIES * addresses.len();
        let is_worth_it = self.filters
            && addresses.len() <= MAX_FILTERED_ADDRESSES
            && statistics(&mut self.reader).is_ok_and(are_many);
        if !is_worth_it {
            return self.pass(None, each);
        }
        let mut sum = VisitCounts::default();
        for end in addresses.iter().flat_map(|address| [End::Source(*address), End::Destination(*address)]) {
            match self.pass(Some(end), &mut each) {
                Ok(counts) => {
                    sum.entries += counts.entries;
                    sum.changed += counts.changed;
                    sum.gone += counts.gone;
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

    /// Deletes the connections that have one of these addresses at an end. Returns how many were deleted.
    pub fn delete_of(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<u64, ConntrackError> {
        let delete = |entry: &Entry<'_>| {
            let packet = entry.evaluated();
            let ends =
                [packet.source(), packet.destination(), entry.original.destination, entry.reply.destination];
            ends.iter().any(|end| addresses.contains(end)).then_some(EntryChange::Delete)
        };
        Ok(self.visit_of(addresses, delete)?.changed)
    }

    /// Changes the marks of these entries. An entry that has ended counts as gone. If a later connection has
    /// the same tuple, its mark is changed instead.
    ///
    /// # Errors
    /// [`ConntrackError::Change`] if the kernel refuses; some marks may have been changed.
    pub fn change_marks<'a>(
        &mut self,
        changes: impl IntoIterator<Item = (&'a EntryName, MarkChange)>,
    ) -> Result<VisitCounts, ConntrackError> {
        let writer = &mut self.writer;
        writer.begin();
        let mut entries = 0;
        for (name, change) in changes {
            entries += 1;
            writer.push(&name.as_ref(), change.into())?;
        }
        writer.flush()?;
        Ok(VisitCounts { entries, changed: writer.changed, gone: writer.gone })
    }

    /// The mark of an entry; `None` if it has ended, or if its tuple now belongs to an entry with another id.
    ///
    /// # Errors
    /// [`ConntrackError::Read`] if the kernel refuses.
    pub fn mark(&mut self, entry: &EntryName) -> Result<Option<Mark>, ConntrackError> {
        let entry = entry.as_ref();
        let sequence = self.reader.next_sequence();
        let mut request = Messages::default();
        request.push(Header { kind: CT_GET, flags: REQUEST, sequence, family: entry.family }, |attributes| {
            entry.write(attributes);
        });
        let read = |answer: Received<'_>| {
            Entry::parse(&answer).map(|found| (found.id == entry.id).then_some(found.mark))
        };
        match self.reader.request(request.as_bytes(), sequence, read) {
            Err(NetlinkError::Refused { errno: Errno::ENOENT, .. }) => Ok(None),
            mark => mark.map_err(ConntrackError::Read),
        }
    }

    /// One pass over all entries of the table, or over those with this end.
    fn pass<C: Into<EntryChange>>(
        &mut self,
        end: Option<End>,
        mut each: impl FnMut(&Entry<'_>) -> Option<C>,
    ) -> Result<VisitCounts, ConntrackError> {
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
            // An entry without these attributes is of no kind that the rules' packets could belong to.
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
        Ok(VisitCounts { entries, changed: writer.changed, gone: writer.gone })
    }
}

/// The number of entries in the table, and its limit (since Linux 4.18).
pub(crate) fn statistics(socket: &mut Socket) -> Result<(u32, u32), NetlinkError> {
    let sequence = socket.next_sequence();
    let mut request = Messages::default();
    request.push(Header { kind: CT_GET_STATS, flags: REQUEST, sequence, family: ANY_FAMILY }, |_| {});
    socket.request(request.as_bytes(), sequence, |answer| {
        let number = |kind| {
            let (_, value) = AttributeReader::new(answer.attributes).find(|(k, _)| *k == kind)?;
            Some(u32::from_be_bytes(value.try_into().ok()?))
        };
        Some((number(CTA_STATS_GLOBAL_ENTRIES)?, number(CTA_STATS_GLOBAL_MAX_ENTRIES)?))
    })
}

/// Sends changes in batches.
#[derive(Debug)]
struct Writer {
    socket: Socket,
    /// Checked before each message; `None` if changes are made regardless of the rules' owner.
    own_rules: Option<OwnRules>,
    /// Changes that are not sent yet.
    pending: Messages,
    /// The number of changes in `pending`.
    count: u64,
    /// The sequence number of the latest change.
    latest: u32,
    changed: u64,
    gone: u64,
}

impl Writer {
    fn new(socket: Socket) -> Self {
        let own_rules = None;
        Self { socket, own_rules, pending: Messages::default(), count: 0, latest: 0, changed: 0, gone: 0 }
    }

    /// Discards the state of an earlier visit.
    fn begin(&mut self) {
        self.pending.clear();
        (self.count, self.changed, self.gone) = (0, 0, 0);
    }

    /// Adds a change, and sends the pending changes if there are many.
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
                    attributes.be32(CTA_MARK, (value & mask).0).be32(CTA_MARK_MASK, mask.0);
                }
                // The id prevents deleting a later connection with the same tuple.
                EntryChange::Delete => drop(attributes.be32(CTA_ID, entry.id.0)),
            }
        });
        self.count += 1;
        self.latest = sequence;
        if self.pending.as_bytes().len() < MAX_PENDING { Ok(()) } else { self.flush() }
    }

    /// Sends the pending changes, unless another agent has taken over the rules.
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

    /// Sends the pending changes and reads the answers: the kernel answers each refused message, and the last
    /// one in any case.
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
