//! The ports of a rule, the named ports of a pod, and the destination of a packet, which they are matched
//! with.

use std::sync::Arc;

use crate::packet::Protocol;

/// The index of a rule in the order of its tier, below 2^32 - 1; or [`NO_RULE`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct RuleIndex(pub(crate) u32);

/// No rule. Greater than every index, so that `min` returns the first of two rules.
pub(crate) const NO_RULE: RuleIndex = RuleIndex(u32::MAX);

impl RuleIndex {
    /// Its position in the rules of the tier. [`NO_RULE`] is past their end.
    #[inline(always)]
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// The index of a rule's port set, among the distinct port sets of a ruleset.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct SetIndex(pub(crate) u32);

impl SetIndex {
    /// Its position in the list of port sets.
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// The symbol of a port name that some policy refers to: numbered from 0. Valid until the next full rebuild.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct PortSymbol(pub(crate) u32);

/// A named port of a pod that some policy refers to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct ResolvedPort {
    /// Its protocol: the same name can have a different number for another protocol (semantics 18).
    pub protocol: Protocol,
    /// Its number.
    pub number: u16,
    /// Its name.
    pub name: PortSymbol,
}

/// The named ports of a pod; `None` if policies refer to none of them.
pub(crate) type ResolvedPorts = Option<Arc<Vec<ResolvedPort>>>;

/// A packet's destination, as `ports` of rules see it.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub protocol: Protocol,
    pub port: Option<u16>,
    /// The named ports of the destination pod (semantics 17); `None` if it is no pod, or policies refer to
    /// none of them.
    pub names: Option<&'a Vec<ResolvedPort>>,
}

/// The `ports` of a rule.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct PortSet {
    pub ranges: Box<[PortRange]>,
    pub names: Box<[PortAlias]>,
}

/// Numbered ports of one protocol, or of every protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct PortRange {
    /// `None` matches every protocol.
    pub protocol: Option<Protocol>,
    pub first: u16,
    pub last: u16,
    /// Whether packets that carry no port match too (semantics 15, 25, 27).
    pub portless: bool,
}

/// A port by name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct PortAlias {
    pub name: PortSymbol,
    /// `None` matches every protocol for which the pod has the name.
    pub protocol: Option<Protocol>,
}

impl PortSet {
    /// A rule without `ports`: every protocol, with or without ports.
    pub(crate) fn everything() -> Self {
        let all = PortRange { protocol: None, first: 0, last: u16::MAX, portless: true };
        Self { ranges: Box::from([all]), names: Box::from([]) }
    }
}
