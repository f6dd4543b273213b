//! The program's own log: for people on a terminal, or JSON for collectors. Always on standard error, so that standard output
//! can carry audit records.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts the log. `level` is a level, or directives such as `info,dataplane=debug`.
pub fn start(format: LogFormat, level: &EnvFilterText) {
    let builder = tracing_subscriber::fmt().with_env_filter(level.filter()).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).with_target(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).init(),
    }
}

/// A filter's text, known to be valid.
#[derive(Clone, Debug)]
pub struct EnvFilterText(String);

impl std::str::FromStr for EnvFilterText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        EnvFilter::try_new(text).map(|_| Self(text.to_owned())).map_err(|error| error.to_string())
    }
}

impl EnvFilterText {
    /// The API client's own lines say at each try what the source says once, and may hold whole answers.
    fn filter(&self) -> EnvFilter {
        EnvFilter::new(format!("kube_client=off,{}", self.0))
    }
}
