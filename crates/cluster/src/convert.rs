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
//! A policy leaves its pods open only if the pods can't be determined: it has no namespace, or its kind or
//! version is not supported. The problem then says that pods may be open.

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

use std::sync::Arc;

use policy::Change;
use serde_json::Value;

pub use self::duplicate::Duplicate;
pub use self::field_path::{FieldPath, Step};
pub use self::flaw::Flaw;
pub use self::kind::{CLUSTER_POLICY_GROUP, Kind};
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
    let change = match kind {
        Kind::Namespace => Change::Namespace(namespace::namespace(&object, interner, &mut flaws)?),
        Kind::Pod => Change::Pod(pod::pod(&object, interner, &mut flaws)?),
        Kind::Node => Change::Node(node::node(&object, interner, &mut flaws)?),
        Kind::NetworkPolicy => {
            Change::Policy(Arc::new(network_policy::network_policy(&object, interner, &mut flaws)?))
        }
    };
    Ok(Converted { change, flaws: flaws.all() })
}

/// Converts what was read of a NetworkPolicy before its text broke off. It isolates the pods that it selects,
/// in both directions unless `policyTypes` was read, and allows nothing. `None` if it is unknown which pods
/// those are.
pub(crate) fn cut_off(object: &Value, duplicates: &[Duplicate], interner: &Interner) -> Option<Change> {
    network_policy::cut_off(object, Flaws::with(duplicates), interner)
        .map(|policy| Change::Policy(Arc::new(policy)))
}

/// A converted object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Converted {
    /// The object, as a change that adds it.
    pub change: Change,
    /// Its parts that were not understood, in the order of the object.
    pub flaws: Vec<Flaw>,
}
