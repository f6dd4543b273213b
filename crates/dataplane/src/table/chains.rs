//! The chains and their rules, in the order in which a packet meets them.
//!
//! ```text
//!  hook          chain (priority)              which packets
//!  postrouting   postrouting (srcnat - 5)      from and to pods: after DNAT, before SNAT
//!  input         input (srcnat + 5)            from local pods to the node itself
//!  prerouting    prerouting-dns (dstnat + 5)   DNS queries of local pods, on kernels before 6.12
//!  prerouting    prerouting (-450)             all: where they enter (see `origin`)
//!
//!  postrouting, prerouting-dns, input  --goto-->  enqueue  --goto-->  nfqueue  -->  a worker
//!  a worker  --NF_REPEAT-->  the same base chain again  --goto-->  allowed (from input: allowed-input)
//!
//!  postrouting               --goto-->  unproven      a reply of a connection that was not evaluated, TCP in
//!                                                     mid-stream: both ends, both directions
//!  all three                 --goto-->  unfiltered    no verdict is needed
//!  all three                 --goto-->  revoked       the connection's mark says that it is revoked
//!  allowed, allowed-input    --goto-->  denied, denied-input  the verdict is deny: drop the packet, and
//!                                                             cache the flow as denied
//! ```
//!
//! Connection tracking's direction is no proof (semantics 34): after one forged or stray packet, the real
//! originator's packets count as replies. So a reply passes because its connection was accepted. A reply of
//! any other connection, and a TCP packet in mid-stream that begins an entry, pass only if policy allows the
//! connection whichever end opened it. While an agent adopts connections from before its start, replies are
//! trusted ([`TableConfig::trust_replies`]).
//!
//! A packet meets one evaluating chain per hook, since each chain costs every packet of every connection
//! about a tenth of a microsecond. So a reinjected packet meets the chain that queued it once more. Two marks
//! tell the two passes apart: the verdict bit, which the worker inverts in the packet's mark, and the bit's
//! earlier value, which `enqueue` recorded in the connection's mark. The packet's mark alone doesn't count:
//! other programs may set the bit on every packet.
//!
//! Every packet that passes has its connection marked, for whatever reason it passes, so all packets but the
//! first leave at the first rule. Exceptions are neighbour discovery, replies of the node, and ICMP errors. A
//! change of policy finds marked connections by the pods that it affects (`revalidate`, and the sweep). Why
//! they were marked makes no difference to it.
//!
//! `postrouting` and `prerouting-dns` look packets up in the chains `cached` and `denied-forward` before they
//! queue them, and `input` in `denied-to-node`. Reinjected packets reach `allowed`, `allowed-input` or,
//! without a connection, `untracked-reinjected`. These store verdicts through the chains `cache` and `denied`
//! (see `verdict_cache`). `enqueue` enforces the sender's quota (see `quota`). While a change is being
//! applied, `postrouting` and `input` begin with jumps to `revalidate` and `revalidate-input`.
//!
//! `input` comes after IPVS's hooks (srcnat - 2 and - 1). IPVS takes the packets of a service away there, and
//! they pass `postrouting` with the address of the pod that serves them. Before IPVS's hooks they would be
//! evaluated by the address of the service, which no policy mentions.
//!
//! A packet without a connection (`ct state invalid` or `untracked`) has no connection mark and no direction,
//! so rules that load them do not match. It goes to userspace like a first packet, and is evaluated in the
//! direction in which it travels, so only packets pass that policy would allow as a new connection. `enqueue`
//! hands it to `untracked` (see [`verdict_cache`]), whose sets take the place of a connection's mark. The
//! sets can't do that if they are full, if the packet has no ports, or if it goes to the node. Then the
//! packet's mark says so, and the worker's verdict is NF_ACCEPT: the packet continues behind the chain that
//! queued it. NF_REPEAT would queue it in a loop. Such a packet is evaluated each time.
//!
//! An ICMP error about a packet of a connection (`ct state related`) shares that connection: it has its
//! marks, and the direction opposite to the packet that it quotes. So it passes like a reply, and is dropped
//! with a revoked connection (semantics 24: replies and related packets of an allowed connection pass). A
//! connection that a conntrack helper expects (FTP's data) starts with the marks of its master.

mod builder;
mod enqueue;
mod fast_path;
mod names;
mod overlay;
mod unproven;
mod verdicts;

use rustables::{Hook, HookClass};

use self::builder::Chains;
use self::enqueue::enforce_quota;
use self::names::{ALLOWED, ALLOWED_INPUT, ENQUEUE, PREROUTING_DNS, QUOTA, REVOKED, UNFILTERED, UNPROVEN};
use super::config::TableConfig;
use super::family::FAMILIES;
use super::names::{INPUT, NFQUEUE, POSTROUTING};
use super::queues::queue_of;
use super::revalidation::{self, REVALIDATE, REVALIDATE_INPUT};
use super::rule::{has_local, rule};
use super::verdict_cache::{self, VerdictCache};
use super::{origin, quota};
use crate::nft::expression::{Address, Comparison, Expression, Meta, Payload};
use crate::nft::queue::QueueForm;
use crate::nft::rule::Rule;
use crate::numbers::IPPROTO_UDP;
use crate::queues::QueueRange;

/// `NF_IP_PRI_NAT_SRC`, which nft calls srcnat.
const SRCNAT: i32 = libc::NF_IP_PRI_NAT_SRC;
/// `NF_IP_PRI_NAT_DST`, which nft calls dstnat.
const DSTNAT: i32 = libc::NF_IP_PRI_NAT_DST;

/// Names and hooks of the base chains.
pub(super) fn base_chains(prerouting_dns: bool) -> Vec<(&'static str, Hook)> {
    let mut chains = vec![
        (POSTROUTING, Hook::new(HookClass::PostRouting, SRCNAT - 5)),
        (INPUT, Hook::new(HookClass::In, SRCNAT + 5)),
    ];
    if prerouting_dns {
        chains.push((PREROUTING_DNS, Hook::new(HookClass::PreRouting, DSTNAT + 5)));
    }
    chains
}

/// The base chain of `origin`, where it is used.
pub(super) fn prerouting() -> (&'static str, Hook) {
    (origin::PREROUTING, Hook::new(HookClass::PreRouting, origin::BEFORE_DEFRAGMENTATION))
}

/// Names of the regular chains, to which others jump.
pub(super) fn regular_chains() -> impl Iterator<Item = &'static str> {
    let own = [ALLOWED, ALLOWED_INPUT, REVALIDATE, REVALIDATE_INPUT];
    verdict_cache::chains().chain(own).chain(static_chains()).chain([NFQUEUE])
}

/// The regular chains whose rules no change of policy rewrites.
pub(super) fn static_chains() -> impl Iterator<Item = &'static str> {
    verdict_cache::static_chains().chain([REVOKED, UNFILTERED, ENQUEUE, QUOTA, UNPROVEN])
}

/// All rules, chain by chain. `revalidating` says whether some pods are under revalidation.
pub(super) fn rules(
    config: &TableConfig,
    cache: &VerdictCache,
    queues: QueueRange,
    form: QueueForm,
    revalidating: bool,
) -> Vec<Rule> {
    let chains = Chains { config, revalidating };
    let mut rules = chains.postrouting();
    rules.extend(chains.input());
    if config.prerouting_dns {
        rules.extend(chains.prerouting_dns());
    }
    rules.extend(Chains::revoked());
    rules.extend(chains.unfiltered());
    rules.extend(chains.unproven());
    rules.extend(chains.enqueue());
    rules.extend(verdict_cache::untracked_rules(
        &config.marks,
        config.verdict_cache.is_some(),
        enforce_quota(verdict_cache::UNTRACKED),
    ));
    rules.extend(verdict_cache::share_rules(config.verdict_cache));
    rules.extend(quota::rules(QUOTA, config.queue_quota));
    rules.push(chains.nfqueue(queue_of(config, queues), form));
    rules.extend(chains.allowed(ALLOWED));
    rules.extend(chains.allowed(ALLOWED_INPUT));
    rules.extend(verdict_cache::rules(cache));
    if revalidating {
        rules.extend(revalidation::rules(config, cache));
    }
    rules
}

impl Chains<'_> {
    /// First match decides. The last rules queue a packet for the egress of a local pod or the ingress of
    /// one; a worker evaluates both directions at once.
    fn postrouting(&self) -> Vec<Rule> {
        let mut rules = self.fast_path(POSTROUTING);
        rules.extend(self.overlay(POSTROUTING));
        rules.extend(self.unproven_jumps());
        rules.extend(self.look_up_cached(POSTROUTING));
        rules.extend(self.look_up_denied(POSTROUTING));
        for family in &FAMILIES {
            rules.push(self.enqueue_egress(POSTROUTING, family));
            rules.push(self.enqueue_ingress(POSTROUTING, family));
        }
        rules.push(Self::pass_rest(POSTROUTING));
        rules
    }

    /// Egress only: the node is never the subject of a policy (semantics 20).
    fn input(&self) -> Vec<Rule> {
        let mut rules = self.fast_path(INPUT);
        rules.extend(self.overlay(INPUT));
        rules.extend(self.look_up_denied(INPUT));
        rules.extend(FAMILIES.iter().map(|family| self.enqueue_egress(INPUT, family)));
        rules.push(Self::pass_rest(INPUT));
        rules
    }

    /// DNS over UDP from local pods to destinations other than the node. Packets to the node itself (a DNS
    /// cache there, or the address of a service that IPVS serves) are left to the other chains.
    fn prerouting_dns(&self) -> Vec<Rule> {
        let udp = |comparison| {
            [Expression::LoadMeta(Meta::Transport), Expression::Compare(comparison, vec![IPPROTO_UDP])]
        };
        let not_udp = udp(Comparison::NotEqual).into_iter().chain([Expression::Accept]);
        let not_dns = udp(Comparison::Equal).into_iter().chain([
            Expression::LoadPayload(Payload::DestinationPort),
            Expression::Compare(Comparison::NotEqual, 53_u16.to_be_bytes().to_vec()),
            Expression::Accept,
        ]);
        let mut rules = vec![
            rule(PREROUTING_DNS, "leave packets other than UDP to postrouting", not_udp),
            rule(PREROUTING_DNS, "leave packets other than DNS to postrouting", not_dns),
        ];
        rules.extend(self.fast_path(PREROUTING_DNS));
        rules.push(rule(
            PREROUTING_DNS,
            "leave packets to the node to input",
            has_local(Address::Destination).into_iter().chain([Expression::Accept]),
        ));
        rules.extend(self.look_up_cached(PREROUTING_DNS));
        rules.extend(self.look_up_denied(PREROUTING_DNS));
        rules.extend(FAMILIES.iter().map(|family| self.enqueue_egress(PREROUTING_DNS, family)));
        rules
    }
}
