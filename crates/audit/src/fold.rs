//! Folds repeated denials into one record.
//!
//! From: records of denials. To: the records to write. Invariant: each denial is written at once or counted
//! in a later record, and memory is bounded.
//!
//! The first denial of a flow is recorded at once. Further ones are counted, and recorded together once per
//! interval. A flow is the same addresses, ports, protocol, and decision, so retransmitted packets fold. A
//! source that opens more new flows than its budget is folded more coarsely: by destination port, so that
//! source ports no longer matter, and above a second budget as a whole. Budgets are per origin, so a flood
//! from one pod leaves the records of other pods as they are. The origin of a packet is its source, if that
//! is a pod; addresses outside of the cluster can be forged, so the origin is the packet's destination then.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::record::{Connection, FoldedBy, Outcome};

/// How many flows are folded at a time. If there are more, the oldest is recorded before its interval ends.
/// An entry takes about a kilobyte.
const MOST_FLOWS: usize = 8_192;

/// How many origins have a budget of their own at a time. If more of them have spent some of it, the others
/// share one.
const MOST_ORIGINS: usize = 8_192;

/// How many new flows of an origin are recorded at once, however short the time between them.
const BURST: u32 = 1_000;

/// How many further new flows of an origin are recorded in each second.
const PER_SECOND: u32 = 50;

/// See the module.
#[derive(Debug)]
pub(crate) struct Fold {
    /// The time between two records of a flow; zero if nothing is folded.
    interval: Duration,
    flows: HashMap<Key, Folded>,
    /// When the interval of each flow ends, in this order. A flow is in it once.
    due: VecDeque<(Instant, Key)>,
    budgets: HashMap<Origin, [Budget; 2]>,
    hasher: RandomState,
}

/// What folded denials have in common.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Key {
    by: FoldedBy,
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
    source_port: Option<u16>,
    destination_port: Option<u16>,
    protocol: Option<u8>,
    icmp: Option<(u8, Option<u8>)>,
    /// A hash of what decided.
    decision: u64,
}

/// Denials of one flow in its current interval.
#[derive(Debug)]
struct Folded {
    /// The record, without what differs.
    connection: Box<Connection>,
    /// How many denials are not recorded yet.
    count: u64,
    first: Timestamp,
    last: Timestamp,
}

/// Whose budget a new flow spends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Origin {
    Pod(IpAddr),
    OutsideTo(IpAddr),
    /// All origins without a budget of their own.
    Others,
}

/// A token bucket.
#[derive(Clone, Copy, Debug)]
struct Budget {
    /// In millionths of flows.
    left: u64,
    /// When that was left.
    at: Instant,
}

/// What becomes of a denial.
#[derive(Debug, Default)]
pub(crate) struct Offered {
    /// Whether it is recorded now, as it is.
    pub(crate) is_recorded: bool,
    /// A folded record that must be written before, because there are too many flows.
    pub(crate) evicted: Option<Box<Connection>>,
}

impl Fold {
    /// Folds denials of a flow that follow each other within `interval`; none if it is zero.
    pub(crate) fn new(interval: Duration) -> Self {
        Self {
            interval,
            flows: HashMap::new(),
            due: VecDeque::new(),
            budgets: HashMap::new(),
            hasher: RandomState::new(),
        }
    }

    /// Offers a denial.
    pub(crate) fn offer(&mut self, time: Timestamp, now: Instant, denial: &Connection) -> Offered {
        if self.interval.is_zero() {
            return Offered { is_recorded: true, evicted: None };
        }
        let decision = self.decision(denial);
        let mut key = Key::of(denial, FoldedBy::Flow, decision);
        if self.repeats(&key, time) {
            return Offered::default();
        }
        for (level, coarser) in [FoldedBy::Port, FoldedBy::Origin].into_iter().enumerate() {
            if self.spend(denial, level, now) {
                break;
            }
            key = Key::of(denial, coarser, decision);
            if self.repeats(&key, time) {
                return Offered::default();
            }
        }
        let evicted = (self.flows.len() >= MOST_FLOWS).then(|| self.evict()).flatten();
        let connection = Box::new(key.common(denial));
        self.flows.insert(key, Folded { connection, count: 0, first: time, last: time });
        self.due.push_back((now + self.interval, key));
        Offered { is_recorded: true, evicted }
    }

    /// The next record of a flow whose interval has ended by `now`; `None` if there is none.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Box<Connection>> {
        while let Some((at, key)) = self.due.front().copied() {
            if at > now {
                return None;
            }
            self.due.pop_front();
            let Some(folded) = self.flows.get_mut(&key) else { continue };
            if folded.count == 0 {
                self.flows.remove(&key);
                continue;
            }
            self.due.push_back((now + self.interval, key));
            return Some(folded.take());
        }
        None
    }

    /// A record of the flow that is due next, whenever that is; `None` if none is left.
    pub(crate) fn take_any(&mut self) -> Option<Box<Connection>> {
        while !self.due.is_empty() {
            if let Some(record) = self.evict() {
                return Some(record);
            }
        }
        None
    }

    /// Counts the denial if its flow is known.
    fn repeats(&mut self, key: &Key, time: Timestamp) -> bool {
        let Some(folded) = self.flows.get_mut(key) else { return false };
        folded.count += 1;
        // The rings of workers are read in turn, so this one may be the earliest.
        let is_first = folded.count == 1;
        folded.first = if is_first { time } else { folded.first.min(time) };
        folded.last = if is_first { time } else { folded.last.max(time) };
        true
    }

    /// Removes the oldest flow.
    fn evict(&mut self) -> Option<Box<Connection>> {
        let (_, key) = self.due.pop_front()?;
        let mut folded = self.flows.remove(&key)?;
        (folded.count > 0).then(|| folded.take())
    }

    /// Takes one new flow from the origin's budget of this level, if something is left of it.
    fn spend(&mut self, denial: &Connection, level: usize, now: Instant) -> bool {
        let mut origin = Origin::of(denial);
        if !self.budgets.contains_key(&origin) && self.budgets.len() >= MOST_ORIGINS {
            self.budgets.retain(|_, budgets| budgets.iter().any(|budget| !budget.is_full(now)));
            if self.budgets.len() >= MOST_ORIGINS {
                origin = Origin::Others;
            }
        }
        self.budgets.entry(origin).or_insert([Budget::full(now); 2])[level].spend(now)
    }

    /// A hash of what decided: the key is random, so that the names of policies can't be chosen to collide.
    fn decision(&self, denial: &Connection) -> u64 {
        let Connection { direction, egress, ingress, isolated_by, isolated_by_more, .. } = denial;
        let outcome = |Outcome { verdict, reason, policy, rule }: &Outcome| {
            self.hasher.hash_one((verdict, reason, policy.as_ref().map(|policy| &policy.name), rule))
        };
        let mut hasher = self.hasher.build_hasher();
        (direction, outcome(egress), outcome(ingress), isolated_by_more).hash(&mut hasher);
        isolated_by.iter().for_each(|policy| policy.name.hash(&mut hasher));
        hasher.finish()
    }
}

impl Key {
    fn of(denial: &Connection, by: FoldedBy, decision: u64) -> Self {
        let (source, destination) = (denial.source.as_ref(), denial.destination.as_ref());
        let is_pod = source.is_some_and(|source| source.pod.is_some());
        let is_flow = by == FoldedBy::Flow;
        let has_source = is_flow || is_pod;
        let has_destination = by != FoldedBy::Origin || !is_pod;
        Self {
            by,
            source: source.filter(|_| has_source).map(|end| end.address),
            destination: destination.filter(|_| has_destination).map(|end| end.address),
            source_port: source.filter(|_| is_flow).and_then(|end| end.port),
            destination_port: destination.filter(|_| by != FoldedBy::Origin).and_then(|end| end.port),
            protocol: denial.protocol.map(|protocol| protocol.0),
            icmp: denial.icmp_type.filter(|_| by != FoldedBy::Origin).map(|kind| (kind, denial.icmp_code)),
            decision,
        }
    }

    /// The record without what differs between the denials with this key.
    fn common(&self, denial: &Connection) -> Connection {
        let is_flow = self.by == FoldedBy::Flow;
        let mut common = Connection {
            nanoseconds: None,
            held_ms: None,
            cached: false,
            tcp_flags: denial.tcp_flags.filter(|_| is_flow),
            community_id: denial.community_id.filter(|_| is_flow),
            icmp_type: self.icmp.map(|(kind, _)| kind),
            icmp_code: self.icmp.and_then(|(_, code)| code),
            folded_by: Some(self.by),
            ..denial.clone()
        };
        if self.by == FoldedBy::Origin {
            common.nearest_miss = None;
        }
        common.source = common.source.filter(|_| self.source.is_some());
        common.destination = common.destination.filter(|_| self.destination.is_some());
        if let Some(source) = &mut common.source {
            source.port = self.source_port;
        }
        if let Some(destination) = &mut common.destination {
            destination.port = self.destination_port;
        }
        common
    }
}

impl Folded {
    /// The record of the denials that are not recorded yet.
    fn take(&mut self) -> Box<Connection> {
        let mut record = self.connection.clone();
        record.count = Some(std::mem::take(&mut self.count));
        (record.first, record.last) = (Some(self.first), Some(self.last));
        record
    }
}

impl Origin {
    fn of(denial: &Connection) -> Self {
        let unspecified = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        match (&denial.source, &denial.destination) {
            (Some(source), _) if source.pod.is_some() => Self::Pod(source.address),
            (_, destination) => Self::OutsideTo(destination.as_ref().map_or(unspecified, |end| end.address)),
        }
    }
}

impl Budget {
    /// One flow, in the unit of a budget.
    const FLOW: u64 = 1_000_000;
    const FULL: u64 = BURST as u64 * Self::FLOW;

    fn full(now: Instant) -> Self {
        Self { left: Self::FULL, at: now }
    }

    fn is_full(&self, now: Instant) -> bool {
        self.left_at(now) == Self::FULL
    }

    fn left_at(&self, now: Instant) -> u64 {
        let micros = u64::try_from(now.duration_since(self.at).as_micros()).unwrap_or(u64::MAX);
        micros.saturating_mul(PER_SECOND.into()).saturating_add(self.left).min(Self::FULL)
    }

    fn spend(&mut self, now: Instant) -> bool {
        (self.left, self.at) = (self.left_at(now), now);
        let is_enough = self.left >= Self::FLOW;
        if is_enough {
            self.left -= Self::FLOW;
        }
        is_enough
    }
}

#[cfg(test)]
mod tests;
