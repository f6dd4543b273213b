//! Flows that a worker has just allowed: their next connections pass without a verdict.

use std::time::Duration;

use super::flow_key::{FlowKey, MAX_FLOWS, flow_key, is_changed, return_for_changed};
use super::generation::CacheGeneration;
use super::log_prefix::LOG_PREFIX;
use super::state::VerdictCache;
use crate::nft::batch::{Batch, Subject};
use crate::nft::expression::{Address, Comparison, ConntrackKey, Expression, Log, Meta, ORIGINAL, REPLY};
use crate::nft::rule::Rule;
use crate::nft::set::{Carries, KeyType, Set};
use crate::numbers::{IPPROTO_SCTP, IPPROTO_TCP, IPPROTO_UDP};
use crate::packet::COPY_LENGTH;
use crate::table::family::{ALLOWED_4, ALLOWED_6, Family, WITH_PORTS};
use crate::table::names::INET;
use crate::table::rule::{mark_connection, rule};

/// Accepts connections of cached flows.
pub(super) const CACHED: &str = "cached";

/// Caches the flow of a packet that was allowed.
pub(super) const CACHE: &str = "cache";

/// Caches the flow of a connection whose reply was allowed.
const CACHE_REPLY: &str = "cache-reply";

/// Caches the flow of a packet to the node that was allowed.
const CACHE_INPUT: &str = "cache-input";

/// The chains whose rules change with the cache.
pub(super) const CHAINS: [&str; 4] = [CACHED, CACHE, CACHE_REPLY, CACHE_INPUT];

/// Counts the connections of cached flows that passed.
pub(super) const COUNTER: &str = "cached-connections";

/// How long a flow is cached for `revalidate` if the verdict cache is off: longer than a sweep takes.
const REVALIDATION_TTL: Duration = Duration::from_secs(60);

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

/// Creates the sets if they don't exist.
pub(super) fn create(batch: &mut Batch) {
    for set in ALLOWED_FLOWS.iter().chain([&PROTOCOLS]) {
        set.create_as(Subject::plain(format!("set {}", set.name)), batch);
    }
    let protocols = [IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP];
    PROTOCOLS.add(&protocols.map(|protocol| (vec![protocol], None)).into(), batch);
}

impl VerdictCache {
    /// The rules of this module's chains.
    pub(super) fn allowed_rules(&self, family: &Family) -> Vec<Rule> {
        let mut rules = Vec::new();
        rules.extend(self.cache_forwarded(family));
        rules.push(self.cache_rule(CACHE_REPLY, family, self.latest_key(family, FlowKey::Reply)));
        rules.push(self.cache_rule(CACHE_INPUT, family, self.latest_key(family, FlowKey::Input)));
        rules
    }

    /// These rules come after those about marks and directions: the packet is the first of a connection, or
    /// of one that no worker has evaluated yet. Recently changed pods have no flow in the stable generation.
    pub(super) fn cached(&self, family: &Family, log_group: Option<u16>) -> Vec<Rule> {
        let mut rules = Vec::new();
        if !self.changed.is_empty() {
            rules.push(self.accept_rule(family, self.latest, log_group));
            rules.extend(return_for_changed(CACHED, family));
        }
        rules.push(self.accept_rule(family, self.stable, log_group));
        rules
    }

    fn accept_rule(&self, family: &Family, generation: CacheGeneration, log_group: Option<u16>) -> Rule {
        let mut expressions = family.is_it().to_vec();
        expressions.extend(flow_key(generation, family, FlowKey::Forward));
        expressions.extend([Expression::InSet(family.allowed), Expression::Count(COUNTER)]);
        expressions.extend(log_group.map(|group| {
            let prefix = format!("{LOG_PREFIX}{}", self.generation.0);
            Expression::Log(Log { group, prefix, length: COPY_LENGTH.into() })
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
        let time = self.config.map_or(REVALIDATION_TTL, |config| config.ttl);
        // Last: a full set ends this rule, and nothing else.
        expressions.push(Expression::AddToSet(family.allowed, time));
        rule(chain, "cache the flow of an allowed packet", expressions)
    }

    /// Loads the packet's flow key in the latest cache generation.
    pub(in crate::table) fn latest_key(&self, family: &Family, key: FlowKey) -> [Expression; 5] {
        flow_key(self.latest, family, key)
    }
}

/// A rule of `postrouting` or `prerouting-dns` that looks up the packet's flow. Packets without a connection
/// have no direction: none of their flows is looked up here.
pub(in crate::table) fn look_up(chain: &'static str) -> Rule {
    jump(chain, "look up cached flows", ORIGINAL, CACHED)
}

/// The rule of a chain of allowed packets that caches flows with this kind of key.
pub(in crate::table) fn store(chain: &'static str, key: FlowKey) -> Rule {
    let (direction, to) = match key {
        FlowKey::Forward => (ORIGINAL, CACHE),
        FlowKey::Reply => (REPLY, CACHE_REPLY),
        FlowKey::Input => (ORIGINAL, CACHE_INPUT),
    };
    jump(chain, "cache allowed flows", direction, to)
}

fn jump(chain: &'static str, purpose: &'static str, direction: u8, to: &'static str) -> Rule {
    let expressions = [
        Expression::LoadConnection(ConntrackKey::Direction),
        Expression::Compare(Comparison::Equal, vec![direction]),
        Expression::Jump(to),
    ];
    rule(chain, purpose, expressions)
}
