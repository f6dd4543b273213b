//! The files to read.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use audit::query::{Findings, Position, Scan};
use audit::reader::{Follow, Followed, LogFile, LogFiles, LogInput, RawLines, open_input};

use super::sink::{Next, Sink};
use crate::exit::Usage;
use crate::paint;
use crate::terminal::text;

/// The time between two looks for new lines.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// How many files of a folder a warning names.
const MOST_NAMED: usize = 5;

/// What to read, in this order.
#[derive(Debug)]
pub(super) struct Inputs(Vec<Input>);

#[derive(Debug)]
enum Input {
    File(LogFile),
    Stdin,
}

impl Inputs {
    /// The log at `path` and its closed files.
    pub(super) fn of_log(path: &Path) -> Result<Self, Usage> {
        let files = LogFiles::of_log(path).map_or_else(|_| Vec::new(), |found| found.files);
        if files.is_empty() {
            return Err(Usage(format!(
                "--audit-log {}: there is no such log: give the path of the agent's --audit-log, or FILE",
                path.display()
            )));
        }
        Ok(Self(files.into_iter().map(Input::File).collect()))
    }

    /// These files and folders; `-` is standard input.
    pub(super) fn of_files(paths: &[PathBuf]) -> Result<Self, Usage> {
        let mut inputs = Vec::new();
        for path in paths {
            if path.as_os_str() == "-" {
                inputs.push(Input::Stdin);
            } else if path.is_dir() {
                let found = LogFiles::in_folder(path)
                    .map_err(|error| Usage(format!("cannot read the folder {}: {error}", path.display())))?;
                if found.files.is_empty() {
                    return Err(Usage(format!(
                        "{} has no log: names of logs end in .log or .jsonl; others can be given as FILE",
                        path.display()
                    )));
                }
                warn_of_others(path, &found.others);
                inputs.extend(found.files.into_iter().map(Input::File));
            } else if let Err(error) = path.metadata() {
                return Err(Usage(format!("cannot read {}: {error}", path.display())));
            } else {
                inputs.push(Input::File(LogFile { path: path.clone() }));
            }
        }
        Ok(Self(inputs))
    }

    /// Offers each line to `scan` and each record that it finds to `sink`, until `sink` has enough. Returns
    /// whether all inputs could be read; reports those that could not.
    pub(super) fn read(self, scan: &mut Scan, sink: &mut Sink) -> io::Result<bool> {
        let mut is_read = true;
        for input in self.0 {
            let (path, opened) = input.open();
            let read = match opened {
                Ok(input) => read_lines(&path, input, scan, sink),
                Err(error) => Err(ReadOrWrite::Read(error)),
            };
            match read {
                Ok(Next::More) => {}
                Ok(Next::Enough) => break,
                Err(ReadOrWrite::Write(error)) => return Err(error),
                Err(ReadOrWrite::Read(error)) => {
                    is_read = false;
                    (paint::wrong("error:") + text!(" cannot read {}: {error}", path.display()))
                        .print_error();
                }
            }
        }
        Ok(is_read)
    }
}

impl Input {
    fn open(self) -> (PathBuf, io::Result<LogInput>) {
        match self {
            Self::File(file) => {
                let opened = file.open();
                (file.path, opened)
            }
            Self::Stdin => (PathBuf::from("standard input"), open_input(io::stdin())),
        }
    }
}

/// Which end of the pipeline failed.
enum ReadOrWrite {
    Read(io::Error),
    Write(io::Error),
}

fn read_lines(path: &Path, input: LogInput, scan: &mut Scan, sink: &mut Sink) -> Result<Next, ReadOrWrite> {
    let mut lines = RawLines::new(input);
    while let Some(raw) = lines.next_line().map_err(ReadOrWrite::Read)? {
        let at = Position { path, line: raw.number };
        let record = match raw.text {
            Some(line) if raw.is_finished => scan.line(at, line),
            Some(line) => scan.unfinished_line(at, line),
            None => {
                scan.too_long(at);
                None
            }
        };
        if let (Some(record), Some(line)) = (record, raw.text)
            && sink.add(&record, line).map_err(ReadOrWrite::Write)? == Next::Enough
        {
            return Ok(Next::Enough);
        }
        if !raw.is_finished {
            break;
        }
    }
    Ok(Next::More)
}

/// Shows records as they are written, until `sink` has enough.
pub(super) fn follow(log: &Path, from_start: bool, scan: &mut Scan, sink: &mut Sink) -> anyhow::Result<()> {
    let context = |error: io::Error| anyhow::anyhow!(error).context(format!("cannot read {}", log.display()));
    let opened = if from_start { Follow::from_start(log) } else { Follow::from_end(log) };
    let mut follow = opened.map_err(context)?;
    if log.metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        text!("waiting for {}: no agent has written it yet", log.display()).print_error();
    }
    let mut line = Vec::new();
    let mut reported = Findings::default();
    loop {
        let found = follow.next_line(&mut line).map_err(context)?;
        let (path, number) = follow.position();
        let at = Position { path, line: number };
        let record = match found {
            Followed::Line => scan.line(at, &line),
            Followed::Torn => scan.unfinished_line(at, &line),
            Followed::TooLong => {
                scan.too_long(at);
                None
            }
            Followed::Nothing => {
                sink.flush()?;
                report(scan.findings(), &mut reported);
                sleep(POLL_INTERVAL);
                continue;
            }
        };
        if let Some(record) = record
            && sink.add(&record, &line)? == Next::Enough
        {
            sink.finish()?;
            report(scan.findings(), &mut reported);
            return Ok(());
        }
    }
}

/// Reports findings that changed since the last call.
fn report(findings: &Findings, reported: &mut Findings) {
    let known = reported.sentences();
    for sentence in findings.sentences().into_iter().filter(|sentence| !known.contains(sentence)) {
        (paint::warning("warning:") + text!(" {sentence}")).print_error();
    }
    reported.clone_from(findings);
}

/// Says which files of a folder are not read.
fn warn_of_others(folder: &Path, others: &[PathBuf]) {
    if others.is_empty() {
        return;
    }
    let named: Vec<_> = others.iter().filter_map(|path| path.file_name()).take(MOST_NAMED).collect();
    let named: Vec<_> = named.iter().map(|name| name.display().to_string()).collect();
    let more = match others.len().saturating_sub(MOST_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let warning = text!(
        " {}: not read, because their names are not those of logs: {}{more}",
        folder.display(),
        named.join(", ")
    );
    (paint::warning("warning:") + warning).print_error();
}
