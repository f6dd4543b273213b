//! Deserializes a value and keeps a part of it.
//!
//! Of a field that occurs more than once in a mapping, the last value is kept, as by kubectl and Helm, and
//! the duplicate is recorded.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::keep::{Keep, LONGEST_NAME, shortened};
use super::read_context::{Passed, ReadContext};
use crate::convert::{FieldPath, Step, is_miswritten, is_miswritten_range};

/// The fewest bytes of text that a field or element takes, besides names and strings.
const VALUE: usize = 1;

/// The path to a value from the object's root. Lives on the stack.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trail<'a> {
    up: Option<&'a Trail<'a>>,
    hop: Hop<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Hop<'a> {
    Field(&'a str),
    Item(usize),
}

impl<'a> Trail<'a> {
    /// The path to a field of the object.
    pub(super) fn field(name: &'a str) -> Self {
        Self { up: None, hop: Hop::Field(name) }
    }

    fn path(&self) -> FieldPath {
        let mut steps = Vec::new();
        let mut here = Some(self);
        while let Some(Self { up, hop }) = here {
            steps.push(match hop {
                Hop::Field(name) => Step::Field((*name).to_owned()),
                Hop::Item(index) => Step::Item(*index),
            });
            here = *up;
        }
        steps.reverse();
        FieldPath(steps)
    }

    fn is_metadata(&self) -> bool {
        matches!(self, Self { up: None, hop: Hop::Field("metadata") })
    }

    fn is_spec(&self) -> bool {
        matches!(self, Self { up: None, hop: Hop::Field("spec") })
    }
}

/// Deserializes a value and keeps a part of it.
pub(super) struct KeepSeed<'a> {
    /// Which part.
    pub keep: &'a Keep,
    /// Its path.
    pub at: Trail<'a>,
    /// The state of reading the object.
    pub context: &'a ReadContext,
}

impl<'de> DeserializeSeed<'de> for KeepSeed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl KeepSeed<'_> {
    /// Reads the fields of a mapping into `fields`, as far as possible.
    fn fill<'de, A: MapAccess<'de>>(
        &self,
        mut map: A,
        fields: &mut Map<String, Value>,
    ) -> Result<(), A::Error> {
        // The names of fields that are not kept.
        let mut passed = Passed::default();
        while let Some(name) = map.next_key::<String>()? {
            let keep = match self.keep {
                Keep::All => &Keep::All,
                Keep::Fields(known) => {
                    known.iter().find(|(known, _)| *known == name).map_or(&Keep::Nothing, |(_, keep)| keep)
                }
                Keep::Nothing | Keep::Presence | Keep::Each(_) => &Keep::Nothing,
            };
            if name.len() > LONGEST_NAME {
                map.next_value::<IgnoredAny>()?;
                if matches!(keep, Keep::All) {
                    // No known field has such a name, so this represents an unknown field.
                    fields.insert(shortened(&name), Value::Null);
                }
                continue;
            }
            let at = Trail { up: Some(&self.at), hop: Hop::Field(&name) };
            if matches!(keep, Keep::Nothing) {
                map.next_value::<IgnoredAny>()?;
                if (self.at.is_metadata() && is_miswritten(&name))
                    || (self.at.is_spec() && is_miswritten_range(&name))
                {
                    fields.insert(name, Value::Null);
                    continue;
                }
                if self.context.by_hand && passed.again(&name) {
                    self.context.again(at.path(), None);
                }
                continue;
            }
            self.context.count(name.len() + VALUE)?;
            let value = map.next_value_seed(KeepSeed { keep, at, context: self.context })?;
            if let Some(before) = fields.get(&name) {
                self.context.again(at.path(), Some((before, &value)));
            }
            if !keep.is_names() {
                fields.insert(name, value);
            }
        }
        Ok(())
    }
}

impl<'de> Visitor<'de> for KeepSeed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        match self.fill(map, &mut fields) {
            Ok(()) => Ok(Value::Object(fields)),
            Err(error) => {
                if self.at.is_spec() {
                    self.context.cut.replace(Some(("spec", Value::Object(fields))));
                // Without its namespace, it is unknown which pods the policy selects.
                } else if self.at.is_metadata() && fields.contains_key("namespace") {
                    self.context.cut.replace(Some(("metadata", Value::Object(fields))));
                }
                Err(error)
            }
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let keep = match self.keep {
            Keep::All => &Keep::All,
            Keep::Each(keep) => *keep,
            Keep::Nothing | Keep::Presence | Keep::Fields(_) => {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(Value::Array(Vec::new()));
            }
        };
        let mut items = Vec::new();
        loop {
            let at = Trail { up: Some(&self.at), hop: Hop::Item(items.len()) };
            match seq.next_element_seed(KeepSeed { keep, at, context: self.context })? {
                Some(item) => {
                    self.context.count(VALUE)?;
                    items.push(item);
                }
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Value, E> {
        Ok(Value::from(value as f64))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Value, E> {
        Ok(Value::from(value as f64))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        // JSON has no `.inf` and `.nan`. Their replacement must not read as absent, and is just as invalid as
        // a string, a port or a list.
        Ok(Value::from(if value.is_finite() { value } else { f64::MAX }))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        self.context.count(value.len())?;
        Ok(Value::from(value))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
        self.context.count(value.len())?;
        Ok(Value::from(value))
    }
}
