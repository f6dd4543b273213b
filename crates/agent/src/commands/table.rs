//! Tables for people, as wide as `COLUMNS` says.

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};

use crate::paint;
use crate::terminal::Text;

/// How wide where nothing says how wide the terminal is: every one has that many columns.
const WIDTH: u16 = 80;

/// How many columns a table may have here.
pub fn width() -> u16 {
    std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()).unwrap_or(WIDTH)
}

/// Without lines, wrapped to a number of columns.
fn plain(width: u16) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_width(width);
    table
}

/// A name and a text a row, in at most this number of columns.
pub fn pairs(rows: &[(String, Text)], width: u16) -> Text {
    let mut table = plain(width);
    for (name, text) in rows {
        table.add_row([Text::new(name).as_str(), text.as_str()]);
    }
    Text::of_lines(&table.trim_fmt())
}

/// How something stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// As it should.
    Fine,
    /// It may soon not.
    Warning,
    /// It does not.
    Wrong,
    /// It is not there, which is neither right nor wrong.
    None,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Warning => "warning",
            Self::Wrong => "wrong",
            Self::None => "none",
        }
    }

    fn painted(self) -> Text {
        match self {
            Self::Fine => paint::fine(self.word()),
            Self::Warning => paint::warning(self.word()),
            Self::Wrong => paint::wrong(self.word()),
            Self::None => paint::dim(self.word()),
        }
    }
}

/// A name, how it stands, and a text a row. Painted after it is laid out: colours would count as letters.
pub fn states(rows: &[(String, State, Text)]) -> Text {
    let mut table = plain(width());
    for (name, state, text) in rows {
        table.add_row([Text::new(name).as_str(), state.word(), text.as_str()]);
    }
    let laid_out = table.trim_fmt();
    // Names are as long as the longest, so all states begin in the column of the first.
    let column = rows.first().and_then(|(name, state, _)| {
        let after = laid_out.find(name)? + name.len();
        Some(after + laid_out[after..].find(state.word())?)
    });
    let mut rest = rows.iter().map(|(_, state, _)| *state).peekable();
    Text::lines(laid_out.lines().map(|line| {
        let parts = column.and_then(|column| line.split_at_checked(column));
        // Lines that a long text goes on in have nothing in this column.
        match (parts, rest.peek().copied()) {
            (Some((before, after)), Some(state)) if after.starts_with(state.word()) => {
                rest.next();
                Text::new(before) + state.painted() + Text::new(&after[state.word().len()..])
            }
            _ => Text::new(line),
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_whatever_their_colours() {
        let row = |name: &str, state, text: &str| (name.to_owned(), state, Text::of_lines(text));
        let painted = states(&[
            row("a", State::Fine, "as it should be"),
            row("longer", State::Warning, "look at it\n-> do this"),
            row("b", State::Wrong, "broken"),
        ]);
        let plain = anstream::adapter::strip_str(painted.as_str()).to_string();
        assert_ne!(painted.as_str(), plain, "it is painted");
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
