//! The verdict cache in the kernel: keys of flows that a worker has just allowed, so that their next
//! connections need no verdict.
//!
//! ```text
//!  allowed                      --jump-->  cache   the verdict is allow: the flow key goes into a set
//!  postrouting, prerouting-dns  --jump-->  cached  the flow key is in the set: count, log, mark the
//!                                                  connection, accept
//! ```
//!
//! A flow key is both addresses, the protocol (TCP, UDP, SCTP), the destination port, and a cache generation.
//! The first four are all that a verdict depends on, besides the snapshot and the hook. Denied flows are in
//! sets of their own (see [`denied`]). Packets to the node are evaluated for egress only, so their flow keys
//! are kept apart, and are only cached for `revalidate`. So are those of replies (`cache-input`,
//! `cache-reply`).
//!
//! A cached flow is valid for one cache generation, and two of them run side by side. The *latest* begins
//! with each snapshot, and is used for pods that changed recently. The *stable* one is used for all other
//! pods, whose flows no change has affected. It lasts until a change affects all connections. A generation
//! begins with one batch that rewrites these chains and leaves the sets' elements alone. So the flows
//! affected by a change are invalidated at once, and their elements are removed by their timeout.
//!
//! Invariant: flows of a pod that were cached in the stable generation before the pod changed have timed out
//! when the pod no longer counts as recently changed. A flow is evaluated again after its TTL, however busy
//! it is. So nothing passes for longer than that by a verdict of an agent that is gone.

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
use crate::nft::batch::{Batch, Subject};
use crate::nft::expression::{
    Address, Comparison, Connection, Expression, KeyPart, Log, Meta, ORIGINAL, Payload, REPLY,
};
use crate::nft::rule::Rule;
use crate::nft::set::{Carries, KeyType, Set};
use crate::nft::{FAMILY, SUBSYSTEM};
use crate::packet::COPY_RANGE;

mod denied;
mod untracked;
pub(crate) use self::denied::DENIED_PREFIX;
pub(super) use self::denied::{DENIED, DENIED_INPUT, look_up as look_up_denied, senders, share_rules};
pub(super) use self::untracked::{UNTRACKED, rules as untracked_rules};

/// Accepts connections of cached flows.
const CACHED: &str = "cached";
/// Caches the flow of a packet that was allowed.
const CACHE: &str = "cache";
/// Caches the flow of a connection whose reply was allowed.
const CACHE_REPLY: &str = "cache-reply";
/// Caches the flow of a packet to the node that was allowed.
const CACHE_INPUT: &str = "cache-input";

/// The chains whose rules each cache generation rewrites.
pub(super) fn chains() -> impl Iterator<Item = &'static str> {
    [CACHED, CACHE, CACHE_REPLY, CACHE_INPUT, untracked::CACHED_UNTRACKED].into_iter().chain(denied::CHAINS)
}

/// The chains of the cache that are never rewritten.
pub(super) fn static_chains() -> impl Iterator<Item = &'static str> {
    untracked::CHAINS.into_iter().chain([denied::DENIED_SHARE])
}

/// The protocols whose flows are cached: those with ports.
pub(super) const WITH_PORTS: &str = "protocols-with-ports";
/// Counts the connections of cached flows that passed.
const COUNTER: &str = "cached-connections";

/// The start of a logged packet's prefix, followed by the snapshot's generation.
pub(crate) const LOG_PREFIX: &str = "kube-verdict ";

/// Maximum number of flows per set. A full set caches no more, and packets are queued instead.
const MAX_FLOWS: u32 = 32_767;
/// How long a flow is cached for `revalidate` if the verdict cache is off: longer than a sweep takes.
const REVALIDATION_TTL: Duration = Duration::from_secs(60);
/// How much longer than the cache's TTL a pod counts as recently changed. The kernel's clock for timeouts
/// ticks a few milliseconds at a time.
const TIMEOUT_MARGIN: Duration = Duration::from_secs(1);
/// Maximum number of recently changed addresses. If there were more, all cached flows are invalidated
/// instead.
const MAX_CHANGED: usize = 4096;

/// The allowed flows, by family.
const ALLOWED_FLOWS: [Set; 2] = {
    let key: &[KeyType] = &[KeyType::Ipv4, KeyType::Ipv4, KeyType::Protocol, KeyType::Port, KeyType::Number];
    let carries = Carries::Timeouts;
    let v4 = Set { table: INET, name: ALLOWED_4, id: 11, key, carries, size: Some(MAX_FLOWS) };
    let key = &[KeyType::Ipv6, KeyType::Ipv6, KeyType::Protocol, KeyType::Port, KeyType::Number];
    [v4, Set { name: ALLOWED_6, id: 12, key, ..v4 }]
};
/// See [`WITH_PORTS`].
const PROTOCOLS: Set = Set {
    table: INET,
    name: WITH_PORTS,
    id: 13,
    key: &[KeyType::Protocol],
    carries: Carries::Keys,
    size: None,
};

/// What the kernel caches, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VerdictCacheConfig {
    /// How long after its verdict a flow is cached, busy or not; milliseconds at the finest. Then it is
    /// evaluated again.
    pub time: Duration,
    /// The NFLOG group to which each connection of a cached flow is logged; `None` for no log.
    pub log_group: Option<u16>,
}

/// The state of the cache: what its rules depend on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct VerdictCache {
    /// `None` if flows are cached for `revalidate` only.
    config: Option<VerdictCacheConfig>,
    accepted: Mark,
    marks: Marks,
    /// The generation of the snapshot in force.
    generation: Generation,
    /// The cache generation of recently changed pods. No two cache generations whose flows may still be in a
    /// set have the same number. The number is even: flows of packets to the node use the odd number after
    /// it.
    latest: u32,
    /// The cache generation of all other pods.
    stable: u32,
    /// The recently changed pods by address, each with the time since which its present policy is in force.
    changed: BTreeMap<IpAddr, Instant>,
}

/// How a flow key is built from a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FlowKey {
    /// For a forwarded packet in the direction of its connection's first packet.
    Forward,
    /// For a forwarded reply: the key of its connection, with source and destination exchanged.
    Reply,
    /// For a packet to the node itself.
    Input,
}

impl VerdictCache {
    /// The first cache generation of an agent.
    pub(super) fn new(config: &TableConfig, now: SystemTime) -> Self {
        // Each change of policy adds two, and takes much longer than two microseconds. So the next agent
        // begins after the last number of this one.
        let micros = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
        let first = micros as u32 & !1;
        Self {
            config: config.verdict_cache,
            accepted: config.marks.accepted(),
            marks: config.marks,
            generation: config.generation,
            latest: first,
            stable: first,
            changed: BTreeMap::new(),
        }
    }

    /// The cache for this snapshot: without flows of addresses that are `affected`.
    pub(super) fn next(&self, generation: Generation, affected: &Affected, now: Instant) -> Self {
        let latest = self.latest.wrapping_add(2);
        let begin = |stable, changed| Self { generation, latest, stable, changed, ..self.clone() };
        let Affected::Addresses(addresses) = affected else { return begin(latest, BTreeMap::new()) };
        let addresses = addresses.keys().map(|address| (*address, now));
        let kept = self.config.map_or(Duration::ZERO, |config| config.time + TIMEOUT_MARGIN);
        let is_recent = |since: &Instant| now.saturating_duration_since(*since) <= kept;
        let mut changed = self.changed.clone();
        changed.retain(|_, since| is_recent(since));
        changed.extend(addresses.clone());
        if changed.len() > MAX_CHANGED {
            begin(latest, addresses.collect())
        } else {
            begin(self.stable, changed)
        }
    }

    /// Counts these pods as changed at `now`: their flows are cached in the latest generation, including
    /// those for `revalidate`. Call this again when the batch that invalidates their flows is committed:
    /// until then, flows may go into the stable generation.
    pub(super) fn mark_changed(&mut self, pods: &BTreeSet<IpAddr>, now: Instant) {
        self.changed.extend(pods.iter().map(|address| (address.to_canonical(), now)));
    }

    /// Addresses of the recently changed pods.
    pub(super) fn changed(&self) -> impl Iterator<Item = IpAddr> {
        self.changed.keys().copied()
    }

    /// The latest cache generation and the stable one.
    #[cfg(test)]
    pub(super) fn cache_generations(&self) -> (u32, u32) {
        (self.latest, self.stable)
    }

    /// Creates the sets and counters if they don't exist. The chains must exist.
    pub(super) fn create(batch: &mut Batch) {
        for set in ALLOWED_FLOWS.iter().chain([&PROTOCOLS]) {
            set.create_as(Subject::plain(format!("set {}", set.name)), batch);
        }
        let protocols = [libc::IPPROTO_TCP, libc::IPPROTO_UDP, libc::IPPROTO_SCTP];
        PROTOCOLS.add(&protocols.map(|protocol| (vec![protocol as u8], None)).into(), batch);
        denied::create(batch);
        untracked::create(batch);
        for counter in [COUNTER, denied::COUNTER, untracked::COUNTER] {
            let modules = "nft_counter".to_owned();
            let subject = Subject { object: format!("counter {counter}"), modules };
            batch.raw(subject, sys::NFT_MSG_NEWOBJ, netlink::CREATE, |object| {
                object
                    .string(sys::NFTA_OBJ_TABLE, TABLE)
                    .string(sys::NFTA_OBJ_NAME, counter)
                    .be32(sys::NFTA_OBJ_TYPE, sys::NFT_OBJECT_COUNTER)
                    .nested(sys::NFTA_OBJ_DATA, |_| {});
            });
        }
    }

    /// The rules of all chains of the cache.
    pub(super) fn rules(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        for family in &FAMILIES {
            if let Some(VerdictCacheConfig { log_group, .. }) = self.config {
                rules.extend(self.cached(family, log_group));
                rules.extend(self.cached_untracked(family));
            }
            rules.extend(self.cache_forwarded(family));
            rules.push(self.cache_rule(CACHE_REPLY, family, self.latest_key(family, FlowKey::Reply)));
            rules.push(self.cache_rule(CACHE_INPUT, family, self.latest_key(family, FlowKey::Input)));
        }
        rules.extend(self.denied_rules());
        rules
    }

    /// Replaces the rules of all chains of the cache.
    pub(super) fn replace(&self, batch: &mut Batch) {
        chains().for_each(|chain| empty_chain(batch, chain));
        self.rules().iter().for_each(|rule| rule.add_to(INET, batch));
    }

    /// These rules come after those about marks and directions: the packet is the first of a connection, or
    /// of one that no worker has evaluated yet. Recently changed pods have no flow in the stable generation.
    fn cached(&self, family: &Family, log_group: Option<u16>) -> Vec<Rule> {
        let mut rules = Vec::new();
        if !self.changed.is_empty() {
            rules.push(self.accept_rule(family, self.latest, log_group));
            rules.extend(return_for_changed(CACHED, family));
        }
        rules.push(self.accept_rule(family, self.stable, log_group));
        rules
    }

    fn accept_rule(&self, family: &Family, generation: u32, log_group: Option<u16>) -> Rule {
        let mut expressions = family.is_it().to_vec();
        expressions.extend(flow_key(generation, family, FlowKey::Forward));
        expressions.extend([Expression::InSet(family.allowed), Expression::Count(COUNTER)]);
        expressions.extend(log_group.map(|group| {
            let prefix = format!("{LOG_PREFIX}{}", self.generation.0);
            Expression::Log(Log { group, prefix, length: COPY_RANGE as u32 })
        }));
        expressions.extend(mark_connection(self.accepted, self.accepted));
        expressions.push(Expression::Accept);
        rule(CACHED, "accept connections of cached flows", expressions)
    }

    /// Flows of recently changed pods go into both generations, so that they are cached when the stable one
    /// applies to these pods again.
    fn cache_forwarded(&self, family: &Family) -> Vec<Rule> {
        let mut rules = Vec::new();
        if !self.changed.is_empty() {
            rules.extend([Address::Source, Address::Destination].map(|end| {
                let key =
                    is_changed(family, end).into_iter().chain(self.latest_key(family, FlowKey::Forward));
                self.cache_rule(CACHE, family, key)
            }));
        }
        if self.config.is_some() {
            let key = flow_key(self.stable, family, FlowKey::Forward);
            rules.push(self.cache_rule(CACHE, family, key));
        }
        rules
    }

    /// Caches the flow whose key `key` loads, if `key` matches.
    fn cache_rule(
        &self,
        chain: &'static str,
        family: &Family,
        key: impl IntoIterator<Item = Expression>,
    ) -> Rule {
        let mut expressions = family.is_it().to_vec();
        expressions.extend([Expression::LoadMeta(Meta::Transport), Expression::InSet(WITH_PORTS)]);
        expressions.extend(key);
        let time = self.config.map_or(REVALIDATION_TTL, |config| config.time);
        // Last: a full set ends this rule, and nothing else.
        expressions.push(Expression::AddToSet(family.allowed, time));
        rule(chain, "cache the flow of an allowed packet", expressions)
    }

    /// Loads the packet's flow key in the latest cache generation.
    pub(super) fn latest_key(&self, family: &Family, key: FlowKey) -> [Expression; 5] {
        flow_key(self.latest, family, key)
    }
}

/// Returns early for recently changed pods: their flows in the stable generation are out of date.
fn return_for_changed(chain: &'static str, family: &Family) -> [Rule; 2] {
    [Address::Source, Address::Destination].map(|end| {
        let changed = family.is_it().into_iter().chain(is_changed(family, end));
        let return_ = changed.chain([Expression::Return]);
        rule(chain, "return for recently changed pods", return_)
    })
}

/// Matches if the pod at this end changed recently.
fn is_changed(family: &Family, end: Address) -> [Expression; 2] {
    [Expression::LoadPayload((family.payload)(end)), Expression::InSet(family.changed)]
}

/// Loads the packet's flow key in a cache generation.
fn flow_key(generation: u32, family: &Family, key: FlowKey) -> [Expression; 5] {
    let (from, to, port, generation) = match key {
        FlowKey::Forward => (Address::Source, Address::Destination, Payload::DestinationPort, generation),
        FlowKey::Reply => (Address::Destination, Address::Source, Payload::SourcePort, generation),
        FlowKey::Input => (Address::Source, Address::Destination, Payload::DestinationPort, generation | 1),
    };
    let words = family.words;
    let payload = |payload, at| Expression::LoadKeyPart(KeyPart::Payload(payload), at);
    [
        payload((family.payload)(from), 0),
        payload((family.payload)(to), words),
        Expression::LoadKeyPart(KeyPart::Transport, 2 * words),
        payload(port, 2 * words + 1),
        Expression::LoadKeyPart(KeyPart::Number(generation), 2 * words + 2),
    ]
}

/// A rule of `postrouting` or `prerouting-dns` that looks up the packet's flow. Packets without a connection
/// have no direction: none of their flows is looked up here.
pub(super) fn look_up(chain: &'static str) -> Rule {
    jump(chain, "look up cached flows", ORIGINAL, CACHED)
}

/// The rule of a chain of allowed packets that caches flows with this kind of key.
pub(super) fn store(chain: &'static str, key: FlowKey) -> Rule {
    let (direction, to) = match key {
        FlowKey::Forward => (ORIGINAL, CACHE),
        FlowKey::Reply => (REPLY, CACHE_REPLY),
        FlowKey::Input => (ORIGINAL, CACHE_INPUT),
    };
    jump(chain, "cache allowed flows", direction, to)
}

fn jump(chain: &'static str, purpose: &'static str, direction: u8, to: &'static str) -> Rule {
    let expressions = [
        Expression::LoadConnection(Connection::Direction),
        Expression::Compare(Comparison::Equal, vec![direction]),
        Expression::Jump(to),
    ];
    rule(chain, purpose, expressions)
}

/// Invalidates all allowed and denied flows.
pub(super) fn invalidate(batch: &mut Batch) {
    let chains = [CACHED, untracked::CACHED_UNTRACKED].into_iter().chain(denied::LOOK_UPS);
    chains.for_each(|chain| empty_chain(batch, chain));
}

/// The kernel's counts of connections that passed, and of packets that were dropped, because their flow was
/// cached.
#[derive(Debug)]
pub struct CacheCounters {
    socket: Socket,
}

impl CacheCounters {
    /// Opens the counters of the calling thread's network namespace.
    pub fn open() -> Result<Self, TableError> {
        Ok(Self { socket: super::open()? })
    }

    /// How many connections of allowed flows passed since the table was created, under previous agents too.
    ///
    /// # Errors
    /// [`TableError::Refused`] if there is no table.
    pub fn count(&mut self) -> Result<u64, TableError> {
        self.read(COUNTER)
    }

    /// How many packets of denied flows were dropped since the table was created.
    ///
    /// # Errors
    /// [`TableError::Refused`] if there is no table.
    pub fn denied(&mut self) -> Result<u64, TableError> {
        self.read(denied::COUNTER)
    }

    /// How many packets without a connection passed because their flow was cached as allowed, since the table
    /// was created.
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
