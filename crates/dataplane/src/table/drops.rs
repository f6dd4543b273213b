//! The chains in which rules drop packets: each counts the packet, logs one example per second, and drops.

use std::time::Duration;

use super::family::{FAMILIES, Family};
use super::read_back::{address_of, index_of};
use super::rule::rule;
use crate::drops::{DROP_PREFIX, DropCounts, DropOrigin, DropReason};
use crate::netlink::{NetlinkError, Socket};
use crate::nft::batch::Batch;
use crate::nft::expression::{Address, Expression, KeyPart, Log, Meta};
use crate::nft::rule::Rule;
use crate::nft::set::{Carries, KeyType, Set};
use crate::nft::{FAMILY, TableId};
use crate::packet::COPY_LENGTH;

/// How often an example is logged for each reason and sender.
const EXAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// How long a count is kept that does not grow, such as that of an interface or pod that is gone.
const COUNT_LIFETIME: Duration = Duration::from_secs(3600);

/// Maximum number of elements in a set, one per sender and reason. When a set is full, packets of further
/// senders are dropped uncounted.
const MAX_ELEMENTS: u32 = 16_384;

/// A pair of sets: one counts packets, the other contains the senders and reasons for which an example was
/// logged within the last second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Counter {
    counts: &'static str,
    logged: &'static str,
    key: &'static [KeyType],
    /// The number of its first set, relative to [`Drops::first_id`].
    id: u32,
}

/// Counts by the interface where packets entered.
const BY_INTERFACE: Counter =
    Counter { counts: "dropped", logged: "logged", key: &[KeyType::Number, KeyType::Interface], id: 0 };
/// Counts by IPv4 source.
const BY_SOURCE_4: Counter = Counter {
    counts: "dropped-from4",
    logged: "logged-from4",
    key: &[KeyType::Number, KeyType::Ipv4],
    id: 2,
};
/// Counts by IPv6 source.
const BY_SOURCE_6: Counter = Counter {
    counts: "dropped-from6",
    logged: "logged-from6",
    key: &[KeyType::Number, KeyType::Ipv6],
    id: 4,
};

/// The chain that drops packets for a reason.
pub(super) fn chain(reason: DropReason) -> &'static str {
    match reason {
        DropReason::SpoofedSource => "drop-spoofed-source",
        DropReason::EtherType => "drop-ether-type",
        DropReason::RouterAdvertisement => "drop-router-advertisement",
        DropReason::NeighbourDiscovery => "drop-neighbour-discovery",
        DropReason::IsolatedScope => "drop-isolated-scope",
        DropReason::UnboundDestination => "drop-unbound-destination",
        DropReason::Overlay => "drop-overlay",
        DropReason::ForeignOverlay => "drop-foreign-overlay",
        DropReason::LocalSource => "drop-local-source",
        DropReason::InvalidTcp => "drop-invalid-tcp",
        DropReason::Revoked => "drop-revoked",
        DropReason::UnboundPort => "drop-unbound-port",
        DropReason::DeniedFlow => "drop-denied-flow",
        DropReason::QueueQuota => "drop-queue-quota",
        DropReason::QueueFull => "drop-queue-full",
    }
}

/// The drop chains of one table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Drops {
    table: TableId,
    /// The first of six numbers for its sets.
    first_id: u32,
    reasons: &'static [DropReason],
}

impl Drops {
    pub(super) const fn new(table: TableId, first_id: u32, reasons: &'static [DropReason]) -> Self {
        Self { table, first_id, reasons }
    }

    fn sets(&self, counter: Counter) -> [Set; 2] {
        let Counter { counts: name, logged, key, id } = counter;
        let (table, id) = (self.table, self.first_id + id);
        let counts = Set { table, name, id, key, carries: Carries::Counters, size: Some(MAX_ELEMENTS) };
        [counts, Set { name: logged, id: id + 1, carries: Carries::Timeouts, ..counts }]
    }

    /// Whether packets are counted by their source. In a bridge the port is always known.
    fn is_by_source(&self, reason: DropReason) -> bool {
        reason.is_by_source() && self.table.family == FAMILY
    }

    /// The counters that the table's reasons need.
    fn counters(&self) -> Vec<Counter> {
        let by_source = self.reasons.iter().any(|reason| self.is_by_source(*reason));
        let mut counters = vec![BY_INTERFACE];
        counters.extend([BY_SOURCE_4, BY_SOURCE_6].into_iter().filter(|_| by_source));
        counters
    }

    /// The names of the chains.
    pub(super) fn chains(&self) -> impl Iterator<Item = &'static str> {
        self.reasons.iter().map(|reason| chain(*reason))
    }

    /// Creates the sets if they don't exist.
    pub(super) fn create(&self, batch: &mut Batch) {
        let sets = self.counters().into_iter().flat_map(|counter| self.sets(counter));
        sets.for_each(|set| set.create(batch));
    }

    /// The rules of the chains. Examples go to `log_group`, if there is one.
    pub(super) fn rules(&self, log_group: Option<u16>) -> Vec<Rule> {
        self.reasons.iter().flat_map(|reason| rules(*reason, self.is_by_source(*reason), log_group)).collect()
    }

    /// How many packets were dropped since the table was created.
    ///
    /// # Errors
    /// [`NetlinkError`] if a set can't be read.
    pub(super) fn read(&self, socket: &mut Socket) -> Result<DropCounts, NetlinkError> {
        let mut counts = DropCounts::new();
        for counter in self.counters() {
            let [set, _] = self.sets(counter);
            for (key, packets) in set.read(socket)? {
                let reason = key.first_chunk().map(|number| u32::from_ne_bytes(*number) as usize);
                let reason = reason.and_then(|number| DropReason::ALL.get(number));
                let place = key.get(4..).and_then(|place| match counter {
                    BY_INTERFACE => Some(DropOrigin::Interface(index_of(place)?)),
                    _ => Some(DropOrigin::Source(address_of(place)?)),
                });
                counts.extend(place.zip(reason).map(|(place, reason)| ((place, *reason), packets)));
            }
        }
        Ok(counts)
    }
}

fn rules(reason: DropReason, is_by_source: bool, log_group: Option<u16>) -> Vec<Rule> {
    let name = chain(reason);
    let number = Expression::LoadKeyPart(KeyPart::Number(reason.number()), 0);
    let by = |counter, family: Option<&Family>| {
        let place = match family {
            Some(family) => KeyPart::Payload((family.payload)(Address::Source)),
            None => KeyPart::Meta(Meta::Iif),
        };
        let mut key = Vec::new();
        if let Some(family) = family {
            key.extend(family.is_it());
            key.extend([
                Expression::LoadPayload((family.payload)(Address::Source)),
                Expression::InSet(family.pod_cidrs),
            ]);
        }
        key.extend([number.clone(), Expression::LoadKeyPart(place, 1)]);
        (counter, key)
    };
    // Any host can forge sources outside the pod CIDRs, and they would fill the set. All of them count as one
    // sender, 0.0.0.0 or `::`.
    let outside = |counter, family: &Family, words: u32| {
        let mut key = family.is_it().to_vec();
        key.extend([
            Expression::LoadPayload((family.payload)(Address::Source)),
            Expression::NotInSet(family.pod_cidrs),
            number.clone(),
        ]);
        key.extend((1..=words).map(|word| Expression::LoadKeyPart(KeyPart::Number(0), word)));
        (counter, key)
    };
    let [v4, v6] = &FAMILIES;
    let counters = match is_by_source {
        true => vec![
            by(BY_SOURCE_4, Some(v4)),
            by(BY_SOURCE_6, Some(v6)),
            outside(BY_SOURCE_4, v4, 1),
            outside(BY_SOURCE_6, v6, 4),
        ],
        false => vec![by(BY_INTERFACE, None)],
    };
    let mut rules = Vec::new();
    for (Counter { counts, logged, .. }, key) in counters {
        rules.push(rule(
            name,
            "count",
            key.iter().cloned().chain([Expression::CountInSet(counts, COUNT_LIFETIME)]),
        ));
        if let Some(group) = log_group {
            let prefix = format!("{DROP_PREFIX}{}", reason.code());
            let example = key.into_iter().chain([
                Expression::NotInSet(logged),
                Expression::AddToSet(logged, EXAMPLE_INTERVAL),
                Expression::Log(Log { group, prefix, length: COPY_LENGTH.into() }),
            ]);
            rules.push(rule(name, "log an example", example));
        }
    }
    rules.push(rule(name, "drop", [Expression::Drop]));
    rules
}
