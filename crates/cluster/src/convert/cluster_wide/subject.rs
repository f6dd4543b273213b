//! `subject`: the pods that a cluster-wide policy applies to (semantics 55).

use policy::{NamespaceMatch, Requirement, Selector, Subject};

use super::super::field_ref::FieldRef;
use super::super::flaws::Flaws;
use super::super::selector::{self, OnDuplicate};
use super::dialect::{Dialect, Version};
use super::effects::EVERY_POD;
use super::list::only;
use crate::interner::Interner;

/// The effect of a duplicate label with different values, which is what a cluster gets from kubectl or Helm.
const LAST_SUBJECT: &str = "the last value counts, as for kubectl and Helm: the policy does not apply to pods \
                            that only another value selects";

/// Converts the subject. What is not understood selects every pod (semantics 59).
pub(super) fn subject(
    spec: &FieldRef<'_>,
    dialect: &Dialect,
    interner: &Interner,
    flaws: &mut Flaws,
) -> Subject {
    let Some(subject) = spec.field("subject") else {
        flaws.push_below(spec, "subject", "there is no subject", EVERY_POD);
        return every_pod();
    };
    match only(&subject, &["namespaces", "pods"], "a subject", flaws, EVERY_POD) {
        Some(("namespaces", namespaces)) => Subject {
            namespaces: NamespaceMatch::Labels(selector(&namespaces, interner, flaws)),
            pods: Selector::everything(),
        },
        Some((_, pods)) => pods_in(&pods, dialect, interner, flaws),
        None => every_pod(),
    }
}

/// Every pod.
pub(super) fn every_pod() -> Subject {
    Subject { namespaces: NamespaceMatch::Labels(Selector::everything()), pods: Selector::everything() }
}

/// Pods that BOTH selectors select.
fn pods_in(field: &FieldRef<'_>, dialect: &Dialect, interner: &Interner, flaws: &mut Flaws) -> Subject {
    if !field.value.is_object() {
        flaws.push(field, format!("{} is not a pair of selectors", field.shown()), EVERY_POD);
        return every_pod();
    }
    let names = ["namespaceSelector", "podSelector"];
    let ambiguous = names.map(|name| flaws.differs(field, name));
    flaws.all_known(field, &names, EVERY_POD);
    let [namespaces, pods] = [0, 1].map(|at| match field.field(names[at]) {
        Some(part) if !ambiguous[at] => selector(&part, interner, flaws),
        Some(_) => Selector::everything(),
        None => {
            if at == 1 || dialect.version == Version::V1Alpha1 {
                flaws.push_below(field, names[at], "there is no selector", EVERY_POD);
            }
            Selector::everything()
        }
    });
    Subject { namespaces: NamespaceMatch::Labels(namespaces), pods }
}

/// The part of a selector that is understood.
fn selector(field: &FieldRef<'_>, interner: &Interner, flaws: &mut Flaws) -> Selector {
    let on_duplicate = OnDuplicate::LastWins(LAST_SUBJECT);
    let (requirements, _): (Vec<Requirement>, bool) =
        selector::understand(field, interner, flaws, EVERY_POD, on_duplicate);
    Selector::All(requirements.into())
}
