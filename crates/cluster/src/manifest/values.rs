//! The objects of a manifest as they are, for kinds that no source converts.
//!
//! From: bytes of a file. To: JSON values. [`read`](super::read) reports what is wrong with the same bytes,
//! so nothing is reported here.

use serde::Deserialize as _;
use serde_json::Value;

use super::documents::{self, Document};
use super::encoding;
use super::yaml::yaml_options;

/// The objects of a file that can be parsed. Lists are replaced by their items.
pub(crate) fn values(bytes: &[u8]) -> Vec<Value> {
    let mut found = Vec::new();
    let Ok(decoded) = encoding::decode(bytes) else { return found };
    for document in documents::split(&decoded.text) {
        match document.json() {
            None => found.extend(yaml(&document)),
            Some(texts) => {
                found.extend(texts.iter().filter_map(|text| match serde_json::from_str(text.text) {
                    Ok(value) => Some(value),
                    Err(_) => yaml(text),
                }));
            }
        }
    }
    found.into_iter().flat_map(items).collect()
}

fn yaml(document: &Document<'_>) -> Option<Value> {
    let parse = |deserializer: serde_saphyr::Deserializer<'_, '_>| Value::deserialize(deserializer);
    serde_saphyr::with_deserializer_from_str_with_options(document.text, yaml_options(), parse).ok()
}

/// The items of a list, or else the object itself. Items of a typed list have its type.
fn items(mut object: Value) -> Vec<Value> {
    let Some(kind) = object["kind"].as_str().and_then(|kind| kind.strip_suffix("List")).map(str::to_owned)
    else {
        return vec![object];
    };
    let version = object["apiVersion"].clone();
    let Value::Array(mut items) = object["items"].take() else { return Vec::new() };
    if !kind.is_empty() {
        for item in items.iter_mut().filter_map(Value::as_object_mut) {
            item.entry("kind").or_insert_with(|| kind.clone().into());
            item.entry("apiVersion").or_insert_with(|| version.clone());
        }
    }
    items
}
