//! One attempt: who sends what, where it must not arrive, and what the audit log must say of it.

use std::net::IpAddr;

use super::message::Path;
use crate::probe::Family;

/// What the audit log must say of an attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Evidence {
    /// A line about packets that were dropped for this reason; `a|b` is either.
    Drop(&'static str),
    /// [`Evidence::Drop`] where pods share a bridge. Elsewhere the kernel itself delivers no such frame.
    DropOnBridge(&'static str),
    /// A record of a connection that was denied, along this path.
    Record(IpAddr, IpAddr),
    /// Nothing.
    None,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is tried, in a few words.
    pub name: String,
    /// In which family, where it is tried in both.
    pub family: Option<Family>,
    /// The pod that sends, or the host outside.
    pub from: String,
    /// The node whose audit log must have the evidence, if not that of `from`.
    pub seen_by: Option<String>,
    /// Where it must not arrive: pods, nodes, or the host outside.
    pub must_miss: Vec<String>,
    /// Where it must arrive, because policy allows that.
    pub must_reach: Vec<String>,
    /// What the audit log must say.
    pub evidence: Evidence,
}

impl Case {
    /// `from` tries to reach `to`, and must not.
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

    /// It is tried in this family.
    #[must_use]
    pub fn family(mut self, family: Family) -> Self {
        self.family = Some(family);
        self
    }

    /// It must not arrive there either.
    #[must_use]
    pub fn nor(mut self, to: &str) -> Self {
        self.must_miss.push(to.to_owned());
        self
    }

    /// It must be dropped for a reason (`a|b` is either), at the port where it enters.
    #[must_use]
    pub fn dropped(mut self, reason: &'static str) -> Self {
        self.evidence = Evidence::Drop(reason);
        self
    }

    /// [`Case::dropped`], where pods share a bridge.
    #[must_use]
    pub fn dropped_on_bridge(mut self, reason: &'static str) -> Self {
        self.evidence = Evidence::DropOnBridge(reason);
        self
    }

    /// It must be denied by policy.
    #[must_use]
    pub fn recorded(mut self, path: Path) -> Self {
        self.evidence = Evidence::Record(path.source, path.destination);
        self
    }

    /// Another node than the sender's has the evidence.
    #[must_use]
    pub fn seen_by(mut self, node: &str) -> Self {
        self.seen_by = Some(node.to_owned());
        self
    }
}
