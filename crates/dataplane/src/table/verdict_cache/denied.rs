//! Flows that a worker has just denied: the kernel drops their next packets by itself.
//!
//! ```text
//!  allowed, untracked-answered  --goto-->  denied        a packet came back denied: its flow key goes into a set, and it is dropped
//!  allowed-input                --goto-->  denied-input  the same for packets to the node
//!
//!  postrouting, prerouting-dns, untracked  --jump-->  denied-forward
//!  unproven                     --jump-->  denied-forward, denied-reverse
//!  input                  --jump-->  denied-to-node
//!                                          --goto--> denied-again  the key is in the set: record or count the packet, and drop it
//! ```
//!
//! A flow key is the pair of [`verdict_cache`](super): both addresses, protocol, destination port and cache generation. The source port is not
//! part of it, so a pod that tries a closed port from many source ports uses one key. Of protocols without ports the port is 0. A key that
//! was denied stays denied whichever end opened the connection, so packets that need policy's word in both orientations ask for both keys.
//!
//! A worker answers so only where its snapshot is sure. Everything that forgets allowed pairs forgets denied flows, in the same batch.
//! Flows to the node, and those of the opposite orientation, are rare, and belong to the latest epoch alone: any change forgets them.
//!
//! Invariant: each packet that is dropped here is recorded, counted as [`DropReason::DeniedFlow`], or reported as lost. No sender
//! has more than [`SHARE`] keys in a set of [`MOST`]: what is beyond that costs a verdict each, as without a cache.

use std::time::Duration;

use super::super::chain_names::INPUT;
use super::super::family::{FAMILIES, Family};
use super::super::rule::rule;
use super::super::{INET, drops};
use super::{
    LOG_PREFIX, MOST, PairOf, VerdictCache, VerdictCacheConfig, WITH_PORTS, is_changed, leave, pair_in,
};
use crate::drops::DropReason;
use crate::marks::{DeniedFlow, Mark};
use crate::nft::batch::Batch;
use crate::nft::expression::{
    Address, Comparison, Connection, Expression, Log, Meta, ORIGINAL, Part as KeyPart, Rate,
};
use crate::nft::rule::Rule;
use crate::nft::set::{Carries, KeyPart as SetKey, Set};
use crate::packet::COPY_RANGE;

/// Takes packets that came back denied.
pub(in super::super) const DENIED: &str = "denied";
/// The same for packets to the node.
pub(in super::super) const DENIED_INPUT: &str = "denied-input";
/// Looks for a forwarded packet among denied flows.
pub(super) const DENIED_FORWARD: &str = "denied-forward";
/// The same for the opposite orientation of its connection.
const DENIED_REVERSE: &str = "denied-reverse";
/// The same for a packet to the node.
const DENIED_TO_NODE: &str = "denied-to-node";
/// Ends packets of denied flows.
const DENIED_AGAIN: &str = "denied-again";
/// Drops what would be more than a sender's share.
pub(super) const DENIED_SHARE: &str = "denied-share";
/// The chains that look for denied flows.
pub(super) const LOOK_UPS: [&str; 3] = [DENIED_FORWARD, DENIED_REVERSE, DENIED_TO_NODE];
/// The chains whose rules change with the cache.
pub(super) const CHAINS: [&str; 6] =
    [DENIED, DENIED_INPUT, DENIED_FORWARD, DENIED_REVERSE, DENIED_TO_NODE, DENIED_AGAIN];

/// Counts packets of denied flows that were dropped without a verdict.
pub(super) const COUNTER: &str = "denied-packets";

/// Begins the prefix of a logged packet of a denied flow, behind [`LOG_PREFIX`]; the generation follows.
pub(crate) const DENIED_PREFIX: &str = "denied ";

/// Denied flows.
const FLOWS: [Set; 2] = sets(
    ["denied4", "denied6"],
    311,
    [
        &[SetKey::Ipv4, SetKey::Ipv4, SetKey::Protocol, SetKey::Port, SetKey::Number],
        &[SetKey::Ipv6, SetKey::Ipv6, SetKey::Protocol, SetKey::Port, SetKey::Number],
    ],
    MOST,
);
/// How many flows of each sender may still be added.
const SHARES: [Set; 2] = sets(["denied-shares4", "denied-shares6"], 313, SENDER, MOST_SENDERS);
/// How many packets of each sender may still be recorded one by one.
const RECORDED: [Set; 2] = sets(["denied-recorded4", "denied-recorded6"], 315, SENDER, MOST_SENDERS);
const SENDER: [&[SetKey]; 2] = [&[SetKey::Ipv4], &[SetKey::Ipv6]];
/// Senders in a set at most.
const MOST_SENDERS: u32 = 16_384;

/// Flow keys of one sender: this many at once, and this many again in each lifetime of a key. So there are twice as many at most, a
/// sixteenth of a set.
const SHARE: u32 = 1_024;
/// Packets of one sender that are recorded one by one: what a program that is denied tries, and a person wants to see.
const RECORDS: Rate = Rate { packets: 10, seconds: 1, burst: 20 };
/// How long a bucket of tokens is kept that nothing asks for: it is full again by then.
const KEPT: Duration = Duration::from_secs(10);
/// UDP-Lite (RFC 3828) has ports, and is not among the protocols whose ports are part of a key.
const UDP_LITE: u8 = 136;

const fn sets(
    [v4, v6]: [&'static str; 2],
    id: u32,
    [key4, key6]: [&'static [SetKey]; 2],
    size: u32,
) -> [Set; 2] {
    let set = Set { table: INET, name: v4, id, key: key4, carries: Carries::Timeouts, size: Some(size) };
    [set, Set { name: v6, id: id + 1, key: key6, ..set }]
}

/// Creates the sets where they don't exist.
pub(super) fn create(batch: &mut Batch) {
    [FLOWS, SHARES, RECORDED].iter().flatten().for_each(|set| set.create(batch));
}

impl VerdictCache {
    /// The rules of this module's chains that change with the cache.
    pub(super) fn denied_rules(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        if self.config.is_some() {
            for chain in [DENIED, DENIED_INPUT] {
                rules.push(rule(chain, "keep to the sender's share", [Expression::Jump(DENIED_SHARE)]));
            }
            for (family, number) in FAMILIES.iter().zip(0..) {
                rules.extend(self.add_forwarded(family, number));
                let (latest, none) = (self.latest, Vec::new);
                let reverse =
                    self.add(DENIED, family, number, (DeniedFlow::Reverse, PairOf::Reply), latest, none());
                let local = self.add(
                    DENIED_INPUT,
                    family,
                    number,
                    (DeniedFlow::Forward, PairOf::Local),
                    latest,
                    none(),
                );
                rules.extend(reverse.into_iter().chain(local));
                rules.extend(self.look_up_forwarded(family));
                rules.extend(drop_denied(DENIED_TO_NODE, family, latest, PairOf::Local));
                rules.extend(drop_denied(DENIED_REVERSE, family, latest, PairOf::Reply));
                rules.extend(self.record(family, number));
            }
        }
        let again = Expression::Goto(drops::chain(DropReason::DeniedFlow));
        rules.push(rule(DENIED_AGAIN, "drop what is not recorded", [again]));
        for chain in [DENIED, DENIED_INPUT] {
            rules.push(rule(chain, "drop what a worker denied", [Expression::Drop]));
        }
        rules
    }

    /// Of pods that changed lately nothing in the lasting epoch counts.
    fn look_up_forwarded(&self, family: &Family) -> Vec<Rule> {
        let in_epoch = |epoch| drop_denied(DENIED_FORWARD, family, epoch, PairOf::Forwarded);
        let mut rules = Vec::new();
        if !self.changed.is_empty() {
            rules.extend(in_epoch(self.latest));
            rules.extend(leave(DENIED_FORWARD, family));
        }
        rules.extend(in_epoch(self.lasting));
        rules
    }

    /// As with allowed pairs, flows of pods that changed lately go into both epochs.
    fn add_forwarded(&self, family: &Family, number: usize) -> Vec<Rule> {
        let forward = (DeniedFlow::Forward, PairOf::Forwarded);
        let mut rules = Vec::new();
        if !self.changed.is_empty() {
            for end in [Address::Source, Address::Destination] {
                let changed = is_changed(family, end).to_vec();
                rules.extend(self.add(DENIED, family, number, forward, self.latest, changed));
            }
        }
        rules.extend(self.add(DENIED, family, number, forward, self.lasting, Vec::new()));
        rules
    }

    fn add(
        &self,
        chain: &'static str,
        family: &Family,
        number: usize,
        (flow, of): (DeniedFlow, PairOf),
        epoch: u32,
        condition: Vec<Expression>,
    ) -> Vec<Rule> {
        let Mark(answer) = self.marks.denied(flow);
        let is_answer = [
            Expression::LoadMeta(Meta::Mark),
            Expression::Bits { mask: self.marks.denials().0, flip: 0 },
            Expression::Compare(Comparison::Equal, answer.to_ne_bytes().to_vec()),
        ];
        let time = self.config.map_or(Duration::ZERO, |config| config.time);
        let put = Expression::AddToSet(FLOWS[number].name, time);
        let add = |key: Vec<Expression>| {
            let expressions = is_answer.iter().cloned().chain(family.is_it()).chain(condition.clone());
            // Last: a full set ends this rule, and nothing else.
            let expressions = expressions.chain(key).chain([put.clone()]);
            rule(chain, "cache the flow of a denied packet", expressions)
        };
        keys(epoch, family, of).into_iter().map(add).collect()
    }

    /// Hands over a copy of some packets of each sender.
    fn record(&self, family: &Family, number: usize) -> Vec<Rule> {
        let Some(group) = self.config.and_then(|config| config.log_group) else { return Vec::new() };
        let prefix = format!("{LOG_PREFIX}{DENIED_PREFIX}{}", self.generation.0);
        let log = Expression::Log(Log { group, prefix, length: COPY_RANGE as u32 });
        let within = Expression::Limit(RECORDED[number].name, RECORDS, KEPT);
        senders(family)
            .map(|sender| {
                let expressions = sender.into_iter().chain([within.clone(), log.clone(), Expression::Drop]);
                rule(DENIED_AGAIN, "record packets one by one", expressions)
            })
            .into()
    }
}

/// The rules that stay: no flow is added of a sender that has used its share.
pub(in super::super) fn share_rules(verdict_cache: Option<VerdictCacheConfig>) -> Vec<Rule> {
    let Some(VerdictCacheConfig { time, .. }) = verdict_cache else { return Vec::new() };
    // `nft` has no name for other periods.
    let seconds = 60;
    let packets = u64::from(SHARE) * seconds / time.as_secs().max(1);
    let rate = Rate { packets: packets.max(1), seconds, burst: SHARE };
    let of_family = |(family, number): (&Family, usize)| {
        let over = Expression::OverLimit(SHARES[number].name, rate, time.max(KEPT));
        senders(family).map(|sender| {
            let expressions = sender.into_iter().chain([over.clone(), Expression::Drop]);
            rule(DENIED_SHARE, "add no more flows than a sender's share", expressions)
        })
    };
    FAMILIES.iter().zip(0..).flat_map(of_family).collect()
}

/// The rules that end a packet whose flow was denied in this epoch.
fn drop_denied(chain: &'static str, family: &Family, epoch: u32, of: PairOf) -> Vec<Rule> {
    let set = FLOWS[usize::from(family.number == libc::NFPROTO_IPV6)].name;
    let end = |key: Vec<Expression>| {
        let found = [Expression::InSet(set), Expression::Count(COUNTER), Expression::Goto(DENIED_AGAIN)];
        let expressions = family.is_it().into_iter().chain(key).chain(found);
        rule(chain, "drop packets of a denied flow", expressions)
    };
    keys(epoch, family, of).into_iter().map(end).collect()
}

/// The key of a sender: its address where it was checked at its port. Any host can forge sources outside this node's pod CIDRs, so all of
/// them are one sender, 0.0.0.0 or `::`.
pub(in super::super) fn senders(family: &Family) -> [Vec<Expression>; 2] {
    let source = Expression::LoadPayload((family.payload)(Address::Source));
    let of_pods = |is_in| family.is_it().into_iter().chain([source.clone(), is_in]);
    let zero = |word| Expression::LoadPart(KeyPart::Number(0), word);
    [
        of_pods(Expression::InSet(family.pod_cidrs)).collect(),
        of_pods(Expression::NotInSet(family.pod_cidrs)).chain((0..family.words).map(zero)).collect(),
    ]
}

/// Each loads the key of a packet's flow: if its protocol has ports, or if it has none. What has no ports does not show which end opened
/// its connection either way, and is asked about in its own orientation alone.
fn keys(epoch: u32, family: &Family, of: PairOf) -> Vec<Vec<Expression>> {
    let pair = pair_in(epoch, family, of);
    let port_at = 2 * family.words + 1;
    let without_port = pair.clone().map(|part| match part {
        Expression::LoadPart(_, at) if at == port_at => Expression::LoadPart(KeyPart::Number(0), at),
        part => part,
    });
    let transport = Expression::LoadMeta(Meta::Transport);
    let has_ports = [transport.clone(), Expression::InSet(WITH_PORTS)];
    let mut keys = vec![has_ports.into_iter().chain(pair).collect()];
    if of != PairOf::Reply {
        let has_none = [
            transport,
            Expression::NotInSet(WITH_PORTS),
            Expression::Compare(Comparison::NotEqual, vec![UDP_LITE]),
        ];
        keys.push(has_none.into_iter().chain(without_port).collect());
    }
    keys
}

/// The rules of a chain that look for a denied flow, of a packet that has a connection: in the packet's direction, and, where that proves
/// nothing, in the opposite one.
pub(in super::super) fn ask(chain: &'static str, is_unproven: bool) -> Vec<Rule> {
    let original = [
        Expression::LoadConnection(Connection::Direction),
        Expression::Compare(Comparison::Equal, vec![ORIGINAL]),
    ];
    let any = [Expression::LoadConnection(Connection::Direction)];
    let jump = |condition: &[Expression], to| {
        let expressions = condition.iter().cloned().chain([Expression::Jump(to)]);
        rule(chain, "see what was denied", expressions)
    };
    match (chain, is_unproven) {
        (INPUT, _) => vec![jump(&original, DENIED_TO_NODE)],
        (_, true) => vec![jump(&any, DENIED_FORWARD), jump(&any, DENIED_REVERSE)],
        (_, false) => vec![jump(&original, DENIED_FORWARD)],
    }
}
