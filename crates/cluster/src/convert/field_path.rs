//! The path of a field in an object.

use std::fmt;

use crate::invisible::visible;

/// One step from an object's root to a field.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Step {
    /// A field of a mapping.
    Field(String),
    /// An element of a list, from 0.
    Item(usize),
}

/// The path from an object's root to a field. Displayed as `spec.ingress[0].from[1].ipBlock.cidr`; the root
/// is `the object`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FieldPath(pub Vec<Step>);

impl FieldPath {
    /// The path of the containing mapping or list.
    pub(super) fn above(&self) -> Self {
        Self(self.0.split_last().map(|(_, above)| above.to_vec()).unwrap_or_default())
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("the object");
        }
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::Field(name) if at == 0 => f.write_str(&visible(name))?,
                Step::Field(name) => write!(f, ".{}", visible(name))?,
                Step::Item(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}
