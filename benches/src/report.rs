//! The common form of all results: what was measured, on which machine, as a table for people and as JSON for
//! programs.
//!
//! From: a measurement's figures.
//!
//! To: the screen, and a folder of results, from which a [`page`](crate::page) with plots is generated.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result};
use clap::ValueEnum;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The environment variable with the folder in which results are kept, each as `NAME.json`; if unset, results
/// are not kept.
pub const RESULTS: &str = "KUBE_VERDICT_RESULTS";

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
    /// The name of the measurement on the command line.
    const NAME: &'static str;

    /// The headings of the table's columns.
    fn header() -> Vec<&'static str>;

    /// One row, a cell for each column.
    fn row(&self) -> Vec<String>;
}

/// One measurement with its conditions.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// [`Figures::NAME`].
    pub benchmark: String,
    /// Where and when it was taken.
    pub taken: Taken,
    /// The headings of the table's columns.
    pub columns: Vec<String>,
    /// The table for people.
    pub table: Vec<Vec<String>>,
    /// The figures, with the measurement's field names.
    pub results: Vec<Value>,
}

/// Where and when figures were taken: those of two machines can't be compared.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Taken {
    /// Cores and the processor's name.
    pub machine: String,
    /// The kernel's release.
    pub kernel: String,
    /// The measured commit; with `+` if the working tree differed from it.
    pub commit: String,
    /// RFC 3339, UTC, to the second.
    pub date: String,
    /// The output of the compiler's version command.
    pub compiler: String,
}

/// Shows figures on standard output, and keeps them in the folder that [`RESULTS`] names.
pub fn show<F: Figures>(output: Output, figures: &[F]) -> Result<()> {
    let report = Report::new(figures, Taken::now())?;
    if let Some(folder) = env::var_os(RESULTS).map(PathBuf::from) {
        report.keep(&folder)?;
    }
    match output {
        Output::Table => println!("{}\n{}", report.taken.machine(), report.screen_table()),
        Output::Json => println!("{}", serde_json::to_string(&report)?),
    }
    Ok(())
}

/// A progress bar on standard error with this number of steps.
pub fn progress(steps: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}");
    ProgressBar::new(steps as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

impl Report {
    /// A report of these figures.
    pub fn new<F: Figures>(figures: &[F], taken: Taken) -> Result<Self> {
        let results: Result<_, _> = figures.iter().map(serde_json::to_value).collect();
        Ok(Self {
            benchmark: F::NAME.to_owned(),
            taken,
            columns: F::header().into_iter().map(str::to_owned).collect(),
            table: figures.iter().map(Figures::row).collect(),
            results: results.context("writing figures as JSON")?,
        })
    }

    /// Reads every report in a folder, in the order of their names.
    pub fn read_all(folder: &Path) -> Result<Vec<Self>> {
        let unreadable = || format!("reading results in {}", folder.display());
        let mut files: Vec<PathBuf> = fs::read_dir(folder)
            .with_context(unreadable)?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()
            .with_context(unreadable)?;
        files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
        files.sort();
        let read = |file: &PathBuf| {
            let text = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
            serde_json::from_slice(&text)
                .with_context(|| format!("{} is not a report of a measurement", file.display()))
        };
        files.iter().map(read).collect()
    }

    /// The figures, if this is a report of their measurement.
    pub fn figures<F: Figures + DeserializeOwned>(&self) -> Result<Vec<F>> {
        let read = |value: &Value| {
            F::deserialize(value).with_context(|| format!("figures of {} that can't be read", self.benchmark))
        };
        self.results.iter().filter(|_| self.benchmark == F::NAME).map(read).collect()
    }

    pub(crate) fn keep(&self, folder: &Path) -> Result<()> {
        let file = folder.join(format!("{}.json", self.benchmark));
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&file, serde_json::to_string_pretty(self)? + "\n"))
            .with_context(|| format!("keeping results in {}", file.display()))
    }

    /// Columns with only numbers are aligned to the right.
    fn is_number(&self, column: usize) -> bool {
        self.table.iter().all(|row| row.get(column).is_some_and(|cell| cell.parse::<f64>().is_ok()))
    }

    fn screen_table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(UTF8_FULL_CONDENSED).set_header(&self.columns);
        table.add_rows(&self.table);
        for (place, column) in table.column_iter_mut().enumerate() {
            if self.is_number(place) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }

    /// The table in Markdown.
    pub fn markdown_table(&self) -> String {
        let line = |cells: Vec<&str>| format!("| {} |\n", cells.join(" | "));
        let mut text = line(self.columns.iter().map(String::as_str).collect());
        let rule = |column| if self.is_number(column) { "---:" } else { "---" };
        text += &line((0..self.columns.len()).map(rule).collect());
        self.table.iter().for_each(|row| text += &line(row.iter().map(String::as_str).collect()));
        text
    }
}

impl Taken {
    /// The current place and time.
    pub fn now() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            machine: format!("{cores} cores ({})", model.map_or("unknown", |(_, name)| name)),
            kernel: kernel.trim().to_owned(),
            commit: commit().unwrap_or_else(|| "unknown".to_owned()),
            date: Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            compiler: COMPILER.to_owned(),
        }
    }

    /// The machine in one line.
    fn machine(&self) -> String {
        format!("{}, Linux {}", self.machine, self.kernel)
    }
}

/// The version of the compiler that built this program.
pub const COMPILER: &str = env!("BENCHES_RUSTC");

/// The commit of the checkout from which this program was built, according to git.
fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output =
            Command::new("git").args(["-C", env!("CARGO_MANIFEST_DIR")]).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let differs =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|files| !files.is_empty());
    Some(if differs { commit + "+" } else { commit })
}

/// The median: of an even number of values the mean of the middle two, of no values NaN.
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

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Ping {
        name: String,
        micros: u32,
    }

    impl Figures for Ping {
        const NAME: &'static str = "ping";

        fn header() -> Vec<&'static str> {
            vec!["what", "us"]
        }

        fn row(&self) -> Vec<String> {
            vec![self.name.clone(), self.micros.to_string()]
        }
    }

    fn report() -> Report {
        let figures =
            [("near", 7), ("far", 1200)].map(|(name, micros)| Ping { name: name.to_owned(), micros });
        Report::new(&figures, Taken::now()).unwrap()
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn numbers_are_aligned_to_the_right() {
        let text = report().screen_table().to_string();
        assert!(text.contains("│ near ┆    7 │"), "{text}");
        assert_eq!(
            report().markdown_table(),
            "| what | us |\n| --- | ---: |\n| near | 7 |\n| far | 1200 |\n"
        );
    }

    #[test]
    fn kept_results_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let kept = report();
        kept.keep(folder.path()).unwrap();
        let read = Report::read_all(folder.path()).unwrap();
        assert_eq!(read, std::slice::from_ref(&kept));
        assert_eq!(read[0].figures::<Ping>().unwrap()[1], Ping { name: "far".to_owned(), micros: 1200 });
        fs::write(folder.path().join("pong.json"), "{}").unwrap();
        let error = Report::read_all(folder.path()).unwrap_err().to_string();
        assert!(error.contains("pong.json is not a report"), "{error}");
    }

    #[test]
    fn figures_include_where_they_were_taken() {
        let taken = Taken::now();
        assert!(taken.compiler.starts_with("rustc 1."), "{taken:?}");
        assert!(taken.machine.contains("cores (") && !taken.kernel.is_empty(), "{taken:?}");
    }
}
