//! A policy in a record, with its version.

use std::sync::Arc;

use policy::{PolicyKind, PolicyName};
use serde::{Deserialize, Serialize};

use crate::policy_versions::PolicyVersion;

/// A policy, in the version that decided.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(with = "PolicyForm"))]
#[serde(from = "PolicyForm", into = "PolicyForm")]
pub struct PolicyRef {
    /// Kind, namespace and name.
    pub name: Arc<PolicyName>,
    /// The version; `None` if the source of policies has no versions, or if it is not known any more.
    pub version: Option<Arc<PolicyVersion>>,
}

/// A policy, in the version that decided.
#[derive(Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "PolicyRef"))]
struct PolicyForm {
    /// The kind of object, such as `NetworkPolicy`.
    #[cfg_attr(test, schemars(schema_with = "super::schema::policy_kind"))]
    kind: PolicyKind,
    /// Its namespace. Absent if the kind is cluster-wide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    namespace: Option<Arc<str>>,
    /// Its name.
    name: Arc<str>,
    /// `metadata.uid`. Absent if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uid: Option<Arc<str>>,
    /// `metadata.resourceVersion`. Absent if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resource_version: Option<Arc<str>>,
}

impl From<PolicyRef> for PolicyForm {
    fn from(PolicyRef { name, version }: PolicyRef) -> Self {
        let PolicyName { kind, namespace, name } = &*name;
        let PolicyVersion { uid, resource_version } = version.as_deref().cloned().unwrap_or_default();
        let namespace = Some(Arc::clone(namespace)).filter(|namespace| !namespace.is_empty());
        Self { kind: *kind, namespace, name: Arc::clone(name), uid, resource_version }
    }
}

impl From<PolicyForm> for PolicyRef {
    fn from(PolicyForm { kind, namespace, name, uid, resource_version }: PolicyForm) -> Self {
        let namespace = namespace.unwrap_or_else(|| Arc::from(""));
        let is_versioned = uid.is_some() || resource_version.is_some();
        Self {
            name: Arc::new(PolicyName { kind, namespace, name }),
            version: is_versioned.then(|| Arc::new(PolicyVersion { uid, resource_version })),
        }
    }
}
