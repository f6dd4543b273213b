//! The chains and their rules, in the order in which a packet meets them.
//!
//! ```text
//!  hook          judges (priority)          settles (priority)   which packets
//!  postrouting   judge (srcnat - 5)         settle (srcnat - 4)        from and to pods: after DNAT, before SNAT
//!  input         judge-local (srcnat + 5)   settle-local (srcnat + 6)  from local pods to the node itself
//!  prerouting    judge-dns (dstnat + 5)     settle-dns (dstnat + 6)    DNS queries of local pods, kernels before 6.12
//! ```
//!
//! `judge` and `judge-dns` ask the chain `remembered` before they queue, and their settle chains tell the chain `remember`
//! (see `memory`). While a change is being put in force, `judge` and `judge-local` begin with what `recheck` says.
//!
//! `judge-local` stands behind IPVS's hooks (srcnat - 2 and - 1): IPVS takes the packets of a service away there, and
//! they come by `judge` with the address of the pod that serves them. In front of IPVS they would be judged by the
//! address of the service, which no policy speaks about.
//!
//! What has no connection (`ct state invalid` or `untracked`) has no mark and no direction: the rules that ask for them
//! fail, the packet goes to userspace like a first packet, is judged in the direction in which it travels, and again
//! the next time, because there is nothing to settle. So nothing passes that policy would not allow as a new connection.
//!
//! An ICMP error about a packet of a connection (`ct state related`) shares that connection: it sees its marks, and the
//! direction opposite to the packet it is about. So it passes like a reply, and is cut with a revoked connection
//! (semantics 24: replies and related packets of an allowed connection pass). A connection that a conntrack helper
//! expects (FTP's data) starts with the marks of its master.

use rustables::{Hook, HookClass};

use super::memory::{self, ALLOWED_4, ALLOWED_6, Memory, PairOf};
use super::recheck::{self, RECHECK, RECHECK_LOCAL};
use super::sets;
use super::{TableConfig, WhenDown};
use crate::marks::Mark;
use crate::nft::expression::{Address, Comparison, Connection, Expression, LOCAL, Meta, Payload, REPLY};
use crate::nft::queue::{Queue, QueueForm};
use crate::nft::rule::Rule;
use crate::queues::QueueRange;

/// Sends first packets from and to pods to userspace.
pub(super) const JUDGE: &str = "judge";
/// Marks the connections of the packets that came back allowed.
const SETTLE: &str = "settle";
/// The same for packets from local pods to the node.
pub(super) const JUDGE_LOCAL: &str = "judge-local";
/// The same for packets from local pods to the node.
const SETTLE_LOCAL: &str = "settle-local";
/// The same for DNS queries of local pods: two queries from one socket at once lose one of them if they wait in a queue
/// after they were routed (netfilter bug 1766, kernels before 6.12).
const JUDGE_DNS: &str = "judge-dns";
/// The same for DNS queries of local pods.
const SETTLE_DNS: &str = "settle-dns";

/// `NF_IP_PRI_NAT_SRC`, which nft calls srcnat.
const SRCNAT: i32 = libc::NF_IP_PRI_NAT_SRC;
/// `NF_IP_PRI_NAT_DST`, which nft calls dstnat.
const DSTNAT: i32 = libc::NF_IP_PRI_NAT_DST;

/// Names and hooks of the chains.
pub(super) fn chains(judge_dns: bool) -> Vec<(&'static str, Hook)> {
    let mut chains = vec![
        (JUDGE, Hook::new(HookClass::PostRouting, SRCNAT - 5)),
        (SETTLE, Hook::new(HookClass::PostRouting, SRCNAT - 4)),
        (JUDGE_LOCAL, Hook::new(HookClass::In, SRCNAT + 5)),
        (SETTLE_LOCAL, Hook::new(HookClass::In, SRCNAT + 6)),
    ];
    if judge_dns {
        chains.push((JUDGE_DNS, Hook::new(HookClass::PreRouting, DSTNAT + 5)));
        chains.push((SETTLE_DNS, Hook::new(HookClass::PreRouting, DSTNAT + 6)));
    }
    chains
}

/// Names of the chains that have no hook: others jump to them.
pub(super) fn plain_chains() -> impl Iterator<Item = &'static str> {
    memory::CHAINS.into_iter().chain([RECHECK, RECHECK_LOCAL])
}

/// All rules, chain by chain; with those of the window in which changing pods are judged again, or without.
pub(super) fn rules(
    config: &TableConfig,
    memory: &Memory,
    queues: QueueRange,
    form: QueueForm,
    window: bool,
) -> Vec<Rule> {
    let queue = Expression::Queue(Queue { queues, bypass: config.when_down == WhenDown::Open }, form);
    let chains = Chains { config, queue, window };
    let mut rules = chains.judge();
    rules.extend(chains.settle(SETTLE));
    rules.extend(chains.judge_local());
    rules.extend(chains.settle(SETTLE_LOCAL));
    if config.judge_dns {
        rules.extend(chains.judge_dns());
        rules.extend(chains.settle(SETTLE_DNS));
    }
    rules.extend(memory.rules());
    if window {
        rules.extend(recheck::rules(config, memory, &chains.queue_again()));
    }
    rules
}

struct Chains<'a> {
    config: &'a TableConfig,
    queue: Expression,
    window: bool,
}

/// An address family: its number (`NFPROTO_`), and what the sets about it are called.
pub(super) struct Family {
    pub(super) number: i32,
    pub(super) payload: fn(Address) -> Payload,
    /// 32-bit words of an address.
    pub(super) words: u32,
    pub(super) allowed: &'static str,
    pub(super) changing: &'static str,
    pub(super) changed: &'static str,
    pod_cidrs: &'static str,
    open_ingress: &'static str,
    open_egress: &'static str,
}

pub(super) const FAMILIES: [Family; 2] = [
    Family {
        number: libc::NFPROTO_IPV4,
        payload: Payload::V4,
        words: 1,
        allowed: ALLOWED_4,
        changing: sets::CHANGING_4,
        changed: sets::CHANGED_4,
        pod_cidrs: sets::POD_CIDRS_4,
        open_ingress: sets::OPEN_INGRESS_4,
        open_egress: sets::OPEN_EGRESS_4,
    },
    Family {
        number: libc::NFPROTO_IPV6,
        payload: Payload::V6,
        words: 4,
        allowed: ALLOWED_6,
        changing: sets::CHANGING_6,
        changed: sets::CHANGED_6,
        pod_cidrs: sets::POD_CIDRS_6,
        open_ingress: sets::OPEN_INGRESS_6,
        open_egress: sets::OPEN_EGRESS_6,
    },
];

impl Family {
    /// Goes on if the packet is of this family.
    pub(super) fn is_it(&self) -> [Expression; 2] {
        [Expression::LoadMeta(Meta::Family), Expression::Compare(Comparison::Equal, vec![self.number as u8])]
    }
}

impl Chains<'_> {
    /// First match decides. Egress of local pods and ingress of local pods are judged at once, by the first of the
    /// queue rules that matches: a packet that comes back goes on behind this chain.
    fn judge(&self) -> Vec<Rule> {
        let mut rules = self.known(JUDGE);
        rules.extend(self.ask_memory(JUDGE));
        for family in &FAMILIES {
            rules.push(self.queue_egress(JUDGE, family));
            rules.push(self.queue_ingress(JUDGE, family));
        }
        rules
    }

    /// Egress alone: the node is never the subject of a policy (semantics 20).
    fn judge_local(&self) -> Vec<Rule> {
        let mut rules = self.known(JUDGE_LOCAL);
        rules.extend(FAMILIES.iter().map(|family| self.queue_egress(JUDGE_LOCAL, family)));
        rules
    }

    /// DNS over UDP from local pods to another place than the node. What goes to the node itself (a DNS cache there, or
    /// the address of a service that IPVS holds) is left to the other chains.
    fn judge_dns(&self) -> Vec<Rule> {
        let udp = |comparison| {
            [
                Expression::LoadMeta(Meta::Transport),
                Expression::Compare(comparison, vec![libc::IPPROTO_UDP as u8]),
            ]
        };
        let not_udp = udp(Comparison::NotEqual).into_iter().chain([Expression::Accept]);
        let not_dns = udp(Comparison::Equal).into_iter().chain([
            Expression::LoadPayload(Payload::DestinationPort),
            Expression::Compare(Comparison::NotEqual, 53_u16.to_be_bytes().to_vec()),
            Expression::Accept,
        ]);
        let mut rules = vec![
            rule(JUDGE_DNS, "leave what is not UDP to judge", not_udp),
            rule(JUDGE_DNS, "leave what is not DNS to judge", not_dns),
        ];
        rules.extend(self.known(JUDGE_DNS));
        rules.push(rule(
            JUDGE_DNS,
            "leave what goes to the node to judge-local",
            is_local(Address::Destination),
        ));
        rules.extend(self.ask_memory(JUDGE_DNS));
        rules.extend(FAMILIES.iter().map(|family| self.queue_egress(JUDGE_DNS, family)));
        rules
    }

    /// The rules with which every judging chain begins: what needs no verdict.
    fn known(&self, chain: &'static str) -> Vec<Rule> {
        let marks = &self.config.marks;
        let ours = marks.accepted().0 | marks.revoked().0;
        // ACCEPTED alone: REVOKED is the stronger one. First, because nearly every packet ends here.
        let accepted = [
            Expression::LoadConnection(Connection::Mark),
            Expression::Bits { mask: ours, flip: 0 },
            Expression::Compare(Comparison::Equal, marks.accepted().0.to_ne_bytes().to_vec()),
            Expression::Accept,
        ];
        let revoked = connection_has(marks.revoked()).into_iter().chain([Expression::Drop]);
        let reply = [
            Expression::LoadConnection(Connection::Direction),
            Expression::Compare(Comparison::Equal, vec![REPLY]),
            Expression::Accept,
        ];
        // In IPv6 alone: protocol 58 in an IPv4 packet is no neighbour discovery.
        let neighbours = [
            Expression::LoadMeta(Meta::Family),
            Expression::Compare(Comparison::Equal, vec![libc::NFPROTO_IPV6 as u8]),
            Expression::LoadMeta(Meta::Transport),
            Expression::Compare(Comparison::Equal, vec![libc::IPPROTO_ICMPV6 as u8]),
            Expression::LoadPayload(Payload::Icmpv6Type),
            Expression::Compare(Comparison::AtLeast, vec![133]),
            Expression::Compare(Comparison::AtMost, vec![137]),
            Expression::Accept,
        ];
        let mut rules = if self.window { recheck::jumps(chain, self.config) } else { Vec::new() };
        rules.extend([
            rule(chain, "accept what was accepted and not revoked", accepted),
            rule(chain, "drop what was revoked, in both directions", revoked),
            // Only the original direction is judged (semantics 24).
            rule(chain, "accept replies", reply),
            // Semantics 25.
            rule(chain, "accept IPv6 neighbour discovery", neighbours),
            // Semantics 21: kubelet's probes and the host's processes always reach pods.
            rule(chain, "accept what the node itself sends", is_local(Address::Source)),
        ]);
        rules
    }

    fn ask_memory(&self, chain: &'static str) -> Option<Rule> {
        self.config.remember.map(|_| memory::ask(chain))
    }

    /// The rule that ends the chains in which packets of changing pods are judged again; its chain is theirs.
    fn queue_again(&self) -> Rule {
        let comment = Some(self.config.holder.clone()).filter(|holder| !holder.is_empty());
        Rule { comment, ..rule(RECHECK, "judge it again", [self.queue.clone()]) }
    }

    fn queue_egress(&self, chain: &'static str, family: &Family) -> Rule {
        self.queue_rule(chain, "judge what local pods send", family, Address::Source, family.open_egress)
    }

    fn queue_ingress(&self, chain: &'static str, family: &Family) -> Rule {
        self.queue_rule(
            chain,
            "judge what local pods receive",
            family,
            Address::Destination,
            family.open_ingress,
        )
    }

    /// The address is in this node's pod CIDRs, so that a pod nobody has heard of yet is judged as well, AND not known
    /// to be open in this direction.
    fn queue_rule(
        &self,
        chain: &'static str,
        purpose: &'static str,
        family: &Family,
        address: Address,
        open: &'static str,
    ) -> Rule {
        let load = Expression::LoadPayload((family.payload)(address));
        let [load_family, compare_family] = family.is_it();
        let expressions = [
            load_family,
            compare_family,
            load.clone(),
            Expression::InSet(family.pod_cidrs),
            load,
            Expression::NotInSet(open),
            self.queue.clone(),
        ];
        let comment = Some(self.config.holder.clone()).filter(|holder| !holder.is_empty());
        Rule { comment, ..rule(chain, purpose, expressions) }
    }

    /// Nearly every packet leaves at the first rule. Two more, because the second ends early for a packet without a
    /// connection, and the mark must not leave the node.
    fn settle(&self, chain: &'static str) -> Vec<Rule> {
        let (verdict, accepted) = (self.config.marks.verdict().0, self.config.marks.accepted().0);
        let no_verdict = [
            Expression::LoadMeta(Meta::Mark),
            Expression::Bits { mask: verdict, flip: 0 },
            Expression::Compare(Comparison::Equal, vec![0; 4]),
            Expression::Accept,
        ];
        let mark_connection = [
            Expression::LoadConnection(Connection::Mark),
            Expression::Bits { mask: !accepted, flip: accepted },
            Expression::StoreConnectionMark,
        ];
        let clean_packet = [
            Expression::LoadMeta(Meta::Mark),
            Expression::Bits { mask: !verdict, flip: 0 },
            Expression::StorePacketMark,
        ];
        let mut rules = vec![
            rule(chain, "leave a packet that has no verdict as it is", no_verdict),
            rule(chain, "mark the connection of an allowed packet", mark_connection),
            rule(chain, "take the verdict's mark off the packet", clean_packet),
        ];
        if self.window && chain == SETTLE_LOCAL {
            rules.push(memory::tell(chain, PairOf::Local));
        } else if chain != SETTLE_LOCAL && (self.window || self.config.remember.is_some()) {
            rules.push(memory::tell(chain, PairOf::Forwarded));
        }
        if self.window && chain == SETTLE {
            rules.push(memory::tell(chain, PairOf::Reply));
        }
        rules
    }
}

pub(super) fn rule(
    chain: &'static str,
    purpose: &'static str,
    expressions: impl IntoIterator<Item = Expression>,
) -> Rule {
    Rule { chain, purpose, expressions: expressions.into_iter().collect(), comment: None }
}

fn connection_has(mark: Mark) -> [Expression; 3] {
    [
        Expression::LoadConnection(Connection::Mark),
        Expression::Bits { mask: mark.0, flip: 0 },
        Expression::Compare(Comparison::NotEqual, vec![0; 4]),
    ]
}

/// Goes on if the packet comes from the node itself.
pub(super) fn local_source() -> [Expression; 2] {
    has_local(Address::Source)
}

/// Accepts if the address is the node's own.
fn is_local(address: Address) -> impl Iterator<Item = Expression> {
    has_local(address).into_iter().chain([Expression::Accept])
}

fn has_local(address: Address) -> [Expression; 2] {
    [
        Expression::LoadAddressType(address),
        Expression::Compare(Comparison::Equal, LOCAL.to_ne_bytes().to_vec()),
    ]
}
