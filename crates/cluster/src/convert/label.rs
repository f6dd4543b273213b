//! Valid keys and values of labels (apimachinery, `validation.IsQualifiedName`, `IsValidLabelValue`).
//!
//! The API server refuses others. In a folder they usually come from a pasted invisible character or a
//! template that was not rendered: a selector with such a label does not select what its author believes.

use super::field_ref::shown;
use crate::invisible::{is_invisible, named};

/// The longest label value, and the longest name part of a key, in bytes.
const LONGEST: usize = 63;
/// The longest prefix of a label's key, in bytes.
const LONGEST_PREFIX: usize = 253;

/// Why this is not a valid label key.
pub(super) fn key_fault(key: &str) -> Option<String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let good = !name.is_empty() && is_name(name) && prefix.is_none_or(is_subdomain);
    (!good).then(|| fault("not a valid label key", key))
}

/// Why this is not a valid label value.
pub(super) fn value_fault(value: &str) -> Option<String> {
    (!is_name(value)).then(|| fault("not a valid label value", value))
}

/// Why this is not a valid namespace name (RFC 1123 label).
pub(super) fn namespace_fault(name: &str) -> Option<String> {
    let good = name.len() <= LONGEST && is_label(name);
    (!good).then(|| fault("not a valid namespace name", name))
}

fn fault(what: &str, text: &str) -> String {
    let shown = shown(&text.into());
    let why = match text.chars().find(|c| is_invisible(*c)) {
        Some(hidden) => format!(": it contains the invisible character {}, remove it", named(hidden)),
        None if text.contains("{{") => ": this is a template, render it first".into(),
        None => String::new(),
    };
    format!("{shown} is {what}{why}")
}

/// At most 63 letters, digits, `-`, `_` and `.`, beginning and ending with a letter or digit; or empty.
fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    bytes.len() <= LONGEST
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
        && ends.iter().flatten().all(|byte| byte.is_ascii_alphanumeric())
}

/// RFC 1123 labels separated by dots.
fn is_subdomain(text: &str) -> bool {
    text.len() <= LONGEST_PREFIX && text.split('.').all(is_label)
}

/// Lower-case letters, digits and `-`, neither beginning nor ending with `-`.
fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_those_that_the_api_server_accepts() {
        let long = "a".repeat(LONGEST + 1);
        for key in ["app", "a.b_C-d", "kubernetes.io/metadata.name", "x/y", &long[1..]] {
            assert_eq!(key_fault(key), None);
        }
        for key in ["", "/a", "a/", "a/b/c", "-a", "a-", "A.example/b", "a b", "app\u{200b}", "größe", &long]
        {
            assert!(key_fault(key).is_some(), "{key}");
        }
        for value in ["", "a", "1.10", "A_b-c.d", &long[1..]] {
            assert_eq!(value_fault(value), None);
        }
        for value in ["-a", "a.", "a/b", " a", "prod\u{200b}", "{{ .x }}", &long] {
            assert!(value_fault(value).is_some(), "{value}");
        }
        for name in ["Web", "web.a", "", "-a", "web\u{a0}", &long] {
            assert!(namespace_fault(name).is_some(), "{name}");
        }
        assert_eq!(namespace_fault("kube-system"), None);
    }

    #[test]
    fn the_cause_of_an_invalid_label_is_visible() {
        assert_eq!(
            value_fault("prod\u{200b}").expect("a fault"),
            "\"prod<U+200B zero-width space>\" is not a valid label value: it contains the invisible character \
             <U+200B zero-width space>, remove it"
        );
        assert!(value_fault("{{ .Values.env }}").expect("a fault").contains("a template"));
    }
}
