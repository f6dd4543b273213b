//! The state of the verdict cache: its cache generations, and the pods that changed recently.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use policy::{Affected, Generation};

use super::generation::CacheGeneration;
use crate::marks::{Mark, Marks};
use crate::table::config::{TableConfig, VerdictCacheConfig};

/// How much longer than the cache's TTL a pod counts as recently changed. The kernel's clock for timeouts
/// ticks a few milliseconds at a time.
const TIMEOUT_MARGIN: Duration = Duration::from_secs(1);

/// Maximum number of recently changed addresses. If there were more, all cached flows are invalidated
/// instead.
const MAX_CHANGED: usize = 4096;

/// The state of the cache: what its rules depend on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::table) struct VerdictCache {
    /// `None` if flows are cached for `revalidate` only.
    pub(super) config: Option<VerdictCacheConfig>,
    pub(super) accepted: Mark,
    pub(super) marks: Marks,
    /// The generation of the snapshot in force.
    pub(super) generation: Generation,
    /// The cache generation of recently changed pods.
    pub(super) latest: CacheGeneration,
    /// The cache generation of all other pods.
    pub(super) stable: CacheGeneration,
    /// The recently changed pods by address, each with the time since which its present policy is in force.
    pub(super) changed: BTreeMap<IpAddr, Instant>,
}

impl VerdictCache {
    /// The cache of an agent that starts at `now`.
    pub(in crate::table) fn new(config: &TableConfig, now: SystemTime) -> Self {
        let first = CacheGeneration::first(now);
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
    pub(in crate::table) fn next(&self, generation: Generation, affected: &Affected, now: Instant) -> Self {
        let latest = self.latest.next();
        let begin = |stable, changed| Self { generation, latest, stable, changed, ..self.clone() };
        let Affected::Addresses(addresses) = affected else { return begin(latest, BTreeMap::new()) };
        let addresses = addresses.keys().map(|address| (*address, now));
        let kept = self.config.map_or(Duration::ZERO, |config| config.ttl + TIMEOUT_MARGIN);
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
    pub(in crate::table) fn mark_changed(&mut self, pods: &BTreeSet<IpAddr>, now: Instant) {
        self.changed.extend(pods.iter().map(|address| (address.to_canonical(), now)));
    }

    /// Addresses of the recently changed pods.
    pub(in crate::table) fn changed(&self) -> impl Iterator<Item = IpAddr> {
        self.changed.keys().copied()
    }

    /// The latest cache generation and the stable one.
    #[cfg(test)]
    pub(in crate::table) fn cache_generations(&self) -> (CacheGeneration, CacheGeneration) {
        (self.latest, self.stable)
    }
}
