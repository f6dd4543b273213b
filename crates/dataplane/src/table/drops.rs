//! The chains in which rules drop packets by themselves: each counts, logs an example a second, and drops.

use std::time::Duration;

use super::chains::rule;
use crate::drops::{DROP_PREFIX, DropCounts, DropReason};
use crate::netlink::{NetlinkError, Socket};
use crate::nft::TableId;
use crate::nft::batch::Batch;
use crate::nft::expression::{Expression, Log, Meta, Part};
use crate::nft::rule::Rule;
use crate::nft::set::{Carries, KeyPart, Set};
use crate::packet::COPY_RANGE;
use crate::ports::InterfaceIndex;

/// How often an example is logged of each reason and interface.
const AN_EXAMPLE_EVERY: Duration = Duration::from_secs(1);

/// Interfaces times reasons; past that packets are dropped uncounted.
const MOST: u32 = 16_384;

/// What was dropped, by interface and reason.
const DROPPED: &str = "dropped";
/// Of what an example was logged within the last second.
const LOGGED: &str = "logged";

/// The chain that drops for a reason.
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
    }
}

/// The drop chains of one table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Drops {
    table: TableId,
    /// The first of two numbers for its sets.
    first_id: u32,
    reasons: &'static [DropReason],
}

impl Drops {
    pub(super) const fn new(table: TableId, first_id: u32, reasons: &'static [DropReason]) -> Self {
        Self { table, first_id, reasons }
    }

    fn counters(&self) -> Set {
        let key = &[KeyPart::Interface, KeyPart::Number];
        let (table, id) = (self.table, self.first_id);
        Set { table, name: DROPPED, id, key, carries: Carries::Counters, size: Some(MOST) }
    }

    fn logged(&self) -> Set {
        Set { name: LOGGED, id: self.first_id + 1, carries: Carries::Timeouts, ..self.counters() }
    }

    /// Its chains.
    pub(super) fn chains(&self) -> impl Iterator<Item = &'static str> {
        self.reasons.iter().map(|reason| chain(*reason))
    }

    /// Creates its sets where they don't exist.
    pub(super) fn create(&self, batch: &mut Batch) {
        self.counters().create(batch);
        self.logged().create(batch);
    }

    /// The rules of its chains; examples go to `log_group`, if there is one.
    pub(super) fn rules(&self, log_group: Option<u16>) -> Vec<Rule> {
        self.reasons.iter().flat_map(|reason| rules(*reason, log_group)).collect()
    }

    /// What was dropped since the table was created.
    pub(super) fn read(&self, socket: &mut Socket) -> Result<DropCounts, NetlinkError> {
        let elements = self.counters().read(socket)?;
        let parsed = elements.into_iter().filter_map(|(key, packets)| {
            let word = |at: usize| Some(u32::from_ne_bytes(key.get(at..at + 4)?.try_into().ok()?));
            let reason = DropReason::ALL.get(word(4)? as usize)?;
            Some(((InterfaceIndex(word(0)?), *reason), packets))
        });
        Ok(parsed.collect())
    }
}

fn rules(reason: DropReason, log_group: Option<u16>) -> Vec<Rule> {
    let name = chain(reason);
    let key = [
        Expression::LoadPart(Part::Meta(Meta::Iif), 0),
        Expression::LoadPart(Part::Number(reason.number()), 1),
    ];
    let mut rules = vec![rule(name, "count", key.clone().into_iter().chain([Expression::CountInSet(DROPPED)]))];
    if let Some(group) = log_group {
        let log = Log { group, prefix: format!("{DROP_PREFIX}{}", reason.code()), length: COPY_RANGE as u32 };
        let example = key.into_iter().chain([
            Expression::NotInSet(LOGGED),
            Expression::AddToSet(LOGGED, AN_EXAMPLE_EVERY),
            Expression::Log(log),
        ]);
        rules.push(rule(name, "log an example", example));
    }
    rules.push(rule(name, "drop", [Expression::Drop]));
    rules
}
