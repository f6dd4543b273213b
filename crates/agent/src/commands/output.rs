//! `--output`: text or JSON.

use std::io;

use clap::ValueEnum;
use serde::Serialize;

use crate::terminal::{self, Text};

/// Output format of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(super) enum Output {
    /// Text for people.
    #[default]
    Text,
    /// JSON for programs.
    Json,
}

impl Output {
    /// Prints a value as JSON, or as the text that `render` returns.
    pub(super) fn print(self, value: &impl Serialize, render: impl FnOnce() -> Text) -> io::Result<()> {
        match self {
            Self::Text => render().print(),
            Self::Json => terminal::print_json(value),
        }
    }
}
