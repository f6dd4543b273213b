//! Shares of the workers' queues: how many packets each sender may ask workers about.
//!
//! ```text
//!  ask, untracked  --jump-->  sender-quota  over the sender's quota: --goto--> drop-queue-quota, which counts and names it
//!                                           else: count it, and back
//! ```
//!
//! The counts tell who filled a queue, if one was full all the same.
//!
//! A queue takes packets in the order in which they come, so a sender that exceeds the workers' rate would fill it for all. Packets
//! that the caches answer do not count: flows with one key are unlimited.
//!
//! Senders are told apart by source address. Those in this node's pod CIDRs were checked at the port where the packet entered, which
//! this hook does not know of packets in a bridge: so a pod has one quota for each of its addresses. Sources outside of them (pods of other
//! nodes, which check them, and hosts that may forge them) have one each as well, and one in common that is [`OUTSIDE`] times as large.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::family::{FAMILIES, Family};
use super::read_back::address_of;
use super::rule::rule;
use super::verdict_cache::senders;
use super::{INET, drops};
use crate::drops::DropReason;
use crate::netlink::{NetlinkError, Socket};
use crate::nft::batch::Batch;
use crate::nft::expression::{Address, Expression, Rate};
use crate::nft::rule::Rule;
use crate::nft::set::{Carries, KeyPart, Set};

/// What one sender may ask of the workers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueQuota {
    /// Packets a second; at least 1.
    pub rate: u32,
    /// Packets at once, after a while without any; at least 1. Less than the length of a queue.
    pub burst: u32,
}

const QUOTAS: [Set; 2] = sets(["queue-quotas4", "queue-quotas6"], 321, Carries::Timeouts);
const OUTSIDE_QUOTAS: [Set; 2] = sets(["outside-quotas4", "outside-quotas6"], 323, Carries::Timeouts);
/// How many packets of each sender workers were asked about.
const ASKING: [Set; 2] = sets(["asking4", "asking6"], 325, Carries::Counters);

/// Senders in a set at most. Of senders outside that find it full, the common quota counts alone.
const MOST_SENDERS: u32 = 16_384;
/// How many times a sender's quota all senders outside this node's pod CIDRs have together.
const OUTSIDE: u32 = 4;
/// How long a bucket of tokens is kept that nothing asks for.
const KEPT: Duration = Duration::from_secs(2);

/// How long a count stays that does not grow.
const COUNTED: Duration = Duration::from_secs(10);

const fn sets([v4, v6]: [&'static str; 2], id: u32, carries: Carries) -> [Set; 2] {
    let (key, size) = (&[KeyPart::Ipv4], Some(MOST_SENDERS));
    let set = Set { table: INET, name: v4, id, key, carries, size };
    [set, Set { name: v6, id: id + 1, key: &[KeyPart::Ipv6], ..set }]
}

/// Creates the sets where they don't exist.
pub(super) fn create(batch: &mut Batch) {
    [QUOTAS, OUTSIDE_QUOTAS, ASKING].iter().flatten().for_each(|set| set.create(batch));
}

/// How many packets of each sender workers were asked about, since it last asked nothing for ten seconds: of pods by address, of all others
/// as 0.0.0.0 or `::`.
///
/// # Errors
/// [`NetlinkError`] if a set can't be read.
pub(super) fn read_asking(socket: &mut Socket) -> Result<BTreeMap<IpAddr, u64>, NetlinkError> {
    let mut asking = BTreeMap::new();
    for set in ASKING {
        let counts = set.read(socket)?.into_iter();
        asking.extend(counts.filter_map(|(key, packets)| Some((address_of(&key)?, packets))));
    }
    Ok(asking)
}

/// The rules of the chain to which those jump that ask workers.
pub(super) fn rules(chain: &'static str, quota: Option<QueueQuota>) -> Vec<Rule> {
    let mut rules = quota.map_or(Vec::new(), |quota| quota_rules(chain, quota));
    rules.extend(FAMILIES.iter().zip(0..).flat_map(|(family, number): (&Family, usize)| {
        let count = Expression::CountInSet(ASKING[number].name, COUNTED);
        senders(family).map(|sender| rule(chain, "count who asks", sender.into_iter().chain([count.clone()])))
    }));
    rules
}

fn quota_rules(chain: &'static str, quota: QueueQuota) -> Vec<Rule> {
    let rate = |times: u32| Rate {
        packets: quota.rate.saturating_mul(times).into(),
        seconds: 1,
        burst: quota.burst.saturating_mul(times),
    };
    let over = |mut key: Vec<Expression>, set: Set, times| {
        key.extend([
            Expression::OverLimit(set.name, rate(times), KEPT),
            Expression::Goto(drops::chain(DropReason::QueueQuota)),
        ]);
        rule(chain, "drop what is over the sender's quota", key)
    };
    let of_family = |(family, number): (&Family, usize)| {
        let [pod, all_outside] = senders(family);
        let source = Expression::LoadPayload((family.payload)(Address::Source));
        let outside = family.is_it().into_iter().chain([source, Expression::NotInSet(family.pod_cidrs)]);
        [
            over(pod, QUOTAS[number], 1),
            over(outside.collect(), OUTSIDE_QUOTAS[number], 1),
            over(all_outside, QUOTAS[number], OUTSIDE),
        ]
    };
    FAMILIES.iter().zip(0..).flat_map(of_family).collect()
}
