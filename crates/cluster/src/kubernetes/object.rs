//! One object as the API server sends it: of the many fields of each only those that matter are ever held.

use std::marker::PhantomData;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::convert::{Kind, Twice};
use crate::manifest::RawObject;

/// What is kept of an object of the API type `T`.
#[derive(Debug)]
pub(super) struct Slim<T> {
    pub object: Object,
    of: PhantomData<fn() -> T>,
}

impl<T> Clone for Slim<T> {
    fn clone(&self) -> Self {
        Self { object: self.object.clone(), of: PhantomData }
    }
}

/// An object's fields, as far as they matter.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct Object {
    pub fields: Value,
    /// Fields that are written more than once: none, as long as an API server has written the object.
    pub twice: Vec<Twice>,
}

impl Object {
    /// A text of `metadata`; empty where there is none.
    fn metadata(&self, name: &str) -> &str {
        let text = self.fields.get("metadata").and_then(|metadata| metadata.get(name)?.as_str());
        text.unwrap_or_default()
    }

    /// `metadata.uid`.
    pub fn uid(&self) -> &str {
        self.metadata("uid")
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        self.metadata("name")
    }

    /// `metadata.namespace`.
    pub fn namespace(&self) -> &str {
        self.metadata("namespace")
    }

    /// `status.phase` of a pod.
    pub fn phase(&self) -> &str {
        let phase = self.fields.get("status").and_then(|status| status.get("phase")?.as_str());
        phase.unwrap_or_default()
    }

    /// `metadata.resourceVersion`.
    pub fn resource_version(&self) -> &str {
        self.metadata("resourceVersion")
    }
}

impl<'de, T: kube::Resource<DynamicType = ()>> Deserialize<'de> for Slim<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let kind = Kind::named(&T::kind(&())).ok_or_else(|| serde::de::Error::custom("no kind of ours"))?;
        let RawObject { fields, twice, .. } = RawObject::of_kind(kind, deserializer)?;
        Ok(Self { object: Object { fields, twice }, of: PhantomData })
    }
}

/// The objects of a page of a list.
///
/// The client's own type of lists holds every field of every object at once before it looks at any.
#[derive(Debug, Deserialize)]
#[serde(bound(deserialize = "T: kube::Resource<DynamicType = ()>"))]
pub(super) struct Page<T> {
    /// `null` where there are none.
    pub items: Option<Vec<Slim<T>>>,
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
    use k8s_openapi::api::core::v1::Pod;
    use k8s_openapi::api::networking::v1::NetworkPolicy;
    use kube::core::WatchEvent;
    use serde_json::json;

    use super::*;

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
        let object = &page.items.expect("items")[0].object;
        assert_eq!(
            (object.uid(), object.name(), object.namespace(), object.resource_version()),
            ("u", "a", "web", "5")
        );
        assert_eq!(
            object.fields,
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
        assert_eq!((items.len(), items[0].object.twice.len()), (2, 1));
        assert_eq!(items[0].object.fields["metadata"]["labels"], json!({"a": "2"}));
    }

    #[test]
    fn a_watch_event_holds_an_object_or_where_the_watch_is() {
        let line = r#"{"type":"MODIFIED","object":{"kind":"NetworkPolicy","apiVersion":"networking.k8s.io/v1",
            "metadata":{"name":"p","namespace":"web","resourceVersion":"9"},"spec":{"podSelector":{},"future":1}}}"#;
        let WatchEvent::Modified(event) =
            serde_json::from_str::<WatchEvent<Slim<NetworkPolicy>>>(line).expect("an event")
        else {
            panic!("no change")
        };
        assert_eq!(
            event.object.fields["spec"],
            json!({"podSelector": {}, "future": 1}),
            "a policy is looked at whole"
        );
        let line = r#"{"type":"BOOKMARK","object":{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"12"}}}"#;
        let WatchEvent::Bookmark(bookmark) =
            serde_json::from_str::<WatchEvent<Slim<Pod>>>(line).expect("an event")
        else {
            panic!("no bookmark")
        };
        assert_eq!(bookmark.metadata.resource_version, "12");
    }
}
