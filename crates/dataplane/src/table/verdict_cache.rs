//! What the kernel caches: pairs that a worker has just allowed, so that their next connections need no question.
//!
//! ```text
//!  allowed           --jump-->  cache    the packet came back allowed: its pair goes into a set
//!  postrouting, prerouting-dns  --jump-->  cached  the pair is in the set: count, log, mark the connection, accept
//! ```
//!
//! A pair is both addresses, the protocol (TCP, UDP, SCTP) and the destination port: all that a verdict depends on beside
//! the snapshot and the hook. Flows that were denied are in sets of their own (see [`denied`]). Packets to the node
//! itself are evaluated for egress alone, so their pairs are kept apart, and are only cached for `revalidate`; so are those of
//! replies (`cache-input`, `cache-reply`).
//!
//! A pair holds for one epoch alone, whose number is part of the set's key, and two epochs run side by side. The *latest* begins
//! with each snapshot: in it are pairs of pods that changed lately. The *lasting* one is for all other pods, whose pairs no change
//! has affected: it goes on until a change affects all connections. Both begin by one batch that rewrites these chains, whatever the sets
//! hold: so what a change affects is forgotten at once, and goes by its timeout.
//!
//! Invariant: what a pod's pairs were in the lasting epoch before it changed has timed out when it is no more among those that
//! changed lately. A pair is evaluated again when its time is over, however busy it is, and at the latest then nothing passes any more
//! on the word of an agent that is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use policy::{Affected, Generation};
use rustables::sys;

use super::family::{ALLOWED_4, ALLOWED_6, FAMILIES, Family};
use super::rule::{mark_connection, rule};
use super::{INET, TABLE, TableConfig, TableError, empty_chain};
use crate::marks::{Mark, Marks};
use crate::netlink::{self, AttributeReader, Header, Messages, Socket};
use crate::nft::batch::{Batch, Part};
use crate::nft::expression::{
    Address, Comparison, Connection, Expression, Log, Meta, ORIGINAL, Part as KeyPart, Payload, REPLY,
};
use crate::nft::rule::Rule;
use crate::nft::set::{Carries, KeyPart as SetKey, Set};
use crate::nft::{FAMILY, SUBSYSTEM};
use crate::packet::COPY_RANGE;

mod denied;
mod untracked;
pub(crate) use self::denied::DENIED_PREFIX;
pub(super) use self::denied::{DENIED, DENIED_INPUT, ask as ask_denied, senders, share_rules};
pub(super) use self::untracked::{UNTRACKED, rules as untracked_rules};

/// Lets connections of cached pairs pass.
const CACHED: &str = "cached";
/// Caches the pair of a packet that came back allowed.
const CACHE: &str = "cache";
/// Caches the pair of a connection whose reply came back allowed.
const CACHE_REPLY: &str = "cache-reply";
/// Caches the pair of a packet to the node that came back allowed.
const CACHE_INPUT: &str = "cache-input";

/// The chains whose rules each epoch brings anew.
pub(super) fn chains() -> impl Iterator<Item = &'static str> {
    [CACHED, CACHE, CACHE_REPLY, CACHE_INPUT, untracked::CACHED_UNTRACKED].into_iter().chain(denied::CHAINS)
}

/// The chains of the cache whose rules stay.
pub(super) fn static_chains() -> impl Iterator<Item = &'static str> {
    untracked::CHAINS.into_iter().chain([denied::DENIED_SHARE])
}

/// The protocols whose pairs are cached: those with ports.
pub(super) const WITH_PORTS: &str = "protocols-with-ports";
/// Counts the connections of cached pairs that passed.
const COUNTER: &str = "cached-connections";

/// Begins the prefix of a logged packet; the generation follows.
pub(crate) const LOG_PREFIX: &str = "kube-verdict ";

/// Pairs in each set at most: a set that is full caches no more, and workers are asked.
const MOST: u32 = 32_767;
/// How long a pair is cached for `revalidate` where nothing else asks: longer than a sweep takes.
const FOR_REVALIDATION: Duration = Duration::from_secs(60);
/// How much longer than a pair is cached a pod counts as changed lately: the kernel's clock for timeouts ticks a few
/// milliseconds at a time.
const TO_BE_SURE: Duration = Duration::from_secs(1);
/// Addresses that count as changed lately, at most; past that all pairs are forgotten, and none is.
const MOST_CHANGED: usize = 4096;

/// The cached pairs, by family.
const PAIRS: [Set; 2] = {
    let key: &[SetKey] = &[SetKey::Ipv4, SetKey::Ipv4, SetKey::Protocol, SetKey::Port, SetKey::Number];
    let carries = Carries::Timeouts;
    let v4 = Set { table: INET, name: ALLOWED_4, id: 11, key, carries, size: Some(MOST) };
    let key = &[SetKey::Ipv6, SetKey::Ipv6, SetKey::Protocol, SetKey::Port, SetKey::Number];
    [v4, Set { name: ALLOWED_6, id: 12, key, ..v4 }]
};
/// See [`WITH_PORTS`].
const PROTOCOLS: Set = Set {
    table: INET,
    name: WITH_PORTS,
    id: 13,
    key: &[SetKey::Protocol],
    carries: Carries::Keys,
    size: None,
};

/// What the kernel is to cache, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VerdictCacheConfig {
    /// How long after its verdict a pair is cached; milliseconds at the finest. Busy or not, it is then evaluated again.
    pub time: Duration,
    /// The NFLOG group that hears of each connection that passes so; `None` if nobody wants to.
    pub log_group: Option<u16>,
}

/// The chains, as they are or are to be in the kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct VerdictCache {
    /// `None` if only `revalidate` asks.
    config: Option<VerdictCacheConfig>,
    accepted: Mark,
    marks: Marks,
    /// Of the snapshot that is in force.
    generation: Generation,
    /// The epoch of pods that changed lately. No two epochs whose pairs might still be in a set have the same number. An even one:
    /// pairs of packets to the node have the odd one behind it.
    latest: u32,
    /// The epoch of all others.
    lasting: u32,
    /// The pods that changed lately, by address: since when they are in force as they are now.
    changed: BTreeMap<IpAddr, Instant>,
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

impl VerdictCache {
    /// The first epoch of an agent.
    pub(super) fn new(config: &TableConfig, now: SystemTime) -> Self {
        // Each change of policy adds two, and takes much longer than two microseconds: the next agent begins behind the last
        // number of this one.
        let micros = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
        let first = micros as u32 & !1;
        Self {
            config: config.verdict_cache,
            accepted: config.marks.accepted(),
            marks: config.marks,
            generation: config.generation,
            latest: first,
            lasting: first,
            changed: BTreeMap::new(),
        }
    }

    /// What is cached once this snapshot is in force: no pair of an address that is `affected`.
    pub(super) fn next(&self, generation: Generation, affected: &Affected, now: Instant) -> Self {
        let latest = self.latest.wrapping_add(2);
        let begin = |lasting, changed| Self { generation, latest, lasting, changed, ..self.clone() };
        let Affected::Addresses(addresses) = affected else { return begin(latest, BTreeMap::new()) };
        let addresses = addresses.keys().map(|address| (*address, now));
        let kept = self.config.map_or(Duration::ZERO, |config| config.time + TO_BE_SURE);
        let lately = |since: &Instant| now.saturating_duration_since(*since) <= kept;
        let mut changed = self.changed.clone();
        changed.retain(|_, since| lately(since));
        changed.extend(addresses.clone());
        if changed.len() > MOST_CHANGED {
            begin(latest, addresses.collect())
        } else {
            begin(self.lasting, changed)
        }
    }

    /// Counts these pods as changed at `now`: their pairs are cached in the latest epoch, also those that only `revalidate` asks about.
    /// Call it again when the batch that forgets their pairs is committed: until then, pairs may go into the lasting epoch.
    pub(super) fn keep_apart(&mut self, pods: &BTreeSet<IpAddr>, now: Instant) {
        self.changed.extend(pods.iter().map(|address| (address.to_canonical(), now)));
    }

    /// Addresses of the pods that changed lately.
    pub(super) fn changed(&self) -> impl Iterator<Item = IpAddr> {
        self.changed.keys().copied()
    }

    /// The latest epoch and the lasting one.
    #[cfg(test)]
    pub(super) fn epochs(&self) -> (u32, u32) {
        (self.latest, self.lasting)
    }

    /// Creates sets and counter where they don't exist. The chains must.
    pub(super) fn create(batch: &mut Batch) {
        for set in PAIRS.iter().chain([&PROTOCOLS]) {
            set.create_as(Part::plain(format!("set {}", set.name)), batch);
        }
        let protocols = [libc::IPPROTO_TCP, libc::IPPROTO_UDP, libc::IPPROTO_SCTP];
        PROTOCOLS.add(&protocols.map(|protocol| (vec![protocol as u8], None)).into(), batch);
        denied::create(batch);
        untracked::create(batch);
        for counter in [COUNTER, denied::COUNTER, untracked::COUNTER] {
            let modules = "nft_counter".to_owned();
            let part = Part { object: format!("counter {counter}"), modules };
            batch.raw(part, sys::NFT_MSG_NEWOBJ, netlink::CREATE, |object| {
                object
                    .string(sys::NFTA_OBJ_TABLE, TABLE)
                    .string(sys::NFTA_OBJ_NAME, counter)
                    .be32(sys::NFTA_OBJ_TYPE, sys::NFT_OBJECT_COUNTER)
                    .nested(sys::NFTA_OBJ_DATA, |_| {});
            });
        }
    }

    /// The rules of all its chains.
    pub(super) fn rules(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        for family in &FAMILIES {
            if let Some(VerdictCacheConfig { log_group, .. }) = self.config {
                rules.extend(self.cached(family, log_group));
                rules.extend(self.cached_untracked(family));
            }
            rules.extend(self.cache(family));
            rules.push(self.cache_in(CACHE_REPLY, family, self.pair(family, PairOf::Reply)));
            rules.push(self.cache_in(CACHE_INPUT, family, self.pair(family, PairOf::Local)));
        }
        rules.extend(self.denied_rules());
        rules
    }

    /// Replaces the rules of all its chains.
    pub(super) fn replace(&self, batch: &mut Batch) {
        chains().for_each(|chain| empty_chain(batch, chain));
        self.rules().iter().for_each(|rule| rule.add_to(INET, batch));
    }

    /// Come behind the rules that know marks and directions: the packet is the first of a connection, or of one that no
    /// worker has evaluated yet. Whoever changed lately has no pair in the lasting epoch.
    fn cached(&self, family: &Family, log_group: Option<u16>) -> Vec<Rule> {
        let mut rules = Vec::new();
        if !self.changed.is_empty() {
            rules.push(self.let_pass(family, self.latest, log_group));
            rules.extend(leave(CACHED, family));
        }
        rules.push(self.let_pass(family, self.lasting, log_group));
        rules
    }

    fn let_pass(&self, family: &Family, epoch: u32, log_group: Option<u16>) -> Rule {
        let mut expressions = family.is_it().to_vec();
        expressions.extend(pair_in(epoch, family, PairOf::Forwarded));
        expressions.extend([Expression::InSet(family.allowed), Expression::Count(COUNTER)]);
        expressions.extend(log_group.map(|group| {
            let prefix = format!("{LOG_PREFIX}{}", self.generation.0);
            Expression::Log(Log { group, prefix, length: COPY_RANGE as u32 })
        }));
        expressions.extend(mark_connection(self.accepted, self.accepted));
        expressions.push(Expression::Accept);
        rule(CACHED, "let connections of a cached pair pass", expressions)
    }

    /// Pairs of pods that changed lately go into both epochs: so they are known in the lasting one when that is theirs again.
    fn cache(&self, family: &Family) -> Vec<Rule> {
        let mut rules = Vec::new();
        if !self.changed.is_empty() {
            rules.extend([Address::Source, Address::Destination].map(|end| {
                let key = is_changed(family, end).into_iter().chain(self.pair(family, PairOf::Forwarded));
                self.cache_in(CACHE, family, key)
            }));
        }
        if self.config.is_some() {
            let key = pair_in(self.lasting, family, PairOf::Forwarded);
            rules.push(self.cache_in(CACHE, family, key));
        }
        rules
    }

    /// Caches the pair that `key` loads, if it goes on so far.
    fn cache_in(
        &self,
        chain: &'static str,
        family: &Family,
        key: impl IntoIterator<Item = Expression>,
    ) -> Rule {
        let mut expressions = family.is_it().to_vec();
        expressions.extend([Expression::LoadMeta(Meta::Transport), Expression::InSet(WITH_PORTS)]);
        expressions.extend(key);
        let time = self.config.map_or(FOR_REVALIDATION, |config| config.time);
        // Last: a full set ends this rule, and nothing else.
        expressions.push(Expression::AddToSet(family.allowed, time));
        rule(chain, "cache the pair of an allowed packet", expressions)
    }

    /// Loads the key of the packet's pair, as it is for pods that changed lately.
    pub(super) fn pair(&self, family: &Family, of: PairOf) -> [Expression; 5] {
        pair_in(self.latest, family, of)
    }
}

/// Returns early for pods that changed recently: their entries in the lasting epoch are stale.
fn leave(chain: &'static str, family: &Family) -> [Rule; 2] {
    [Address::Source, Address::Destination].map(|end| {
        let changed = family.is_it().into_iter().chain(is_changed(family, end));
        let leave = changed.chain([Expression::Return]);
        rule(chain, "know nothing else of pods that changed lately", leave)
    })
}

/// Goes on if the pod at this end changed lately.
fn is_changed(family: &Family, end: Address) -> [Expression; 2] {
    [Expression::LoadPayload((family.payload)(end)), Expression::InSet(family.changed)]
}

/// Loads the key of the packet's pair in an epoch.
fn pair_in(epoch: u32, family: &Family, of: PairOf) -> [Expression; 5] {
    let (from, to, port, epoch) = match of {
        PairOf::Forwarded => (Address::Source, Address::Destination, Payload::DestinationPort, epoch),
        PairOf::Reply => (Address::Destination, Address::Source, Payload::SourcePort, epoch),
        PairOf::Local => (Address::Source, Address::Destination, Payload::DestinationPort, epoch | 1),
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

/// A rule of evaluate or prerouting-dns: is it of a cached pair? Packets without a connection have no direction: nothing is known of
/// them, and nothing cached.
pub(super) fn ask(chain: &'static str) -> Rule {
    jump(chain, "see what is cached", ORIGINAL, CACHED)
}

/// The rule of a chain of allowed packets that caches pairs of this kind.
pub(super) fn tell(chain: &'static str, of: PairOf) -> Rule {
    let (direction, to) = match of {
        PairOf::Forwarded => (ORIGINAL, CACHE),
        PairOf::Reply => (REPLY, CACHE_REPLY),
        PairOf::Local => (ORIGINAL, CACHE_INPUT),
    };
    jump(chain, "cache what was allowed", direction, to)
}

fn jump(chain: &'static str, purpose: &'static str, direction: u8, to: &'static str) -> Rule {
    let expressions = [
        Expression::LoadConnection(Connection::Direction),
        Expression::Compare(Comparison::Equal, vec![direction]),
        Expression::Jump(to),
    ];
    rule(chain, purpose, expressions)
}

/// From here on no pair is cached any more, and no denied flow.
pub(super) fn forget(batch: &mut Batch) {
    let chains = [CACHED, untracked::CACHED_UNTRACKED].into_iter().chain(denied::LOOK_UPS);
    chains.for_each(|chain| empty_chain(batch, chain));
}

/// The kernel's counts of connections that passed without a question because their pair was cached, and of packets that were dropped
/// because their flow was.
#[derive(Debug)]
pub struct CacheCounters {
    socket: Socket,
}

impl CacheCounters {
    /// Of the calling thread's network namespace.
    pub fn open() -> Result<Self, TableError> {
        Ok(Self { socket: super::open()? })
    }

    /// How many connections since the table was created: by agents before this one, too.
    ///
    /// # Errors
    /// [`TableError::Refused`] if there is no table.
    pub fn count(&mut self) -> Result<u64, TableError> {
        self.read(COUNTER)
    }

    /// How many packets of denied flows since the table was created.
    ///
    /// # Errors
    /// [`TableError::Refused`] if there is no table.
    pub fn denied(&mut self) -> Result<u64, TableError> {
        self.read(denied::COUNTER)
    }

    /// How many packets without a connection passed because their flow had just been allowed, since the table was created.
    ///
    /// # Errors
    /// [`TableError::Refused`] if there is no table.
    pub fn untracked(&mut self) -> Result<u64, TableError> {
        self.read(untracked::COUNTER)
    }

    fn read(&mut self, counter: &str) -> Result<u64, TableError> {
        let sequence = self.socket.next_sequence();
        let mut request = Messages::default();
        let kind = SUBSYSTEM | sys::NFT_MSG_GETOBJ as u16;
        request.push(Header { kind, flags: netlink::REQUEST, sequence, family: FAMILY }, |object| {
            object
                .string(sys::NFTA_OBJ_TABLE, TABLE)
                .string(sys::NFTA_OBJ_NAME, counter)
                .be32(sys::NFTA_OBJ_TYPE, sys::NFT_OBJECT_COUNTER);
        });
        let read = self.socket.ask(request.as_bytes(), sequence, |answer| {
            let attribute = |bytes, kind| Some(AttributeReader::new(bytes).find(|(k, _)| *k == kind)?.1);
            let data = attribute(answer.attributes, sys::NFTA_OBJ_DATA)?;
            Some(u64::from_be_bytes(attribute(data, sys::NFTA_COUNTER_PACKETS)?.try_into().ok()?))
        });
        read.map_err(TableError::from_reading)
    }
}
