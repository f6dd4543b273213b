//! The rules for packets that have a verdict or need none: they mark connections and cache flows.

use super::builder::Chains;
use super::names::{ALLOWED, ALLOWED_INPUT, UNFILTERED, UNPROVEN};
use crate::marks::Mark;
use crate::nft::expression::{Expression, RELATED};
use crate::nft::rule::Rule;
use crate::table::rule::{is_denied, mark_connection, restore_mark, rule, state_is};
use crate::table::verdict_cache::{self, DENIED, DENIED_INPUT, FlowKey};

impl Chains<'_> {
    pub(super) fn look_up_cached(&self, chain: &'static str) -> Option<Rule> {
        self.config.verdict_cache.map(|_| verdict_cache::look_up(chain))
    }

    pub(super) fn look_up_denied(&self, chain: &'static str) -> Vec<Rule> {
        self.config
            .verdict_cache
            .map_or(Vec::new(), |_| verdict_cache::look_up_denied(chain, chain == UNPROVEN))
    }

    /// The end of a chain: no end is a pod that a policy isolates in this direction.
    pub(super) fn pass_rest(chain: &'static str) -> Rule {
        rule(chain, "pass packets that need no verdict", [Expression::Goto(UNFILTERED)])
    }

    /// If a change isolates an end later, its connections are among those affected, as if a worker had
    /// allowed them. The connection of an ICMP error is the one that it quotes, and nothing is known about
    /// that one here.
    pub(super) fn unfiltered(&self) -> [Rule; 2] {
        let related = state_is(RELATED).into_iter().chain([Expression::Accept]);
        let accepted = self.config.marks.accepted();
        [
            rule(UNFILTERED, "accept ICMP errors", related),
            rule(UNFILTERED, "mark connections that need no verdict", mark_connection(accepted, accepted)),
        ]
    }

    /// The packet leaves with the mark that it had before it was queued.
    pub(super) fn allowed(&self, chain: &'static str) -> Vec<Rule> {
        let marks = &self.config.marks;
        let all = Mark(marks.accepted().0 | marks.queued().0 | marks.queued_inverted().0);
        let accept = mark_connection(all, marks.accepted());
        let denied_chain = if chain == ALLOWED_INPUT { DENIED_INPUT } else { DENIED };
        let denied = is_denied(marks).into_iter().chain([Expression::Goto(denied_chain)]);
        let mut rules = vec![
            rule(chain, "drop denied packets", denied),
            rule(chain, "mark the connection of an allowed packet", accept),
            rule(chain, "restore the packet's mark", restore_mark(marks)),
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
