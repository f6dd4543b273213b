//! The resources that processes have used, according to the kernel, and the cores that threads run on.

use std::thread::available_parallelism;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use procfs::ProcResult;
use procfs::process::{Process, all_processes};

/// The processor time of a process, summed over its live threads, in nanoseconds
/// (`/proc/PID/task/TID/schedstat`, the first number).
pub fn cpu(process: u32) -> Result<Duration> {
    cpu_of(&open(process)?).with_context(|| format!("reading the processor time of process {process}"))
}

/// The same for all processes of a group.
pub fn cpu_of_group(group: u32) -> Result<Duration> {
    let members = all_processes().context("reading /proc")?.flatten();
    let members = members.filter(|process| process.stat().is_ok_and(|stat| stat.pgrp == group.cast_signed()));
    // A process may have ended meanwhile.
    Ok(members.filter_map(|process| cpu_of(&process).ok()).sum())
}

fn cpu_of(process: &Process) -> ProcResult<Duration> {
    // A thread that has just ended has no figures.
    let threads = process.tasks()?.filter_map(|thread| thread.and_then(|thread| thread.schedstat()).ok());
    Ok(threads.map(|times| Duration::from_nanos(times.sum_exec_runtime)).sum())
}

/// Pins the calling thread to one core: the one with this number, modulo the number of cores.
pub fn pin_to_core(core: usize) -> Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core % available_parallelism().map_or(1, usize::from))?;
    sched_setaffinity(Pid::from_raw(0), &cores).with_context(|| format!("pinning a thread to core {core}"))
}

/// The memory of a process.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Memory {
    /// Resident memory (`VmRSS`), in megabytes.
    pub resident_mb: f64,
    /// The maximum so far (`VmHWM`), in megabytes.
    pub peak_mb: f64,
}

/// Reads the memory of a process.
pub fn memory(process: u32) -> Result<Memory> {
    let doing = || format!("reading the memory of process {process}");
    let status = open(process)?.status().with_context(doing)?;
    let megabytes =
        |kilobytes: Option<u64>| kilobytes.map(|size| size as f64 * 1024.0 / 1e6).with_context(doing);
    Ok(Memory { resident_mb: megabytes(status.vmrss)?, peak_mb: megabytes(status.vmhwm)? })
}

fn open(process: u32) -> Result<Process> {
    Process::new(process.cast_signed()).with_context(|| format!("opening process {process}"))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use nix::unistd::getpgrp;

    use super::*;

    #[test]
    fn this_process_takes_time_and_memory() {
        let ourselves = std::process::id();
        let before = cpu(ourselves).unwrap();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(20) {}
        let taken = cpu(ourselves).unwrap() - before;
        assert!(taken > Duration::from_millis(5), "{taken:?}");
        let group = getpgrp().as_raw().cast_unsigned();
        assert!(cpu_of_group(group).unwrap() >= before + taken);
        let Memory { resident_mb, peak_mb } = memory(ourselves).unwrap();
        assert!(1.0 < resident_mb && resident_mb <= peak_mb, "{resident_mb} {peak_mb}");
        let missing = i32::MAX.cast_unsigned();
        assert!(memory(missing).is_err() && cpu(missing).is_err());
    }
}
