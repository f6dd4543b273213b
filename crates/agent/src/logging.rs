//! The program's own log: for people on a terminal, or JSON for collectors. Always on standard error, so that standard output
//! can carry audit records.
//!
//! Invariant: a name from outside begins no line and steers no terminal ([`Text`]); JSON has escapes of its own.

use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;

use clap::ValueEnum;
use tracing::field::Field;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{self, Writer};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, registry};

use crate::terminal::Text;

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts the log. To be called once.
#[expect(clippy::disallowed_methods, reason = "what goes there is escaped: by `write_field`, or as JSON")]
pub fn start(format: LogFormat, filter: &LogFilter) {
    // A reader of standard error that is gone, such as a terminal that was hung up, must not end the threads that log: where it can't
    // be written, an error about that can't either.
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
    match format {
        LogFormat::Text => registry()
            .with(
                layer
                    .fmt_fields(fields())
                    .with_ansi(std::io::stderr().is_terminal())
                    .with_target(false)
                    .with_filter(filter.targets()),
            )
            .init(),
        LogFormat::Json => registry()
            .with(layer.json().flatten_event(true).with_current_span(false).with_filter(filter.targets()))
            .init(),
    }
}

/// How a line for people shows its message and fields.
fn fields() -> impl for<'writer> FormatFields<'writer> + Send + Sync + 'static {
    format::debug_fn(write_field).delimited(" ")
}

/// One field, or the message.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let value = Text::new(format_args!("{value:?}"));
    match field.name() {
        "message" => write!(writer, "{value}"),
        name => write!(writer, "{name}={value}"),
    }
}

/// What is logged: a level, and other levels for parts of the program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogFilter {
    level: LevelFilter,
    parts: Vec<(String, LevelFilter)>,
}

impl FromStr for LogFilter {
    type Err = String;

    /// `warn`, `debug,kube_client=info` or `dataplane=trace`, which leaves the rest at `info`. A part is a crate or module.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut level = None;
        let mut parts = Vec::new();
        for item in text.split(',').map(str::trim) {
            match item.split_once('=') {
                Some((part, of_part)) if is_part(part) => {
                    let of_part = match of_part {
                        "off" => LevelFilter::OFF,
                        _ => level_of(of_part).ok_or_else(|| wrong(item))?,
                    };
                    parts.push((part.to_owned(), of_part));
                }
                Some(_) => return Err(wrong(item)),
                None => {
                    let of_all = level_of(item).ok_or_else(|| wrong(item))?;
                    if level.replace(of_all).is_some() {
                        return Err(format!("{text:?} has two levels: choose one"));
                    }
                }
            }
        }
        Ok(Self { level: level.unwrap_or(LevelFilter::INFO), parts })
    }
}

/// As it is written.
impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.level)?;
        self.parts.iter().try_for_each(|(part, level)| write!(f, ",{part}={level}"))
    }
}

impl LogFilter {
    fn targets(&self) -> Targets {
        // The API client's own lines say at each try what the source says once, and may hold whole answers.
        let targets = Targets::new().with_default(self.level).with_target("kube_client", LevelFilter::OFF);
        targets.with_targets(self.parts.iter().cloned())
    }
}

fn level_of(name: &str) -> Option<LevelFilter> {
    Some(match name {
        "error" => LevelFilter::ERROR,
        // As klog and syslog name it.
        "warn" | "warning" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => return None,
    })
}

/// Whether this can be the path of a crate or module.
fn is_part(path: &str) -> bool {
    path.split("::")
        .all(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
}

fn wrong(item: &str) -> String {
    format!(
        "{item:?} is no level: write error, warn, info, debug or trace; or a part of the program and its level, such as \
         info,dataplane=debug"
    )
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("one thread").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_name_from_outside_begins_no_line_of_the_log_and_steers_no_terminal() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = tracing_subscriber::fmt()
            .fmt_fields(fields())
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let name = "a\n2026-01-01T00:00:00Z  INFO policy applied\u{1b}[2J\u{202e}";
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(%name, text = name, list = ?[name], number = 3, "not understood: {name}");
        });
        let text = String::from_utf8(buffer.0.lock().expect("one thread").clone()).expect("text");
        assert_eq!(text.lines().count(), 1, "{text}");
        let line = text.strip_suffix('\n').expect("a line");
        assert!(!line.chars().any(|letter| letter.is_control() || letter == '\u{202e}'), "{line:?}");
        let shown = "a\\n2026-01-01T00:00:00Z  INFO policy applied\\u{1b}[2J\\u{202e}";
        for part in [
            format!("not understood: {shown} name={shown} "),
            format!("text=\"{shown}\" list=[\"{shown}\"] number=3"),
        ] {
            assert!(line.contains(&part), "{part} in {line}");
        }
    }

    #[test]
    fn a_level_is_one_of_five_and_parts_may_differ() {
        let filter = |level, parts: &[(&str, LevelFilter)]| {
            let parts = parts.iter().map(|(part, level)| ((*part).to_owned(), *level)).collect();
            Ok(LogFilter { level, parts })
        };
        let (info, debug) = (LevelFilter::INFO, LevelFilter::DEBUG);
        for (text, expected) in [
            ("error", filter(LevelFilter::ERROR, &[])),
            ("warn", filter(LevelFilter::WARN, &[])),
            ("warning", filter(LevelFilter::WARN, &[])),
            ("info", filter(info, &[])),
            ("debug", filter(debug, &[])),
            ("trace", filter(LevelFilter::TRACE, &[])),
            ("info,dataplane=debug", filter(info, &[("dataplane", debug)])),
            ("dataplane::table=debug", filter(info, &[("dataplane::table", debug)])),
            ("debug, kube_client=off", filter(debug, &[("kube_client", LevelFilter::OFF)])),
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_level_is_refused_and_the_levels_are_named() {
        for text in
            ["", "inof", "INFO!", "off", "dataplane", "info,", "=debug", "dataplane=", "a=inof", "a b=info"]
        {
            let error = text.parse::<LogFilter>().expect_err(text);
            assert!(error.contains("error, warn, info, debug or trace"), "{text:?}: {error}");
        }
        "info,debug".parse::<LogFilter>().expect_err("which of the two?");
    }
}
