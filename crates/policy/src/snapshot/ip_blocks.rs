//! Compiles `ipBlock`s into a trie: the longest prefix of an address yields all rules that match it.
//!
//! A prefix inherits the rules of the prefixes around it, adds the blocks that begin there, and removes those
//! that have it as an exception. So a lookup needs the longest prefix only.

use std::collections::BTreeSet;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rustc_hash::FxHashMap;

use crate::snapshot::ports::{Cursor, PortTable, PortsCompiler, RuleIndex, RulesAt, SetIndex};
use crate::snapshot::trie::{Bits, Trie, Tries, Value};
use crate::spec::IpBlock;

/// A block of one rule.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RuleBlock<'a> {
    pub rule: RuleIndex,
    pub set: SetIndex,
    /// `cidr` is canonical and without host bits. Each exception is inside of it, and outside of the other
    /// exceptions.
    pub block: &'a IpBlock,
}

/// Builds the tries of IPv4 and IPv6. `every_address` are rules that match every address. A family without
/// blocks needs no trie.
pub(crate) fn compile(
    blocks: &[RuleBlock<'_>],
    every_address: &[(RuleIndex, SetIndex)],
    ports: &mut PortsCompiler,
    table: &mut PortTable,
) -> Tries {
    let ipv4 = family_trie(blocks, IpNet::V4(Ipv4Net::default()), every_address, ports, table);
    let ipv6 = family_trie(blocks, IpNet::V6(Ipv6Net::default()), every_address, ports, table);
    Tries { ipv4, ipv6 }
}

/// The trie of one family; `root` is the family's empty prefix.
fn family_trie<B: Bits>(
    blocks: &[RuleBlock<'_>],
    root: IpNet,
    every_address: &[(RuleIndex, SetIndex)],
    ports: &mut PortsCompiler,
    table: &mut PortTable,
) -> Option<Trie<B>> {
    let edges = Edges::new(blocks, root);
    if edges.0.is_empty() {
        return None;
    }
    let mut few = ByPortSet::new(ports.sets());
    let mut rules = 0;
    let values = edges.walk(every_address, root, &mut few, |few| {
        rules += few.sets.len();
        // Stops if too many ports would be precomputed.
        ports.allows(rules).then(|| few.first_of_each_set())
    });
    let values: Vec<(IpNet, Value)> = match values {
        Some(values) => values
            .into_iter()
            .map(|(prefix, rules)| (prefix, ports.ports_of(table, RulesAt::Few(rules)).into()))
            .collect(),
        None => {
            let mut many = AsBits { blocks: FxHashMap::default(), cursor: ports.cursor(table) };
            let values = edges.walk(every_address, root, &mut many, |many| {
                Some(ports.ports_of(table, RulesAt::Many(&mut many.cursor)).into())
            });
            values.unwrap_or_default()
        }
    };
    Some(Trie::new(&values))
}

fn is_ipv6(net: &IpNet) -> bool {
    matches!(net, IpNet::V6(_))
}

/// The block as it is compiled: canonical, without host bits, and without redundant exceptions. `None` if the
/// exceptions leave nothing.
pub(crate) fn normalise(block: &IpBlock) -> Option<IpBlock> {
    let cidr = canonical(block.cidr);
    let mut exceptions: Vec<IpNet> = block.except.iter().map(canonical).collect();
    if exceptions.iter().any(|except| except.contains(&cidr)) {
        return None;
    }
    exceptions.retain(|except| cidr.contains(except));
    exceptions.sort_unstable();
    exceptions.dedup();
    // In this order, an exception comes after those that contain it.
    let mut outermost: Vec<IpNet> = Vec::new();
    for except in exceptions {
        if !outermost.last().is_some_and(|outer| outer.contains(&except)) {
            outermost.push(except);
        }
    }
    Some(IpBlock { cidr, except: outermost.into_iter().collect() })
}

/// Converts a block of IPv4-mapped addresses to a block of IPv4 addresses (semantics 26).
fn canonical(net: IpNet) -> IpNet {
    match net {
        IpNet::V6(net) if net.prefix_len() >= 96 => match net.addr().to_ipv4_mapped() {
            Some(address) => Ipv4Net::new(address, net.prefix_len() - 96).map_or(IpNet::V6(net), IpNet::V4),
            None => IpNet::V6(net),
        },
        net => net,
    }
    .trunc()
}

/// The prefixes where blocks begin, or are cut out. Outer prefixes come before those inside them.
struct Edges(Vec<Edge>);

struct Edge {
    prefix: IpNet,
    /// True if a block begins here; false if it is an exception.
    begins: bool,
    rule: RuleIndex,
    set: SetIndex,
}

impl Edges {
    /// The edges of the family of `root`.
    fn new(blocks: &[RuleBlock<'_>], root: IpNet) -> Self {
        let family_trie = blocks.iter().filter(|block| is_ipv6(&block.block.cidr) == is_ipv6(&root));
        let mut edges: Vec<Edge> = family_trie
            .flat_map(|RuleBlock { rule, set, block }| {
                let edge = |prefix: IpNet, begins| Edge { prefix, begins, rule: *rule, set: *set };
                let exceptions = block.except.iter().map(move |except| edge(except, false));
                exceptions.chain([edge(block.cidr, true)])
            })
            .collect();
        // `IpNet` sorts by address and then by length.
        edges.sort_unstable_by_key(|edge| edge.prefix);
        Self(edges)
    }

    /// Visits all prefixes, and `root`, and collects the results of `value`. Returns `None` as soon as
    /// `value` does.
    fn walk<H: MatchingRules, T>(
        &self,
        every_address: &[(RuleIndex, SetIndex)],
        root: IpNet,
        matching: &mut H,
        mut value: impl FnMut(&mut H) -> Option<T>,
    ) -> Option<Vec<(IpNet, T)>> {
        every_address.iter().for_each(|(rule, set)| matching.enter(*rule, *set));
        let mut values = Vec::with_capacity(self.0.len());
        let mut around: Vec<&[Edge]> = Vec::new();
        if self.0.first().is_some_and(|edge| edge.prefix != root) {
            values.push((root, value(matching)?));
        }
        for edges in self.0.chunk_by(|a, b| a.prefix == b.prefix) {
            let prefix = edges[0].prefix;
            while let Some(outer) = around.pop_if(|outer| !outer[0].prefix.contains(&prefix)) {
                outer.iter().for_each(|edge| matching.cross(edge, !edge.begins));
            }
            edges.iter().for_each(|edge| matching.cross(edge, edge.begins));
            around.push(edges);
            values.push((prefix, value(matching)?));
        }
        Some(values)
    }
}

/// The rules that match at the current prefix. A rule matches if ANY of its blocks does.
trait MatchingRules {
    /// One more block of the rule matches.
    fn enter(&mut self, rule: RuleIndex, set: SetIndex);

    /// One block less of the rule matches.
    fn leave(&mut self, rule: RuleIndex, set: SetIndex);

    fn cross(&mut self, edge: &Edge, enters: bool) {
        if enters { self.enter(edge.rule, edge.set) } else { self.leave(edge.rule, edge.set) }
    }
}

/// The matching rules as bits.
struct AsBits {
    /// How many blocks of each rule match.
    blocks: FxHashMap<RuleIndex, u32>,
    cursor: Cursor,
}

impl MatchingRules for AsBits {
    fn enter(&mut self, rule: RuleIndex, _: SetIndex) {
        let blocks = self.blocks.entry(rule).or_default();
        *blocks += 1;
        if *blocks == 1 {
            self.cursor.insert(rule);
        }
    }

    fn leave(&mut self, rule: RuleIndex, _: SetIndex) {
        let blocks = self.blocks.entry(rule).or_default();
        *blocks -= 1;
        if *blocks == 0 {
            self.cursor.remove(rule);
        }
    }
}

/// The matching rules by port set.
struct ByPortSet {
    /// How many blocks of each rule match.
    blocks: FxHashMap<RuleIndex, u32>,
    /// By port set: its rules.
    rules: Vec<BTreeSet<RuleIndex>>,
    /// Port sets with rules.
    sets: BTreeSet<SetIndex>,
}

impl ByPortSet {
    fn new(sets: usize) -> Self {
        Self { blocks: FxHashMap::default(), rules: vec![BTreeSet::new(); sets], sets: BTreeSet::new() }
    }

    /// The first rule of each port set: among rules with equal ports, only the first can decide.
    fn first_of_each_set(&self) -> Vec<(RuleIndex, SetIndex)> {
        let first = |set: &SetIndex| self.rules[set.index()].first().map(|rule| (*rule, *set));
        let mut rules: Vec<(RuleIndex, SetIndex)> = self.sets.iter().filter_map(first).collect();
        rules.sort_unstable();
        rules
    }
}

impl MatchingRules for ByPortSet {
    fn enter(&mut self, rule: RuleIndex, set: SetIndex) {
        let blocks = self.blocks.entry(rule).or_default();
        *blocks += 1;
        if *blocks == 1 {
            self.rules[set.index()].insert(rule);
            self.sets.insert(set);
        }
    }

    fn leave(&mut self, rule: RuleIndex, set: SetIndex) {
        let blocks = self.blocks.entry(rule).or_default();
        *blocks -= 1;
        if *blocks == 0 {
            self.rules[set.index()].remove(&rule);
            if self.rules[set.index()].is_empty() {
                self.sets.remove(&set);
            }
        }
    }
}
