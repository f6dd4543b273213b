//! Namespace, `v1`.

use policy::Namespace;

use super::field_ref::FieldRef;
use super::flaws::Flaws;
use super::metadata;
use super::unusable::Unusable;
use crate::interner::Interner;
use crate::namespaces::METADATA_NAME;

/// The effect of labels that can't be read.
const UNKNOWN_LABELS: &str = "the namespace's labels are unknown: rules that select by them allow nothing \
                              from or to its pods, and policies that might select its pods isolate them";

/// Converts a Namespace. The API server sets [`METADATA_NAME`] on every namespace. A manifest may lack it or
/// have a wrong value, so it is set here (semantics 11).
pub(super) fn namespace(
    object: &FieldRef<'_>,
    interner: &Interner,
    flaws: &mut Flaws,
) -> Result<Namespace, Unusable> {
    let name = metadata::name(object)?;
    let labels = metadata::labels(object, &[(METADATA_NAME, name)], interner, flaws, UNKNOWN_LABELS);
    Ok(Namespace { name: interner.text(name), labels })
}
