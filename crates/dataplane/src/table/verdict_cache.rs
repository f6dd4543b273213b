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

mod allowed;
mod counters;
mod denied;
mod flow_key;
mod generation;
mod log_prefix;
mod state;
mod untracked;

pub(super) use self::allowed::{look_up, store};
pub use self::counters::CacheCounters;
pub(crate) use self::denied::DENIED_PREFIX;
pub(super) use self::denied::{DENIED, DENIED_INPUT, look_up as look_up_denied, share_rules};
pub(super) use self::flow_key::FlowKey;
pub(crate) use self::log_prefix::LOG_PREFIX;
pub(super) use self::state::VerdictCache;
pub(super) use self::untracked::{UNTRACKED, rules as untracked_rules};
use super::config::VerdictCacheConfig;
use super::family::FAMILIES;
use super::names::INET;
use super::objects::empty_chain;
use crate::nft::batch::Batch;
use crate::nft::rule::Rule;

/// The chains whose rules each cache generation rewrites.
pub(super) fn chains() -> impl Iterator<Item = &'static str> {
    allowed::CHAINS.into_iter().chain([untracked::CACHED_UNTRACKED]).chain(denied::CHAINS)
}

/// The chains of the cache that are never rewritten.
pub(super) fn static_chains() -> impl Iterator<Item = &'static str> {
    untracked::CHAINS.into_iter().chain([denied::DENIED_SHARE])
}

/// Creates the sets and counters if they don't exist. The chains must exist.
pub(super) fn create(batch: &mut Batch) {
    allowed::create(batch);
    denied::create(batch);
    untracked::create(batch);
    counters::create(batch);
}

/// The rules of all chains of the cache that change with it.
pub(super) fn rules(cache: &VerdictCache) -> Vec<Rule> {
    let mut rules = Vec::new();
    for family in &FAMILIES {
        if let Some(VerdictCacheConfig { log_group, .. }) = cache.config {
            rules.extend(cache.cached(family, log_group));
            rules.extend(cache.cached_untracked(family));
        }
        rules.extend(cache.allowed_rules(family));
    }
    rules.extend(cache.denied_rules());
    rules
}

/// Replaces the rules of all chains of the cache that change with it.
pub(super) fn replace(cache: &VerdictCache, batch: &mut Batch) {
    chains().for_each(|chain| empty_chain(batch, chain));
    rules(cache).iter().for_each(|rule| rule.add_to(INET, batch));
}

/// Invalidates all allowed and denied flows.
pub(super) fn invalidate(batch: &mut Batch) {
    let chains = [allowed::CACHED, untracked::CACHED_UNTRACKED].into_iter().chain(denied::LOOK_UPS);
    chains.for_each(|chain| empty_chain(batch, chain));
}
