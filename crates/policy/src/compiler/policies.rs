//! CompiledState policies: selectors, port sets and rules by id.

use std::net::IpAddr;
use std::sync::Arc;

use crate::compiler::compiled_selector::SelectorId;
use crate::compiler::identities::View;
use crate::compiler::node_peers::NodePeers;
use crate::compiler::selector_cache::SelectorCache;
use crate::compiler::shared::Shared;
use crate::compiler::symbol_table::SymbolTable;
use crate::decision::{Direction, RuleId};
use crate::names::PolicyName;
use crate::packet::Protocol;
use crate::prefixes::Prefixes;
use crate::selector::Selector;
use crate::snapshot::ids::number_of;
use crate::snapshot::ip_blocks;
use crate::snapshot::ports::{PortAlias, PortRange, PortSet};
use crate::spec::{
    Action, IpBlock, NamespaceMatch, Peer, PolicySpec, PortMatch, PortNumbers, RuleSpec, Tier,
};

/// A compiled policy.
#[derive(Debug)]
pub(crate) struct CompiledPolicy {
    pub name: Arc<PolicyName>,
    pub spec: Arc<PolicySpec>,
    /// The id of its first rule. The ids of its ingress rules come first, then those of its egress rules.
    pub first_rule: RuleId,
    pub subject: SelectorId,
    ingress: Box<[CompiledRule]>,
    egress: Box<[CompiledRule]>,
}

/// A policy that applies to the pods of an identity, or might.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Applied<'a> {
    pub policy: &'a CompiledPolicy,
    /// [`View::Known`] if it certainly applies; else the view in which it might.
    pub view: View,
}

/// A compiled rule.
///
/// Each Pass rule is followed by a Deny and an Accept rule with the same index. Their selectors match only
/// peers for which it is unknown whether the Pass rule matches (semantics 37). The Deny rule's blocks are the
/// nodes for which it is unknown (semantics 56).
#[derive(Debug)]
pub(crate) struct CompiledRule {
    /// Its index among the policy's rules, ingress before egress. The rule's id is the policy's first id plus
    /// this.
    index: u32,
    pub action: Action,
    /// Whether the rule has no list of peers, and so matches every peer.
    pub every_peer: bool,
    /// Whether ANY of its selectors can match a pod. A selector that could not be understood never does.
    pub pods: bool,
    pub selectors: Box<[SelectorId]>,
    /// Normalised by [`ip_blocks::normalise`].
    pub blocks: Box<[IpBlock]>,
    pub ports: Arc<PortSet>,
}

impl CompiledPolicy {
    /// Compiles a policy. Its symbols must be in the symbol table, and its selectors of nodes in `nodes`.
    /// Appends selectors that did not exist before to `fresh`.
    pub(crate) fn new(
        spec: &Arc<PolicySpec>,
        first_rule: RuleId,
        symbols: &SymbolTable,
        selectors: &mut SelectorCache,
        port_sets: &mut Shared<PortSet>,
        nodes: &NodePeers,
        fresh: &mut Vec<SelectorId>,
    ) -> Self {
        let mut acquire = |namespaces: &NamespaceMatch, pods: &Selector, action| {
            let (id, new) = selectors.acquire(symbols, namespaces, pods, action);
            fresh.extend(new.then_some(id));
            id
        };
        let subject = acquire(&spec.subject.namespaces, &spec.subject.pods, Action::Accept);
        let mut select = |rule: &RuleSpec, action| -> Box<[SelectorId]> {
            let peers = rule.peers.iter().flatten();
            let selected = peers.filter_map(|peer| match peer {
                Peer::Pods { namespaces, pods } => Some(acquire(namespaces, pods, action)),
                Peer::Block(_) | Peer::Nodes(_) | Peer::Nothing => None,
            });
            selected.collect()
        };
        let mut compile = |first: usize, rules: &[RuleSpec]| -> Box<[CompiledRule]> {
            let mut compiled = Vec::with_capacity(rules.len());
            for (index, rule) in (number_of(first)..).zip(rules) {
                let ports = port_sets.share(port_set(symbols, rule.ports.as_deref()));
                compiled.push(CompiledRule {
                    index,
                    action: rule.action,
                    every_peer: rule.peers.is_none(),
                    pods: rule.peers.iter().flatten().any(might_select_pods),
                    selectors: select(rule, rule.action),
                    blocks: blocks(rule, nodes),
                    ports: Arc::clone(&ports),
                });
                let beside: &[Action] =
                    if rule.action == Action::Pass { &[Action::Deny, Action::Accept] } else { &[] };
                compiled.extend(beside.iter().map(|action| CompiledRule {
                    index,
                    action: *action,
                    every_peer: false,
                    pods: false,
                    selectors: select(rule, *action),
                    blocks: if *action == Action::Deny { unknown_nodes(rule, nodes) } else { Box::from([]) },
                    ports: Arc::clone(&ports),
                }));
            }
            compiled.into()
        };
        let (ingress, egress) = (compile(0, &spec.ingress), compile(spec.ingress.len(), &spec.egress));
        let name = Arc::new(spec.name.clone());
        Self { name, spec: Arc::clone(spec), first_rule, subject, ingress, egress }
    }

    /// Releases the policy's selectors.
    pub(crate) fn release(&self, selectors: &mut SelectorCache) {
        selectors.release(self.subject);
        for rule in self.ingress.iter().chain(&self.egress) {
            rule.selectors.iter().for_each(|selector| selectors.release(*selector));
        }
    }

    /// The number of rules.
    pub(crate) fn len(&self) -> usize {
        self.spec.ingress.len() + self.spec.egress.len()
    }

    /// Whether it isolates its pods. Only NetworkPolicies isolate (semantics 8).
    fn isolates(&self, direction: Direction) -> bool {
        self.spec.tier == Tier::NetworkPolicy
            && match direction {
                Direction::Ingress => self.spec.isolates_ingress,
                Direction::Egress => self.spec.isolates_egress,
            }
    }

    /// The rules that apply in `direction`, with their ids. A NetworkPolicy has none in a direction that its
    /// `policyTypes` do not list (semantics 1).
    fn rules(&self, direction: Direction) -> impl Iterator<Item = (RuleId, &CompiledRule)> {
        let rules = match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        };
        let counts = self.spec.tier != Tier::NetworkPolicy || self.isolates(direction);
        rules.iter().filter(move |_| counts).map(|rule| (self.first_rule.at(rule.index), rule))
    }

    /// The sort key of the order of evaluation.
    pub(crate) fn order(&self) -> (Tier, u16, &PolicyName) {
        let priority = if self.spec.tier == Tier::NetworkPolicy { 0 } else { self.spec.priority };
        (self.spec.tier, priority, &self.name)
    }
}

impl<'a> Applied<'a> {
    /// Whether it isolates the pods. A policy that might apply isolates in the strict view, but not in the
    /// permissive view.
    pub(crate) fn isolates(&self, direction: Direction) -> bool {
        self.view != View::Permissive && self.policy.isolates(direction)
    }

    /// The rules that apply in `direction`, with their ids and effective actions.
    pub(crate) fn rules(
        &self,
        direction: Direction,
    ) -> impl Iterator<Item = (RuleId, Action, &'a CompiledRule)> + use<'a> {
        let view = self.view;
        self.policy
            .rules(direction)
            .filter_map(move |(id, rule)| Some((id, viewed(rule.action, view)?, rule)))
    }
}

/// The effective action of a rule of a policy that might apply; `None` if the rule is ignored (semantics 37).
/// A Pass counts as Deny in the strict view, and as Accept in the permissive view.
fn viewed(action: Action, view: View) -> Option<Action> {
    match (view, action) {
        (View::Known, action) => Some(action),
        (View::Strict, Action::Accept) | (View::Permissive, Action::Deny) => None,
        (View::Strict, Action::Deny | Action::Pass) => Some(Action::Deny),
        (View::Permissive, Action::Accept | Action::Pass) => Some(Action::Accept),
    }
}

fn might_select_pods(peer: &Peer) -> bool {
    match peer {
        Peer::Pods { namespaces, pods } => {
            *pods != Selector::Nothing && *namespaces != NamespaceMatch::Labels(Selector::Nothing)
        }
        Peer::Block(_) | Peer::Nodes(_) | Peer::Nothing => false,
    }
}

/// The blocks of addresses that a rule matches.
fn blocks(rule: &RuleSpec, nodes: &NodePeers) -> Box<[IpBlock]> {
    let mut blocks = Vec::new();
    for peer in rule.peers.iter().flatten() {
        match peer {
            Peer::Block(block) => blocks.extend(ip_blocks::normalise(block)),
            Peer::Nodes(selector) => {
                let selected = nodes.of(selector);
                blocks.extend(selected.certain.iter().copied().map(only));
                // A rule that denies matches a node that it might match (semantics 56).
                if rule.action == Action::Deny {
                    blocks.extend(selected.unknown.iter().copied().map(only));
                }
            }
            Peer::Pods { .. } | Peer::Nothing => {}
        }
    }
    blocks.into()
}

/// The addresses of the nodes that a rule might match, because their labels are unknown.
fn unknown_nodes(rule: &RuleSpec, nodes: &NodePeers) -> Box<[IpBlock]> {
    let unknown = rule.peers.iter().flatten().filter_map(|peer| match peer {
        Peer::Nodes(selector) => Some(&nodes.of(selector).unknown),
        Peer::Pods { .. } | Peer::Block(_) | Peer::Nothing => None,
    });
    unknown.flatten().copied().map(only).collect()
}

/// The block of one address.
fn only(address: IpAddr) -> IpBlock {
    IpBlock { cidr: address.into(), except: Prefixes::default() }
}

fn port_set(symbols: &SymbolTable, ports: Option<&[PortMatch]>) -> PortSet {
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
                names.extend(symbols.port(name).map(|name| PortAlias { name, protocol: *protocol }));
            }
        }
    }
    PortSet { ranges: ranges.into(), names: names.into() }
}
