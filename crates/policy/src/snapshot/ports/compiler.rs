//! Compiles the ports of the rule sets of one tier. The memory is linear in the number of rules and blocks.
//!
//! Bound: ports are precomputed for at most [`ALLOWED`] rules, and [`ALLOWED_EACH`] more for each rule and
//! edge of a block. Beyond that, rules are stored as [bitsets](super::bitsets).

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::bitsets::{Cursor, SetId, SetInterner, rules_in, set_words};
use super::port_set::{PortSet, RuleIndex, SetIndex};
use super::table::{NO_PORTS, PortTable, PortsId};
use super::wide::WideTable;

/// Rules for which ports are precomputed, summed over all rule sets of a tier: about 50 KiB.
const ALLOWED: usize = 4_096;
/// Further rules for which ports are precomputed, for each rule and edge of a block.
const ALLOWED_EACH: usize = 16;
/// The ports of rule sets of at most this size are always precomputed.
const FEW: usize = 8;
/// The most port names that are searched one by one.
const FEW_ALIASES: usize = 64;

/// The rules that match at one prefix or identity.
pub(crate) enum RulesAt<'a> {
    /// Rules, ascending, each with its port set.
    Few(Vec<(RuleIndex, SetIndex)>),
    /// A bitset, from [`PortsCompiler::cursor`].
    Many(&'a mut Cursor),
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct PortsCompiler {
    /// The distinct port sets.
    sets: Vec<Arc<PortSet>>,
    /// By rule: its port set.
    rules: Vec<SetIndex>,
    /// Ports compiled so far, by the rules in them.
    known: FxHashMap<Box<[(RuleIndex, SetIndex)]>, PortsId>,
    /// Rules for which ports may still be precomputed.
    allowed: usize,
    /// By port set: the last call of [`PortsCompiler::deduplicate`] that found it.
    found_in: Vec<u64>,
    /// The number of calls so far.
    calls: u64,
    /// Deduplicates bitsets.
    interner: SetInterner,
    /// Ports compiled so far, by their bitset.
    known_sets: FxHashMap<SetId, PortsId>,
}

impl PortsCompiler {
    /// A compiler for rules in order, each with its port set. `edges` is the number of block beginnings and
    /// exceptions.
    pub(crate) fn new(rules: Vec<SetIndex>, sets: Vec<Arc<PortSet>>, edges: usize) -> Self {
        let allowed = ALLOWED + ALLOWED_EACH * (rules.len() + edges);
        Self { sets, rules, allowed, ..Self::default() }
    }

    /// How many distinct port sets there are.
    pub(crate) fn sets(&self) -> usize {
        self.sets.len()
    }

    /// The port set of a rule.
    pub(crate) fn set_of(&self, rule: RuleIndex) -> SetIndex {
        self.rules[rule.index()]
    }

    /// Whether ports may be precomputed for this many rules in total.
    pub(crate) fn allows(&self, rules: usize) -> bool {
        rules <= self.allowed
    }

    /// The number of words of a bitset, at least one.
    pub(crate) fn set_words(&self) -> usize {
        set_words(self.rules.len())
    }

    /// An empty bitset that is modified rule by rule.
    pub(crate) fn cursor(&mut self, table: &mut PortTable) -> Cursor {
        self.wide(table).0.bitsets.cursor()
    }

    /// The ports of the rules at a prefix, compiled if needed.
    pub(crate) fn ports_of(&mut self, table: &mut PortTable, rules: RulesAt<'_>) -> PortsId {
        match rules {
            RulesAt::Few(rules) => self.ports_of_rules(table, rules),
            RulesAt::Many(cursor) => self.ports_of_set(table, cursor),
        }
    }

    /// The ports of these rules, which may be in any order; compiled if needed.
    pub(crate) fn ports_of_rules(
        &mut self,
        table: &mut PortTable,
        mut rules: Vec<(RuleIndex, SetIndex)>,
    ) -> PortsId {
        rules.sort_unstable();
        self.deduplicate(&mut rules);
        if let Some(id) = self.known.get(&rules[..]) {
            return *id;
        }
        let aliases = rules.iter().map(|(_, set)| self.sets[set.index()].names.len()).sum::<usize>();
        if rules.len() > FEW && !self.allows(rules.len()) || aliases > FEW_ALIASES {
            let mut cursor = self.cursor(table);
            rules.iter().for_each(|(rule, _)| cursor.insert(*rule));
            return self.ports_of_set(table, &mut cursor);
        }
        self.allowed = self.allowed.saturating_sub(rules.len());
        let with_sets: Vec<(RuleIndex, &PortSet)> =
            rules.iter().map(|(rule, set)| (*rule, &*self.sets[set.index()])).collect();
        let id = table.compile(&with_sets);
        self.known.insert(rules.into(), id);
        id
    }

    /// The ports of a bitset of [`PortsCompiler::set_words`] words. They are never precomputed.
    pub(crate) fn ports_of_bits(&mut self, table: &mut PortTable, bits: &[u64]) -> PortsId {
        let Some(first) = rules_in(bits).next() else { return NO_PORTS };
        let (wide, interner) = self.wide(table);
        let set = interner.set_of_bits(&mut wide.bitsets, bits);
        *self.known_sets.entry(set).or_insert_with(|| table.push_wide(first, set))
    }

    /// Keeps the first of the rules with equal ports, because the others can never decide.
    fn deduplicate(&mut self, rules: &mut Vec<(RuleIndex, SetIndex)>) {
        self.found_in.resize(self.sets.len(), 0);
        self.calls += 1;
        let Self { found_in, calls, .. } = self;
        rules.retain(|(_, set)| std::mem::replace(&mut found_in[set.index()], *calls) != *calls);
    }

    fn ports_of_set(&mut self, table: &mut PortTable, cursor: &mut Cursor) -> PortsId {
        let Some(first) = cursor.first() else { return NO_PORTS };
        let (wide, interner) = self.wide(table);
        let set = interner.set(&mut wide.bitsets, cursor);
        *self.known_sets.entry(set).or_insert_with(|| table.push_wide(first, set))
    }

    /// The table of bitsets, created if needed. If a snapshot still shares it, it is copied.
    fn wide<'a>(&'a mut self, table: &'a mut PortTable) -> (&'a mut WideTable, &'a mut SetInterner) {
        let Self { sets, rules, interner, .. } = self;
        let wide = table.wide.get_or_insert_with(|| {
            let of_rules: Vec<&PortSet> = rules.iter().map(|set| &*sets[set.index()]).collect();
            Arc::new(WideTable::new(&of_rules, interner))
        });
        (Arc::make_mut(wide), interner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use ipnet::IpNet;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::packet::Protocol;
    use crate::snapshot::ids::number_of;
    use crate::snapshot::ip_blocks::{self, RuleBlock};
    use crate::snapshot::ports::{PortAlias, PortRange, PortSymbol, ResolvedPort, Target};
    use crate::spec::IpBlock;

    /// Nested and adjacent networks.
    const NETS: [&str; 14] = [
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.244.0.0/16",
        "10.244.1.0/24",
        "10.244.1.1/32",
        "10.244.1.2/31",
        "10.9.0.0/16",
        "10.9.8.0/21",
        "10.9.8.7/32",
        "255.255.255.255/32",
        "::/0",
        "2001:db8::/32",
        "2001:db8::/64",
        "2001:db8::1/128",
    ];
    const PORTS: [u16; 7] = [0, 53, 80, 81, 443, 8080, 65535];
    const PROTOCOLS: [Protocol; 3] = [Protocol::TCP, Protocol::UDP, Protocol(47)];

    /// A rule's blocks and ports.
    type Rule = (Vec<IpBlock>, PortSet);

    fn rule() -> impl Strategy<Value = Rule> {
        let net = || select(&NETS[..]).prop_map(|net| net.parse::<IpNet>().unwrap());
        let block = (net(), vec(net(), 0..5)).prop_filter_map("nothing is left", |(cidr, except)| {
            ip_blocks::normalise(&IpBlock { cidr, except: except.into_iter().collect() })
        });
        let protocol = || select(vec![None, Some(Protocol::TCP), Some(Protocol::UDP)]);
        let port = || select(&PORTS[..]);
        let range = (protocol(), port(), port(), any::<bool>()).prop_map(|(protocol, a, b, portless)| {
            PortRange { protocol, first: a.min(b), last: a.max(b), portless }
        });
        let name = || (0_u32..4).prop_map(PortSymbol);
        let alias = (name(), protocol()).prop_map(|(name, protocol)| PortAlias { name, protocol });
        let ports = (vec(range, 0..3), vec(alias, 0..2));
        (vec(block, 0..4), ports).prop_map(|(blocks, (ranges, names))| {
            (blocks, PortSet { ranges: ranges.into(), names: names.into() })
        })
    }

    struct Tables {
        table: PortTable,
        tries: crate::snapshot::trie::Tries,
        every_address: PortsId,
    }

    fn compile(rules: &[Rule], allowed: Option<usize>) -> Tables {
        let sets = rules.iter().map(|(_, ports)| Arc::new(ports.clone())).collect();
        let numbers = || (0..number_of(rules.len())).map(RuleIndex);
        // Each rule has its own port set.
        let set_of = |rule: RuleIndex| SetIndex(rule.0);
        let mut ports = PortsCompiler::new(numbers().map(set_of).collect(), sets, 0);
        ports.allowed = allowed.unwrap_or(ports.allowed);
        let mut table = PortTable::default();
        let blocks: Vec<RuleBlock<'_>> = numbers()
            .zip(rules)
            .flat_map(|(rule, (blocks, _))| {
                blocks.iter().map(move |block| RuleBlock { rule, set: set_of(rule), block })
            })
            .collect();
        // Rules without blocks match every address.
        let every_address: Vec<(RuleIndex, SetIndex)> = numbers()
            .zip(rules)
            .filter(|(_, (blocks, _))| blocks.is_empty())
            .map(|(rule, _)| (rule, set_of(rule)))
            .collect();
        let tries = ip_blocks::compile(&blocks, &every_address, &mut ports, &mut table);
        let every_address = ports.ports_of_rules(&mut table, every_address);
        Tables { table, tries, every_address }
    }

    impl Tables {
        fn found(&self, address: IpAddr, target: Target<'_>) -> [RuleIndex; 3] {
            let ports = self.tries.longest_prefix(address).map_or(self.every_address, PortsId::from);
            let Self { table, .. } = self;
            [table.first(ports), table.first_match(ports, target), table.first_possible(ports, target)]
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn bitsets_and_precomputed_ports_agree(rules in vec(rule(), 1..60), names in vec((0_u32..4, select(&PORTS[..]), select(&PROTOCOLS[..])), 0..6)) {
            let (precomputed, bits) = (compile(&rules, Some(usize::MAX)), compile(&rules, Some(0)));
            prop_assert!(precomputed.table.wide.is_none() && (rules.len() <= FEW || rules.iter().all(|(blocks, _)| blocks.is_empty()) || bits.table.wide.is_some()));
            let names: Vec<ResolvedPort> =
                names.into_iter().map(|(name, number, protocol)| ResolvedPort { protocol, number, name: PortSymbol(name) }).collect();
            let nets = NETS.iter().map(|net| net.parse::<IpNet>().unwrap());
            for address in nets.flat_map(|net| [net.network(), net.broadcast()]) {
                for protocol in PROTOCOLS {
                    for port in PORTS.map(Some).into_iter().chain([None]) {
                        for names in [None, Some(&names)] {
                            let target = Target { protocol, port, names };
                            prop_assert_eq!(precomputed.found(address, target), bits.found(address, target), "{} {:?} {:?}", address, protocol, port);
                        }
                    }
                }
            }
        }
    }
}
