//! Tables for people, as wide as `COLUMNS` says.

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};

use crate::paint;

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
pub fn pairs(rows: &[(String, String)], width: u16) -> String {
    let mut table = plain(width);
    for (name, text) in rows {
        table.add_row([name, text]);
    }
    table.trim_fmt()
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

    fn painted(self) -> String {
        match self {
            Self::Fine => paint::fine(self.word()),
            Self::Warning => paint::warning(self.word()),
            Self::Wrong => paint::wrong(self.word()),
            Self::None => paint::dim(self.word()),
        }
    }
}

/// A name, how it stands, and a text a row. Painted after it is laid out: colours would count as letters.
pub fn states(rows: &[(String, State, String)]) -> String {
    let mut table = plain(width());
    for (name, state, text) in rows {
        table.add_row([name, state.word(), text]);
    }
    let laid_out = table.trim_fmt();
    let Some((name, state, _)) = rows.first() else { return laid_out };
    let Some(column) = laid_out.find(name).and_then(|at| {
        let after = at + name.len();
        laid_out[after..].find(state.word()).map(|found| after + found)
    }) else {
        return laid_out;
    };
    let mut rest = rows.iter().map(|(_, state, _)| *state).peekable();
    let lines = laid_out.lines().map(|line| {
        // Lines that a long text goes on in have nothing in this column.
        match (line.get(..column), line.get(column..), rest.peek().copied()) {
            (Some(before), Some(after), Some(state)) if after.starts_with(state.word()) => {
                rest.next();
                format!("{before}{}{}", state.painted(), &after[state.word().len()..])
            }
            _ => line.to_owned(),
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_whatever_their_colours() {
        let row = |name: &str, state, text: &str| (name.to_owned(), state, text.to_owned());
        let painted = states(&[
            row("a", State::Fine, "as it should be"),
            row("longer", State::Warning, "look at it\n-> do this"),
            row("b", State::Wrong, "broken"),
        ]);
        let plain = anstream::adapter::strip_str(&painted).to_string();
        assert_ne!(painted, plain, "it is painted");
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
