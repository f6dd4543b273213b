//! The chains and their rules, in the order in which a packet meets them.
//!
//! ```text
//!  hook          chain (priority)             which packets
//!  postrouting   evaluate (srcnat - 5)           from and to pods: after DNAT, before SNAT
//!  input         input (srcnat + 5)     from local pods to the node itself
//!  prerouting    prerouting-dns (dstnat + 5)       DNS queries of local pods, kernels before 6.12
//!
//!  prerouting    prerouting (-450)          all: where they enter (see `origin`)
//!
//!  postrouting, prerouting-dns  --goto-->  enqueue  --goto-->  nfqueue  -->  a worker  --NF_REPEAT-->  the same chain again  --goto-->  allowed
//!  input       --goto-->  enqueue  --goto-->  nfqueue  -->  a worker  --NF_REPEAT-->  the same chain again  --goto-->  allowed-input
//!  evaluate               --goto-->  unproven  a reply of a connection that was not evaluated, TCP in mid-stream: both ends, both directions
//!  postrouting, input  --goto-->  bypass      no verdict is needed
//!  all three           --goto-->  revoked   the connection's mark says that it is cut
//!  allowed, allowed-input  --goto-->  denied, denied-input  what came back is denied: it is dropped, and its next packets with it
//! ```
//!
//! Connection tracking's direction is no proof (semantics 34): one forged or stray packet makes the real originator's packets
//! replies. So a reply passes because its connection was accepted. A reply of any other connection, and a TCP packet in mid-stream
//! that begins an entry, pass only if policy allows the connection whichever end opened it. While an agent takes up connections
//! that were there before it, replies are trusted ([`TableConfig::trust_replies`]).
//!
//! One chain a hook, since each chain costs every packet of every connection some tenth of a microsecond. So a packet that comes
//! back allowed meets the chain that asked once more, and what tells the two times apart are two marks: the bit that the worker turns
//! over in the packet's mark, and what `queue` noted of it in its connection's. The packet's alone doesn't count: other programs may set
//! it on every packet.
//!
//! What passes has its connection marked, for whatever reason it passes: so all but the first packet leave at the first rule. A change of
//! policy finds marked connections by whom it touches (`revalidate`, and the sweep); why they were marked makes no difference to it.
//!
//! `postrouting` and `prerouting-dns` ask the chains `cached` and `denied-forward` before they queue, and `allowed` tells the chains `cache` and
//! `denied` (see `verdict_cache`): all that a worker answered comes to `allowed`. `queue` keeps to the sender's quota (see `quota`). While
//! a change is being put in force, `postrouting` and `input` begin with what `revalidate` says.
//!
//! `input` stands behind IPVS's hooks (srcnat - 2 and - 1): IPVS takes the packets of a service away there, and
//! they come by `postrouting` with the address of the pod that serves them. In front of IPVS they would be evaluated by the
//! address of the service, which no policy speaks about.
//!
//! What has no connection (`ct state invalid` or `untracked`) has no mark and no direction: the rules that ask for them
//! fail, the packet goes to userspace like a first packet, and is evaluated in the direction in which it travels: so nothing passes that
//! policy would not allow as a new connection. `queue` leaves it to `untracked` (see [`verdict_cache`]), whose sets take the place of a
//! connection's mark. Where they can't, because they are full or the packet has no ports or goes to the node, the mark says so, and the
//! worker answers NF_ACCEPT: NF_REPEAT would queue the packet in a loop. Such a packet is evaluated each time.
//!
//! An ICMP error about a packet of a connection (`ct state related`) shares that connection: it sees its marks, and the
//! direction opposite to the packet it is about. So it passes like a reply, and is cut with a revoked connection
//! (semantics 24: replies and related packets of an allowed connection pass). A connection that a conntrack helper
//! expects (FTP's data) starts with the marks of its master.

use rustables::{Hook, HookClass};

use super::chain_names::{INPUT, NFQUEUE, POSTROUTING};
use super::family::{FAMILIES, Family};
use super::link_rules::overlay_transports;
use super::quota;
use super::revalidation::{self, REVALIDATE, REVALIDATE_INPUT};
use super::revoked;
use super::rule::{has_local, local_source, mark_connection, mark_packet, note_question, rule, state_is};
use super::verdict_cache::{self, DENIED, DENIED_INPUT, PairOf, VerdictCache};
use super::{FailMode, TableConfig};
use super::{drops, origin};
use crate::drops::DropReason;
use crate::marks::{Mark, Question};
use crate::nft::expression::{
    Address, Comparison, Connection, Expression, INVALID, Meta, Payload, RELATED, REPLY, UNTRACKED,
};
use crate::nft::queue::{Queue, QueueForm};
use crate::nft::rule::Rule;
use crate::queues::QueueRange;

/// The same for DNS queries of local pods: two queries from one socket at once lose one of them if they wait in a queue
/// after they were routed (netfilter bug 1766, kernels before 6.12).
const PREROUTING_DNS: &str = "prerouting-dns";
/// Says what is asked about a packet.
pub(super) const ENQUEUE: &str = "enqueue";
/// Drops what is over a sender's quota of the queues.
const QUOTA: &str = "sender-quota";
/// What connection tracking alone says is a reply, and TCP in mid-stream.
const UNPROVEN: &str = "unproven";
/// Passes what needs no verdict, and marks its connection, so that its next packets leave at the first rule: between pods that
/// nobody isolates, and of the node itself, tunnels' packets among them.
const BYPASS: &str = "bypass";
/// Drops packets of connections that are marked REVOKED, and restarts the timeout of their tuples.
const REVOKED: &str = "revoked";
/// Settles packets that came back allowed: marks their connections.
const ALLOWED: &str = "allowed";
/// The same for packets from local pods to the node.
const ALLOWED_INPUT: &str = "allowed-input";

/// `NF_IP_PRI_NAT_SRC`, which nft calls srcnat.
const SRCNAT: i32 = libc::NF_IP_PRI_NAT_SRC;
/// `NF_IP_PRI_NAT_DST`, which nft calls dstnat.
const DSTNAT: i32 = libc::NF_IP_PRI_NAT_DST;

/// Names and hooks of the chains.
pub(super) fn chains(prerouting_dns: bool) -> Vec<(&'static str, Hook)> {
    let mut chains = vec![
        (POSTROUTING, Hook::new(HookClass::PostRouting, SRCNAT - 5)),
        (INPUT, Hook::new(HookClass::In, SRCNAT + 5)),
    ];
    if prerouting_dns {
        chains.push((PREROUTING_DNS, Hook::new(HookClass::PreRouting, DSTNAT + 5)));
    }
    chains
}

/// The hooked chain of `origin`, where it is used.
pub(super) fn prerouting() -> (&'static str, Hook) {
    (origin::PREROUTING, Hook::new(HookClass::PreRouting, origin::BEFORE_DEFRAGMENTATION))
}

/// Names of the chains that have no hook: others jump to them.
pub(super) fn plain_chains() -> impl Iterator<Item = &'static str> {
    let own = [ALLOWED, ALLOWED_INPUT, REVALIDATE, REVALIDATE_INPUT];
    verdict_cache::chains().chain(own).chain(static_chains()).chain([NFQUEUE])
}

/// Of these, the ones whose rules no change concerns.
pub(super) fn static_chains() -> impl Iterator<Item = &'static str> {
    verdict_cache::static_chains().chain([REVOKED, BYPASS, ENQUEUE, QUOTA, UNPROVEN])
}

/// All rules, chain by chain; with those of the window in which changing pods are evaluated again, or without.
pub(super) fn rules(
    config: &TableConfig,
    cache: &VerdictCache,
    queues: QueueRange,
    form: QueueForm,
    window: bool,
) -> Vec<Rule> {
    let chains = Chains { config, window };
    let mut rules = chains.evaluate();
    rules.extend(chains.input());
    if config.prerouting_dns {
        rules.extend(chains.prerouting_dns());
    }
    rules.extend(Chains::revoked());
    rules.extend(chains.free());
    rules.extend(chains.unproven());
    rules.extend(chains.ask());
    rules.extend(verdict_cache::untracked_rules(
        &config.marks,
        config.verdict_cache.is_some(),
        keep_quota(verdict_cache::UNTRACKED),
    ));
    rules.extend(verdict_cache::share_rules(config.verdict_cache));
    rules.extend(quota::rules(QUOTA, config.queue_quota));
    rules.push(chains.queue(Queue { queues, bypass: config.fail_mode == FailMode::Open }, form));
    rules.extend(chains.allowed(ALLOWED));
    rules.extend(chains.allowed(ALLOWED_INPUT));
    rules.extend(cache.rules());
    if window {
        rules.extend(revalidation::rules(config, cache));
    }
    rules
}

struct Chains<'a> {
    config: &'a TableConfig,
    window: bool,
}

impl Chains<'_> {
    /// First match decides. Egress of local pods and ingress of local pods are evaluated at once, whichever of the last rules it is
    /// that asks.
    fn evaluate(&self) -> Vec<Rule> {
        let mut rules = self.known(POSTROUTING);
        rules.extend(self.overlay(POSTROUTING));
        rules.extend(self.unproven_jumps());
        rules.extend(self.ask_memory(POSTROUTING));
        rules.extend(self.ask_denied(POSTROUTING));
        for family in &FAMILIES {
            rules.push(self.ask_egress(POSTROUTING, family));
            rules.push(self.ask_ingress(POSTROUTING, family));
        }
        rules.push(Self::needs_no_verdict(POSTROUTING));
        rules
    }

    /// Egress alone: the node is never the subject of a policy (semantics 20).
    fn input(&self) -> Vec<Rule> {
        let mut rules = self.known(INPUT);
        rules.extend(self.overlay(INPUT));
        rules.extend(self.ask_denied(INPUT));
        rules.extend(FAMILIES.iter().map(|family| self.ask_egress(INPUT, family)));
        rules.push(Self::needs_no_verdict(INPUT));
        rules
    }

    /// DNS over UDP from local pods to another place than the node. What goes to the node itself (a DNS cache there, or
    /// the address of a service that IPVS holds) is left to the other chains.
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
            rule(PREROUTING_DNS, "leave what is not UDP to postrouting", not_udp),
            rule(PREROUTING_DNS, "leave what is not DNS to postrouting", not_dns),
        ];
        rules.extend(self.known(PREROUTING_DNS));
        rules.push(rule(
            PREROUTING_DNS,
            "leave what goes to the node to input",
            has_local(Address::Destination).into_iter().chain([Expression::Accept]),
        ));
        rules.extend(self.ask_memory(PREROUTING_DNS));
        rules.extend(self.ask_denied(PREROUTING_DNS));
        rules.extend(FAMILIES.iter().map(|family| self.ask_egress(PREROUTING_DNS, family)));
        rules
    }

    /// The rules with which every evaluating chain begins: what needs no verdict.
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
        let revoked = connection_has(marks.revoked()).into_iter().chain([Expression::Goto(REVOKED)]);
        let is_reply = [
            Expression::LoadConnection(Connection::Direction),
            Expression::Compare(Comparison::Equal, vec![REPLY]),
        ];
        let reply = is_reply.clone().into_iter().chain([Expression::Accept]);
        let nodes_reply = local_source().into_iter().chain(is_reply).chain([Expression::Accept]);
        // In IPv6 alone: protocol 58 in an IPv4 packet is no neighbour discovery.
        let neighbours = [
            Expression::LoadMeta(Meta::Family),
            Expression::Compare(Comparison::Equal, vec![libc::NFPROTO_IPV6 as u8]),
            Expression::LoadMeta(Meta::Transport),
            Expression::Compare(Comparison::Equal, vec![libc::IPPROTO_ICMPV6 as u8]),
            // Sent on this link (RFC 4861, 7.1); forwarded, it is ICMPv6 like any other. Router advertisements and redirects are the
            // node's own alone.
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
        if self.window {
            // First, or what comes back would be evaluated again.
            rules.extend(self.came_back(chain));
            rules.extend(revalidation::jumps(chain, self.config));
        }
        rules.extend([
            rule(chain, "accept what was accepted and not revoked", accepted),
            rule(chain, "drop what was revoked, in both directions", revoked),
        ]);
        if self.config.trust_replies {
            rules.push(rule(chain, "accept replies of connections that were there before", reply));
        }
        rules.extend([
            // Semantics 25.
            rule(chain, "accept IPv6 neighbour discovery", neighbours),
            // Whether the connection may go on is not for the node's answer to say.
            rule(chain, "accept what the node itself replies", nodes_reply),
            // Semantics 21: kubelet's probes and the host's processes always reach pods.
            rule(chain, "pass what the node itself sends", from_node),
        ]);
        if !self.window {
            rules.extend(self.came_back(chain));
        }
        rules.extend(Self::revoked_tuples(chain));
        rules
    }

    /// Drops packets of revoked tuples.
    fn revoked_tuples(chain: &'static str) -> Vec<Rule> {
        let sets = [revoked::REVOKED_4, revoked::REVOKED_6];
        FAMILIES.iter().zip(sets).map(|(family, set)| revoked::drop_rule(chain, family, set)).collect()
    }

    /// A packet that is dropped by its connection's mark keeps the connection's tuple, too: it is not silent (semantics 35).
    fn revoked() -> Vec<Rule> {
        let mut rules = Self::revoked_tuples(REVOKED);
        let dropped = [Expression::Goto(drops::chain(DropReason::Revoked))];
        rules.push(rule(REVOKED, "drop what has no tuple in the set", dropped));
        rules
    }

    /// Pods send no overlay packets to nodes (semantics 32), and, if so configured, nodes take them from nodes alone.
    fn overlay(&self, chain: &'static str) -> Vec<Rule> {
        let Some(origin) = &self.config.origin else { return Vec::new() };
        let transports = overlay_transports(origin::OVERLAY_PORTS, origin::OVERLAY_PROTOCOLS);
        let dropped = Expression::Goto(drops::chain(DropReason::Overlay));
        let mut rules = Vec::new();
        if chain == INPUT {
            // By where it enters, whatever its addresses are: a group's, a broadcast or a link-local one reach the device as well.
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
                rules.push(rule(chain, "drop overlay packets that are no node's", from_others));
            }
        }
        if chain == POSTROUTING {
            // A node may have addresses that no object names. Pods' packets to pods leave by a bridge, an overlay's device or a port.
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

    /// Where neither a verdict nor a handshake says who opened a connection, nothing but policy in both directions does.
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
            rule(POSTROUTING, "ask about replies of connections that were not evaluated", reply),
            rule(POSTROUTING, "ask about TCP in mid-stream", mid_stream),
        ]
    }

    /// Either end may have opened the connection: both directions of both ends must be open, or a worker is asked.
    fn unproven(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        rules.extend(self.ask_denied(UNPROVEN));
        for family in &FAMILIES {
            for address in [Address::Source, Address::Destination] {
                for open in [family.open_egress, family.open_ingress] {
                    rules.push(self.ask_rule(
                        UNPROVEN,
                        "ask about a pod that is isolated",
                        family,
                        address,
                        open,
                    ));
                }
            }
        }
        rules.push(Self::needs_no_verdict(UNPROVEN));
        rules
    }

    /// The end of a chain: no end is a pod that somebody isolates in this direction.
    fn needs_no_verdict(chain: &'static str) -> Rule {
        rule(chain, "pass what needs no verdict", [Expression::Goto(BYPASS)])
    }

    /// When a change isolates an end after all, its connections are among those that the change touches, as if a worker had
    /// allowed them. An ICMP error has the connection that it is about, of which nothing is known here.
    fn free(&self) -> [Rule; 2] {
        let related = state_is(RELATED).into_iter().chain([Expression::Accept]);
        let accepted = self.config.marks.accepted();
        [
            rule(BYPASS, "accept ICMP errors", related),
            rule(BYPASS, "mark the connection of what needs no verdict", mark_connection(accepted, accepted)),
        ]
    }

    /// A worker of this agent answered about the packet: its answer bit is not what it was when the worker was asked.
    fn came_back(&self, chain: &'static str) -> [Rule; 2] {
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
            rule(chain, "settle what came back", expressions)
        };
        [when(marks.asked(), marks.answer()), when(marks.asked_inverted(), Mark(0))]
    }

    fn ask_memory(&self, chain: &'static str) -> Option<Rule> {
        self.config.verdict_cache.map(|_| verdict_cache::ask(chain))
    }

    fn ask_denied(&self, chain: &'static str) -> Vec<Rule> {
        self.config.verdict_cache.map_or(Vec::new(), |_| verdict_cache::ask_denied(chain, chain == UNPROVEN))
    }

    fn ask_egress(&self, chain: &'static str, family: &Family) -> Rule {
        self.ask_rule(chain, "evaluate what local pods send", family, Address::Source, family.open_egress)
    }

    fn ask_ingress(&self, chain: &'static str, family: &Family) -> Rule {
        self.ask_rule(
            chain,
            "evaluate what local pods receive",
            family,
            Address::Destination,
            family.open_ingress,
        )
    }

    /// The address is in this node's pod CIDRs, so that a pod nobody has heard of yet is evaluated as well, AND not known
    /// to be open in this direction.
    fn ask_rule(
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

    /// Says what is asked, whatever other programs have written into the packet's mark.
    fn ask(&self) -> Vec<Rule> {
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
            rule(ENQUEUE, "drop TCP of no connection", invalid),
            rule(ENQUEUE, "ask about packets without a connection", without_connection),
        ];
        rules.extend([
            keep_quota(ENQUEUE),
            rule(ENQUEUE, "ask about a first packet", question(Question::First)),
            rule(
                ENQUEUE,
                "ask about a reply of a connection that was not evaluated",
                reply.into_iter().chain(question(Question::UnprovenReply)),
            ),
        ]);
        rules.extend(self.note_question(ENQUEUE));
        rules.push(rule(ENQUEUE, "queue", [Expression::Goto(NFQUEUE)]));
        rules
    }

    /// Notes in the connection that a worker is asked, and what the packet's answer bit is.
    fn note_question(&self, chain: &'static str) -> [Rule; 2] {
        note_question(&self.config.marks, chain)
    }

    fn queue(&self, queue: Queue, form: QueueForm) -> Rule {
        let comment = Some(self.config.holder.clone()).filter(|holder| !holder.is_empty());
        Rule { comment, ..rule(NFQUEUE, "ask a worker", [Expression::Queue(queue, form)]) }
    }

    /// The packet leaves with the mark that it came with.
    fn allowed(&self, chain: &'static str) -> Vec<Rule> {
        let marks = &self.config.marks;
        let answered = Mark(marks.accepted().0 | marks.asked().0 | marks.asked_inverted().0);
        let accept = mark_connection(answered, marks.accepted());
        let turn_back = [
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
            rule(chain, "drop what came back denied", denied),
            rule(chain, "mark the connection of an allowed packet", accept),
            rule(chain, "turn the packet's answer bits back", turn_back),
        ];
        if self.window && chain == ALLOWED_INPUT {
            rules.push(verdict_cache::tell(chain, PairOf::Local));
        } else if chain != ALLOWED_INPUT && (self.window || self.config.verdict_cache.is_some()) {
            rules.push(verdict_cache::tell(chain, PairOf::Forwarded));
        }
        if self.window && chain == ALLOWED {
            rules.push(verdict_cache::tell(chain, PairOf::Reply));
        }
        rules
    }
}

/// Drops what is over the sender's quota of the queues.
fn keep_quota(chain: &'static str) -> Rule {
    rule(chain, "keep to the quota", [Expression::Jump(QUOTA)])
}

/// TCP's flags (RFC 9293) that begin or end a connection: FIN, SYN, RST; and ACK.
const BEGINS_OR_ENDS: u8 = 0x01 | SYN | 0x04 | 0x10;
/// TCP's flag SYN: alone, it begins a connection.
const SYN: u8 = 0x02;

/// Goes on if the connection's mark has any of these bits.
fn connection_has(mark: Mark) -> [Expression; 3] {
    [
        Expression::LoadConnection(Connection::Mark),
        Expression::Bits { mask: mark.0, flip: 0 },
        Expression::Compare(Comparison::NotEqual, vec![0; 4]),
    ]
}
