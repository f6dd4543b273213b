//! The rules, and how serious their findings are.

use std::fmt;

use serde::Serialize;

/// How serious a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It may be intended, or the folder may lack what it is about.
    Note,
    /// It is probably not what its author intends.
    Warning,
    /// It can't be what its author intends.
    Error,
}

impl Severity {
    /// `note`, `warning` or `error`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// The rules. Their names are stable.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Rule {
    /// A part of an object, or a whole file, can't be understood.
    NotUnderstood,
    /// A policy names the port of a Service instead of the port of its pods.
    ServicePort,
    /// A selector matches no workload.
    SelectorMatchesNothing,
    /// No container that a rule is about declares one of its ports.
    PortNotDeclared,
    /// A rule allows nothing that another does not allow.
    RedundantRule,
    /// A workload is isolated for egress, and no rule allows DNS.
    EgressWithoutDns,
    /// A namespace has workloads to which every connection is allowed.
    NamespaceNotIsolated,
    /// An `ipBlock` selects pods by their addresses.
    BlockOfPods,
    /// No file describes a namespace, so its labels are unknown.
    NamespaceNotDescribed,
    /// The folder has no workloads, so most rules can't be checked.
    NoWorkloads,
}

impl Rule {
    /// All rules, the most serious first.
    pub const ALL: [Self; 10] = [
        Self::NotUnderstood,
        Self::ServicePort,
        Self::SelectorMatchesNothing,
        Self::PortNotDeclared,
        Self::EgressWithoutDns,
        Self::NamespaceNotIsolated,
        Self::BlockOfPods,
        Self::RedundantRule,
        Self::NamespaceNotDescribed,
        Self::NoWorkloads,
    ];

    /// The stable id.
    pub fn id(self) -> &'static str {
        match self {
            Self::NotUnderstood => "not-understood",
            Self::ServicePort => "service-port",
            Self::SelectorMatchesNothing => "selector-matches-nothing",
            Self::PortNotDeclared => "port-not-declared",
            Self::RedundantRule => "redundant-rule",
            Self::EgressWithoutDns => "egress-without-dns",
            Self::NamespaceNotIsolated => "namespace-not-isolated",
            Self::BlockOfPods => "block-of-pods",
            Self::NamespaceNotDescribed => "namespace-not-described",
            Self::NoWorkloads => "no-workloads",
        }
    }

    /// What it finds, in one sentence.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::NotUnderstood => "A part of an object, or a whole file, can't be understood.",
            Self::ServicePort => "A policy names the port of a Service instead of the port of its pods.",
            Self::SelectorMatchesNothing => "A selector matches no workload of the folder.",
            Self::PortNotDeclared => "No container that a rule is about declares the rule's port.",
            Self::RedundantRule => "A rule allows nothing that another rule does not allow.",
            Self::EgressWithoutDns => "A workload is isolated for egress, and no rule allows DNS.",
            Self::NamespaceNotIsolated => "A namespace has workloads that every connection reaches.",
            Self::BlockOfPods => "An ipBlock selects pods by their addresses, which change.",
            Self::NamespaceNotDescribed => "No file describes a namespace, so its labels are unknown.",
            Self::NoWorkloads => "The folder has no workloads, so selectors and ports are not checked.",
        }
    }

    /// The rule with this id.
    pub fn named(id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.id() == id)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.id())
    }
}

impl Serialize for Rule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id())
    }
}
