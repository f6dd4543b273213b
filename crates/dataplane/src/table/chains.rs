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
//!  postrouting, input        --goto-->  bypass        no verdict is needed
//!  all three                 --goto-->  revoked       the connection's mark says that it is revoked
//!  allowed, allowed-input    --goto-->  denied, denied-input  the verdict is deny: drop the packet, and
//!                                                             cache the flow as denied
//! ```
//!
//! Connection tracking's direction is no proof (semantics 34): after one forged or stray packet, the real
//! originator's packets count as replies. So a reply passes because its connection was accepted. A reply of
//! any other connection, and a TCP packet in mid-stream that begins an entry, pass only if policy allows the
//! connection whichever end opened it. While an agent takes up connections from before its start, replies are
//! trusted ([`TableConfig::trust_replies`]).
//!
//! There is one chain per hook, since each chain costs every packet of every connection about a tenth of a
//! microsecond. So a reinjected packet meets the chain that queued it once more. Two marks tell the two
//! passes apart: the verdict bit, which the worker inverts in the packet's mark, and the bit's earlier value,
//! which `enqueue` recorded in the connection's mark. The packet's mark alone doesn't count: other programs
//! may set the bit on every packet.
//!
//! Every packet that passes has its connection marked, for whatever reason it passes, so all packets but the
//! first leave at the first rule. A change of policy finds marked connections by the pods that it affects
//! (`revalidate`, and the sweep). Why they were marked makes no difference to it.
//!
//! `postrouting` and `prerouting-dns` look packets up in the chains `cached` and `denied-forward` before they
//! queue them. `allowed` stores verdicts through the chains `cache` and `denied` (see `verdict_cache`), since
//! all packets with a verdict reach `allowed`. `enqueue` enforces the sender's quota (see `quota`). While a
//! change is being applied, `postrouting` and `input` begin with jumps to `revalidate` and
//! `revalidate-input`.
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
//! packet's mark says so, and the worker's verdict is NF_ACCEPT: NF_REPEAT would queue the packet in a loop.
//! Such a packet is evaluated each time.
//!
//! An ICMP error about a packet of a connection (`ct state related`) shares that connection: it has its
//! marks, and the direction opposite to the packet that it quotes. So it passes like a reply, and is dropped
//! with a revoked connection (semantics 24: replies and related packets of an allowed connection pass). A
//! connection that a conntrack helper expects (FTP's data) starts with the marks of its master.

use rustables::{Hook, HookClass};

use super::config::{FailMode, TableConfig};
use super::family::{FAMILIES, Family};
use super::link_rules::overlay_transports;
use super::names::{INPUT, NFQUEUE, POSTROUTING};
use super::quota;
use super::revalidation::{self, REVALIDATE, REVALIDATE_INPUT};
use super::revoked;
use super::rule::{has_local, local_source, mark_connection, mark_packet, record_queued, rule, state_is};
use super::verdict_cache::{self, DENIED, DENIED_INPUT, FlowKey, VerdictCache};
use super::{drops, origin};
use crate::drops::DropReason;
use crate::marks::{Mark, Question};
use crate::nft::expression::{
    Address, Comparison, Connection, Expression, INVALID, Meta, Payload, RELATED, REPLY, UNTRACKED,
};
use crate::nft::queue::{Queue, QueueForm};
use crate::nft::rule::Rule;
use crate::queues::QueueRange;

/// Decides which DNS queries of local pods need a verdict. Of two simultaneous queries from one socket, one
/// is lost if they are queued after routing (netfilter bug 1766, kernels before 6.12).
const PREROUTING_DNS: &str = "prerouting-dns";
/// Marks a packet with the reason for which it is queued.
pub(super) const ENQUEUE: &str = "enqueue";
/// Drops packets over a sender's quota of the queues.
const QUOTA: &str = "sender-quota";
/// Takes packets that only connection tracking calls replies, and TCP in mid-stream.
const UNPROVEN: &str = "unproven";
/// Passes packets that need no verdict, and marks their connections, so that the next packets leave at the
/// first rule. These are packets between pods that no policy isolates, and those of the node itself, tunnels'
/// packets among them.
const BYPASS: &str = "bypass";
/// Drops packets of connections that are marked REVOKED, and restarts the timeout of their tuples.
const REVOKED: &str = "revoked";
/// Accepts reinjected packets with the verdict allow, and marks their connections.
const ALLOWED: &str = "allowed";
/// Accepts reinjected packets from local pods to the node.
const ALLOWED_INPUT: &str = "allowed-input";

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

/// Names of the chains without a hook, to which others jump.
pub(super) fn regular_chains() -> impl Iterator<Item = &'static str> {
    let own = [ALLOWED, ALLOWED_INPUT, REVALIDATE, REVALIDATE_INPUT];
    verdict_cache::chains().chain(own).chain(static_chains()).chain([NFQUEUE])
}

/// The chains without a hook whose rules no change of policy rewrites.
pub(super) fn static_chains() -> impl Iterator<Item = &'static str> {
    verdict_cache::static_chains().chain([REVOKED, BYPASS, ENQUEUE, QUOTA, UNPROVEN])
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
    rules.extend(chains.bypass());
    rules.extend(chains.unproven());
    rules.extend(chains.enqueue());
    rules.extend(verdict_cache::untracked_rules(
        &config.marks,
        config.verdict_cache.is_some(),
        enforce_quota(verdict_cache::UNTRACKED),
    ));
    rules.extend(verdict_cache::share_rules(config.verdict_cache));
    rules.extend(quota::rules(QUOTA, config.queue_quota));
    rules.push(chains.nfqueue(Queue { queues, bypass: config.fail_mode == FailMode::Open }, form));
    rules.extend(chains.allowed(ALLOWED));
    rules.extend(chains.allowed(ALLOWED_INPUT));
    rules.extend(verdict_cache::rules(cache));
    if revalidating {
        rules.extend(revalidation::rules(config, cache));
    }
    rules
}

struct Chains<'a> {
    config: &'a TableConfig,
    revalidating: bool,
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
        rules.push(Self::bypass_rest(POSTROUTING));
        rules
    }

    /// Egress only: the node is never the subject of a policy (semantics 20).
    fn input(&self) -> Vec<Rule> {
        let mut rules = self.fast_path(INPUT);
        rules.extend(self.overlay(INPUT));
        rules.extend(self.look_up_denied(INPUT));
        rules.extend(FAMILIES.iter().map(|family| self.enqueue_egress(INPUT, family)));
        rules.push(Self::bypass_rest(INPUT));
        rules
    }

    /// DNS over UDP from local pods to destinations other than the node. Packets to the node itself (a DNS
    /// cache there, or the address of a service that IPVS serves) are left to the other chains.
    fn prerouting_dns(&self) -> Vec<Rule> {
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

    /// The rules with which `postrouting`, `prerouting-dns` and `input` begin: packets that need no verdict.
    fn fast_path(&self, chain: &'static str) -> Vec<Rule> {
        let marks = &self.config.marks;
        let ours = marks.accepted().0 | marks.revoked().0;
        // ACCEPTED without REVOKED, which takes precedence. First, because nearly every packet ends here.
        let accepted = [
            Expression::LoadConnection(Connection::Mark),
            Expression::Bits { mask: ours, flip: 0 },
            Expression::Compare(Comparison::Equal, marks.accepted().0.to_ne_bytes().to_vec()),
            Expression::Accept,
        ];
        let revoked = connection_has(marks.revoked()).into_iter().chain([Expression::Goto(REVOKED)]);
        let is_reply = [
            Expression::LoadConnection(Connection::Direction),
            Expression::Compare(Comparison::Equal, vec![REPLY]),
        ];
        let reply = is_reply.clone().into_iter().chain([Expression::Accept]);
        let nodes_reply = local_source().into_iter().chain(is_reply).chain([Expression::Accept]);
        // In IPv6 only: protocol 58 in an IPv4 packet is not neighbour discovery.
        let neighbours = [
            Expression::LoadMeta(Meta::Family),
            Expression::Compare(Comparison::Equal, vec![libc::NFPROTO_IPV6 as u8]),
            Expression::LoadMeta(Meta::Transport),
            Expression::Compare(Comparison::Equal, vec![libc::IPPROTO_ICMPV6 as u8]),
            // Sent on this link (RFC 4861, 7.1). A forwarded message is ICMPv6 like any other. Router
            // advertisements and redirects belong to the node only.
            Expression::LoadPayload(Payload::HopLimit),
            Expression::Compare(Comparison::Equal, vec![255]),
            Expression::LoadPayload(Payload::Icmpv6Type),
            Expression::Compare(Comparison::AtLeast, vec![133]),
            Expression::Compare(Comparison::AtMost, vec![136]),
            Expression::Compare(Comparison::NotEqual, vec![134]),
            Expression::Accept,
        ];
        let from_node = local_source().into_iter().chain([Expression::Goto(BYPASS)]);
        let mut rules = Vec::new();
        if self.revalidating {
            // First, since reinjected packets would be queued again otherwise.
            rules.extend(self.accept_reinjected(chain));
            rules.extend(revalidation::jumps(chain, self.config));
        }
        rules.extend([
            rule(chain, "accept accepted connections that are not revoked", accepted),
            rule(chain, "drop revoked connections in both directions", revoked),
        ]);
        if self.config.trust_replies {
            rules.push(rule(chain, "accept replies of connections from before the agent", reply));
        }
        rules.extend([
            // Semantics 25.
            rule(chain, "accept IPv6 neighbour discovery", neighbours),
            // The node's reply does not decide whether the connection may continue.
            rule(chain, "accept the node's own replies", nodes_reply),
            // Semantics 21: kubelet's probes and the host's processes always reach pods.
            rule(chain, "bypass the node's own packets", from_node),
        ]);
        if !self.revalidating {
            rules.extend(self.accept_reinjected(chain));
        }
        rules.extend(Self::revoked_tuples(chain));
        rules
    }

    /// Drops packets of revoked tuples.
    fn revoked_tuples(chain: &'static str) -> Vec<Rule> {
        let sets = [revoked::REVOKED_4, revoked::REVOKED_6];
        FAMILIES.iter().zip(sets).map(|(family, set)| revoked::drop_rule(chain, family, set)).collect()
    }

    /// A packet that is dropped by its connection's mark also restarts the timeout of the connection's tuple:
    /// the connection is not silent (semantics 35).
    fn revoked() -> Vec<Rule> {
        let mut rules = Self::revoked_tuples(REVOKED);
        let dropped = [Expression::Goto(drops::chain(DropReason::Revoked))];
        rules.push(rule(REVOKED, "drop packets without a tuple in the set", dropped));
        rules
    }

    /// Pods send no overlay packets to nodes (semantics 32). If so configured, nodes accept them only from
    /// nodes.
    fn overlay(&self, chain: &'static str) -> Vec<Rule> {
        let Some(origin) = &self.config.origin else { return Vec::new() };
        let transports = overlay_transports(origin::OVERLAY_PORTS, origin::OVERLAY_PROTOCOLS);
        let dropped = Expression::Goto(drops::chain(DropReason::Overlay));
        let mut rules = Vec::new();
        if chain == INPUT {
            // By the port where it enters, whatever its addresses are: packets to group, broadcast and
            // link-local addresses reach the device as well.
            for ports in [origin::POD_BRIDGES, origin::SETTLED] {
                rules.extend(transports.iter().map(|transport| {
                    let from_port = [Expression::LoadMeta(Meta::Iif), Expression::InSet(ports.name)];
                    let expressions = from_port.into_iter().chain(transport.clone()).chain([dropped.clone()]);
                    rule(chain, "drop overlay packets of pods", expressions)
                }));
            }
        }
        for (family, transport) in
            FAMILIES.iter().flat_map(|family| transports.iter().map(move |t| (family, t)))
        {
            let load = |address| Expression::LoadPayload((family.payload)(address));
            if chain == POSTROUTING {
                let from_pod = family.is_it().into_iter().chain(transport.clone()).chain([
                    load(Address::Source),
                    Expression::InSet(family.pod_cidrs),
                    load(Address::Destination),
                    Expression::InSet(family.node_addresses),
                    dropped.clone(),
                ]);
                rules.push(rule(chain, "drop overlay packets of pods to nodes", from_pod));
            } else if origin.overlay_sources_are_nodes {
                let from_others = family.is_it().into_iter().chain(transport.clone()).chain([
                    load(Address::Source),
                    Expression::NotInSet(family.node_addresses),
                    Expression::Goto(drops::chain(DropReason::ForeignOverlay)),
                ]);
                rules.push(rule(chain, "drop overlay packets from other sources than nodes", from_others));
            }
        }
        if chain == POSTROUTING {
            // A node may have addresses that no Node object names. Packets between pods leave by a bridge, an
            // overlay's device or a port.
            let forgeable = overlay_transports(origin::FORGEABLE_PORTS, origin::FORGEABLE_PROTOCOLS);
            let inside = [origin::POD_BRIDGES, origin::OVERLAY_DEVICES, origin::SETTLED];
            for (family, transport) in
                FAMILIES.iter().flat_map(|family| forgeable.iter().map(move |t| (family, t)))
            {
                let not_inside = inside
                    .iter()
                    .flat_map(|set| [Expression::LoadMeta(Meta::Oif), Expression::NotInSet(set.name)]);
                let from_pod = family
                    .is_it()
                    .into_iter()
                    .chain(transport.clone())
                    .chain([
                        Expression::LoadPayload((family.payload)(Address::Source)),
                        Expression::InSet(family.pod_cidrs),
                    ])
                    .chain(not_inside)
                    .chain([dropped.clone()]);
                rules.push(rule(chain, "drop overlay packets of pods that leave the pod network", from_pod));
            }
        }
        rules
    }

    /// Packets for which neither a verdict nor a handshake proves who opened the connection: policy must
    /// allow both directions.
    fn unproven_jumps(&self) -> [Rule; 2] {
        let reply = [
            Expression::LoadConnection(Connection::Direction),
            Expression::Compare(Comparison::Equal, vec![REPLY]),
            Expression::Goto(UNPROVEN),
        ];
        let mid_stream = [
            Expression::LoadMeta(Meta::Transport),
            Expression::Compare(Comparison::Equal, vec![libc::IPPROTO_TCP as u8]),
            Expression::LoadPayload(Payload::TcpFlags),
            Expression::Bits { mask: u32::from_ne_bytes([BEGINS_OR_ENDS, 0, 0, 0]), flip: 0 },
            Expression::Compare(Comparison::NotEqual, vec![SYN]),
            Expression::Goto(UNPROVEN),
        ];
        [
            rule(POSTROUTING, "check replies of connections that were not evaluated", reply),
            rule(POSTROUTING, "check TCP in mid-stream", mid_stream),
        ]
    }

    /// Either end may have opened the connection: both directions of both ends must be open, or the packet is
    /// queued.
    fn unproven(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        rules.extend(self.look_up_denied(UNPROVEN));
        for family in &FAMILIES {
            for address in [Address::Source, Address::Destination] {
                for open in [family.open_egress, family.open_ingress] {
                    rules.push(self.enqueue_isolated(
                        UNPROVEN,
                        "queue if an end is not open",
                        family,
                        address,
                        open,
                    ));
                }
            }
        }
        rules.push(Self::bypass_rest(UNPROVEN));
        rules
    }

    /// The end of a chain: no end is a pod that a policy isolates in this direction.
    fn bypass_rest(chain: &'static str) -> Rule {
        rule(chain, "bypass packets that need no verdict", [Expression::Goto(BYPASS)])
    }

    /// If a change isolates an end later, its connections are among those affected, as if a worker had
    /// allowed them. The connection of an ICMP error is the one that it quotes, and nothing is known about
    /// that one here.
    fn bypass(&self) -> [Rule; 2] {
        let related = state_is(RELATED).into_iter().chain([Expression::Accept]);
        let accepted = self.config.marks.accepted();
        [
            rule(BYPASS, "accept ICMP errors", related),
            rule(BYPASS, "mark connections that need no verdict", mark_connection(accepted, accepted)),
        ]
    }

    /// Accepts packets with a verdict of a worker of this agent: the verdict bit differs from its value when
    /// the packet was queued.
    fn accept_reinjected(&self, chain: &'static str) -> [Rule; 2] {
        let marks = &self.config.marks;
        let to = if chain == INPUT { ALLOWED_INPUT } else { ALLOWED };
        let when = |asked: Mark, answer: Mark| {
            let expected = answer.0 | marks.turn().0;
            let answered = [
                Expression::LoadMeta(Meta::Mark),
                Expression::Bits { mask: marks.answer().0 | marks.turns().0, flip: 0 },
                Expression::Compare(Comparison::Equal, expected.to_ne_bytes().to_vec()),
            ];
            let expressions = connection_has(asked).into_iter().chain(answered).chain([Expression::Goto(to)]);
            rule(chain, "accept reinjected packets with a verdict", expressions)
        };
        [when(marks.asked(), marks.answer()), when(marks.asked_inverted(), Mark(0))]
    }

    fn look_up_cached(&self, chain: &'static str) -> Option<Rule> {
        self.config.verdict_cache.map(|_| verdict_cache::look_up(chain))
    }

    fn look_up_denied(&self, chain: &'static str) -> Vec<Rule> {
        self.config
            .verdict_cache
            .map_or(Vec::new(), |_| verdict_cache::look_up_denied(chain, chain == UNPROVEN))
    }

    fn enqueue_egress(&self, chain: &'static str, family: &Family) -> Rule {
        self.enqueue_isolated(
            chain,
            "queue packets from local pods that are not open",
            family,
            Address::Source,
            family.open_egress,
        )
    }

    fn enqueue_ingress(&self, chain: &'static str, family: &Family) -> Rule {
        self.enqueue_isolated(
            chain,
            "queue packets to local pods that are not open",
            family,
            Address::Destination,
            family.open_ingress,
        )
    }

    /// The address is in this node's pod CIDRs, so that a pod that is still unknown is evaluated as well, AND
    /// not known to be open in this direction.
    fn enqueue_isolated(
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
            Expression::Goto(ENQUEUE),
        ];
        rule(chain, purpose, expressions)
    }

    /// Sets the queue reason, whatever other programs have written into the packet's mark.
    fn enqueue(&self) -> Vec<Rule> {
        let marks = &self.config.marks;
        let invalid = state_is(INVALID).into_iter().chain([
            Expression::LoadMeta(Meta::Transport),
            Expression::Compare(Comparison::Equal, vec![libc::IPPROTO_TCP as u8]),
            Expression::Goto(drops::chain(DropReason::InvalidTcp)),
        ]);
        let question = |question| mark_packet(marks.questions(), marks.question(question));
        let without_connection =
            state_is(INVALID | UNTRACKED).into_iter().chain([Expression::Goto(verdict_cache::UNTRACKED)]);
        let reply = [
            Expression::LoadConnection(Connection::Direction),
            Expression::Compare(Comparison::Equal, vec![REPLY]),
        ];
        let mut rules = vec![
            rule(ENQUEUE, "drop invalid TCP", invalid),
            rule(ENQUEUE, "handle packets without a connection", without_connection),
        ];
        rules.extend([
            enforce_quota(ENQUEUE),
            rule(ENQUEUE, "set the queue reason: first packet", question(Question::First)),
            rule(
                ENQUEUE,
                "set the queue reason: unproven reply",
                reply.into_iter().chain(question(Question::UnprovenReply)),
            ),
        ]);
        rules.extend(self.record_queued(ENQUEUE));
        rules.push(rule(ENQUEUE, "queue", [Expression::Goto(NFQUEUE)]));
        rules
    }

    /// Records in the connection's mark that a packet is queued, and the value of the packet's verdict bit.
    fn record_queued(&self, chain: &'static str) -> [Rule; 2] {
        record_queued(&self.config.marks, chain)
    }

    fn nfqueue(&self, queue: Queue, form: QueueForm) -> Rule {
        let comment = Some(self.config.holder.clone()).filter(|holder| !holder.is_empty());
        Rule { comment, ..rule(NFQUEUE, "send to a worker", [Expression::Queue(queue, form)]) }
    }

    /// The packet leaves with the mark that it had before it was queued.
    fn allowed(&self, chain: &'static str) -> Vec<Rule> {
        let marks = &self.config.marks;
        let answered = Mark(marks.accepted().0 | marks.asked().0 | marks.asked_inverted().0);
        let accept = mark_connection(answered, marks.accepted());
        let restore_mark = [
            Expression::LoadMeta(Meta::Mark),
            Expression::Bits { mask: u32::MAX, flip: marks.answer().0 | marks.turn().0 },
            Expression::StorePacketMark,
        ];
        let denied = [
            Expression::LoadMeta(Meta::Mark),
            Expression::Bits { mask: marks.denials().0, flip: 0 },
            Expression::Compare(Comparison::NotEqual, vec![0; 4]),
            Expression::Goto(if chain == ALLOWED_INPUT { DENIED_INPUT } else { DENIED }),
        ];
        let mut rules = vec![
            rule(chain, "drop denied packets", denied),
            rule(chain, "mark the connection of an allowed packet", accept),
            rule(chain, "restore the packet's mark", restore_mark),
        ];
        if self.revalidating && chain == ALLOWED_INPUT {
            rules.push(verdict_cache::store(chain, FlowKey::Input));
        } else if chain != ALLOWED_INPUT && (self.revalidating || self.config.verdict_cache.is_some()) {
            rules.push(verdict_cache::store(chain, FlowKey::Forward));
        }
        if self.revalidating && chain == ALLOWED {
            rules.push(verdict_cache::store(chain, FlowKey::Reply));
        }
        rules
    }
}

/// Drops packets over the sender's quota of the queues.
fn enforce_quota(chain: &'static str) -> Rule {
    rule(chain, "enforce the sender's quota", [Expression::Jump(QUOTA)])
}

/// TCP's flags (RFC 9293) that begin or end a connection: FIN, SYN, RST; and ACK.
const BEGINS_OR_ENDS: u8 = 0x01 | SYN | 0x04 | 0x10;
/// TCP's flag SYN. Alone, it begins a connection.
const SYN: u8 = 0x02;

/// Matches if the connection's mark has any of these bits.
fn connection_has(mark: Mark) -> [Expression; 3] {
    [
        Expression::LoadConnection(Connection::Mark),
        Expression::Bits { mask: mark.0, flip: 0 },
        Expression::Compare(Comparison::NotEqual, vec![0; 4]),
    ]
}
