//! Builds the rules of one tier, and extends them with new identities.
//!
//! From: the policies of the tier, in order. To: [`TierRules`].

use std::ops::Range;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::compiler::compiled_selector::SelectorId;
use crate::compiler::policies::{Applied, CompiledRule};
use crate::compiler::selector_cache::SelectorCache;
use crate::decision::{Direction, RuleId};
use crate::snapshot::identity_table::IdentityTable;
use crate::snapshot::ids::{IdentityId, number_of};
use crate::snapshot::ip_blocks::{self, RuleBlock};
use crate::snapshot::ports::{
    PortSet, PortTable, PortsCompiler, PortsId, RuleIndex, SetIndex, insert_rules, rules_in,
};
use crate::snapshot::ruleset::{AddressTable, PeerTable, PotentialRules, TierRules};
use crate::spec::{Action, IpBlock, Tier};

/// Builds the rules of a tier, and later adds identities to them.
#[derive(Debug, Default)]
pub(crate) struct TierRulesBuilder {
    /// By selector: the rules that have it as a peer, ascending. Only the first of rules with equal ports is
    /// kept.
    pub by_selector: FxHashMap<SelectorId, Vec<(RuleIndex, SetIndex)>>,
    /// The rules that select every possible pod.
    pub every_pod: Vec<(RuleIndex, SetIndex)>,
    /// Whether ANY rule has a named port.
    pub has_port_names: bool,
    ports: PortsCompiler,
}

/// Builds one tier from its policies, in order; `None` if it has no rules.
pub(crate) fn build_tier(
    tier: Tier,
    policies: &[Applied<'_>],
    direction: Direction,
    selectors: &SelectorCache,
) -> Option<(TierRules, TierRulesBuilder)> {
    let mut collected = CollectedRules::default();
    for (id, action, rule) in policies.iter().flat_map(|applied| applied.rules(direction)) {
        collected.add(id, action, rule, direction);
    }
    let CollectedRules { by_selector, has_port_names, rules, all_ports, sets, set_of_rule, edges, .. } =
        collected;
    if rules.is_empty() {
        return None;
    }
    let ports = PortsCompiler::new(set_of_rule, sets, edges);
    let mut builder = TierRulesBuilder { by_selector, every_pod: Vec::new(), has_port_names, ports };
    let mut ports = PortTable::default();
    let any_peer = builder.ports.ports_of_rules(&mut ports, all_ports);
    let potential = PotentialRules {
        accept: builder.addresses(&mut ports, collected.accept),
        pass: builder.addresses(&mut ports, collected.pass),
        deny: builder.addresses(&mut ports, collected.deny),
    };
    let addresses = builder.addresses(&mut ports, collected.certain);
    let peers = PeerTable { identities: IdentityTable::default(), addresses };
    let mut rules = TierRules { tier, rules: rules.into(), peers, ports, any_peer, potential };
    builder.extract_every_pod(selectors);
    builder.add_all_identities(&mut rules, selectors);
    rules.ports.shrink();
    Some((rules, builder))
}

/// The rules of a tier, by what they match.
#[derive(Default)]
struct CollectedRules<'a> {
    rules: Vec<(RuleId, Action)>,
    /// See [`TierRulesBuilder::by_selector`].
    by_selector: FxHashMap<SelectorId, Vec<(RuleIndex, SetIndex)>>,
    /// Rules by address: those that match for certain, and potential matches by action.
    certain: ByAddress<'a>,
    accept: ByAddress<'a>,
    pass: ByAddress<'a>,
    deny: ByAddress<'a>,
    /// The distinct port sets.
    sets: Vec<Arc<PortSet>>,
    /// By address of a port set in memory: its index. Equal port sets are shared, so the address identifies
    /// them.
    set_ids: FxHashMap<*const PortSet, SetIndex>,
    set_of_rule: Vec<SetIndex>,
    /// The first rule of each port set.
    all_ports: Vec<(RuleIndex, SetIndex)>,
    has_port_names: bool,
    /// The number of block beginnings and exceptions.
    edges: usize,
    /// Selectors seen with each port set: among rules with equal ports, only the first can decide.
    seen: FxHashSet<(SelectorId, SetIndex)>,
    /// Port sets seen in rules without peers.
    seen_every_peer: FxHashSet<SetIndex>,
}

impl<'a> CollectedRules<'a> {
    /// Adds the next rule.
    fn add(&mut self, id: RuleId, action: Action, rule: &'a CompiledRule, direction: Direction) {
        let index = RuleIndex(number_of(self.rules.len()));
        self.rules.push((id, action));
        let set = self.set_index(index, &rule.ports);
        self.set_of_rule.push(set);
        self.has_port_names |= !rule.ports.names.is_empty();
        self.edges += rule.blocks.iter().map(|block| 1 + block.except.len()).sum::<usize>();
        if rule.every_peer && self.seen_every_peer.insert(set) {
            self.certain.every_address.push((index, set));
        }
        self.certain.add_blocks(index, set, rule);
        let potential_matches = match action {
            Action::Accept => [Some(&mut self.accept), None],
            Action::Pass => [Some(&mut self.pass), Some(&mut self.deny)],
            Action::Deny => [Some(&mut self.deny), None],
        };
        for potential in potential_matches.into_iter().flatten() {
            if rule.every_peer || rule.pods {
                potential.every_address.push((index, set));
            } else if direction == Direction::Egress && !rule.ports.names.is_empty() {
                potential.add_blocks(index, set, rule);
            }
        }
        for selector in &rule.selectors {
            if self.seen.insert((*selector, set)) {
                self.by_selector.entry(*selector).or_default().push((index, set));
            }
        }
    }

    /// The index of a port set, which rule `rule` has.
    fn set_index(&mut self, rule: RuleIndex, ports: &Arc<PortSet>) -> SetIndex {
        *self.set_ids.entry(Arc::as_ptr(ports)).or_insert_with(|| {
            let set = SetIndex(number_of(self.sets.len()));
            self.sets.push(Arc::clone(ports));
            self.all_ports.push((rule, set));
            set
        })
    }
}

/// Rules by the address of a peer.
#[derive(Default)]
struct ByAddress<'a> {
    blocks: Vec<RuleBlock<'a>>,
    /// Pairs of block and port set: among rules with equal pairs, only the first can decide.
    seen: FxHashSet<(&'a IpBlock, SetIndex)>,
    /// Rules that match every address.
    every_address: Vec<(RuleIndex, SetIndex)>,
}

impl<'a> ByAddress<'a> {
    fn add_blocks(&mut self, index: RuleIndex, set: SetIndex, rule: &'a CompiledRule) {
        let new = rule.blocks.iter().filter(|block| self.seen.insert((*block, set)));
        self.blocks.extend(new.map(|block| RuleBlock { rule: index, set, block }));
    }
}

impl TierRulesBuilder {
    fn addresses(
        &mut self,
        ports: &mut PortTable,
        ByAddress { blocks, every_address, .. }: ByAddress<'_>,
    ) -> AddressTable {
        let tries = ip_blocks::compile(&blocks, &every_address, &mut self.ports, ports);
        AddressTable { tries, every_address: self.ports.ports_of_rules(ports, every_address) }
    }

    /// Moves rules that select every possible pod out of `by_selector`, so that no identity needs an entry
    /// for them.
    fn extract_every_pod(&mut self, selectors: &SelectorCache) {
        let every: Vec<SelectorId> =
            self.by_selector.keys().copied().filter(|id| selectors.is_every_pod(*id)).collect();
        self.every_pod = every.into_iter().filter_map(|id| self.by_selector.remove(&id)).flatten().collect();
    }

    /// Adds every identity that some rule selects, in batches.
    fn add_all_identities(&mut self, rules: &mut TierRules, selectors: &SelectorCache) {
        /// The approximate number of words per batch: 1 MiB.
        const BATCH_WORDS: usize = 1 << 17;
        let every_pod = self.ports.ports_of_rules(&mut rules.ports, self.every_pod.clone());
        rules.peers.identities = IdentityTable::new(every_pod);
        let last = self.by_selector.keys().filter_map(|id| selectors.last_identity(*id)).max();
        let end = last.map_or(0, |last| last.index() + 1);
        let width = self.ports.set_words();
        let batch = (BATCH_WORDS / width).max(1);
        for first in (0..end).step_by(batch) {
            let identity = |position| IdentityId(number_of(position));
            let identities = identity(first)..identity(end.min(first + batch));
            let bits = self.rules_by_identity(identities.clone(), selectors);
            // An identity without bits is not selected by any rule.
            let selected = IdentityId::all_in(identities).zip(bits.chunks_exact(width));
            let selected = selected.filter(|(_, bits)| bits.iter().any(|word| *word != 0));
            // Many identities are selected by the same rules.
            let mut distinct: FxHashMap<&[u64], PortsId> =
                selected.clone().map(|(_, bits)| (bits, PortsId::default())).collect();
            self.compile_ports(&mut distinct, &mut rules.ports);
            for (identity, bits) in selected {
                rules.peers.identities.insert(identity, distinct[bits]);
            }
        }
    }

    /// For each of `identities`, the rules that select it, as a bitset of [`PortsCompiler::set_words`] words.
    /// All words are zero if only rules for every pod select it.
    fn rules_by_identity(&self, identities: Range<IdentityId>, selectors: &SelectorCache) -> Vec<u64> {
        let width = self.ports.set_words();
        let mut bits = vec![0_u64; IdentityId::all_in(identities.clone()).len() * width];
        for (id, of_selector) in &self.by_selector {
            for identity in selectors.identities_in(*id, identities.clone()) {
                let start = (identity.index() - identities.start.index()) * width;
                insert_rules(&mut bits[start..start + width], indexes(of_selector));
            }
        }
        for rules in bits.chunks_exact_mut(width) {
            if rules.iter().any(|word| *word != 0) {
                insert_rules(rules, indexes(&self.every_pod));
            }
        }
        bits
    }

    /// Compiles the ports of each rule set: precomputed if the limit allows it for all of them, else as
    /// bitsets.
    fn compile_ports(&mut self, sets: &mut FxHashMap<&[u64], PortsId>, table: &mut PortTable) {
        let rules = sets.keys().copied().flatten().map(|word| word.count_ones() as usize).sum();
        let precompute = self.ports.allows(rules);
        for (bits, ports) in sets {
            *ports = if precompute {
                let rules = rules_in(bits).map(|rule| (rule, self.ports.set_of(rule))).collect();
                self.ports.ports_of_rules(table, rules)
            } else {
                self.ports.ports_of_bits(table, bits)
            };
        }
    }

    pub(crate) fn add_identity(
        &mut self,
        rules: &mut TierRules,
        identity: IdentityId,
        selected_by: &[SelectorId],
    ) {
        if selected_by.iter().any(|id| self.by_selector.contains_key(id)) {
            let selected = self.selected_by(selected_by);
            let ports = self.ports.ports_of_rules(&mut rules.ports, selected);
            rules.peers.identities.insert(identity, ports);
        }
    }

    /// The rules with ANY of these selectors as a peer.
    fn selected_by(&self, selectors: &[SelectorId]) -> Vec<(RuleIndex, SetIndex)> {
        let by_selector = selectors.iter().filter_map(|id| self.by_selector.get(id)).flatten();
        by_selector.chain(&self.every_pod).copied().collect()
    }
}

fn indexes(rules: &[(RuleIndex, SetIndex)]) -> impl Iterator<Item = RuleIndex> + '_ {
    rules.iter().map(|(rule, _)| *rule)
}
