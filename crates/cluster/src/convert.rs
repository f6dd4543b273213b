//! Converts Kubernetes objects, in the form of their API, to the types of the policy engine.
//!
//! From: any source, as an object's fields ([`serde_json::Value`]). To: a [`policy::Change`]. One resource
//! kind per file.
//!
//! Objects may come from a file that no API server ever validated, or from an API server that is newer than
//! this program. So everything is examined in its raw form, and the rule is semantics 28: **what can't be
//! understood never widens what is allowed**. A peer, port or rule with an unknown part matches nothing. A
//! policy with more unknown parts isolates its pods and allows nothing. If the labels of a pod or namespace
//! can't be read, they are unknown (semantics 37), so the object does not escape any policy. Each of these is
//! reported with its field and its effect.
//!
//! A rule of a cluster-wide policy can deny, so there matching nothing would widen access: such a rule denies
//! everything instead (semantics 59).
//!
//! A policy leaves its pods open only if the pods can't be determined: it has no namespace, or its kind or
//! version is not supported. The problem then says that pods may be open.

mod admin_network_policy;
mod baseline_admin_network_policy;
mod cluster_network_policy;
mod cluster_wide;
mod duplicate;
mod field_path;
mod field_ref;
mod flaw;
mod flaws;
mod kind;
mod label;
mod metadata;
mod namespace;
mod network_policy;
mod node;
mod peer;
mod pod;
mod port;
mod recognition;
mod selector;
#[cfg(test)]
mod tests;
mod unusable;
mod workload;

use std::sync::Arc;

use policy::Change;
use serde_json::Value;

pub use self::duplicate::Duplicate;
pub use self::field_path::{FieldPath, Step};
pub use self::flaw::Flaw;
pub use self::kind::Kind;
pub(crate) use self::metadata::is_miswritten;
pub(crate) use self::node::{PUBLIC_ADDRESSES, is_miswritten_range};
pub use self::recognition::Recognition;
pub use self::unusable::Unusable;

use self::field_ref::FieldRef;
use self::flaws::Flaws;
use crate::interner::Interner;

/// Converts one object whose `apiVersion` and `kind` were recognised already: see [`Kind::of`]. `duplicates`
/// names the fields that occur more than once in their mapping; `object` has the last of each.
pub fn convert(
    kind: Kind,
    object: &Value,
    duplicates: &[Duplicate],
    interner: &Interner,
) -> Result<Converted, Unusable> {
    let mut flaws = Flaws::with(duplicates);
    let object = FieldRef::root(object);
    let cluster_wide = |dialect, flaws: &mut Flaws| {
        Change::Policy(Arc::new(cluster_wide::policy(&object, dialect, interner, flaws)))
    };
    let change = match kind {
        Kind::Namespace => Change::Namespace(namespace::namespace(&object, interner, &mut flaws)?),
        Kind::Pod => Change::Pod(pod::pod(&object, interner, &mut flaws)?),
        Kind::Node => Change::Node(node::node(&object, interner, &mut flaws)?),
        Kind::NetworkPolicy => {
            Change::Policy(Arc::new(network_policy::network_policy(&object, interner, &mut flaws)?))
        }
        Kind::ClusterNetworkPolicy => cluster_wide(cluster_network_policy::DIALECT, &mut flaws),
        Kind::AdminNetworkPolicy => cluster_wide(admin_network_policy::DIALECT, &mut flaws),
        Kind::BaselineAdminNetworkPolicy => cluster_wide(baseline_admin_network_policy::DIALECT, &mut flaws),
    };
    Ok(Converted { change, flaws: flaws.all() })
}

/// Converts what was read of a policy before its text broke off. A NetworkPolicy isolates the pods that it
/// selects, in both directions unless `policyTypes` was read, and allows nothing. A cluster-wide policy
/// denies everything to the pods that it selects. `None` if it is unknown which pods those are, or if the
/// kind is not a policy.
pub(crate) fn cut_off(
    kind: Kind,
    object: &Value,
    duplicates: &[Duplicate],
    interner: &Interner,
) -> Option<Change> {
    let flaws = Flaws::with(duplicates);
    let dialect = match kind {
        Kind::Namespace | Kind::Pod | Kind::Node => return None,
        Kind::NetworkPolicy => None,
        Kind::ClusterNetworkPolicy => Some(cluster_network_policy::DIALECT),
        Kind::AdminNetworkPolicy => Some(admin_network_policy::DIALECT),
        Kind::BaselineAdminNetworkPolicy => Some(baseline_admin_network_policy::DIALECT),
    };
    let policy = match dialect {
        None => network_policy::cut_off(object, flaws, interner),
        Some(dialect) => cluster_wide::cut_off(object, dialect, flaws, interner),
    };
    policy.map(|policy| Change::Policy(Arc::new(policy)))
}

/// A converted object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Converted {
    /// The object, as a change that adds it.
    pub change: Change,
    /// Its parts that were not understood, in the order of the object.
    pub flaws: Vec<Flaw>,
}
