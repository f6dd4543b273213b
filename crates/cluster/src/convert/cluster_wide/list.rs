//! Lists of limited length, and mappings with exactly one field.

use super::super::field_ref::FieldRef;
use super::super::flaws::Flaws;

/// Visits each element of a list, which must have 1 to `most` elements; otherwise that is a flaw, and none is
/// visited.
pub(super) fn each(
    list: &FieldRef<'_>,
    most: usize,
    flaws: &mut Flaws,
    effect: &'static str,
    mut visit: impl FnMut(&FieldRef<'_>, &mut Flaws),
) {
    let Some(items) = list.items() else {
        return flaws.push(list, format!("{} is not a list", list.shown()), effect);
    };
    match list.value.as_array().map_or(0, Vec::len) {
        0 => flaws.push(list, "the list is empty", effect),
        count if count > most => {
            flaws.push(list, format!("the list has {count} entries, at most {most} are allowed"), effect);
        }
        _ => items.for_each(|item| visit(&item, flaws)),
    }
}

/// The one field of a mapping that is set, and its name. A mapping with an unknown field, or that does not
/// have exactly one of the `known` fields, is a flaw: it may come from a newer API (semantics 59).
pub(super) fn only<'s>(
    field: &'s FieldRef<'s>,
    known: &'static [&'static str],
    what: &str,
    flaws: &mut Flaws,
    effect: &'static str,
) -> Option<(&'static str, FieldRef<'s>)> {
    if !field.value.is_object() {
        flaws.push(field, format!("{} is not {what}", field.shown()), effect);
        return None;
    }
    if !flaws.all_known(field, known, effect) {
        return None;
    }
    let mut set = known.iter().filter_map(|name| Some((*name, field.field(name)?)));
    match (set.next(), set.next()) {
        (Some(one), None) => Some(one),
        (Some((one, _)), Some((other, _))) => {
            let what =
                format!("{one} is combined with {other}, which is not allowed: use one entry for each");
            flaws.push(field, what, effect);
            None
        }
        (None, _) => {
            flaws.push(field, format!("there is none of the fields {}", known.join(", ")), effect);
            None
        }
    }
}
