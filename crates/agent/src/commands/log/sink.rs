//! Where records go: shown one by one, or counted.

use std::io;

use audit::query::{Field, RecordView};

use super::columns::Columns;
use super::counts::Counts;
use super::output::LogOutput;
use super::row;
use crate::commands::table;
use crate::terminal::OutputLines;

/// Whether further records are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    More,
    Enough,
}

/// The end of the pipeline.
#[derive(Debug)]
pub(super) struct Sink {
    output: OutputLines,
    kind: Kind,
    limit: Option<u64>,
    shown: u64,
}

#[derive(Debug)]
enum Kind {
    Rows(Columns),
    WideRows(Columns),
    Lines,
    Counts(Counts, LogOutput),
}

impl Sink {
    /// Shows at most `limit` records in this form, or counts all by `fields` if there are any.
    pub(super) fn new(form: LogOutput, fields: Vec<Field>, limit: Option<u64>) -> Self {
        let kind = match form {
            _ if !fields.is_empty() => Kind::Counts(Counts::new(fields), form),
            LogOutput::Table => Kind::Rows(Columns::fitting(&row::HEADER, table::width())),
            LogOutput::Wide => Kind::WideRows(Columns::unlimited(&row::WIDE_HEADER)),
            LogOutput::Json => Kind::Lines,
        };
        Self { output: OutputLines::new(), kind, limit, shown: 0 }
    }

    /// Adds a record, and the line that it was read from.
    pub(super) fn add(&mut self, record: &RecordView<'_>, line: &[u8]) -> io::Result<Next> {
        match &mut self.kind {
            Kind::Rows(columns) => columns.add(row::cells(record), &mut self.output)?,
            Kind::WideRows(columns) => columns.add(row::wide_cells(record), &mut self.output)?,
            Kind::Lines => self.output.json(line)?,
            Kind::Counts(counts, _) => {
                counts.add(record);
                return Ok(Next::More);
            }
        }
        self.shown += 1;
        Ok(if self.limit.is_some_and(|limit| self.shown >= limit) { Next::Enough } else { Next::More })
    }

    /// Writes everything that was added, if it is shown one by one.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if let Kind::Rows(columns) | Kind::WideRows(columns) = &mut self.kind {
            columns.settle(&mut self.output)?;
        }
        self.output.flush()
    }

    /// Shows what was counted, and writes everything. Returns whether the counts are exact; reports if not.
    pub(super) fn finish(&mut self) -> io::Result<bool> {
        let mut is_exact = true;
        if let Kind::Counts(counts, form) = &self.kind {
            is_exact = counts.show(*form, self.limit, &mut self.output)?;
        }
        self.flush()?;
        Ok(is_exact)
    }
}
