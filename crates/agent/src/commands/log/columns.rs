//! A table that is shown while its rows are still being found.
//!
//! The first rows are kept until there are enough to choose the widths. Later ones have the same widths.

use std::io;

use policy::Verdict;

use crate::paint;
use crate::terminal::{OutputLines, Text};

/// How many rows are seen before the widths are chosen.
const SAMPLE: usize = 200;

/// The narrowest width to which a column is shortened to fit the terminal.
const NARROWEST: usize = 8;

/// Verdicts in this column are coloured.
const VERDICT: usize = 1;

/// What separates columns.
const GAP: &str = "  ";

/// A table in progress.
#[derive(Debug)]
pub(super) struct Columns {
    header: Vec<String>,
    /// `None` if rows are shown in full.
    width: Option<usize>,
    /// Escaped cells.
    kept: Vec<Vec<String>>,
    /// `None` until they are chosen.
    widths: Option<Vec<usize>>,
}

impl Columns {
    /// A table that fits a width.
    pub(super) fn fitting(header: &[&str], width: u16) -> Self {
        Self {
            header: header.iter().map(|name| (*name).to_owned()).collect(),
            width: Some(width.into()),
            kept: Vec::new(),
            widths: None,
        }
    }

    /// A table as wide as its cells.
    pub(super) fn unlimited(header: &[&str]) -> Self {
        Self {
            header: header.iter().map(|name| (*name).to_owned()).collect(),
            width: None,
            kept: Vec::new(),
            widths: None,
        }
    }

    /// Adds a row, with a cell for each column.
    pub(super) fn add(
        &mut self,
        row: impl IntoIterator<Item = String>,
        output: &mut OutputLines,
    ) -> io::Result<()> {
        let row: Vec<String> = row.into_iter().map(|cell| Text::new(cell).as_str().to_owned()).collect();
        match &self.widths {
            Some(widths) => output.text(&line(&row, widths, self.width.is_some())),
            None => {
                self.kept.push(row);
                if self.kept.len() < SAMPLE { Ok(()) } else { self.settle(output) }
            }
        }
    }

    /// Chooses the widths, and shows the header and the rows so far, if there are any.
    pub(super) fn settle(&mut self, output: &mut OutputLines) -> io::Result<()> {
        if self.widths.is_some() || self.kept.is_empty() {
            return Ok(());
        }
        let kept = std::mem::take(&mut self.kept);
        let natural = |column: usize, name: &str| {
            let cells = kept.iter().map(|row| row[column].chars().count());
            cells.chain([name.len()]).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> =
            self.header.iter().enumerate().map(|(column, name)| natural(column, name)).collect();
        if let Some(width) = self.width {
            fit(&mut widths, width);
        }
        let is_cut = self.width.is_some();
        output.text(&paint::dim(line(&self.header, &widths, is_cut)))?;
        for row in &kept {
            output.text(&line(row, &widths, is_cut))?;
        }
        self.widths = Some(widths);
        Ok(())
    }
}

/// Shortens the widest columns until all fit.
fn fit(widths: &mut [usize], width: usize) {
    let gaps = GAP.len() * widths.len().saturating_sub(1);
    loop {
        let total = widths.iter().sum::<usize>() + gaps;
        match widths.iter_mut().max() {
            Some(widest) if total > width && *widest > NARROWEST => *widest -= 1,
            _ => return,
        }
    }
}

/// A row as text. The last column is not padded.
fn line(cells: &[String], widths: &[usize], is_cut: bool) -> Text {
    let mut text = Text::default();
    let last = cells.iter().rposition(|cell| !cell.is_empty()).unwrap_or(0);
    for (index, (cell, width)) in cells.iter().zip(widths).enumerate().take(last + 1) {
        let cell = if is_cut { shortened(cell, *width) } else { cell.clone() };
        let padding = if index == last { 0 } else { width.saturating_sub(cell.chars().count()) };
        let painted = match cell.split(' ').next() {
            Some("allow") if index == VERDICT => paint::verdict(Verdict::Allow, &cell),
            Some("deny") if index == VERDICT => paint::verdict(Verdict::Deny, &cell),
            _ => Text::new(&cell),
        };
        let gap = if index == last { "" } else { GAP };
        text = text + painted + Text::new(format_args!("{:padding$}{gap}", ""));
    }
    text
}

/// The text with its middle left out, if it is longer than this.
fn shortened(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width || width == 0 {
        return text.to_owned();
    }
    let before = width / 2;
    let after = width - before - 1;
    text.chars().take(before).chain(['…']).chain(text.chars().skip(length - after)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_lose_their_middle() {
        assert_eq!(shortened("frontend-7c9d8b5f6-x2x4q", 24), "frontend-7c9d8b5f6-x2x4q");
        assert_eq!(shortened("frontend-7c9d8b5f6-x2x4q", 11), "front…x2x4q");
        assert_eq!(shortened("Ääöü", 3), "Ä…ü");
        assert_eq!(shortened("abc", 1), "…");
    }

    #[test]
    fn the_widest_columns_are_shortened_first() {
        let mut widths = [19, 6, 40, 30, 20];
        fit(&mut widths, 100);
        assert_eq!(widths.iter().sum::<usize>() + 4 * GAP.len(), 100);
        assert_eq!(widths[..2], [19, 6], "{widths:?}");
        assert!(widths[2] >= widths[4] && widths[3] >= widths[4], "{widths:?}");
        let mut widths = [19, 6, 10];
        fit(&mut widths, 20);
        assert_eq!(widths, [8, 6, 8], "a terminal that is too narrow wraps");
    }
}
