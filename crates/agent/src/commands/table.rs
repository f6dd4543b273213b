//! Tables of text, wrapped to the terminal's width.

use std::fmt::Display;

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};

use crate::paint;
use crate::terminal::Text;

/// Width without a terminal, in columns.
const DEFAULT_WIDTH: u16 = 100;

/// Width of the output, in columns: the environment variable `COLUMNS`, or else the width of the terminal.
pub(super) fn width() -> u16 {
    let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    // A terminal of unknown width has 0 columns.
    let known = |columns: &u16| *columns > 0;
    columns.filter(known).or_else(|| Table::new().width().filter(known)).unwrap_or(DEFAULT_WIDTH)
}

/// An empty table without borders, wrapped to a width.
fn plain(width: u16) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(width);
    table
}

/// Rows of a name and a text.
#[derive(Debug, Default)]
pub(super) struct Rows(Vec<(String, Text)>);

impl Rows {
    /// Adds a row.
    pub(super) fn add(&mut self, name: &str, text: impl Display) {
        self.0.push((name.to_owned(), Text::new(text)));
    }

    /// The table, wrapped to a width.
    pub(super) fn render(&self, width: u16) -> Text {
        Text::of_lines(&self.table(width).trim_fmt())
    }

    /// The table, indented by a number of columns and wrapped to a width.
    pub(super) fn render_indented(&self, indent: u16, width: u16) -> Text {
        let mut table = self.table(width);
        table.column_iter_mut().for_each(|column| {
            column.set_padding((indent, 0));
        });
        Text::of_lines(&table.trim_fmt())
    }

    fn table(&self, width: u16) -> Table {
        let mut table = plain(width);
        for (name, text) in &self.0 {
            table.add_row([Text::new(name).as_str(), text.as_str()]);
        }
        table
    }
}

/// A text of one cell, indented by a number of columns and wrapped to a width.
pub(super) fn paragraph(text: &str, indent: u16, width: u16) -> Text {
    let mut table = plain(width);
    table.add_row([Text::new(text).as_str()]);
    table.column_iter_mut().for_each(|column| {
        column.set_padding((indent, 0));
    });
    Text::of_lines(&table.trim_fmt())
}

/// Result of a check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// It passes.
    Fine,
    /// It passes, but needs attention.
    Warning,
    /// It fails.
    Wrong,
    /// It does not apply.
    None,
}

impl State {
    fn label(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Warning => "warning",
            Self::Wrong => "wrong",
            Self::None => "none",
        }
    }

    fn painted(self) -> Text {
        match self {
            Self::Fine => paint::fine(self.label()),
            Self::Warning => paint::warning(self.label()),
            Self::Wrong => paint::wrong(self.label()),
            Self::None => paint::dim(self.label()),
        }
    }
}

/// A table whose rows are a name, a state and a text. The states are coloured after the layout, because the
/// escapes of colours would count as characters.
pub(super) fn states(rows: &[(String, State, Text)], width: u16) -> Text {
    let mut table = plain(width);
    for (name, state, text) in rows {
        table.add_row([Text::new(name).as_str(), state.label(), text.as_str()]);
    }
    let laid_out = table.trim_fmt();
    // All names are padded to the longest, so all states begin in the column of the first.
    let column = rows.first().and_then(|(name, state, _)| {
        let after = laid_out.find(name)? + name.len();
        Some(after + laid_out[after..].find(state.label())?)
    });
    let mut rest = rows.iter().map(|(_, state, _)| *state).peekable();
    Text::lines(laid_out.lines().map(|line| {
        let parts = column.and_then(|column| line.split_at_checked(column));
        // Continuation lines of a long text are empty in this column.
        match (parts, rest.peek().copied()) {
            (Some((before, after)), Some(state)) if after.starts_with(state.label()) => {
                rest.next();
                Text::new(before) + state.painted() + Text::new(&after[state.label().len()..])
            }
            _ => Text::new(line),
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_in_spite_of_colours() {
        let row = |name: &str, state, text: &str| (name.to_owned(), state, Text::of_lines(text));
        let painted = states(
            &[
                row("a", State::Fine, "as it should be"),
                row("longer", State::Warning, "look at it\n-> do this"),
                row("b", State::Wrong, "broken"),
            ],
            80,
        );
        let plain = anstream::adapter::strip_str(painted.as_str()).to_string();
        assert_ne!(painted.as_str(), plain, "it has colours");
        let lines: Vec<_> = plain.lines().map(str::trim_end).collect();
        assert_eq!(
            lines,
            [
                " a       fine     as it should be",
                " longer  warning  look at it",
                "                  -> do this",
                " b       wrong    broken",
            ]
        );
    }
}
