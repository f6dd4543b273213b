//! The serialized forms of other crates' types in a line. Deserializing returns the same values.

use std::borrow::Cow;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use policy::{Direction, Verdict, explanation::Miss};
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

/// The workload that controls a pod.
#[derive(Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Workload"))]
pub(super) struct WorkloadForm {
    /// Its kind, such as `Deployment`.
    kind: Arc<str>,
    /// Its name.
    name: Arc<str>,
}

/// RFC 3339 in UTC, always with nine fractional digits, so that lines sort as text.
pub(super) mod time {
    use jiff::Timestamp;
    use serde::de::Error;

    use super::{Cow, Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{time:.9}"))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// As [`time`], or absent.
pub(super) mod optional_time {
    use jiff::Timestamp;

    use super::{Deserializer, Serializer, time};

    pub(crate) fn serialize<S: Serializer>(
        time: &Option<Timestamp>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => time::serialize(time, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Timestamp>, D::Error> {
        super::optional_text::deserialize(deserializer)
    }
}

/// A generation as a number.
pub(super) mod generation {
    use policy::Generation;

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

/// A value as the text that it shows and parses.
pub(super) mod text {
    use serde::de::Error;

    use super::{Cow, Deserialize, Deserializer, Display, FromStr, Serializer};

    pub(crate) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(crate) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A value as the text that it shows and parses, or absent.
pub(super) mod optional_text {
    use serde::de::Error;

    use super::{Cow, Deserialize, Deserializer, Display, FromStr, Serializer};

    pub(crate) fn serialize<T: Display, S: Serializer>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<T>, D::Error> {
        let text = Option::<Cow<'de, str>>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// A workload, or absent.
pub(super) mod optional_workload {
    use policy::Workload;

    use super::{Arc, Deserialize, Deserializer, Serialize, Serializer, WorkloadForm};

    pub(crate) fn serialize<S: Serializer>(
        workload: &Option<Arc<Workload>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let form = |workload: &Workload| {
            let Workload { kind, name } = workload.clone();
            WorkloadForm { kind, name }
        };
        workload.as_deref().map(form).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Arc<Workload>>, D::Error> {
        let form = Option::<WorkloadForm>::deserialize(deserializer)?;
        Ok(form.map(|WorkloadForm { kind, name }| Arc::new(Workload { kind, name })))
    }
}

/// Labels as an object; absent if they are unknown.
pub(super) mod labels {
    use std::collections::BTreeMap;

    use policy::Labels;

    use super::{Arc, Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(labels: &Labels, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(labels.iter())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Labels, D::Error> {
        let labels = BTreeMap::<Arc<str>, Arc<str>>::deserialize(deserializer)?;
        Ok(labels.into_iter().collect())
    }
}
