//! Compiles `ipBlock`s into what holds at each prefix: the longest prefix of an address alone says all.
//!
//! A prefix inherits what holds around it and then applies what begins there (blocks) or ends there (`except`), so that a
//! lookup never has to climb.

use std::collections::BTreeSet;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rustc_hash::FxHashMap;

use crate::snapshot::ports::{PortsId, RuleIndex};
use crate::snapshot::trie::{Bits, Trie, Tries};
use crate::spec::IpBlock;

/// Which of a ruleset's distinct port sets a rule has.
pub(crate) type SetIndex = u32;

/// One rule's peer by address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block<'a> {
    pub rule: RuleIndex,
    pub set: SetIndex,
    /// `cidr` canonical and without host bits; each exception inside it and outside every other.
    pub block: &'a IpBlock,
}

/// Builds the tries of IPv4 and IPv6. `ports` gives the ports for rules, ascending, each with another port set, the first
/// that has it. A family without blocks needs none.
pub(crate) fn compile(
    blocks: &[Block<'_>],
    everyone: &[(RuleIndex, SetIndex)],
    sets: usize,
    mut ports: impl FnMut(Vec<(RuleIndex, SetIndex)>) -> PortsId,
) -> Tries {
    let ipv4 = of_family(blocks, IpNet::V4(Ipv4Net::default()), everyone, sets, &mut ports);
    let ipv6 = of_family(blocks, IpNet::V6(Ipv6Net::default()), everyone, sets, &mut ports);
    Tries { ipv4, ipv6 }
}

/// The trie of the family of which `root` is everything.
fn of_family<B: Bits>(
    blocks: &[Block<'_>],
    root: IpNet,
    everyone: &[(RuleIndex, SetIndex)],
    sets: usize,
    mut ports: impl FnMut(Vec<(RuleIndex, SetIndex)>) -> PortsId,
) -> Option<Trie<B>> {
    let blocks: Vec<Block<'_>> =
        blocks.iter().filter(|block| is_ipv6(&block.block.cidr) == is_ipv6(&root)).copied().collect();
    if blocks.is_empty() {
        return None;
    }
    let mut walk = Walk::new(&blocks, sets);
    for (rule, set) in everyone {
        walk.active.enter(*rule, *set);
    }
    let mut prefixes: Vec<IpNet> = walk.edges.keys().copied().chain([root]).collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    // `IpNet` sorts by address and then by length: outer prefixes come before what is inside them.
    let mut around: Vec<IpNet> = Vec::new();
    let mut values = Vec::new();
    for prefix in prefixes {
        while around.last().is_some_and(|outer| !outer.contains(&prefix)) {
            if let Some(outer) = around.pop() {
                walk.leave(&outer);
            }
        }
        walk.enter(&prefix);
        around.push(prefix);
        values.push((prefix, ports(walk.active.first_of_each_set())));
    }
    Some(Trie::new(&values))
}

fn is_ipv6(net: &IpNet) -> bool {
    matches!(net, IpNet::V6(_))
}

/// The form in which blocks are compiled: canonical, without host bits and without exceptions that change nothing.
/// `None` if nothing is left of it.
pub(crate) fn normalise(block: &IpBlock) -> Option<IpBlock> {
    let cidr = canonical(block.cidr);
    let mut exceptions: Vec<IpNet> = block.except.iter().map(|except| canonical(*except)).collect();
    if exceptions.iter().any(|except| except.contains(&cidr)) {
        return None;
    }
    exceptions.retain(|except| cidr.contains(except));
    exceptions.sort_unstable();
    exceptions.dedup();
    // In this order an exception comes after those around it.
    let mut outermost: Vec<IpNet> = Vec::new();
    for except in exceptions {
        if !outermost.last().is_some_and(|outer| outer.contains(&except)) {
            outermost.push(except);
        }
    }
    Some(IpBlock { cidr, except: outermost })
}

/// A block of IPv4-mapped addresses is a block of IPv4 addresses (semantics 26).
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

/// A walk over nested prefixes that knows which rules hold where it stands.
struct Walk<'a> {
    /// By prefix: the blocks that begin there (true) or are cut out there (false).
    edges: FxHashMap<IpNet, Vec<(Block<'a>, bool)>>,
    active: Active,
}

impl<'a> Walk<'a> {
    fn new(blocks: &[Block<'a>], sets: usize) -> Self {
        let mut edges: FxHashMap<IpNet, Vec<(Block<'a>, bool)>> = FxHashMap::default();
        for block in blocks {
            edges.entry(block.block.cidr).or_default().push((*block, true));
            for except in &block.block.except {
                edges.entry(*except).or_default().push((*block, false));
            }
        }
        Self {
            edges,
            active: Active {
                blocks: FxHashMap::default(),
                rules: vec![BTreeSet::new(); sets],
                sets: BTreeSet::new(),
            },
        }
    }

    fn enter(&mut self, prefix: &IpNet) {
        for (block, begins) in self.edges.get(prefix).into_iter().flatten() {
            if *begins {
                self.active.enter(block.rule, block.set)
            } else {
                self.active.leave(block.rule, block.set)
            }
        }
    }

    fn leave(&mut self, prefix: &IpNet) {
        for (block, begins) in self.edges.get(prefix).into_iter().flatten() {
            if *begins {
                self.active.leave(block.rule, block.set)
            } else {
                self.active.enter(block.rule, block.set)
            }
        }
    }
}

/// The rules that hold at one place: ANY of a rule's blocks is enough.
struct Active {
    /// How many of each rule's blocks hold.
    blocks: FxHashMap<RuleIndex, u32>,
    /// By port set: its rules.
    rules: Vec<BTreeSet<RuleIndex>>,
    /// Port sets that have rules.
    sets: BTreeSet<SetIndex>,
}

impl Active {
    fn enter(&mut self, rule: RuleIndex, set: SetIndex) {
        let blocks = self.blocks.entry(rule).or_default();
        *blocks += 1;
        if *blocks == 1 {
            self.rules[set as usize].insert(rule);
            self.sets.insert(set);
        }
    }

    fn leave(&mut self, rule: RuleIndex, set: SetIndex) {
        let blocks = self.blocks.entry(rule).or_default();
        *blocks -= 1;
        if *blocks == 0 {
            self.rules[set as usize].remove(&rule);
            if self.rules[set as usize].is_empty() {
                self.sets.remove(&set);
            }
        }
    }

    /// Of rules with equal ports only the first can ever decide.
    fn first_of_each_set(&self) -> Vec<(RuleIndex, SetIndex)> {
        let first = |set: &SetIndex| self.rules[*set as usize].first().map(|rule| (*rule, *set));
        let mut rules: Vec<(RuleIndex, SetIndex)> = self.sets.iter().filter_map(first).collect();
        rules.sort_unstable();
        rules
    }
}
