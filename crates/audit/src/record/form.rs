//! The serialized forms of `policy`'s types in a line. Serializing does not allocate, and deserializing
//! returns the same values.

use std::sync::Arc;

// From the root: a module here is called `policy` as well.
use ::policy::{Direction, PolicyKind, PolicyName, Verdict, explanation::Miss};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `allow` or `deny`.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Verdict", rename_all = "lowercase")]
pub(super) enum VerdictForm {
    Allow,
    Deny,
}

/// `ingress` or `egress`.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Direction", rename_all = "lowercase")]
pub(super) enum DirectionForm {
    Ingress,
    Egress,
}

/// `port` or `peer`.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Miss", rename_all = "kebab-case")]
pub(super) enum MissForm {
    Port,
    Peer,
}

/// RFC 3339 in UTC, always with six fractional digits, so that lines sort as text.
pub(super) mod time {
    use std::borrow::Cow;

    use jiff::Timestamp;
    use serde::de::Error;

    use super::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{time:.6}"))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A generation as a number.
pub(super) mod generation {
    use ::policy::Generation;

    use super::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        generation: &Generation,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(generation.0)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Generation, D::Error> {
        u64::deserialize(deserializer).map(Generation)
    }
}

/// A protocol's name, or its number as text.
pub(super) mod protocol {
    use std::borrow::Cow;

    use ::policy::Protocol;
    use serde::de::Error;

    use super::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        protocol: &Option<Protocol>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match protocol {
            Some(protocol) => serializer.collect_str(protocol),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Protocol>, D::Error> {
        let text = Option::<Cow<'de, str>>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// `namespace/name`, or `name` alone for a cluster-wide policy.
pub(super) mod policy {
    use super::{Arc, Deserialize, Deserializer, PolicyName, Serializer, policy_name};

    pub(crate) fn serialize<S: Serializer>(name: &Arc<PolicyName>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(name)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<PolicyName>, D::Error> {
        String::deserialize(deserializer).map(|text| policy_name(&text))
    }
}

/// `namespace/name`, `name` alone for a cluster-wide policy, or null.
pub(super) mod policy_or_null {
    use super::{Arc, Deserialize, Deserializer, PolicyName, Serializer, policy_name};

    pub(crate) fn serialize<S: Serializer>(
        name: &Option<Arc<PolicyName>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match name {
            Some(name) => serializer.collect_str(name),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Arc<PolicyName>>, D::Error> {
        Option::<String>::deserialize(deserializer).map(|text| text.as_deref().map(policy_name))
    }
}

/// A list of policy names.
pub(super) mod policies {
    use super::{Arc, Deserialize, Deserializer, PolicyName, Serialize, Serializer, policy_name};

    pub(crate) fn serialize<S: Serializer>(
        names: &[Arc<PolicyName>],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        struct Shown<'a>(&'a PolicyName);
        impl Serialize for Shown<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self.0)
            }
        }
        serializer.collect_seq(names.iter().map(|name| Shown(name)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Arc<PolicyName>>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        Ok(texts.iter().map(|text| policy_name(text)).collect())
    }
}

/// Parses what the name's `Display` writes: only a cluster-wide policy has no namespace.
fn policy_name(text: &str) -> Arc<PolicyName> {
    Arc::new(match text.split_once('/') {
        Some((namespace, name)) => PolicyName::network_policy(namespace, name),
        None => PolicyName {
            kind: PolicyKind::ClusterNetworkPolicy,
            namespace: Arc::from(""),
            name: Arc::from(text),
        },
    })
}
