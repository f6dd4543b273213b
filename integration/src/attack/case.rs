//! One attempt: the sender, where the packet must not arrive, and what the audit log must contain.

use std::net::IpAddr;

use super::message::Path;
use crate::probe::Family;

/// What the audit log must contain about an attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Evidence {
    /// A line about packets that were dropped for this reason; `a|b` means either.
    Drop(&'static str),
    /// [`Evidence::Drop`] if pods share a bridge. Otherwise the kernel itself does not deliver such frames.
    DropOnBridge(&'static str),
    /// A record of a denied connection from the first address to the second.
    Record(IpAddr, IpAddr),
    /// Nothing.
    None,
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Case {
    /// A short description of the attempt.
    pub name: String,
    /// The address family, if the attempt is made in both.
    pub family: Option<Family>,
    /// The sending pod, or the host outside.
    pub from: String,
    /// The node whose audit log must have the evidence; the node of `from` by default.
    pub seen_by: Option<String>,
    /// Pods, nodes, or the host outside, where it must not arrive.
    pub must_miss: Vec<String>,
    /// Pods, nodes, or the host outside, where it must arrive because policy allows that.
    pub must_reach: Vec<String>,
    /// What the audit log must contain.
    pub evidence: Evidence,
}

impl Case {
    /// An attempt of `from` to reach `to`, where it must not arrive.
    pub fn new(name: impl Into<String>, from: &str, to: &str) -> Self {
        Self {
            name: name.into(),
            family: None,
            from: from.to_owned(),
            seen_by: None,
            must_miss: vec![to.to_owned()],
            must_reach: Vec::new(),
            evidence: Evidence::None,
        }
    }

    /// Sets the address family.
    #[must_use]
    pub fn family(mut self, family: Family) -> Self {
        self.family = Some(family);
        self
    }

    /// Adds a place where it must not arrive.
    #[must_use]
    pub fn nor(mut self, to: &str) -> Self {
        self.must_miss.push(to.to_owned());
        self
    }

    /// It must be dropped for this reason (`a|b` means either) at the port where it enters.
    #[must_use]
    pub fn dropped(mut self, reason: &'static str) -> Self {
        self.evidence = Evidence::Drop(reason);
        self
    }

    /// [`Case::dropped`] if pods share a bridge.
    #[must_use]
    pub fn dropped_on_bridge(mut self, reason: &'static str) -> Self {
        self.evidence = Evidence::DropOnBridge(reason);
        self
    }

    /// The audit log must have a record of its denial by policy.
    #[must_use]
    pub fn recorded(mut self, path: Path) -> Self {
        self.evidence = Evidence::Record(path.source, path.destination);
        self
    }

    /// This node has the evidence, instead of the sender's.
    #[must_use]
    pub fn seen_by(mut self, node: &str) -> Self {
        self.seen_by = Some(node.to_owned());
        self
    }
}
