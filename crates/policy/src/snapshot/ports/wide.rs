//! Maps a packet's protocol and port to the set of rules with matching ports, regardless of the peer.

use std::sync::Arc;

use super::bitsets::{Bitsets, EMPTY, SetId, SetInterner};
use super::port_set::{NO_RULE, PortAlias, PortRange, PortSet, RuleIndex, Target};
use crate::packet::Protocol;

/// See the module. Intersected with the set of rules with a matching peer, it yields the first rule that
/// matches both.
#[derive(Clone, Debug)]
pub(super) struct WideTable {
    /// Sets of rules with matching ports, and of rules with a matching peer.
    pub bitsets: Bitsets,
    /// Protocols that rules name, sorted; the last entry is for all others.
    protocols: Arc<[WidePorts]>,
    /// Sorted by name, then protocol.
    aliases: Arc<[(PortAlias, SetId)]>,
    /// By protocol, `None` first: the rules with any alias for it.
    named: Arc<[(Option<Protocol>, SetId)]>,
}

/// The ports of one protocol, or of all protocols that no rule names.
#[derive(Clone, Debug)]
struct WidePorts {
    protocol: Option<Protocol>,
    portless: SetId,
    /// The first port of each interval, ascending from 0, and its rules.
    starts: Vec<(u16, SetId)>,
}

impl WideTable {
    /// The table for all rules of a tier, in order.
    pub(super) fn new(rules: &[&PortSet], interner: &mut SetInterner) -> Self {
        let mut bitsets = Bitsets::new(rules.len());
        let numbered = || (0..).map(RuleIndex).zip(rules);
        let all = || numbered().flat_map(|(rule, set)| set.ranges.iter().map(move |range| (rule, *range)));
        let mut named: Vec<Option<Protocol>> = all().map(|(_, range)| range.protocol).collect();
        named.sort_unstable();
        named.dedup();
        named.retain(Option::is_some);
        let protocols = named
            .into_iter()
            .chain([None])
            .map(|protocol| {
                let holds = |range: &PortRange| range.protocol.is_none() || range.protocol == protocol;
                let ranges = all().filter(|(_, range)| holds(range));
                WidePorts::new(protocol, ranges, &mut bitsets, interner)
            })
            .collect();
        let mut aliases: Vec<(PortAlias, RuleIndex)> =
            numbered().flat_map(|(rule, set)| set.names.iter().map(move |alias| (*alias, rule))).collect();
        aliases.sort_unstable();
        let by_alias = aliases.chunk_by(|(a, _), (b, _)| a == b).map(|chunk| {
            let rules = chunk.iter().map(|(_, rule)| *rule);
            (chunk[0].0, interner.set_of(&mut bitsets, rules))
        });
        let by_alias = by_alias.collect();
        aliases.sort_unstable_by_key(|(alias, _)| alias.protocol);
        let named = aliases.chunk_by(|(a, _), (b, _)| a.protocol == b.protocol).map(|chunk| {
            let rules = chunk.iter().map(|(_, rule)| *rule);
            (chunk[0].0.protocol, interner.set_of(&mut bitsets, rules))
        });
        let named = named.collect();
        Self { bitsets, protocols, aliases: by_alias, named }
    }

    /// The first rule of a set with matching ports.
    #[cold]
    pub(super) fn first_match(&self, rules: SetId, target: Target<'_>) -> RuleIndex {
        let first = self.by_number(rules, target);
        let (Some(names), Some(port)) = (target.names, target.port) else { return first };
        let resolved =
            names.iter().filter(|resolved| (resolved.number, resolved.protocol) == (port, target.protocol));
        // ANY name of the port, with its protocol or for every protocol.
        let sets = resolved.flat_map(|resolved| {
            [None, Some(resolved.protocol)].into_iter().filter_map(|protocol| {
                let alias = PortAlias { name: resolved.name, protocol };
                let position = self.aliases.binary_search_by_key(&alias, |(alias, _)| *alias).ok()?;
                Some(self.aliases[position].1)
            })
        });
        sets.map(|set| self.bitsets.first_of_both(rules, set)).fold(first, RuleIndex::min)
    }

    /// The first rule of a set that might match an unknown destination, which may give its port any name.
    #[cold]
    pub(super) fn first_possible(&self, rules: SetId, target: Target<'_>) -> RuleIndex {
        let first = self.by_number(rules, target);
        if target.port.is_none() {
            return first;
        }
        let of_protocol = |(protocol, _): &&(Option<Protocol>, SetId)| {
            protocol.is_none_or(|protocol| protocol == target.protocol)
        };
        let named = self.named.iter().filter(of_protocol);
        named.map(|(_, set)| self.bitsets.first_of_both(rules, *set)).fold(first, RuleIndex::min)
    }

    fn by_number(&self, rules: SetId, target: Target<'_>) -> RuleIndex {
        let is_of = |ports: &&WidePorts| ports.protocol.is_none_or(|protocol| protocol == target.protocol);
        self.protocols
            .iter()
            .find(is_of)
            .map_or(NO_RULE, |ports| self.bitsets.first_of_both(rules, ports.rules_at(target.port)))
    }
}

impl WidePorts {
    fn new(
        protocol: Option<Protocol>,
        ranges: impl Iterator<Item = (RuleIndex, PortRange)>,
        bitsets: &mut Bitsets,
        interner: &mut SetInterner,
    ) -> Self {
        let mut portless = bitsets.cursor();
        // The ports where a rule begins and ceases to match.
        let mut edges: Vec<(u32, RuleIndex, bool)> = Vec::new();
        let mut of_rule: Vec<(u32, u32)> = Vec::new();
        let mut ranges = ranges.peekable();
        while let Some((rule, range)) = ranges.next() {
            if range.portless {
                portless.insert(rule);
            }
            of_rule.push((range.first.into(), u32::from(range.last) + 1));
            if ranges.peek().is_none_or(|(next, _)| *next != rule) {
                edges.extend(
                    merge(&mut of_rule).flat_map(|(first, end)| [(first, rule, true), (end, rule, false)]),
                );
                of_rule.clear();
            }
        }
        edges.sort_unstable();
        let mut cursor = bitsets.cursor();
        let mut starts = vec![(0, EMPTY)];
        for edges in edges.chunk_by(|(a, ..), (b, ..)| a == b) {
            for (_, rule, begins) in edges {
                if *begins { cursor.insert(*rule) } else { cursor.remove(*rule) }
            }
            // Starts past the last port are dropped.
            let Ok(start) = u16::try_from(edges[0].0) else { continue };
            let set = interner.set(bitsets, &mut cursor);
            match starts.last_mut() {
                Some(last) if last.0 == start => last.1 = set,
                _ => starts.push((start, set)),
            }
        }
        starts.shrink_to_fit();
        Self { protocol, portless: interner.set(bitsets, &mut portless), starts }
    }

    fn rules_at(&self, port: Option<u16>) -> SetId {
        let Some(port) = port else { return self.portless };
        // The first interval starts at 0.
        self.starts[self.starts.partition_point(|(start, _)| *start <= port) - 1].1
    }
}

/// Merges the ranges of one rule, given as first and end, so that they neither overlap nor adjoin.
fn merge(ranges: &mut Vec<(u32, u32)>) -> impl Iterator<Item = (u32, u32)> {
    ranges.sort_unstable();
    ranges.dedup_by(|next, before| {
        let overlaps = next.0 <= before.1;
        if overlaps {
            before.1 = before.1.max(next.1);
        }
        overlaps
    });
    ranges.drain(..)
}
