//! `--output` of `log`.

use clap::ValueEnum;

/// Output format of `log`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(super) enum LogOutput {
    /// A table that fits the terminal.
    #[default]
    Table,
    /// A table with all fields.
    Wide,
    /// JSON lines.
    Json,
}
