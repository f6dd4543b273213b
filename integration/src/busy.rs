//! Load on every processor.

use std::process::{Child, Command};
use std::thread;

use anyhow::{Context, Result};

/// Programs that use all remaining time of every processor until this is dropped. They don't delay others
/// (`SCHED_IDLE`), but no processor is idle, so the kernel's grace periods (RCU) take longer.
#[derive(Debug)]
pub struct Busy(Vec<Child>);

impl Busy {
    /// Starts the programs.
    pub fn start() -> Result<Self> {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let mut busy = Self(Vec::new());
        for _ in 0..=processors {
            let mut program = Command::new("chrt");
            program.args(["--idle", "0", "sh", "-c", "while :; do :; done"]);
            busy.0.push(program.spawn().context("running chrt (is the package util-linux installed?)")?);
        }
        Ok(busy)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for program in &mut self.0 {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}
