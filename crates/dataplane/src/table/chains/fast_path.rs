//! The rules with which the base chains begin, for packets that need no verdict of a worker now.

use super::builder::Chains;
use super::names::{ALLOWED, ALLOWED_INPUT, REVOKED, UNFILTERED};
use crate::drops::DropReason;
use crate::marks::Mark;
use crate::nft::expression::{Comparison, ConntrackKey, Expression, Meta, Payload, REPLY};
use crate::nft::rule::Rule;
use crate::numbers::{IPPROTO_ICMPV6, NFPROTO_IPV6};
use crate::table::family::FAMILIES;
use crate::table::names::INPUT;
use crate::table::rule::{local_source, rule};
use crate::table::{drops, revalidation, revoked};

impl Chains<'_> {
    /// The rules with which `postrouting`, `prerouting-dns` and `input` begin: packets that need no verdict.
    pub(super) fn fast_path(&self, chain: &'static str) -> Vec<Rule> {
        let marks = &self.config.marks;
        let ours = marks.accepted().0 | marks.revoked().0;
        // ACCEPTED without REVOKED, which takes precedence. First, because nearly every packet ends here.
        let accepted = [
            Expression::LoadConnection(ConntrackKey::Mark),
            Expression::Bits { mask: ours, flip: 0 },
            Expression::Compare(Comparison::Equal, marks.accepted().0.to_ne_bytes().to_vec()),
            Expression::Accept,
        ];
        let revoked = connection_has(marks.revoked()).into_iter().chain([Expression::Goto(REVOKED)]);
        let is_reply = [
            Expression::LoadConnection(ConntrackKey::Direction),
            Expression::Compare(Comparison::Equal, vec![REPLY]),
        ];
        let reply = is_reply.clone().into_iter().chain([Expression::Accept]);
        let nodes_reply = local_source().into_iter().chain(is_reply).chain([Expression::Accept]);
        // In IPv6 only: protocol 58 in an IPv4 packet is not neighbour discovery.
        let neighbours = [
            Expression::LoadMeta(Meta::Family),
            Expression::Compare(Comparison::Equal, vec![NFPROTO_IPV6]),
            Expression::LoadMeta(Meta::Transport),
            Expression::Compare(Comparison::Equal, vec![IPPROTO_ICMPV6]),
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
        let from_node = local_source().into_iter().chain([Expression::Goto(UNFILTERED)]);
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
            rule(chain, "pass the node's own packets", from_node),
        ]);
        if !self.revalidating {
            rules.extend(self.accept_reinjected(chain));
        }
        rules.extend(Self::revoked_tuples(chain));
        rules
    }

    /// Accepts packets with a verdict of a worker of this agent: the verdict bit differs from its value when
    /// the packet was queued.
    fn accept_reinjected(&self, chain: &'static str) -> [Rule; 2] {
        let marks = &self.config.marks;
        let to = if chain == INPUT { ALLOWED_INPUT } else { ALLOWED };
        let when = |queued: Mark, verdict: Mark| {
            let expected = verdict.0 | marks.agent_bits().0;
            let has_verdict = [
                Expression::LoadMeta(Meta::Mark),
                Expression::Bits { mask: marks.verdict_bit().0 | marks.agent_mask().0, flip: 0 },
                Expression::Compare(Comparison::Equal, expected.to_ne_bytes().to_vec()),
            ];
            let expressions =
                connection_has(queued).into_iter().chain(has_verdict).chain([Expression::Goto(to)]);
            rule(chain, "accept reinjected packets with a verdict", expressions)
        };
        [when(marks.queued(), marks.verdict_bit()), when(marks.queued_inverted(), Mark(0))]
    }

    /// Drops packets of revoked tuples.
    fn revoked_tuples(chain: &'static str) -> Vec<Rule> {
        let sets = [revoked::REVOKED_4, revoked::REVOKED_6];
        FAMILIES.iter().zip(sets).map(|(family, set)| revoked::drop_rule(chain, family, set)).collect()
    }

    /// A packet that is dropped by its connection's mark also restarts the timeout of the connection's tuple:
    /// the connection is not silent (semantics 35).
    pub(super) fn revoked() -> Vec<Rule> {
        let mut rules = Self::revoked_tuples(REVOKED);
        let dropped = [Expression::Goto(drops::chain(DropReason::Revoked))];
        rules.push(rule(REVOKED, "drop packets without a tuple in the set", dropped));
        rules
    }
}

/// Matches if the connection's mark has any of these bits.
fn connection_has(mark: Mark) -> [Expression; 3] {
    [
        Expression::LoadConnection(ConntrackKey::Mark),
        Expression::Bits { mask: mark.0, flip: 0 },
        Expression::Compare(Comparison::NotEqual, vec![0; 4]),
    ]
}
