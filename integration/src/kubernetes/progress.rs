//! The progress of long steps: a line with a spinner on a terminal, and one line at the end of each step.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use owo_colors::OwoColorize;

/// A step in progress.
#[derive(Debug)]
pub struct Step {
    bar: ProgressBar,
}

impl Step {
    /// Runs `work` as a step of this name, and prints whether it succeeded and how long it took.
    pub fn run<T>(name: &str, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let step = Self { bar: bar(name) };
        let started = Instant::now();
        let result = work(&step);
        step.bar.finish_and_clear();
        let seconds = format!("{:>6.1} s", started.elapsed().as_secs_f64());
        match &result {
            Ok(_) => anstream::println!("{}     {name:<34} {seconds}", "ok".green()),
            Err(_) => anstream::println!("{} {name:<34} {seconds}", "FAILED".red().bold()),
        }
        result
    }

    /// Shows what the step is doing now.
    pub fn now(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }
}

fn bar(name: &str) -> ProgressBar {
    if !io::stdout().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner().with_prefix(name.to_owned());
    let style = ProgressStyle::with_template("{spinner} {prefix:<34} {elapsed:>5} {wide_msg:.dim}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
