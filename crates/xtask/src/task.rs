//! A child process with a name: its output goes to a log, its progress to the screen, its result to the
//! caller.
//!
//! On a terminal a task is one line with a spinner. Elsewhere (CI) the output of important tasks is copied as
//! it arrives.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, IsTerminal, PipeReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use owo_colors::OwoColorize;

use crate::processes::kill_tree;

/// How many lines of a log are shown when its task has failed.
const TAIL: usize = 60;
/// How many lines from each panic on are repeated at the end: its location, and the beginning of its message.
const PANIC_LINES: usize = 4;
/// How much of each of those lines, in characters.
const PANIC_LINE_WIDTH: usize = 400;
/// How long to read output after a task has ended: a process that it left behind may hold the pipe open for
/// ever.
const OUTPUT_GRACE: Duration = Duration::from_secs(3);
/// How often a running task is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(25);

/// What to run.
#[derive(Debug)]
pub(crate) struct Task<'a> {
    /// Shown on the screen, and the name of the log.
    pub name: &'a str,
    /// The child.
    pub command: Command,
    /// The child is killed with all its descendants after this time.
    pub limit: Duration,
    /// What happens to its output without a terminal.
    pub output: Output,
}

/// What happens to a task's output without a terminal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Output {
    /// It is copied as it arrives.
    Copied,
    /// It goes only to the log, and the end of the log is shown on failure.
    Logged,
}

/// How a task ended.
#[derive(Debug)]
pub(crate) struct Done {
    /// What went wrong, or `None`.
    pub failure: Option<String>,
    /// How long it took.
    pub elapsed: Duration,
    /// On failure: the first lines of each panic, which are long before the end of a log.
    pub panics: Vec<String>,
}

impl Task<'_> {
    /// Runs the task to its end. `Err` means that it could not be run.
    pub(crate) fn run(mut self, logs: &Path) -> Result<Done> {
        fs::create_dir_all(logs)
            .with_context(|| format!("the folder for logs, {}, can't be made", logs.display()))?;
        let log = log_of(logs, self.name);
        let file =
            File::create(&log).with_context(|| format!("the log {} can't be written", log.display()))?;
        let screen = Screen::start(self.name, self.output);
        let (reader, writer) = io::pipe().context("no pipe for a task's output")?;
        let program = self.command.get_program().to_string_lossy().into_owned();
        self.command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);

        let started = Instant::now();
        let mut child = self.command.spawn().with_context(|| format!("{program} could not be started"))?;
        // The command holds the write ends of the pipe: until it is dropped, the reader sees no end of file.
        drop(self.command);
        let output = follow(reader, file, screen.clone());
        let mut timed_out = false;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if started.elapsed() > self.limit && !timed_out {
                kill_tree(child.id());
                timed_out = true;
            }
            thread::sleep(POLL_INTERVAL);
        };
        let elapsed = started.elapsed();
        // A disconnected channel means that the reader has ended, as its message does.
        let held = output.recv_timeout(OUTPUT_GRACE) == Err(mpsc::RecvTimeoutError::Timeout);
        let failure = failure(status, timed_out.then_some(self.limit), held);
        screen.end(self.name, failure.as_deref(), elapsed, &log);
        let panics = if failure.is_some() { panics(&text(&log)) } else { Vec::new() };
        Ok(Done { failure, elapsed, panics })
    }
}

/// A description of the failure.
fn failure(status: ExitStatus, timed_out: Option<Duration>, held: bool) -> Option<String> {
    match timed_out {
        Some(limit) => Some(format!("took longer than {} and was ended", HumanDuration(limit))),
        None if !status.success() => Some(status.to_string()),
        None if held => Some("left a process behind that still holds its output".to_owned()),
        None => None,
    }
}

/// Copies output to the log and the screen until every process that holds the pipe has ended.
fn follow(reader: PipeReader, mut log: File, screen: Screen) -> mpsc::Receiver<()> {
    let (ended, end) = mpsc::channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            // A full disk must not end the task: output that can't be logged is still shown.
            let _ = log.write_all(&line);
            screen.line(&line);
            line.clear();
        }
        // The receiver is gone if the task ended long ago.
        let _ = ended.send(());
    });
    end
}

/// How a task is shown.
#[derive(Clone, Debug)]
enum Screen {
    /// A line with a spinner.
    Terminal(ProgressBar),
    /// Everything, line by line.
    Lines,
    /// Nothing until the end.
    Silent,
}

impl Screen {
    fn start(name: &str, output: Output) -> Self {
        if io::stdout().is_terminal() {
            let bar = ProgressBar::new_spinner().with_prefix(name.to_owned());
            let style = ProgressStyle::with_template("{spinner} {prefix:<14} {elapsed:>5} {wide_msg:.dim}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(Duration::from_millis(100));
            return Self::Terminal(bar);
        }
        anstream::println!("==== {name}");
        match output {
            Output::Copied => Self::Lines,
            Output::Logged => Self::Silent,
        }
    }

    fn line(&self, line: &[u8]) {
        match self {
            Self::Terminal(bar) => bar.set_message(String::from_utf8_lossy(line).trim_end().to_owned()),
            Self::Lines => {
                // A closed standard output is no reason to end a test run.
                let _ = io::stdout().lock().write_all(line);
            }
            Self::Silent => {}
        }
    }

    fn end(&self, name: &str, failure: Option<&str>, elapsed: Duration, log: &Path) {
        if let Self::Terminal(bar) = self {
            bar.finish_and_clear();
        }
        if failure.is_some() && !matches!(self, Self::Lines) {
            anstream::println!("{}", tail(log));
        }
        anstream::println!("{}", report(name, failure, elapsed));
        if failure.is_some() {
            anstream::println!("       full log: {}", log.display());
        }
    }
}

/// One line about a task that has ended.
pub(crate) fn report(name: &str, failure: Option<&str>, elapsed: Duration) -> String {
    let seconds = format!("{:>6.1} s", elapsed.as_secs_f64());
    match failure {
        None => format!("{}     {name:<14} {seconds}", "ok".green()),
        Some(what) => format!("{} {name:<14} {seconds}  {what}", "FAILED".red().bold()),
    }
}

/// The last lines of a log.
fn tail(log: &Path) -> String {
    let text = text(log);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

/// The first lines of each panic in a log, cut to the width of a terminal.
fn panics(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let starts = (0..lines.len())
        .filter(|at| lines[*at].starts_with("thread '") && lines[*at].contains(" panicked at "));
    let shown = |line: &&str| line.chars().take(PANIC_LINE_WIDTH).collect::<String>();
    starts.map(|at| lines[at..].iter().take(PANIC_LINES).map(shown).collect::<Vec<_>>().join("\n")).collect()
}

/// The readable part of a log.
fn text(log: &Path) -> String {
    String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned()
}

/// The log of a task of this name.
fn log_of(logs: &Path, name: &str) -> PathBuf {
    logs.join(format!("{}.log", name.replace(' ', "-")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(name: &'static str, script: &str, limit: Duration) -> Task<'static> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Task { name, command, limit, output: Output::Logged }
    }

    #[test]
    fn both_streams_reach_the_log_in_order() {
        let logs = tempfile::tempdir().unwrap();
        let done =
            shell("streams", "echo one; echo two >&2; echo three", OUTPUT_GRACE).run(logs.path()).unwrap();
        assert_eq!(done.failure, None);
        assert_eq!(fs::read_to_string(log_of(logs.path(), "streams")).unwrap(), "one\ntwo\nthree\n");
    }

    #[test]
    fn a_failure_reports_the_exit_status_and_its_log_has_the_reason() {
        let logs = tempfile::tempdir().unwrap();
        let done = shell("fails", "echo reason; exit 3", OUTPUT_GRACE).run(logs.path()).unwrap();
        assert_eq!(done.failure.as_deref(), Some("exit status: 3"));
        assert_eq!(tail(&log_of(logs.path(), "fails")), "reason");
    }

    #[test]
    fn a_task_past_its_limit_is_ended_with_its_children() {
        let logs = tempfile::tempdir().unwrap();
        let script = "sleep 60 & echo $!; wait";
        let done = shell("hangs", script, Duration::from_millis(300)).run(logs.path()).unwrap();
        assert!(done.failure.is_some_and(|what| what.contains("was ended")));
        assert!(done.elapsed < Duration::from_secs(20));
        let child = fs::read_to_string(log_of(logs.path(), "hangs")).unwrap();
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
        assert!(
            stat.is_empty() || stat.contains(") Z "),
            "the child is gone or only waits to be reaped: {stat}"
        );
    }

    #[test]
    fn a_process_left_behind_is_a_failure_and_delays_nothing() {
        let logs = tempfile::tempdir().unwrap();
        let done = shell("leaves", "sleep 8 & exit 0", Duration::from_secs(60)).run(logs.path()).unwrap();
        assert!(done.failure.is_some_and(|what| what.contains("left a process behind")));
        assert!(done.elapsed < Duration::from_secs(5));
    }

    #[test]
    fn a_panic_far_from_the_end_of_a_log_is_repeated() {
        let logs = tempfile::tempdir().unwrap();
        let script =
            "echo \"thread 'scenario' (7) panicked at a.rs:1:2:\"; echo expected this; seq 100; exit 101";
        let done = shell("panics", script, OUTPUT_GRACE).run(logs.path()).unwrap();
        assert_eq!(done.panics, ["thread 'scenario' (7) panicked at a.rs:1:2:\nexpected this\n1\n2"]);
        let done =
            shell("fine", "echo \"thread 'scenario' panicked at\"", OUTPUT_GRACE).run(logs.path()).unwrap();
        assert_eq!(done.panics, Vec::<String>::new(), "a task that passed reports no panics");
    }

    #[test]
    fn a_long_log_is_cut_to_its_end() {
        let logs = tempfile::tempdir().unwrap();
        let log = log_of(logs.path(), "long");
        fs::write(&log, (1..=100).map(|n| format!("line {n}\n")).collect::<String>()).unwrap();
        let shown = tail(&log);
        assert_eq!(shown.lines().count(), TAIL);
        assert!(shown.starts_with("line 41\n") && shown.ends_with("line 100"));
    }
}
