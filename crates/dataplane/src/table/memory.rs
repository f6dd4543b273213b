//! What the kernel remembers: pairs that a worker has just allowed, so that their next connections need no question.
//!
//! ```text
//!  settle, settle-dns  --jump-->  remember    the packet comes back allowed: its pair goes into a set
//!  judge, judge-dns    --jump-->  remembered  the pair is in the set: count, log, mark the connection, accept
//! ```
//!
//! A pair is both addresses, the protocol (TCP, UDP, SCTP) and the destination port: all that a verdict depends on beside
//! the snapshot and the hook. What was denied is never remembered: its packets don't come to `settle`. Packets to the node
//! itself are judged for egress alone, so their pairs are kept apart, and are only remembered for `recheck`; so are those of
//! replies (`remember-local`, `remember-reply`).
//!
//! Invariant: a pair holds for one epoch alone, whose number is part of the set's key. Each snapshot begins another one, by
//! one batch that rewrites these two chains, whatever the sets hold: so old pairs are forgotten at once, and go by their
//! timeout. A pair is judged anew when that is over, however busy it is, and at the latest then nothing passes any more on
//! the word of an agent that is gone.

use std::time::{Duration, SystemTime};

use policy::Generation;
use rustables::sys;

use super::chains::{FAMILIES, Family, rule};
use super::{TABLE, TableConfig};
use crate::marks::Mark;
use crate::netlink::{self, AttributeReader, Header, Messages, NetlinkError, Socket};
use crate::nft::batch::{Batch, Part};
use crate::nft::expression::{
    Address, Comparison, Connection, Expression, Log, Meta, ORIGINAL, Part as KeyPart, Payload, REPLY,
};
use crate::nft::rule::Rule;
use crate::nft::{FAMILY, SUBSYSTEM};
use crate::packet::COPY_RANGE;

/// Lets connections of remembered pairs pass.
const REMEMBERED: &str = "remembered";
/// Remembers the pair of a packet that came back allowed.
const REMEMBER: &str = "remember";
/// Remembers the pair of a connection whose reply came back allowed.
const REMEMBER_REPLY: &str = "remember-reply";
/// Remembers the pair of a packet to the node that came back allowed.
const REMEMBER_LOCAL: &str = "remember-local";
/// The chains whose rules each epoch brings anew.
pub(super) const CHAINS: [&str; 4] = [REMEMBERED, REMEMBER, REMEMBER_REPLY, REMEMBER_LOCAL];

/// The remembered pairs, IPv4.
pub(super) const ALLOWED_4: &str = "allowed4";
/// The remembered pairs, IPv6.
pub(super) const ALLOWED_6: &str = "allowed6";
/// The protocols whose pairs are remembered: those with ports.
const WITH_PORTS: &str = "protocols-with-ports";
/// Counts the connections of remembered pairs that passed.
const COUNTER: &str = "remembered-connections";

/// Begins the prefix of a logged packet; the generation follows.
pub(crate) const LOG_PREFIX: &str = "kube-verdict ";

/// Pairs in each set at most: a set that is full remembers no more, and workers are asked.
const MOST: u32 = 32_767;
/// How long a pair is remembered for `recheck` where nothing else asks: longer than a sweep takes.
const FOR_RECHECK: Duration = Duration::from_secs(60);

// How `nft` names the types of a key's parts (`enum datatypes`), for `nft list`: six bits each.
const IPV4_ADDRESS: u32 = 7;
const IPV6_ADDRESS: u32 = 8;
const INET_PROTOCOL: u32 = 12;
const INET_SERVICE: u32 = 13;
const MARK: u32 = 19;

/// What the kernel is to remember, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Remember {
    /// How long after its verdict a pair is remembered; milliseconds at the finest. Busy or not, it is then judged anew.
    pub time: Duration,
    /// The NFLOG group that hears of each connection that passes so; `None` if nobody wants to.
    pub log_group: Option<u16>,
}

/// The chains, as they are or are to be in the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Memory {
    /// `None` if only `recheck` asks.
    remember: Option<Remember>,
    accepted: Mark,
    /// Of the snapshot that is in force with the epoch.
    generation: Generation,
    /// Part of each key. No two epochs whose pairs might still be in a set have the same. An even number: pairs of packets to the
    /// node have the odd one behind it.
    epoch: u32,
}

/// Which pair of a packet is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PairOf {
    /// Of a packet that is forwarded, in the direction of its connection's first packet.
    Forwarded,
    /// Of a forwarded reply: its connection's, whose ends are the other way round.
    Reply,
    /// Of a packet to the node itself.
    Local,
}

impl Memory {
    /// The first epoch of an agent.
    pub(super) fn new(config: &TableConfig, now: SystemTime) -> Self {
        // Each change of policy adds two, and takes much longer than two microseconds: the next agent begins behind the last
        // number of this one.
        let micros = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
        Self {
            remember: config.remember,
            accepted: config.marks.accepted(),
            generation: config.generation,
            epoch: micros as u32 & !1,
        }
    }

    /// Another epoch, of this snapshot: all pairs are forgotten.
    pub(super) fn next(&self, generation: Generation) -> Self {
        Self { generation, epoch: self.epoch.wrapping_add(2), ..self.clone() }
    }

    /// Creates sets and counter where they don't exist. The chains must.
    pub(super) fn create(batch: &mut Batch) {
        for (name, address, octets, id) in
            [(ALLOWED_4, IPV4_ADDRESS, 4, FIRST_SET_ID), (ALLOWED_6, IPV6_ADDRESS, 16, FIRST_SET_ID + 1)]
        {
            let types = [address, address, INET_PROTOCOL, INET_SERVICE, MARK];
            create_set(batch, name, sys::NFT_SET_EVAL | sys::NFT_SET_TIMEOUT, id, |set| {
                set.be32(sys::NFTA_SET_KEY_TYPE, types.into_iter().fold(0, |all, one| all << 6 | one))
                    .be32(sys::NFTA_SET_KEY_LEN, 2 * octets + 3 * 4)
                    .nested(sys::NFTA_SET_DESC, |desc| {
                        desc.be32(sys::NFTA_SET_DESC_SIZE, MOST);
                    });
            });
        }
        create_set(batch, WITH_PORTS, 0, FIRST_SET_ID + 2, |set| {
            set.be32(sys::NFTA_SET_KEY_TYPE, INET_PROTOCOL).be32(sys::NFTA_SET_KEY_LEN, 1);
        });
        let part = Part::plain(format!("adding to set {WITH_PORTS}"));
        batch.raw(part, sys::NFT_MSG_NEWSETELEM, netlink::CREATE, |message| {
            message
                .string(sys::NFTA_SET_ELEM_LIST_TABLE, TABLE)
                .string(sys::NFTA_SET_ELEM_LIST_SET, WITH_PORTS)
                .nested(sys::NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
                    for protocol in [libc::IPPROTO_TCP, libc::IPPROTO_UDP, libc::IPPROTO_SCTP] {
                        list.nested(sys::NFTA_LIST_ELEM, |element| {
                            element.nested(sys::NFTA_SET_ELEM_KEY, |key| {
                                key.bytes(sys::NFTA_DATA_VALUE, &[protocol as u8]);
                            });
                        });
                    }
                });
        });
        let modules = "nft_counter".to_owned();
        let part = Part { object: format!("counter {COUNTER}"), modules };
        batch.raw(part, sys::NFT_MSG_NEWOBJ, netlink::CREATE, |object| {
            object
                .string(sys::NFTA_OBJ_TABLE, TABLE)
                .string(sys::NFTA_OBJ_NAME, COUNTER)
                .be32(sys::NFTA_OBJ_TYPE, sys::NFT_OBJECT_COUNTER)
                .nested(sys::NFTA_OBJ_DATA, |_| {});
        });
    }

    /// The rules of all its chains.
    pub(super) fn rules(&self) -> Vec<Rule> {
        let remember =
            [(REMEMBER, PairOf::Forwarded), (REMEMBER_REPLY, PairOf::Reply), (REMEMBER_LOCAL, PairOf::Local)];
        let remember = remember
            .into_iter()
            .flat_map(|(chain, of)| FAMILIES.iter().map(move |family| (chain, family, of)));
        let remembered = |remember: Remember| {
            FAMILIES.iter().map(move |family| self.remembered(family, remember.log_group))
        };
        let mut rules: Vec<Rule> = self.remember.into_iter().flat_map(remembered).collect();
        rules.extend(remember.map(|(chain, family, of)| self.remember(chain, family, of)));
        rules
    }

    /// Replaces the rules of all its chains.
    pub(super) fn replace(&self, batch: &mut Batch) {
        CHAINS.into_iter().for_each(|chain| empty_chain(batch, chain));
        self.rules().iter().for_each(|rule| rule.add_to(TABLE, batch));
    }

    /// Comes behind the rules that know marks and directions: the packet is the first of a connection, or of one that no
    /// worker has judged yet.
    fn remembered(&self, family: &Family, log_group: Option<u16>) -> Rule {
        let accepted = self.accepted.0;
        let mut expressions = family.is_it().to_vec();
        expressions.extend(self.pair(family, PairOf::Forwarded));
        expressions.extend([Expression::InSet(family.allowed), Expression::Count(COUNTER)]);
        expressions.extend(log_group.map(|group| {
            let prefix = format!("{LOG_PREFIX}{}", self.generation.0);
            Expression::Log(Log { group, prefix, length: COPY_RANGE as u32 })
        }));
        expressions.extend([
            Expression::LoadConnection(Connection::Mark),
            Expression::Bits { mask: !accepted, flip: accepted },
            Expression::StoreConnectionMark,
            Expression::Accept,
        ]);
        rule(REMEMBERED, "let connections of a remembered pair pass", expressions)
    }

    fn remember(&self, chain: &'static str, family: &Family, of: PairOf) -> Rule {
        let mut expressions = family.is_it().to_vec();
        expressions.extend([Expression::LoadMeta(Meta::Transport), Expression::InSet(WITH_PORTS)]);
        expressions.extend(self.pair(family, of));
        let time = self.remember.map_or(FOR_RECHECK, |remember| remember.time);
        // Last: a full set ends this rule, and nothing else.
        expressions.push(Expression::AddToSet(family.allowed, time));
        rule(chain, "remember the pair of an allowed packet", expressions)
    }

    /// Loads the key of the packet's pair.
    pub(super) fn pair(&self, family: &Family, of: PairOf) -> [Expression; 5] {
        let (from, to, port, epoch) = match of {
            PairOf::Forwarded => {
                (Address::Source, Address::Destination, Payload::DestinationPort, self.epoch)
            }
            PairOf::Reply => (Address::Destination, Address::Source, Payload::SourcePort, self.epoch),
            PairOf::Local => {
                (Address::Source, Address::Destination, Payload::DestinationPort, self.epoch | 1)
            }
        };
        let words = family.words;
        let payload = |payload, at| Expression::LoadPart(KeyPart::Payload(payload), at);
        [
            payload((family.payload)(from), 0),
            payload((family.payload)(to), words),
            Expression::LoadPart(KeyPart::Transport, 2 * words),
            payload(port, 2 * words + 1),
            Expression::LoadPart(KeyPart::Number(epoch), 2 * words + 2),
        ]
    }
}

/// A rule of judge or judge-dns: is it of a remembered pair? Packets without a connection have no direction: nothing is known of
/// them, and nothing remembered.
pub(super) fn ask(chain: &'static str) -> Rule {
    jump(chain, "see what is remembered", ORIGINAL, REMEMBERED)
}

/// The rule of a settle chain that remembers pairs of this kind.
pub(super) fn tell(chain: &'static str, of: PairOf) -> Rule {
    let (direction, to) = match of {
        PairOf::Forwarded => (ORIGINAL, REMEMBER),
        PairOf::Reply => (REPLY, REMEMBER_REPLY),
        PairOf::Local => (ORIGINAL, REMEMBER_LOCAL),
    };
    jump(chain, "remember what was allowed", direction, to)
}

fn jump(chain: &'static str, purpose: &'static str, direction: u8, to: &'static str) -> Rule {
    let expressions = [
        Expression::LoadConnection(Connection::Direction),
        Expression::Compare(Comparison::Equal, vec![direction]),
        Expression::Jump(to),
    ];
    rule(chain, purpose, expressions)
}

/// From here on no pair is remembered any more.
pub(super) fn forget(batch: &mut Batch) {
    empty_chain(batch, REMEMBERED);
}

/// How many connections have passed because their pair was remembered, since the table was created.
pub(super) fn count() -> Result<u64, NetlinkError> {
    let mut socket = Socket::open()?;
    let sequence = socket.next_sequence();
    let mut request = Messages::default();
    let kind = SUBSYSTEM | sys::NFT_MSG_GETOBJ as u16;
    request.push(Header { kind, flags: netlink::REQUEST, sequence, family: FAMILY }, |object| {
        object
            .string(sys::NFTA_OBJ_TABLE, TABLE)
            .string(sys::NFTA_OBJ_NAME, COUNTER)
            .be32(sys::NFTA_OBJ_TYPE, sys::NFT_OBJECT_COUNTER);
    });
    socket.ask(request.as_bytes(), sequence, |answer| {
        let attribute = |bytes, kind| Some(AttributeReader::new(bytes).find(|(k, _)| *k == kind)?.1);
        let data = attribute(answer.attributes, sys::NFTA_OBJ_DATA)?;
        Some(u64::from_be_bytes(attribute(data, sys::NFTA_COUNTER_PACKETS)?.try_into().ok()?))
    })
}

/// Behind the numbers of the other sets: within a batch each has its own.
const FIRST_SET_ID: u32 = 9;

fn create_set(
    batch: &mut Batch,
    name: &'static str,
    flags: u32,
    id: u32,
    describe: impl FnOnce(&mut netlink::Attributes<'_>),
) {
    batch.raw(Part::plain(format!("set {name}")), sys::NFT_MSG_NEWSET, netlink::CREATE, |set| {
        set.string(sys::NFTA_SET_TABLE, TABLE)
            .string(sys::NFTA_SET_NAME, name)
            .be32(sys::NFTA_SET_FLAGS, flags)
            .be32(sys::NFTA_SET_ID, id);
        describe(set);
    });
}

fn empty_chain(batch: &mut Batch, chain: &'static str) {
    batch.raw(Part::plain(format!("emptying chain {chain}")), sys::NFT_MSG_DELRULE, 0, |rule| {
        rule.string(sys::NFTA_RULE_TABLE, TABLE).string(sys::NFTA_RULE_CHAIN, chain);
    });
}
