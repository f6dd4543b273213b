//! One object as the API server sends it: of the many fields of each only those that matter are ever held, and those only until the
//! object is converted.

use std::marker::PhantomData;
use std::sync::Arc;

use policy::{Change, PolicySpec};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::convert::{Converted, Kind, Twice, Unusable, convert};
use crate::interner::Interner;
use crate::manifest::RawObject;

/// The fields of an object of the API type `T`, as far as they matter. Small values take up to 60 times as much memory as text.
#[derive(Debug)]
pub(super) struct Slim<T> {
    fields: Value,
    /// Fields that are written more than once: none, as long as an API server has written the object.
    twice: Vec<Twice>,
    of: PhantomData<fn() -> T>,
}

impl<T> Slim<T> {
    /// The object, converted.
    pub fn object(&self, kind: Kind, interner: &Interner) -> Object {
        Object::of(kind, &self.fields, &self.twice, interner)
    }
}

/// An object, as the engine understands it.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Object {
    pub identity: Identity,
    /// Whether it is a pod that has ended.
    pub is_finished: bool,
    pub converted: Result<Converted, Unusable>,
}

/// Which object, and which version of it. Texts that are not known are empty.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Identity {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub resource_version: String,
}

impl Object {
    /// The object with these fields, converted.
    pub fn of(kind: Kind, fields: &Value, twice: &[Twice], interner: &Interner) -> Self {
        let phase = fields.get("status").and_then(|status| status.get("phase")?.as_str());
        Self {
            identity: Identity::of(fields),
            is_finished: matches!(phase, Some("Succeeded" | "Failed")),
            converted: convert(kind, fields, twice, interner),
        }
    }
}

impl Identity {
    /// That of the object with these fields.
    pub fn of(fields: &Value) -> Self {
        let text = |name: &str| {
            let text = fields.get("metadata").and_then(|metadata| metadata.get(name)?.as_str());
            text.unwrap_or_default().to_owned()
        };
        Self {
            namespace: text("namespace"),
            name: text("name"),
            uid: text("uid"),
            resource_version: text("resourceVersion"),
        }
    }

    /// The identity of the object in this text. Other fields are skipped: some 2 ms for 1.5 MB. Fails if the
    /// text is no object with `metadata`.
    pub fn skim(text: &str) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Envelope {
            metadata: Identity,
        }
        serde_json::from_str(text).map(|Envelope { metadata }| metadata)
    }
}

/// What is read at once of an object with a large text.
#[derive(Debug)]
pub(super) enum Outline {
    /// What matters of it is small: the object.
    Small(Object),
    /// It is read later. Until then this isolates the pods that it selects, if it is a policy.
    Large { identity: Identity, isolation: Option<Arc<PolicySpec>> },
}

impl Outline {
    /// The most bytes of the fields that matter which are read at once.
    const MOST: usize = 64 << 10;

    /// That of the object of this kind in the text. Passes over other fields: some 2 ms for 1.5 MB. Fails if the text is no object
    /// with `metadata`.
    pub fn of(kind: Kind, text: &str, interner: &Interner) -> Result<Self, serde_json::Error> {
        let identity = Identity::skim(text)?;
        let read = RawObject::outline(kind, Self::MOST, &mut serde_json::Deserializer::from_str(text));
        Ok(match (kind, read) {
            (Kind::NetworkPolicy, read) => {
                let read = read.ok().and_then(|read| isolation(&read.fields, &read.twice, interner));
                let isolation = read.or_else(|| isolation(&isolates_all(&identity), &[], interner));
                Self::Large { identity, isolation }
            }
            (_, Ok(RawObject { fields, twice, .. })) => {
                Self::Small(Object::of(kind, &fields, &twice, interner))
            }
            (_, Err(_)) => Self::Large { identity, isolation: None },
        })
    }
}

/// The policy of which these are the fields but for its rules.
fn isolation(fields: &Value, twice: &[Twice], interner: &Interner) -> Option<Arc<PolicySpec>> {
    match convert(Kind::NetworkPolicy, fields, twice, interner).ok()?.change {
        // That there are rules for egress matters, and each reads as one that allows everything.
        Change::Policy(policy) => Some(Arc::new(PolicySpec {
            ingress: Vec::new(),
            egress: Vec::new(),
            ..PolicySpec::clone(&policy)
        })),
        _ => None,
    }
}

/// The fields of a policy that isolates every pod of its namespace.
fn isolates_all(Identity { namespace, name, .. }: &Identity) -> Value {
    let spec = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec})
}

impl<'de, T: kube::Resource<DynamicType = ()>> Deserialize<'de> for Slim<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let kind = Kind::named(&T::kind(&())).ok_or_else(|| serde::de::Error::custom("no kind of ours"))?;
        let RawObject { fields, twice, .. } = RawObject::of_kind(kind, deserializer)?;
        Ok(Self { fields, twice, of: PhantomData })
    }
}

/// A line of a watch. The client's own type reads its object at once, however large it is.
#[derive(Debug, Deserialize)]
pub(super) struct WatchLine<'a> {
    #[serde(rename = "type")]
    pub what: EventType,
    /// An object; of [`EventType::Error`] a `Status`.
    #[serde(borrow)]
    pub object: &'a RawValue,
}

/// What happened to the object of a watch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum EventType {
    Added,
    Modified,
    Deleted,
    /// Nothing: the watch is at this version.
    Bookmark,
    /// The watch failed.
    Error,
}

/// The objects of a page of a list.
///
/// The client's own type of lists holds every field of every object at once before it looks at any.
#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "T: kube::Resource<DynamicType = ()>"))]
pub(super) struct Page<T> {
    /// `null` where there are none.
    items: Option<Vec<Slim<T>>>,
}

impl<T: kube::Resource<DynamicType = ()>> Page<T> {
    /// The objects of the page that this text holds, converted.
    pub fn objects(page: &str, kind: Kind, interner: &Interner) -> Result<Vec<Object>, serde_json::Error> {
        let page: Self = serde_json::from_str(page)?;
        Ok(page.items.into_iter().flatten().map(|slim| slim.object(kind, interner)).collect())
    }
}

/// The `metadata` of a page.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PageMetadata {
    /// The version at which the whole list was read.
    pub resource_version: Option<String>,
    /// Leads to the next page; absent or empty on the last one.
    #[serde(rename = "continue")]
    next: Option<String>,
}

impl PageMetadata {
    /// Those of the page that this text holds. Its objects are passed over.
    pub fn of(page: &str) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Envelope {
            metadata: PageMetadata,
        }
        serde_json::from_str(page).map(|Envelope { metadata }| metadata)
    }

    /// What leads to the next page; `None` on the last one.
    pub fn next(&self) -> Option<&str> {
        self.next.as_deref().filter(|next| !next.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use k8s_openapi::api::networking::v1::NetworkPolicy;

    #[test]
    fn elements_of_a_list_need_no_kind_and_keep_what_matters() {
        let page = json!({
            "kind": "PodList", "apiVersion": "v1",
            "metadata": {"resourceVersion": "7", "continue": "next", "remainingItemCount": 1},
            "items": [{
                "metadata": {"name": "a", "namespace": "web", "uid": "u", "resourceVersion": "5", "managedFields": [{"manager": "m"}],
                             "annotations": {"large": "text"}},
                "spec": {"nodeName": "n", "containers": [{"image": "i", "env": [{"name": "e"}], "ports": [{"containerPort": 80}]}]},
                "status": {"podIPs": [{"ip": "10.0.0.1"}], "conditions": [{"type": "Ready"}]},
            }],
        });
        let metadata = PageMetadata::of(&page.to_string()).expect("metadata");
        assert_eq!((metadata.resource_version.as_deref(), metadata.next()), (Some("7"), Some("next")));
        let page: Page<Pod> = serde_json::from_value(page).expect("a page");
        let fields = &page.items.expect("items")[0].fields;
        let [namespace, name, uid, resource_version] = ["web", "a", "u", "5"].map(str::to_owned);
        assert_eq!(Identity::of(fields), Identity { namespace, name, uid, resource_version });
        assert_eq!(
            *fields,
            json!({
                "metadata": {"name": "a", "namespace": "web", "uid": "u", "resourceVersion": "5"},
                "spec": {"nodeName": "n", "containers": [{"ports": [{"containerPort": 80}]}]},
                "status": {"podIPs": [{"ip": "10.0.0.1"}]},
            })
        );
        for next in [json!({"resourceVersion": "7"}), json!({"resourceVersion": "7", "continue": ""})] {
            let last = json!({"metadata": next, "items": null});
            assert_eq!(PageMetadata::of(&last.to_string()).expect("metadata").next(), None);
            assert!(serde_json::from_value::<Page<Pod>>(last).expect("a page").items.is_none());
        }
    }

    #[test]
    fn a_field_that_is_written_twice_spoils_no_page() {
        let page = r#"{"items": [{"metadata": {"name": "p", "namespace": "web", "labels": {"a": "1", "a": "2"}},
            "spec": {"podSelector": {}}}, {"metadata": {"name": "q"}}]}"#;
        let items = serde_json::from_str::<Page<NetworkPolicy>>(page).expect("a page").items.expect("items");
        assert_eq!((items.len(), items[0].twice.len()), (2, 1));
        assert_eq!(items[0].fields["metadata"]["labels"], json!({"a": "2"}));
    }

    #[test]
    fn a_line_of_a_watch_holds_an_object_or_where_the_watch_is() {
        let line = r#"{"type":"MODIFIED","object":{"kind":"NetworkPolicy","apiVersion":"networking.k8s.io/v1",
            "metadata":{"name":"p","namespace":"web","resourceVersion":"9"},"spec":{"podSelector":{},"future":1}}}"#;
        let read: WatchLine<'_> = serde_json::from_str(line).expect("a line");
        assert_eq!(read.what, EventType::Modified);
        let slim: Slim<NetworkPolicy> = serde_json::from_str(read.object.get()).expect("an object");
        assert_eq!(
            slim.fields["spec"],
            json!({"podSelector": {}, "future": 1}),
            "a policy is looked at whole"
        );
        assert_eq!(Identity::skim(read.object.get()).expect("metadata"), Identity::of(&slim.fields));
        let line = r#"{"object":{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"12"}},"type":"BOOKMARK"}"#;
        let read: WatchLine<'_> = serde_json::from_str(line).expect("a line");
        assert_eq!(read.what, EventType::Bookmark);
        assert_eq!(Identity::skim(read.object.get()).expect("metadata").resource_version, "12");
    }
}
