//! The table of compiled ports: an entry for each set of rules with a peer that matches.

use std::sync::Arc;

use super::bitsets::SetId;
use super::intervals::{Intervals, rule_at};
use super::port_set::{NO_RULE, PortAlias, PortRange, PortSet, ResolvedPort, RuleIndex, Target};
use super::wide::WideTable;
use crate::packet::Protocol;
use crate::snapshot::arena::Arena;
use crate::snapshot::ids::number_of;
use crate::snapshot::trie::Value;

/// The start of an entry of a [`PortTable`]: a position in its arena, below 2^30.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(crate) struct PortsId(pub(crate) u32);

/// Tries map addresses to entries.
impl From<PortsId> for Value {
    fn from(ports: PortsId) -> Self {
        Self(ports.0)
    }
}

impl From<Value> for PortsId {
    #[inline(always)]
    fn from(value: Value) -> Self {
        Self(value.0)
    }
}

/// The ports of the rules of a tier. The words of an entry are contiguous, so that a verdict loads few cache
/// lines.
///
/// An entry consists of:
/// - the first of its rules;
/// - the number of protocols that rules name;
/// - the number of aliases;
/// - for each protocol, and last for all others, [`PROTOCOL_WORDS`] words: its number, the rule for packets
///   without a port, the start of its intervals, in words from the [`PortsId`], and their count;
/// - the aliases, [`ALIAS_WORDS`] words each: name, protocol or [`ANY_PROTOCOL`], rule;
/// - the intervals of each protocol.
///
/// An entry for rules stored as bitsets consists of: the first of its rules; [`WIDE`]; the set.
#[derive(Clone, Debug)]
pub(crate) struct PortTable {
    /// The first entry is [`NO_PORTS`].
    words: Arena<u32>,
    /// The rules that are stored as bitsets.
    pub(super) wide: Option<Arc<WideTable>>,
}

/// The entry without rules. Most peers have it by address or by selector, and need no search.
pub(super) const NO_PORTS: PortsId = PortsId(0);

const HEADER_WORDS: usize = 3;
const PROTOCOL_WORDS: usize = 4;
const ALIAS_WORDS: usize = 3;

/// No IP protocol has this number.
const ANY_PROTOCOL: u32 = 256;

/// Marks an entry for a bitset: greater than any number of protocols.
const WIDE: u32 = u32::MAX;

impl Default for PortTable {
    fn default() -> Self {
        let mut words = Arena::default();
        words.push(&[NO_RULE.0]);
        Self { words, wide: None }
    }
}

impl PortTable {
    /// The first rule of the entry `ports` that matches.
    #[inline(always)]
    pub(crate) fn first_match(&self, ports: PortsId, target: Target<'_>) -> RuleIndex {
        if ports == NO_PORTS { NO_RULE } else { self.first_of_some(ports, target) }
    }

    fn first_of_some(&self, ports: PortsId, target: Target<'_>) -> RuleIndex {
        let words = self.words.from(ports.0);
        if let Some((wide, set)) = self.wide(words) {
            return wide.first_match(set, target);
        }
        let (first, port) = by_number(words, target);
        match (target.names, port) {
            (Some(names), Some(port)) => first.min(first_alias(aliases(words), names, target.protocol, port)),
            _ => first,
        }
    }

    /// The first rule of the entry `ports` that might match an unknown destination, which may give its port
    /// any name.
    pub(crate) fn first_possible(&self, ports: PortsId, target: Target<'_>) -> RuleIndex {
        if ports == NO_PORTS {
            return NO_RULE;
        }
        let words = self.words.from(ports.0);
        if let Some((wide, set)) = self.wide(words) {
            return wide.first_possible(set, target);
        }
        let (first, port) = by_number(words, target);
        let aliases = if port.is_some() { aliases(words) } else { &[] };
        let of_protocol = |protocol| protocol == ANY_PROTOCOL || protocol == u32::from(target.protocol.0);
        let named = aliases
            .iter()
            .filter(|[_, protocol, _]| of_protocol(*protocol))
            .map(|[.., rule]| RuleIndex(*rule));
        named.fold(first, RuleIndex::min)
    }

    /// The set of an entry, if its rules are stored as bitsets.
    #[inline(always)]
    fn wide(&self, words: &[u32]) -> Option<(&WideTable, SetId)> {
        match *words {
            [_, WIDE, set, ..] => self.wide.as_deref().map(|wide| (wide, SetId(set))),
            _ => None,
        }
    }

    /// The first rule of the entry `ports`, regardless of its ports.
    pub(crate) fn first(&self, ports: PortsId) -> RuleIndex {
        RuleIndex(self.words.from(ports.0)[0])
    }

    /// Compiles rules, which must come in ascending order.
    pub(super) fn compile(&mut self, rules: &[(RuleIndex, &PortSet)]) -> PortsId {
        if rules.is_empty() {
            return NO_PORTS;
        }
        let ranges =
            || rules.iter().flat_map(|(rule, set)| set.ranges.iter().map(move |range| (*rule, *range)));
        let mut named: Vec<Protocol> = ranges().filter_map(|(_, range)| range.protocol).collect();
        named.sort_unstable();
        named.dedup();
        let mut intervals: Vec<(u32, Intervals)> = named
            .into_iter()
            .map(|protocol| {
                let holds = |range: &PortRange| range.protocol.is_none_or(|p| p == protocol);
                (u32::from(protocol.0), Intervals::compile(ranges().filter(|(_, range)| holds(range))))
            })
            .collect();
        let others = Intervals::compile(ranges().filter(|(_, range)| range.protocol.is_none()));
        intervals.push((ANY_PROTOCOL, others));
        let mut aliases: Vec<(PortAlias, RuleIndex)> =
            rules.iter().flat_map(|(rule, set)| set.names.iter().map(move |alias| (*alias, *rule))).collect();
        aliases.sort_unstable();
        aliases.dedup_by_key(|(alias, _)| *alias);

        let first = rules.first().map_or(NO_RULE, |(rule, _)| *rule);
        let mut words = vec![first.0, number_of(intervals.len() - 1), number_of(aliases.len())];
        let entries = words.len();
        words.resize(entries + intervals.len() * PROTOCOL_WORDS, 0);
        for (alias, rule) in aliases {
            let protocol = alias.protocol.map_or(ANY_PROTOCOL, |protocol| u32::from(protocol.0));
            words.extend([alias.name.0, protocol, rule.0]);
        }
        for (number, (protocol, intervals)) in intervals.iter().enumerate() {
            let entry =
                [*protocol, intervals.portless.0, number_of(words.len()), number_of(intervals.count())];
            let position = entries + number * PROTOCOL_WORDS;
            words[position..position + PROTOCOL_WORDS].copy_from_slice(&entry);
            intervals.append(&mut words);
        }
        PortsId(self.words.push(&words))
    }

    /// Appends an entry for a bitset.
    pub(super) fn push_wide(&mut self, first: RuleIndex, set: SetId) -> PortsId {
        PortsId(self.words.push(&[first.0, WIDE, set.0]))
    }

    /// Frees spare capacity.
    pub(crate) fn shrink(&mut self) {
        self.words.shrink();
        if let Some(wide) = self.wide.as_mut().and_then(Arc::get_mut) {
            wide.bitsets.shrink();
        }
    }
}

/// The first rule of an entry that matches by port number, and the packet's port.
#[inline(always)]
fn by_number(words: &[u32], target: Target<'_>) -> (RuleIndex, Option<u16>) {
    let [_, protocols, _, entries @ ..] = words else { return (NO_RULE, None) };
    let (protocols, (entries, _)) = (*protocols as usize, entries.as_chunks::<PROTOCOL_WORDS>());
    let entries = &entries[..=protocols];
    let mut entry = 0;
    while entry < protocols && entries[entry][0] != u32::from(target.protocol.0) {
        entry += 1;
    }
    let [_, portless, from, count] = entries[entry];
    match target.port {
        None => (RuleIndex(portless), None),
        Some(port) => (rule_at(&words[from as usize..], count as usize, port), Some(port)),
    }
}

/// The aliases of an entry.
fn aliases(words: &[u32]) -> &[[u32; ALIAS_WORDS]] {
    let (protocols, aliases) = (words[1] as usize, words[2] as usize);
    let from = HEADER_WORDS + (protocols + 1) * PROTOCOL_WORDS;
    words[from..from + aliases * ALIAS_WORDS].as_chunks::<ALIAS_WORDS>().0
}

/// The first rule with ANY name that the destination pod gives to this port. A name that the pod does not
/// have matches nothing.
fn first_alias(
    aliases: &[[u32; ALIAS_WORDS]],
    names: &[ResolvedPort],
    protocol: Protocol,
    port: u16,
) -> RuleIndex {
    let mut first = NO_RULE;
    for resolved in names {
        if resolved.number == port && resolved.protocol == protocol {
            let from = aliases.partition_point(|[name, ..]| *name < resolved.name.0);
            for [_, protocol, rule] in
                aliases[from..].iter().take_while(|[name, ..]| *name == resolved.name.0)
            {
                if *protocol == ANY_PROTOCOL || *protocol == u32::from(resolved.protocol.0) {
                    first = first.min(RuleIndex(*rule));
                }
            }
        }
    }
    first
}

#[cfg(test)]
mod tests {
    use super::super::port_set::PortSymbol;
    use super::*;

    fn range(protocol: Option<Protocol>, first: u16, last: u16) -> PortSet {
        let range = PortRange { protocol, first, last, portless: false };
        PortSet { ranges: Box::from([range]), names: Box::from([]) }
    }

    fn to(protocol: Protocol, port: u16) -> Target<'static> {
        Target { protocol, port: Some(port), names: None }
    }

    #[test]
    fn the_first_rule_keeps_a_port() {
        let tcp = Some(Protocol::TCP);
        let sets = [range(tcp, 80, 90), range(tcp, 85, 100), range(tcp, 0, 65535), range(None, 99, 99)];
        let rules: Vec<_> = (10..).map(RuleIndex).zip(&sets).collect();
        let mut table = PortTable::default();
        table.compile(&rules[1..2]);
        let ports = table.compile(&rules);
        for (port, rule) in
            [(0, 12), (79, 12), (80, 10), (90, 10), (91, 11), (100, 11), (101, 12), (65535, 12)]
        {
            assert_eq!(table.first_match(ports, to(Protocol::TCP, port)), RuleIndex(rule), "TCP port {port}");
        }
        assert_eq!(table.first_match(ports, to(Protocol::UDP, 99)), RuleIndex(13));
        assert_eq!(table.first_match(ports, to(Protocol::UDP, 98)), NO_RULE);
        assert_eq!(
            table.first_match(ports, Target { protocol: Protocol::TCP, port: None, names: None }),
            NO_RULE
        );
        assert_eq!(table.first(ports), RuleIndex(10));
    }

    #[test]
    fn a_name_matches_only_where_the_pod_has_it() {
        let alias = PortAlias { name: PortSymbol(7), protocol: Some(Protocol::TCP) };
        let set = PortSet { ranges: Box::from([]), names: Box::from([alias]) };
        let mut table = PortTable::default();
        assert_eq!(table.compile(&[]), NO_PORTS);
        assert_eq!(
            [table.first(NO_PORTS), table.first_match(NO_PORTS, to(Protocol::TCP, 8080))],
            [NO_RULE; 2]
        );
        let ports = table.compile(&[(RuleIndex(3), &set)]);
        let names = vec![ResolvedPort { protocol: Protocol::TCP, number: 8080, name: PortSymbol(7) }];
        let target = Target { names: Some(&names), ..to(Protocol::TCP, 8080) };
        assert_eq!(table.first_match(ports, target), RuleIndex(3));
        assert_eq!(table.first_match(ports, Target { protocol: Protocol::UDP, ..target }), NO_RULE);
        assert_eq!(table.first_match(ports, Target { port: Some(8081), ..target }), NO_RULE);
        assert_eq!(table.first_match(ports, to(Protocol::TCP, 8080)), NO_RULE);
    }
}
