//! What a label's key and value may be (apimachinery, `validation.IsQualifiedName`, `IsValidLabelValue`).
//!
//! The API server refuses others. In a folder they are most often a pasted invisible character, or a template that was not
//! rendered: a selector with such a label selects something else than its author believes.

use crate::invisible::{is_invisible, named};

/// The longest value of a label, and the longest name in its key, in bytes.
const LONGEST: usize = 63;
/// The longest prefix of a key, in bytes.
const LONGEST_PREFIX: usize = 253;

/// Why this is no key of a label.
pub(super) fn key_fault(key: &str) -> Option<String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let good = !name.is_empty() && is_name(name) && prefix.is_none_or(is_subdomain);
    (!good).then(|| fault("no label's key", key))
}

/// Why this is no value of a label.
pub(super) fn value_fault(value: &str) -> Option<String> {
    (!is_name(value)).then(|| fault("no label's value", value))
}

/// Why this is no name of a namespace (RFC 1123 label).
pub(super) fn namespace_fault(name: &str) -> Option<String> {
    let good = name.len() <= LONGEST && is_label(name);
    (!good).then(|| fault("no name of a namespace", name))
}

fn fault(what: &str, text: &str) -> String {
    let shown = super::place::shown(&text.into());
    let why = match text.chars().find(|c| is_invisible(*c)) {
        Some(hidden) => format!(": it has the invisible character {} in it, take it out", named(hidden)),
        None if text.contains("{{") => ": this is a template, render it first".into(),
        None => String::new(),
    };
    format!("{shown} is {what}{why}")
}

/// At most 63 letters, digits, `-`, `_` and `.`, the first and the last of them a letter or digit; or nothing.
fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    bytes.len() <= LONGEST
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
        && ends.iter().flatten().all(|byte| byte.is_ascii_alphanumeric())
}

/// RFC 1123 labels with dots between them.
fn is_subdomain(text: &str) -> bool {
    text.len() <= LONGEST_PREFIX && text.split('.').all(is_label)
}

/// Lower-case letters, digits and `-`, the first and the last of them no `-`.
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
    fn keys_and_values_are_those_that_the_api_server_takes() {
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
    fn what_is_wrong_with_a_label_can_be_seen() {
        assert_eq!(
            value_fault("prod\u{200b}").expect("a fault"),
            "\"prod<U+200B zero-width space>\" is no label's value: it has the invisible character <U+200B zero-width space> in \
             it, take it out"
        );
        assert!(value_fault("{{ .Values.env }}").expect("a fault").contains("a template"));
    }
}
