//! `--count-by`: how many records have the same values.
//!
//! Invariant: memory is bounded. Groups that no longer fit are counted together, and that is reported.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::io;

use audit::query::{Field, RecordView};
use serde_json::{Map, Value};

use super::columns::Columns;
use super::output::LogOutput;
use crate::commands::table;
use crate::paint;
use crate::terminal::{OutputLines, text};

/// How many bytes the groups take at most, approximately.
const MOST_BYTES: usize = 64 << 20;

/// What a group takes besides its values.
const OVERHEAD: usize = 64;

/// What separates the values in a key. Values that contain it have another character in its place.
const SEPARATOR: char = '\0';

/// Records by the values of some fields.
#[derive(Debug)]
pub(super) struct Counts {
    fields: Vec<Field>,
    groups: HashMap<Box<str>, u64>,
    bytes: usize,
    /// Records whose group did not fit.
    others: u64,
    key: String,
}

impl Counts {
    /// Counts by these fields.
    pub(super) fn new(fields: Vec<Field>) -> Self {
        Self { fields, groups: HashMap::new(), bytes: 0, others: 0, key: String::new() }
    }

    /// Counts a record.
    pub(super) fn add(&mut self, record: &RecordView<'_>) {
        self.key.clear();
        for field in &self.fields {
            // Writing to memory cannot fail.
            let _ = field.write(record, &mut Part(&mut self.key));
            self.key.push(SEPARATOR);
        }
        let count = record.weight();
        if let Some(known) = self.groups.get_mut(&*self.key) {
            *known = known.saturating_add(count);
        } else if self.bytes >= MOST_BYTES {
            self.others = self.others.saturating_add(count);
        } else {
            self.bytes += self.key.len() + OVERHEAD;
            self.groups.insert(self.key.as_str().into(), count);
        }
    }

    /// Shows the groups, the most frequent first. Returns whether each one is complete.
    pub(super) fn show(
        &self,
        form: LogOutput,
        limit: Option<u64>,
        output: &mut OutputLines,
    ) -> io::Result<bool> {
        let mut sorted: Vec<(&str, u64)> = self.groups.iter().map(|(key, count)| (&**key, *count)).collect();
        sorted.sort_unstable_by(|(a_key, a), (b_key, b)| b.cmp(a).then_with(|| a_key.cmp(b_key)));
        let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let header: Vec<String> = self.fields.iter().map(|field| field.name().to_uppercase()).collect();
        let header: Vec<&str> = ["COUNT"].into_iter().chain(header.iter().map(String::as_str)).collect();
        let mut columns = match form {
            LogOutput::Wide => Columns::unlimited(&header),
            LogOutput::Table | LogOutput::Json => Columns::fitting(&header, table::width()),
        };
        for (key, count) in sorted.iter().take(limit) {
            let values = key.strip_suffix(SEPARATOR).unwrap_or(key).split(SEPARATOR);
            if form == LogOutput::Json {
                output.json(self.json(values, *count).as_bytes())?;
            } else {
                columns.add([count.to_string()].into_iter().chain(values.map(str::to_owned)), output)?;
            }
        }
        columns.settle(output)?;
        if self.others > 0 {
            let warning = text!(
                " {} records are in none of these groups, since there are too many: count by fewer fields, or \
                 add a filter",
                self.others
            );
            (paint::warning("warning:") + warning).print_error();
        }
        Ok(self.others == 0)
    }

    fn json<'a>(&self, values: impl Iterator<Item = &'a str>, count: u64) -> String {
        let named =
            self.fields.iter().zip(values).map(|(field, value)| (field.name().to_owned(), value.into()));
        let object: Map<String, Value> =
            [("count".to_owned(), count.into())].into_iter().chain(named).collect();
        Value::Object(object).to_string()
    }
}

/// Writes a value into a key.
struct Part<'a>(&'a mut String);

impl Write for Part<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text.contains(SEPARATOR) {
            self.0.push_str(&text.replace(SEPARATOR, "\u{fffd}"));
        } else {
            self.0.push_str(text);
        }
        Ok(())
    }
}
