//! What a batch of changes makes dirty, so that it must be compiled again.
//!
//! From: [`Compiler`](crate::Compiler), which compares each change with the inventory. To:
//! [`CompiledState`](crate::compiler::compiled_state::CompiledState).

use std::collections::BTreeSet;
use std::sync::Arc;

use rustc_hash::FxHashSet;

use crate::names::PolicyName;
use crate::snapshot::address::AddressKey;

/// What to compile again.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    pub addresses: FxHashSet<AddressKey>,
    pub namespaces: BTreeSet<Arc<str>>,
    pub policies: BTreeSet<PolicyName>,
    /// Whether any node changed.
    pub nodes: bool,
    /// Whether this node's pod CIDRs changed.
    pub pod_cidrs: bool,
    /// Whether the pod CIDRs of any node changed.
    pub cluster_cidrs: bool,
}
