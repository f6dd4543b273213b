//! Flows that a worker has just denied: the kernel drops their next packets by itself.
//!
//! ```text
//!  allowed, untracked-reinjected  --goto-->  denied        the verdict is deny: the flow key goes into a
//!                                                          set, and the packet is dropped
//!  allowed-input                  --goto-->  denied-input  the same for packets to the node
//!
//!  postrouting, prerouting-dns, untracked  --jump-->  denied-forward
//!  unproven                                --jump-->  denied-forward, denied-reverse
//!  input                                   --jump-->  denied-to-node
//!                                          --goto-->  denied-again  the flow key is in the set: record or
//!                                                                   count the packet, and drop it
//! ```
//!
//! A flow key is that of the verdict cache's allowed flows: both addresses, protocol, destination port and
//! cache generation. It does not include the source port, so a pod that tries a closed port from many source
//! ports uses one key. The port is 0 for protocols without ports. A denied flow stays denied whichever end
//! opened the connection, so packets that policy must allow in both orientations look up both keys.
//!
//! A worker denies a whole flow only if its decision is not provisional. Every batch that invalidates allowed
//! flows also invalidates denied ones. Flows to the node and those of the reverse orientation are rare, and
//! belong to the latest cache generation only: any change invalidates them.
//!
//! Invariant: each packet that is dropped here is recorded, counted as [`DropReason::DeniedFlow`], or
//! reported as lost. No sender has more than twice [`SHARE`] keys in a set of [`MAX_FLOWS`]. Each packet of a
//! flow beyond that costs a verdict, as without a cache.

use std::time::Duration;

use super::flow_key::{FlowKey, MAX_FLOWS, flow_key, is_changed, return_for_changed};
use super::generation::CacheGeneration;
use super::log_prefix::LOG_PREFIX;
use super::state::VerdictCache;
use crate::drops::DropReason;
use crate::marks::{DeniedFlow, Mark};
use crate::nft::batch::Batch;
use crate::nft::expression::{
    Address, Comparison, ConntrackKey, Expression, KeyPart, Log, Meta, ORIGINAL, Rate,
};
use crate::nft::rule::Rule;
use crate::nft::set::{Carries, KeyType, Set};
use crate::numbers::NFPROTO_IPV6;
use crate::packet::COPY_LENGTH;
use crate::table::config::VerdictCacheConfig;
use crate::table::drops;
use crate::table::family::{FAMILIES, Family, WITH_PORTS};
use crate::table::names::{INET, INPUT};
use crate::table::rule::rule;
use crate::table::senders::senders;

/// Takes packets that were denied.
pub(in crate::table) const DENIED: &str = "denied";

/// Takes packets to the node that were denied.
pub(in crate::table) const DENIED_INPUT: &str = "denied-input";

/// Looks up a forwarded packet among the denied flows.
pub(super) const DENIED_FORWARD: &str = "denied-forward";

/// Looks up the reverse orientation of a forwarded packet's connection.
const DENIED_REVERSE: &str = "denied-reverse";

/// Looks up a packet to the node.
const DENIED_TO_NODE: &str = "denied-to-node";

/// Drops packets of denied flows.
const DENIED_AGAIN: &str = "denied-again";

/// Drops packets of senders that have used their share of the set.
pub(super) const DENIED_SHARE: &str = "denied-share";

/// The chains that look up denied flows.
pub(super) const LOOK_UPS: [&str; 3] = [DENIED_FORWARD, DENIED_REVERSE, DENIED_TO_NODE];

/// The chains whose rules change with the cache.
pub(super) const CHAINS: [&str; 6] =
    [DENIED, DENIED_INPUT, DENIED_FORWARD, DENIED_REVERSE, DENIED_TO_NODE, DENIED_AGAIN];

/// Counts packets of denied flows that were dropped without a verdict.
pub(super) const COUNTER: &str = "denied-packets";

/// Follows [`LOG_PREFIX`] in the prefix of a logged packet of a denied flow; the snapshot's generation comes
/// next.
pub(crate) const DENIED_PREFIX: &str = "denied ";

/// Denied flows.
const DENIED_FLOWS: [Set; 2] = sets(
    ["denied4", "denied6"],
    311,
    [
        &[KeyType::Ipv4, KeyType::Ipv4, KeyType::Protocol, KeyType::Port, KeyType::Number],
        &[KeyType::Ipv6, KeyType::Ipv6, KeyType::Protocol, KeyType::Port, KeyType::Number],
    ],
    MAX_FLOWS,
);

/// How many more flows of each sender may be added.
const SHARES: [Set; 2] = sets(["denied-shares4", "denied-shares6"], 313, SENDER, MAX_SENDERS);

/// How many more packets of each sender may be recorded one by one.
const RECORDED: [Set; 2] = sets(["denied-recorded4", "denied-recorded6"], 315, SENDER, MAX_SENDERS);

const SENDER: [&[KeyType]; 2] = [&[KeyType::Ipv4], &[KeyType::Ipv6]];

/// Maximum number of senders in a set.
const MAX_SENDERS: u32 = 16_384;

/// Flow keys of one sender: this many at once, and this many again in each lifetime of a key. So there are at
/// most twice as many, a sixteenth of a set.
const SHARE: u32 = 1_024;

/// Packets of one sender that are recorded one by one, so that a person can see what a denied program tries.
const RECORDS: Rate = Rate { packets: 10, seconds: 1, burst: 20 };

/// How long an unused token bucket is kept. It is full again by then.
const BUCKET_LIFETIME: Duration = Duration::from_secs(10);

/// UDP-Lite (RFC 3828) has ports, and is not among the protocols whose ports are part of a key.
const UDP_LITE: u8 = 136;

const fn sets(
    [v4, v6]: [&'static str; 2],
    id: u32,
    [key4, key6]: [&'static [KeyType]; 2],
    size: u32,
) -> [Set; 2] {
    let set = Set { table: INET, name: v4, id, key: key4, carries: Carries::Timeouts, size: Some(size) };
    [set, Set { name: v6, id: id + 1, key: key6, ..set }]
}

/// Creates the sets if they don't exist.
pub(super) fn create(batch: &mut Batch) {
    [DENIED_FLOWS, SHARES, RECORDED].iter().flatten().for_each(|set| set.create(batch));
}

impl VerdictCache {
    /// The rules of this module's chains that change with the cache.
    pub(super) fn denied_rules(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        if self.config.is_some() {
            for chain in [DENIED, DENIED_INPUT] {
                rules.push(rule(chain, "enforce the sender's share", [Expression::Jump(DENIED_SHARE)]));
            }
            for (family, number) in FAMILIES.iter().zip(0..) {
                rules.extend(self.add_forwarded(family, number));
                let (latest, none) = (self.latest, Vec::new);
                let reverse =
                    self.add(DENIED, family, number, (DeniedFlow::Reverse, FlowKey::Reply), latest, none());
                let local = self.add(
                    DENIED_INPUT,
                    family,
                    number,
                    (DeniedFlow::Forward, FlowKey::Input),
                    latest,
                    none(),
                );
                rules.extend(reverse.into_iter().chain(local));
                rules.extend(self.look_up_forwarded(family));
                rules.extend(drop_denied(DENIED_TO_NODE, family, latest, FlowKey::Input));
                rules.extend(drop_denied(DENIED_REVERSE, family, latest, FlowKey::Reply));
                rules.extend(self.record(family, number));
            }
        }
        let again = Expression::Goto(drops::chain(DropReason::DeniedFlow));
        rules.push(rule(DENIED_AGAIN, "drop unrecorded packets", [again]));
        for chain in [DENIED, DENIED_INPUT] {
            rules.push(rule(chain, "drop packets that a worker denied", [Expression::Drop]));
        }
        rules
    }

    /// Flows of recently changed pods in the stable generation don't count.
    fn look_up_forwarded(&self, family: &Family) -> Vec<Rule> {
        let in_generation = |generation| drop_denied(DENIED_FORWARD, family, generation, FlowKey::Forward);
        let mut rules = Vec::new();
        if !self.changed.is_empty() {
            rules.extend(in_generation(self.latest));
            rules.extend(return_for_changed(DENIED_FORWARD, family));
        }
        rules.extend(in_generation(self.stable));
        rules
    }

    /// As with allowed flows, flows of recently changed pods go into both generations.
    fn add_forwarded(&self, family: &Family, number: usize) -> Vec<Rule> {
        let forward = (DeniedFlow::Forward, FlowKey::Forward);
        let mut rules = Vec::new();
        if !self.changed.is_empty() {
            for end in [Address::Source, Address::Destination] {
                let changed = is_changed(family, end).to_vec();
                rules.extend(self.add(DENIED, family, number, forward, self.latest, changed));
            }
        }
        rules.extend(self.add(DENIED, family, number, forward, self.stable, Vec::new()));
        rules
    }

    fn add(
        &self,
        chain: &'static str,
        family: &Family,
        number: usize,
        (flow, key): (DeniedFlow, FlowKey),
        generation: CacheGeneration,
        condition: Vec<Expression>,
    ) -> Vec<Rule> {
        let Mark(denied) = self.marks.denied(flow);
        let is_denied = [
            Expression::LoadMeta(Meta::Mark),
            Expression::Bits { mask: self.marks.denied_mask().0, flip: 0 },
            Expression::Compare(Comparison::Equal, denied.to_ne_bytes().to_vec()),
        ];
        let time = self.config.map_or(Duration::ZERO, |config| config.ttl);
        let put = Expression::AddToSet(DENIED_FLOWS[number].name, time);
        let add = |key: Vec<Expression>| {
            let expressions = is_denied.iter().cloned().chain(family.is_it()).chain(condition.clone());
            // Last: a full set ends this rule, and nothing else.
            let expressions = expressions.chain(key).chain([put.clone()]);
            rule(chain, "cache the flow of a denied packet", expressions)
        };
        keys(generation, family, key).into_iter().map(add).collect()
    }

    /// Logs a copy of some packets of each sender.
    fn record(&self, family: &Family, number: usize) -> Vec<Rule> {
        let Some(group) = self.config.and_then(|config| config.log_group) else { return Vec::new() };
        let prefix = format!("{LOG_PREFIX}{DENIED_PREFIX}{}", self.generation.0);
        let log = Expression::Log(Log { group, prefix, length: COPY_LENGTH.into() });
        let within = Expression::Limit(RECORDED[number].name, RECORDS, BUCKET_LIFETIME);
        senders(family)
            .map(|sender| {
                let expressions = sender.into_iter().chain([within.clone(), log.clone(), Expression::Drop]);
                rule(DENIED_AGAIN, "record some packets", expressions)
            })
            .into()
    }
}

/// The rules that are never rewritten: no flow is added for a sender that has used its share.
pub(in crate::table) fn share_rules(verdict_cache: Option<VerdictCacheConfig>) -> Vec<Rule> {
    let Some(VerdictCacheConfig { ttl: time, .. }) = verdict_cache else { return Vec::new() };
    // `nft` has no name for other periods.
    let seconds = 60;
    let packets = u64::from(SHARE) * seconds / time.as_secs().max(1);
    let rate = Rate { packets: packets.max(1), seconds, burst: SHARE };
    let of_family = |(family, number): (&Family, usize)| {
        let over = Expression::OverLimit(SHARES[number].name, rate, time.max(BUCKET_LIFETIME));
        senders(family).map(|sender| {
            let expressions = sender.into_iter().chain([over.clone(), Expression::Drop]);
            rule(DENIED_SHARE, "add no more flows than a sender's share", expressions)
        })
    };
    FAMILIES.iter().zip(0..).flat_map(of_family).collect()
}

/// The rules that drop a packet whose flow is denied in this cache generation.
fn drop_denied(chain: &'static str, family: &Family, generation: CacheGeneration, key: FlowKey) -> Vec<Rule> {
    let set = DENIED_FLOWS[usize::from(family.number == NFPROTO_IPV6)].name;
    let end = |key: Vec<Expression>| {
        let found = [Expression::InSet(set), Expression::Count(COUNTER), Expression::Goto(DENIED_AGAIN)];
        let expressions = family.is_it().into_iter().chain(key).chain(found);
        rule(chain, "drop packets of a denied flow", expressions)
    };
    keys(generation, family, key).into_iter().map(end).collect()
}

/// Each entry loads the packet's flow key: one for protocols with ports, one for those without. A packet
/// without ports never shows which end opened its connection, so it is looked up in its own orientation only.
fn keys(generation: CacheGeneration, family: &Family, key: FlowKey) -> Vec<Vec<Expression>> {
    let with_port = flow_key(generation, family, key);
    let port_at = 2 * family.words + 1;
    let without_port = with_port.clone().map(|part| match part {
        Expression::LoadKeyPart(_, at) if at == port_at => Expression::LoadKeyPart(KeyPart::Number(0), at),
        part => part,
    });
    let transport = Expression::LoadMeta(Meta::Transport);
    let has_ports = [transport.clone(), Expression::InSet(WITH_PORTS)];
    let mut keys = vec![has_ports.into_iter().chain(with_port).collect()];
    if key != FlowKey::Reply {
        let has_none = [
            transport,
            Expression::NotInSet(WITH_PORTS),
            Expression::Compare(Comparison::NotEqual, vec![UDP_LITE]),
        ];
        keys.push(has_none.into_iter().chain(without_port).collect());
    }
    keys
}

/// The rules of a chain that look up a packet with a connection among the denied flows: in the packet's
/// direction, and in the reverse one, too, if the direction is unproven.
pub(in crate::table) fn look_up(chain: &'static str, is_unproven: bool) -> Vec<Rule> {
    let original = [
        Expression::LoadConnection(ConntrackKey::Direction),
        Expression::Compare(Comparison::Equal, vec![ORIGINAL]),
    ];
    let any = [Expression::LoadConnection(ConntrackKey::Direction)];
    let jump = |condition: &[Expression], to| {
        let expressions = condition.iter().cloned().chain([Expression::Jump(to)]);
        rule(chain, "look up denied flows", expressions)
    };
    match (chain, is_unproven) {
        (INPUT, _) => vec![jump(&original, DENIED_TO_NODE)],
        (_, true) => vec![jump(&any, DENIED_FORWARD), jump(&any, DENIED_REVERSE)],
        (_, false) => vec![jump(&original, DENIED_FORWARD)],
    }
}
