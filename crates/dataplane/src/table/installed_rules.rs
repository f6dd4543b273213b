//! The rules that the kernel has now. They are read back, because another agent may have written them.

use nix::errno::Errno;
use rustables::sys;

use super::error::TableError;
use super::names::{NFQUEUE, TABLE};
use crate::netlink::{self, AttributeReader, Header, Messages, NetlinkError, Socket};
use crate::nft::queue::{Queue, QueueForm, text};
use crate::nft::{FAMILY, TableId, message_kind};
use crate::queues::QueueRange;

/// How often a read is repeated because another program changed the ruleset meanwhile.
const TRIES: usize = 64;

/// The rules in the kernel, at one generation of the ruleset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct InstalledRules {
    /// The ruleset's generation: it changes with every batch that any program commits in this network
    /// namespace.
    pub generation: u32,
    /// The queues to which chain `nfqueue` sends packets, and how; `None` without table, chain or queue rule.
    pub queue: Option<(Queue, QueueForm)>,
}

impl InstalledRules {
    /// Reads everything at the same generation.
    pub(super) fn read(socket: &mut Socket) -> Result<Self, TableError> {
        let mut generation = read_generation(socket)?;
        for _ in 0..TRIES {
            let queue = match read_queue(socket) {
                Err(TableError::Unquiet) => None,
                queue => Some(queue?),
            };
            let after = read_generation(socket)?;
            if let (Some(queue), true) = (queue, after == generation) {
                return Ok(Self { generation, queue });
            }
            generation = after;
        }
        Err(TableError::Unquiet)
    }
}

/// The ruleset's generation. The request changes nothing, and needs nothing but nf_tables.
pub(crate) fn read_generation(socket: &mut Socket) -> Result<u32, TableError> {
    let mut request = Messages::default();
    let sequence = socket.next_sequence();
    let kind = message_kind(sys::NFT_MSG_GETGEN);
    request.push(Header { kind, flags: netlink::REQUEST, sequence, family: FAMILY }, |_| {});
    socket
        .request(request.as_bytes(), sequence, |answer| be32(attribute(answer.attributes, sys::NFTA_GEN_ID)?))
        .map_err(TableError::from_reading)
}

/// Whether a table exists.
pub(super) fn exists(socket: &mut Socket, table: TableId) -> Result<bool, TableError> {
    let mut request = Messages::default();
    let sequence = socket.next_sequence();
    let kind = message_kind(sys::NFT_MSG_GETTABLE);
    request.push(Header { kind, flags: netlink::REQUEST, sequence, family: table.family }, |attributes| {
        attributes.string(sys::NFTA_TABLE_NAME, table.name);
    });
    match socket.request(request.as_bytes(), sequence, |_| Some(())) {
        Ok(()) => Ok(true),
        Err(NetlinkError::Refused { errno: Errno::ENOENT, .. }) => Ok(false),
        Err(error) => Err(TableError::from_reading(error)),
    }
}

/// Checks that the table, if there is one, has no owner: [`TableError::Held`] if it has.
pub(crate) fn check_holder(socket: &mut Socket) -> Result<(), TableError> {
    let mut request = Messages::default();
    let sequence = socket.next_sequence();
    let kind = message_kind(sys::NFT_MSG_GETTABLE);
    request.push(Header { kind, flags: netlink::REQUEST, sequence, family: FAMILY }, |table| {
        table.string(sys::NFTA_TABLE_NAME, TABLE);
    });
    let flags = socket.request(request.as_bytes(), sequence, |answer| {
        be32(attribute(answer.attributes, sys::NFTA_TABLE_FLAGS)?)
    });
    match flags {
        Ok(flags) if flags & sys::NFT_TABLE_F_OWNER != 0 => Err(TableError::Held),
        Ok(_) | Err(NetlinkError::Refused { errno: Errno::ENOENT, .. }) => Ok(()),
        Err(error) => Err(TableError::from_reading(error)),
    }
}

/// The queue rule of chain `nfqueue`, which is the chain's only rule.
fn read_queue(socket: &mut Socket) -> Result<Option<(Queue, QueueForm)>, TableError> {
    dump_queue(socket).map_err(TableError::from_reading)
}

fn dump_queue(socket: &mut Socket) -> Result<Option<(Queue, QueueForm)>, NetlinkError> {
    let mut request = Messages::default();
    let kind = message_kind(sys::NFT_MSG_GETRULE);
    let flags = netlink::REQUEST | netlink::DUMP;
    request.push(Header { kind, flags, sequence: socket.next_sequence(), family: FAMILY }, |rule| {
        rule.string(sys::NFTA_RULE_TABLE, TABLE).string(sys::NFTA_RULE_CHAIN, NFQUEUE);
    });
    let mut queue = None;
    let result = socket.dump(request.as_bytes(), |message| {
        if message.kind == message_kind(sys::NFT_MSG_NEWRULE) && queue.is_none() {
            queue = queue_of_rule(message.attributes);
        }
    });
    match result {
        Ok(()) => Ok(queue),
        // Some kernels return this for a table or chain that does not exist; others end the list at once.
        Err(NetlinkError::Refused { errno: Errno::ENOENT, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The queues that the rules in the kernel name; `None` without a queue rule. Cheaper than
/// [`InstalledRules::read`]: one request.
///
/// # Errors
/// [`NetlinkError`] if the socket fails, or if other programs changed the ruleset during each of [`TRIES`]
/// reads.
pub(super) fn named_queues(socket: &mut Socket) -> Result<Option<QueueRange>, NetlinkError> {
    for _ in 1..TRIES {
        match dump_queue(socket) {
            Err(NetlinkError::Interrupted) => {}
            queue => return Ok(queue?.map(|(queue, _)| queue.queues)),
        }
    }
    Ok(dump_queue(socket)?.map(|(queue, _)| queue.queues))
}

/// Whether a chain has exactly one rule, which sends packets to this queue and does nothing else.
pub(super) fn has_only_queue(
    socket: &mut Socket,
    chain: &'static str,
    queue: Queue,
) -> Result<bool, TableError> {
    let mut request = Messages::default();
    let kind = message_kind(sys::NFT_MSG_GETRULE);
    let flags = netlink::REQUEST | netlink::DUMP;
    request.push(Header { kind, flags, sequence: socket.next_sequence(), family: FAMILY }, |rule| {
        rule.string(sys::NFTA_RULE_TABLE, TABLE).string(sys::NFTA_RULE_CHAIN, chain);
    });
    let (mut rules, mut is_it) = (0, false);
    let result = socket.dump(request.as_bytes(), |message| {
        if message.kind == message_kind(sys::NFT_MSG_NEWRULE) && is_of(message.attributes, chain) {
            let expressions = attribute(message.attributes, sys::NFTA_RULE_EXPRESSIONS).unwrap_or_default();
            let is_one = AttributeReader::new(expressions).count() == 1;
            let found = find_queue(expressions).map(|(queue, _)| queue);
            (rules, is_it) = (rules + 1, is_one && found == Some(queue));
        }
    });
    match result {
        Ok(()) => Ok(rules == 1 && is_it),
        // Some kernels return this for a table or chain that does not exist. A chain that changed meanwhile
        // is written again.
        Err(NetlinkError::Refused { errno: Errno::ENOENT, .. } | NetlinkError::Interrupted) => Ok(false),
        Err(error) => Err(TableError::from_reading(error)),
    }
}

/// Whether a rule belongs to this chain. The kernel filters by table and chain where it can; older ones send
/// more.
fn is_of(rule: &[u8], chain: &str) -> bool {
    let names = [(sys::NFTA_RULE_TABLE, TABLE), (sys::NFTA_RULE_CHAIN, chain)];
    names.into_iter().all(|(kind, name)| attribute(rule, kind).map(text) == Some(name.as_bytes()))
}

fn queue_of_rule(rule: &[u8]) -> Option<(Queue, QueueForm)> {
    find_queue(attribute(rule, sys::NFTA_RULE_EXPRESSIONS).filter(|_| is_of(rule, NFQUEUE))?)
}

fn find_queue(expressions: &[u8]) -> Option<(Queue, QueueForm)> {
    AttributeReader::new(expressions).find_map(|(_, expression)| {
        let name = text(attribute(expression, sys::NFTA_EXPR_NAME)?);
        Queue::decode(name, attribute(expression, sys::NFTA_EXPR_DATA)?)
    })
}

fn attribute(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    AttributeReader::new(attributes).find(|(k, _)| *k == kind).map(|(_, value)| value)
}

fn be32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}
