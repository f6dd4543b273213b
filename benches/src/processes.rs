//! The resources that processes have used, according to the kernel, and the cores that threads run on.

use std::fs;
use std::thread::available_parallelism;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// The processor time of a process, summed over its live threads, in nanoseconds
/// (`/proc/PID/task/TID/schedstat`, the first number).
pub fn cpu(process: u32) -> Result<Duration> {
    let tasks = format!("/proc/{process}/task");
    let mut all = Duration::ZERO;
    for task in fs::read_dir(&tasks).with_context(|| format!("reading {tasks}"))?.flatten() {
        // A thread that has just ended has no figures.
        let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else { continue };
        let nanoseconds = text.split(' ').next().unwrap_or_default();
        all += Duration::from_nanos(nanoseconds.parse().context("reading a thread's schedstat")?);
    }
    Ok(all)
}

/// The same for all processes of a group.
pub fn cpu_of_group(group: u32) -> Result<Duration> {
    let mut all = Duration::ZERO;
    for entry in fs::read_dir("/proc").context("reading /proc")?.flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if group_of(process) == Some(group) {
            // The process may have ended meanwhile.
            all += cpu(process).unwrap_or_default();
        }
    }
    Ok(all)
}

/// Pins the calling thread to one core: the one with this number, modulo the number of cores.
pub fn pin_to_core(core: usize) -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core % available_parallelism().map_or(1, usize::from))?;
    sched_setaffinity(Pid::from_raw(0), &cores).with_context(|| format!("pinning a thread to core {core}"))
}

/// The fifth field of `/proc/PID/stat`; the second is in parentheses and may contain anything.
fn group_of(process: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    text.rsplit_once(") ")?.1.split(' ').nth(2)?.parse().ok()
}

/// A process's memory by a key of `/proc/PID/status`, such as `VmRSS:`, in megabytes.
pub fn memory(process: u32, key: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).context("reading its memory")?;
    let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_suffix(" kB"));
    let kilobytes: f64 = value.with_context(|| format!("no {key} in its status"))?.trim().parse()?;
    Ok(kilobytes * 1024.0 / 1e6)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn this_process_takes_time_and_memory() {
        let ourselves = std::process::id();
        let before = cpu(ourselves).unwrap();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(20) {}
        let taken = cpu(ourselves).unwrap() - before;
        assert!(taken > Duration::from_millis(5), "{taken:?}");
        let group = group_of(ourselves).unwrap();
        assert!(cpu_of_group(group).unwrap() >= before + taken);
        assert!(memory(ourselves, "VmRSS:").unwrap() > 1.0);
        assert!(memory(ourselves, "VmNothing:").is_err());
    }
}
