//! Policies in numbers: selectors, port sets and rules as the rest of the compiler names them.

use std::sync::Arc;

use rustc_hash::FxHashSet;

use crate::compiler::selectors::{SelectorId, Selectors};
use crate::compiler::vocabulary::Vocabulary;
use crate::decision::Direction;
use crate::names::PolicyName;
use crate::packet::Protocol;
use crate::selector::Selector;
use crate::snapshot::addresses;
use crate::snapshot::ports::{PortAlias, PortRange, PortSet};
use crate::spec::{
    Action, IpBlock, NamespaceMatch, Peer, PolicySpec, PortMatch, PortNumbers, RuleSpec, Tier,
};

/// A policy in numbers.
#[derive(Debug)]
pub(crate) struct CompiledPolicy {
    pub name: Arc<PolicyName>,
    pub spec: Arc<PolicySpec>,
    /// The id of its first rule: ingress rules first, then egress rules.
    pub first_rule: u32,
    pub subject: SelectorId,
    ingress: Box<[CompiledRule]>,
    egress: Box<[CompiledRule]>,
}

/// A rule in numbers.
#[derive(Debug)]
pub(crate) struct CompiledRule {
    pub action: Action,
    /// Whether the rule has no peers at all, and so matches every peer.
    pub everyone: bool,
    /// Whether ANY of its selectors might choose a pod: one that could not be understood never does.
    pub pods: bool,
    pub selectors: Box<[SelectorId]>,
    /// Normalised: see [`addresses::normalise`].
    pub blocks: Box<[IpBlock]>,
    pub ports: Arc<PortSet>,
}

/// Port sets, equal ones shared.
#[derive(Debug, Default)]
pub(crate) struct PortSets {
    sets: FxHashSet<Arc<PortSet>>,
}

impl CompiledPolicy {
    /// Puts a policy, whose words the vocabulary must cover, in numbers. `fresh` receives the selectors that it brings.
    pub(crate) fn new(
        spec: &Arc<PolicySpec>,
        first_rule: u32,
        vocabulary: &Vocabulary,
        selectors: &mut Selectors,
        port_sets: &mut PortSets,
        fresh: &mut Vec<SelectorId>,
    ) -> Self {
        let mut enter = |namespaces: &NamespaceMatch, pods: &Selector| {
            let (id, new) = selectors.enter(vocabulary, namespaces, pods);
            fresh.extend(new.then_some(id));
            id
        };
        let subject = enter(&spec.subject.namespaces, &spec.subject.pods);
        let mut compile = |rules: &[RuleSpec]| -> Box<[CompiledRule]> {
            rules
                .iter()
                .map(|rule| {
                    let (mut chosen, mut blocks) = (Vec::new(), Vec::new());
                    for peer in rule.peers.iter().flatten() {
                        match peer {
                            Peer::Pods { namespaces, pods } => chosen.push(enter(namespaces, pods)),
                            Peer::Block(block) => blocks.extend(addresses::normalise(block)),
                            Peer::Nothing => {}
                        }
                    }
                    CompiledRule {
                        action: rule.action,
                        everyone: rule.peers.is_none(),
                        pods: rule.peers.iter().flatten().any(might_choose_pods),
                        selectors: chosen.into(),
                        blocks: blocks.into(),
                        ports: port_sets.share(port_set(vocabulary, rule.ports.as_deref())),
                    }
                })
                .collect()
        };
        let (ingress, egress) = (compile(&spec.ingress), compile(&spec.egress));
        let name = Arc::new(spec.name.clone());
        Self { name, spec: Arc::clone(spec), first_rule, subject, ingress, egress }
    }

    /// Takes note that the policy is gone.
    pub(crate) fn leave(&self, selectors: &mut Selectors) {
        selectors.leave(self.subject);
        for rule in self.ingress.iter().chain(&self.egress) {
            rule.selectors.iter().for_each(|selector| selectors.leave(*selector));
        }
    }

    /// How many rules it has.
    pub(crate) fn len(&self) -> usize {
        self.ingress.len() + self.egress.len()
    }

    /// Whether it isolates its pods. Only NetworkPolicies do (semantics 8).
    pub(crate) fn isolates(&self, direction: Direction) -> bool {
        self.spec.tier == Tier::NetworkPolicy
            && match direction {
                Direction::Ingress => self.spec.isolates_ingress,
                Direction::Egress => self.spec.isolates_egress,
            }
    }

    /// The rules that count in `direction`, with their ids. A NetworkPolicy has none in a direction in which it does not
    /// isolate: its `policyTypes` decide (semantics 1).
    pub(crate) fn rules(&self, direction: Direction) -> impl Iterator<Item = (u32, &CompiledRule)> {
        let (first, rules) = match direction {
            Direction::Ingress => (self.first_rule, &self.ingress),
            Direction::Egress => (self.first_rule + self.ingress.len() as u32, &self.egress),
        };
        let counts = self.spec.tier != Tier::NetworkPolicy || self.isolates(direction);
        (first..).zip(rules.iter().filter(move |_| counts))
    }

    /// Where the policy stands in the order of evaluation.
    pub(crate) fn order(&self) -> (Tier, u16, &PolicyName) {
        let priority = if self.spec.tier == Tier::NetworkPolicy { 0 } else { self.spec.priority };
        (self.spec.tier, priority, &self.name)
    }
}

impl PortSets {
    fn share(&mut self, set: PortSet) -> Arc<PortSet> {
        if let Some(shared) = self.sets.get(&set) {
            return Arc::clone(shared);
        }
        let set = Arc::new(set);
        self.sets.insert(Arc::clone(&set));
        set
    }
}

fn might_choose_pods(peer: &Peer) -> bool {
    match peer {
        Peer::Pods { namespaces, pods } => {
            *pods != Selector::Nothing && *namespaces != NamespaceMatch::Labels(Selector::Nothing)
        }
        Peer::Block(_) | Peer::Nothing => false,
    }
}

fn port_set(vocabulary: &Vocabulary, ports: Option<&[PortMatch]>) -> PortSet {
    let Some(ports) = ports else { return PortSet::everything() };
    let (mut ranges, mut names) = (Vec::new(), Vec::new());
    for PortMatch { protocol, numbers } in ports {
        let mut range = |first, last, portless| {
            let protocol: Option<Protocol> = *protocol;
            ranges.push(PortRange { protocol, first, last, portless });
        };
        match numbers {
            PortNumbers::Any => range(0, u16::MAX, true),
            PortNumbers::Range(first, last) if first <= last => range(*first, *last, false),
            PortNumbers::Range(..) | PortNumbers::Nothing => {}
            PortNumbers::Named(name) => {
                names.extend(vocabulary.port(name).map(|name| PortAlias { name, protocol: *protocol }));
            }
        }
    }
    PortSet { ranges: ranges.into(), names: names.into() }
}
