//! Quotas of the workers' queues: how many packets a second each sender may queue.
//!
//! ```text
//!  enqueue, untracked  --jump-->  sender-quota  over the sender's quota: --goto--> drop-queue-quota, which
//!                                               counts the packet and logs an example
//!                                               otherwise: count the packet, and return
//! ```
//!
//! If a queue fills up in spite of the quotas, the counts show which senders filled it.
//!
//! A queue takes packets in the order in which they arrive, so a sender that exceeds the workers' rate would
//! fill it for all. Packets that hit the verdict cache do not count: packets of a cached flow are unlimited.
//!
//! Senders are distinguished by source address. Addresses in this node's pod CIDRs were checked at the port
//! where the packet entered. This hook does not know that port for packets in a bridge, so a pod has one
//! quota for each of its addresses. Sources outside these CIDRs (pods of other nodes, which check them, and
//! hosts that may forge them) have one quota each as well. Together they have another one, which is
//! [`OUTSIDE`] times as large.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::config::QueueQuota;
use super::drops;
use super::family::{FAMILIES, Family};
use super::names::INET;
use super::read_back::address_of;
use super::rule::rule;
use super::senders::senders;
use crate::drops::DropReason;
use crate::netlink::{NetlinkError, Socket};
use crate::nft::batch::Batch;
use crate::nft::expression::{Address, Expression, Rate};
use crate::nft::rule::Rule;
use crate::nft::set::{Carries, KeyType, Set};

const QUOTAS: [Set; 2] = sets(["queue-quotas4", "queue-quotas6"], 321, Carries::Timeouts);

const OUTSIDE_QUOTAS: [Set; 2] = sets(["outside-quotas4", "outside-quotas6"], 323, Carries::Timeouts);

/// How many packets of each sender were queued.
const QUEUED_PACKETS: [Set; 2] = sets(["queued-packets4", "queued-packets6"], 325, Carries::Counters);

/// Maximum number of senders in a set. If it is full, only the common quota applies to further senders
/// outside.
const MAX_SENDERS: u32 = 16_384;

/// The common quota of all senders outside this node's pod CIDRs, in multiples of one sender's quota.
const OUTSIDE: u32 = 4;

/// How long an unused token bucket is kept.
const BUCKET_LIFETIME: Duration = Duration::from_secs(2);

/// How long a count is kept that does not grow.
const COUNT_LIFETIME: Duration = Duration::from_secs(10);

const fn sets([v4, v6]: [&'static str; 2], id: u32, carries: Carries) -> [Set; 2] {
    let (key, size) = (&[KeyType::Ipv4], Some(MAX_SENDERS));
    let set = Set { table: INET, name: v4, id, key, carries, size };
    [set, Set { name: v6, id: id + 1, key: &[KeyType::Ipv6], ..set }]
}

/// Creates the sets if they don't exist.
pub(super) fn create(batch: &mut Batch) {
    [QUOTAS, OUTSIDE_QUOTAS, QUEUED_PACKETS].iter().flatten().for_each(|set| set.create(batch));
}

/// How many packets of each sender were queued. A count ends when none has been queued for ten seconds. Pods
/// are counted by address, all other senders together as 0.0.0.0 or `::`.
///
/// # Errors
/// [`NetlinkError`] if a set can't be read.
pub(super) fn read_queued(socket: &mut Socket) -> Result<BTreeMap<IpAddr, u64>, NetlinkError> {
    let mut queued = BTreeMap::new();
    for set in QUEUED_PACKETS {
        let counts = set.read(socket)?.into_iter();
        queued.extend(counts.filter_map(|(key, packets)| Some((address_of(&key)?, packets))));
    }
    Ok(queued)
}

/// The rules of the chain to which `enqueue` and `untracked` jump.
pub(super) fn rules(chain: &'static str, quota: Option<QueueQuota>) -> Vec<Rule> {
    let mut rules = quota.map_or(Vec::new(), |quota| quota_rules(chain, quota));
    rules.extend(FAMILIES.iter().zip(0..).flat_map(|(family, number): (&Family, usize)| {
        let count = Expression::CountInSet(QUEUED_PACKETS[number].name, COUNT_LIFETIME);
        senders(family).map(|sender| {
            rule(chain, "count queued packets by sender", sender.into_iter().chain([count.clone()]))
        })
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
            Expression::OverLimit(set.name, rate(times), BUCKET_LIFETIME),
            Expression::Goto(drops::chain(DropReason::QueueQuota)),
        ]);
        rule(chain, "drop packets over the sender's quota", key)
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
