//! Converts a `metav1.LabelSelector` to a list of requirements. ALL must hold.

use std::sync::Arc;

use policy::{Requirement, Selector};

use super::field_ref::FieldRef;
use super::flaws::Flaws;
use super::label;
use crate::interner::Interner;

/// Converts a peer's selector. If any part of it is not understood, it selects nothing (semantics 28).
pub(super) fn of_peer(
    field: &FieldRef<'_>,
    interner: &Interner,
    flaws: &mut Flaws,
    effect: &'static str,
) -> Selector {
    match understand(field, interner, flaws, effect, OnDuplicate::NotUnderstood) {
        (requirements, true) => Selector::All(requirements.into()),
        (_, false) => Selector::Nothing,
    }
}

/// What to do with a duplicate label in `matchLabels` whose values differ.
#[derive(Clone, Copy, Debug)]
pub(super) enum OnDuplicate {
    /// The selector is not understood.
    NotUnderstood,
    /// The last value counts, with this effect.
    LastWins(&'static str),
}

/// The requirements that are understood, sorted, each once; and whether the selector has nothing else.
/// Ignoring the parts that are not understood, the requirements select more pods, never fewer.
pub(super) fn understand(
    field: &FieldRef<'_>,
    interner: &Interner,
    flaws: &mut Flaws,
    effect: &'static str,
    on_duplicate: OnDuplicate,
) -> (Vec<Requirement>, bool) {
    let before = flaws.serious();
    let mut requirements = Vec::new();
    if !field.value.is_object() {
        flaws.push(field, format!("{} is not a selector", field.shown()), effect);
        return (requirements, false);
    }
    // It is unknown which of the two is meant, so neither excludes a pod.
    let ambiguous = ["matchLabels", "matchExpressions"].map(|name| flaws.differs(field, name));
    flaws.all_known(field, &["matchLabels", "matchExpressions"], effect);
    if let Some(labels) = field.field("matchLabels").filter(|_| !ambiguous[0]) {
        match_labels(&labels, interner, flaws, effect, on_duplicate, &mut requirements);
    }
    if !ambiguous[1] {
        field.each("matchExpressions", flaws, effect, |expression, flaws| {
            requirements.extend(requirement(expression, interner, flaws, effect));
        });
    }
    requirements.sort();
    requirements.dedup();
    (requirements, flaws.serious() == before)
}

/// `matchLabels`.
fn match_labels(
    labels: &FieldRef<'_>,
    interner: &Interner,
    flaws: &mut Flaws,
    effect: &'static str,
    on_duplicate: OnDuplicate,
    requirements: &mut Vec<Requirement>,
) {
    let Some(fields) = labels.value.as_object() else {
        return flaws.push(labels, format!("{} is not a mapping", labels.shown()), effect);
    };
    match on_duplicate {
        OnDuplicate::NotUnderstood => flaws.note_duplicates(labels, effect),
        OnDuplicate::LastWins(effect) => flaws.note_last_wins(labels, effect),
    }
    for (key, value) in fields {
        // The API reads null as the empty string.
        let Some(value) = (if value.is_null() { Some("") } else { value.as_str() }) else {
            flaws.push_below(labels, key, "the value is not a string: put it in quotes", effect);
            continue;
        };
        match label::key_fault(key).or_else(|| label::value_fault(value)) {
            None => requirements
                .push(Requirement::In(interner.known_text(key), Arc::from([interner.known_text(value)]))),
            Some(fault) => flaws.push_below(labels, key, fault, effect),
        }
    }
}

/// One of `matchExpressions`.
fn requirement(
    field: &FieldRef<'_>,
    interner: &Interner,
    flaws: &mut Flaws,
    effect: &'static str,
) -> Option<Requirement> {
    if !field.value.is_object() {
        flaws.push(field, format!("{} is not a requirement", field.shown()), effect);
        return None;
    }
    if !flaws.all_known(field, &["key", "operator", "values"], effect) {
        return None;
    }
    let Some(key) = field.value.get("key").and_then(|key| key.as_str()).filter(|key| !key.is_empty()) else {
        flaws.push_below(field, "key", "there is no key", effect);
        return None;
    };
    if let Some(fault) = label::key_fault(key) {
        flaws.push_below(field, "key", fault, effect);
        return None;
    }
    let values = match field.field("values") {
        None => Vec::new(),
        Some(list) => {
            for (at, text) in list.value.as_array().into_iter().flatten().enumerate() {
                if let Some(fault) = text.as_str().and_then(label::value_fault) {
                    flaws.push(&list, format!("value {at}: {fault}"), effect);
                    return None;
                }
            }
            let texts = list.value.as_array().and_then(|items| {
                items
                    .iter()
                    .map(|item| item.as_str().map(|text| interner.known_text(text)))
                    .collect::<Option<Vec<_>>>()
            });
            let Some(mut texts) = texts else {
                flaws.push(&list, "the values are not a list of strings", effect);
                return None;
            };
            texts.sort();
            texts.dedup();
            texts
        }
    };
    let operator = field.value.get("operator").and_then(|operator| operator.as_str());
    // In and NotIn need values, Exists and DoesNotExist must have none [apimachinery, labels.NewRequirement].
    let wrong = match (operator, values.is_empty()) {
        (Some("In"), false) => return Some(Requirement::In(interner.known_text(key), values.into())),
        (Some("NotIn"), false) => return Some(Requirement::NotIn(interner.known_text(key), values.into())),
        (Some("Exists"), true) => return Some(Requirement::Exists(interner.known_text(key))),
        (Some("DoesNotExist"), true) => return Some(Requirement::DoesNotExist(interner.known_text(key))),
        (Some(operator @ ("In" | "NotIn")), true) => format!("{operator} needs values"),
        (Some(operator @ ("Exists" | "DoesNotExist")), false) => format!("{operator} takes no values"),
        (Some(operator), _) => {
            format!("the operator {operator:?} is not known: use In, NotIn, Exists or DoesNotExist")
        }
        (None, _) => "there is no operator".into(),
    };
    flaws.push(field, wrong, effect);
    None
}
