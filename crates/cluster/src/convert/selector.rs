//! `metav1.LabelSelector`: to a list of requirements, ALL of which must hold.

use std::sync::Arc;

use policy::{Requirement, Selector};

use super::flaws::Flaws;
use super::label;
use super::place::Place;
use crate::interner::Interner;

/// Converts a peer's selector. One that has anything in it that is not understood selects nothing (semantics 28).
pub(super) fn of_peer(
    place: &Place<'_>,
    interner: &Interner,
    flaws: &mut Flaws,
    effect: &'static str,
) -> Selector {
    match understand(place, interner, flaws, effect, Twofold::IsUnknown) {
        (requirements, true) => Selector::All(requirements.into()),
        (_, false) => Selector::Nothing,
    }
}

/// What a label means that stands twice in `matchLabels`, with different values.
#[derive(Clone, Copy, Debug)]
pub(super) enum Twofold {
    /// The selector is not understood.
    IsUnknown,
    /// The last value counts, with this effect.
    LastCounts(&'static str),
}

/// The requirements that are understood, sorted, each once; and whether there is nothing else in the selector. Without
/// what is not understood the requirements select more pods, never fewer.
pub(super) fn understand(
    place: &Place<'_>,
    interner: &Interner,
    flaws: &mut Flaws,
    effect: &'static str,
    twofold: Twofold,
) -> (Vec<Requirement>, bool) {
    let before = flaws.serious();
    let mut requirements = Vec::new();
    if !place.value.is_object() {
        flaws.push(place, format!("{} is no selector", place.shown()), effect);
        return (requirements, false);
    }
    // Which of two is meant is unknown, so neither takes a pod away.
    let ambiguous = ["matchLabels", "matchExpressions"].map(|name| flaws.differs(place, name));
    flaws.all_known(place, &["matchLabels", "matchExpressions"], effect);
    if let Some(labels) = place.field("matchLabels").filter(|_| !ambiguous[0]) {
        match_labels(&labels, interner, flaws, effect, twofold, &mut requirements);
    }
    if !ambiguous[1] {
        place.each("matchExpressions", flaws, effect, |expression, flaws| {
            requirements.extend(requirement(expression, interner, flaws, effect));
        });
    }
    requirements.sort();
    requirements.dedup();
    (requirements, flaws.serious() == before)
}

/// `matchLabels`.
fn match_labels(
    labels: &Place<'_>,
    interner: &Interner,
    flaws: &mut Flaws,
    effect: &'static str,
    twofold: Twofold,
    requirements: &mut Vec<Requirement>,
) {
    let Some(fields) = labels.value.as_object() else {
        return flaws.push(labels, format!("{} is no mapping", labels.shown()), effect);
    };
    match twofold {
        Twofold::IsUnknown => flaws.all_once(labels, effect),
        Twofold::LastCounts(effect) => flaws.last_counts(labels, effect),
    }
    for (key, value) in fields {
        // The API reads null as the empty text.
        let Some(value) = (if value.is_null() { Some("") } else { value.as_str() }) else {
            flaws.push_below(labels, key, "the value is no text: put it in quotes", effect);
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
    place: &Place<'_>,
    interner: &Interner,
    flaws: &mut Flaws,
    effect: &'static str,
) -> Option<Requirement> {
    if !place.value.is_object() {
        flaws.push(place, format!("{} is no requirement", place.shown()), effect);
        return None;
    }
    if !flaws.all_known(place, &["key", "operator", "values"], effect) {
        return None;
    }
    let Some(key) = place.value.get("key").and_then(|key| key.as_str()).filter(|key| !key.is_empty()) else {
        flaws.push_below(place, "key", "there is no key", effect);
        return None;
    };
    if let Some(fault) = label::key_fault(key) {
        flaws.push_below(place, "key", fault, effect);
        return None;
    }
    let values = match place.field("values") {
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
                flaws.push(&list, "the values are no list of texts", effect);
                return None;
            };
            texts.sort();
            texts.dedup();
            texts
        }
    };
    let operator = place.value.get("operator").and_then(|operator| operator.as_str());
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
    flaws.push(place, wrong, effect);
    None
}
