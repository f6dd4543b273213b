//! The program's log, as text or JSON. It always goes to standard error, so that standard output can carry
//! audit records.
//!
//! Invariant: a name from outside cannot begin a line or control the terminal ([`Text`]). JSON escapes by
//! itself.

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
pub(crate) enum LogFormat {
    /// Text, coloured on a terminal.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Starts the log. Call it once.
#[expect(clippy::disallowed_methods, reason = "the output is escaped, by `write_field` or as JSON")]
pub(crate) fn start(format: LogFormat, filter: &LogFilter) {
    // If the reader of standard error is gone, as when a terminal hangs up, the threads that log must not
    // end. An error about it could not be written either.
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

/// The format of a text line's message and fields.
fn fields() -> impl for<'writer> FormatFields<'writer> + Send + Sync + 'static {
    format::debug_fn(write_field).delimited(" ")
}

/// Writes one field, or the message.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let value = Text::new(format_args!("{value:?}"));
    match field.name() {
        "message" => write!(writer, "{value}"),
        name => write!(writer, "{name}={value}"),
    }
}

/// The log level, and the levels of modules that have their own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct LogFilter {
    level: LevelFilter,
    modules: Vec<(String, LevelFilter)>,
}

impl FromStr for LogFilter {
    type Err = String;

    /// Parses `warn`, `debug,kube_client=info`, or `dataplane=trace`, which leaves the rest at `info`. A name
    /// before `=` is that of a crate or module.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut level = None;
        let mut modules = Vec::new();
        for item in text.split(',').map(str::trim) {
            match item.split_once('=') {
                Some((module, of_module)) if is_module(module) => {
                    let of_module = match of_module {
                        "off" => LevelFilter::OFF,
                        _ => level_of(of_module).ok_or_else(|| wrong(item))?,
                    };
                    modules.push((module.to_owned(), of_module));
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
        Ok(Self { level: level.unwrap_or(LevelFilter::INFO), modules })
    }
}

/// The form that [`FromStr`] parses.
impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.level)?;
        self.modules.iter().try_for_each(|(module, level)| write!(f, ",{module}={level}"))
    }
}

impl LogFilter {
    fn targets(&self) -> Targets {
        // The API client logs at each attempt what the source logs once, and its lines may contain whole
        // responses.
        let targets = Targets::new().with_default(self.level).with_target("kube_client", LevelFilter::OFF);
        targets.with_targets(self.modules.iter().cloned())
    }
}

fn level_of(name: &str) -> Option<LevelFilter> {
    Some(match name {
        "error" => LevelFilter::ERROR,
        // The name in klog and syslog.
        "warn" | "warning" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => return None,
    })
}

/// Whether this is a valid path of a crate or module.
fn is_module(path: &str) -> bool {
    path.split("::")
        .all(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
}

fn wrong(item: &str) -> String {
    format!(
        "{item:?} is not a log level: write error, warn, info, debug or trace; or a module and its level, \
         such as info,dataplane=debug"
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
    fn a_name_from_outside_cannot_begin_a_line_or_control_the_terminal() {
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
    fn a_level_is_one_of_five_and_modules_may_differ() {
        let filter = |level, modules: &[(&str, LevelFilter)]| {
            let modules = modules.iter().map(|(module, level)| ((*module).to_owned(), *level)).collect();
            Ok(LogFilter { level, modules })
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
    fn an_invalid_level_is_refused_and_the_levels_are_named() {
        for text in
            ["", "inof", "INFO!", "off", "dataplane", "info,", "=debug", "dataplane=", "a=inof", "a b=info"]
        {
            let error = text.parse::<LogFilter>().expect_err(text);
            assert!(error.contains("error, warn, info, debug or trace"), "{text:?}: {error}");
        }
        "info,debug".parse::<LogFilter>().expect_err("which of the two?");
    }
}
