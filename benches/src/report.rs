//! Figures as a table for people or as JSON for programs.

use std::fs;

use anyhow::Result;
use clap::ValueEnum;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;
use serde_json::json;

/// How figures are shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Output {
    /// A table.
    Table,
    /// One JSON object.
    Json,
}

/// What was measured.
pub trait Figures: Serialize {
    /// The name of the measurement, as the command line takes it.
    const NAME: &'static str;

    /// What the table's columns say; the first is text, the others are numbers.
    fn header() -> Vec<&'static str>;

    /// One row, a cell for each column.
    fn row(&self) -> Vec<String>;
}

/// Shows figures on standard output.
pub fn show<F: Figures>(output: Output, figures: &[F]) -> Result<()> {
    match output {
        Output::Table => println!("{}\n{}", machine(), table(figures)),
        Output::Json => {
            println!("{}", json!({"benchmark": F::NAME, "machine": machine(), "results": figures}))
        }
    }
    Ok(())
}

fn table<F: Figures>(figures: &[F]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(F::header());
    table.add_rows(figures.iter().map(Figures::row));
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}

/// The machine in one line: figures of two machines can't be compared.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
    format!("{cores} cores ({}), Linux {}", model.unwrap_or("unknown"), kernel.trim())
}

/// The median: of an even number of values the mean of the middle two, of none NaN.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => f64::NAN,
        (length, middle) if length % 2 == 1 => sorted[middle],
        (_, middle) => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Ping {
        name: &'static str,
        micros: u32,
    }

    impl Figures for Ping {
        const NAME: &'static str = "ping";

        fn header() -> Vec<&'static str> {
            vec!["what", "us"]
        }

        fn row(&self) -> Vec<String> {
            vec![self.name.to_owned(), self.micros.to_string()]
        }
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn numbers_stand_to_the_right() {
        let text = table(&[Ping { name: "near", micros: 7 }, Ping { name: "far", micros: 1200 }]).to_string();
        assert!(text.contains("│ near ┆    7 │"), "{text}");
    }
}
