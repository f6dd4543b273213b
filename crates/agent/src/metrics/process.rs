//! The process metrics that Prometheus client libraries define: CPU time, memory, descriptors and start time.
//!
//! From: `/proc`, getrusage(2) and getrlimit(2). A metric is missing if its value can't be read.

use std::fmt;
use std::fs;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeValLike;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::encoder::Encoder;

/// Clock ticks per second in `/proc`. It is 100 on all architectures that Rust's Linux targets have; musl's
/// sysconf(3) also returns this constant.
const TICKS_PER_SECOND: f64 = 100.0;

/// Reads the process metrics at each scrape.
#[derive(Debug)]
pub(super) struct ProcessCollector {
    /// When the process started, in seconds since 1970.
    started: Option<f64>,
}

impl ProcessCollector {
    pub(super) fn new() -> Self {
        Self { started: start_time() }
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let mut encoder = Encoder::new(&mut encoder);
        if let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) {
            let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
            let metric = ConstCounter::new(micros as f64 / 1e6);
            encoder.metric("process_cpu_seconds", "Total user and system CPU time in seconds.", &metric)?;
        }
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        if let Some(bytes) = bytes_in(&status, "VmRSS:") {
            encoder.gauge("process_resident_memory_bytes", "Resident memory size in bytes.", bytes)?;
        }
        if let Some(bytes) = bytes_in(&status, "VmSize:") {
            encoder.gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", bytes)?;
        }
        if let Ok(descriptors) = fs::read_dir("/proc/self/fd") {
            // One of them reads the folder.
            let open = (descriptors.count() as u64).saturating_sub(1);
            encoder.gauge("process_open_fds", "Number of open file descriptors.", open)?;
        }
        if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
            encoder.gauge("process_max_fds", "Maximum number of open file descriptors.", soft)?;
        }
        if let Some(started) = self.started {
            let help = "Start time of the process in seconds since 1970.";
            encoder.metric("process_start_time_seconds", help, &ConstGauge::new(started))?;
        }
        Ok(())
    }
}

/// A field of `/proc/self/status`, which has it in kB (proc_pid_status(5)).
fn bytes_in(status: &str, field: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kilobytes: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// When the process started, in seconds since 1970.
fn start_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let system = fs::read_to_string("/proc/stat").ok()?;
    let booted: u64 = system.lines().find_map(|line| line.strip_prefix("btime "))?.parse().ok()?;
    Some(booted as f64 + start_ticks(&stat)? as f64 / TICKS_PER_SECOND)
}

/// Field 22 of `/proc/self/stat` (proc_pid_stat(5)): ticks from the system's start to the process's. The
/// second field, a name in parentheses, may contain spaces and parentheses.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn fields_of_proc_are_parsed() {
        assert_eq!(bytes_in("Name:\tx\nVmRSS:\t    1234 kB\nThreads:\t1\n", "VmRSS:"), Some(1234 * 1024));
        assert_eq!(bytes_in("Name:\tx\n", "VmRSS:"), None);
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 8755 9 10\n";
        assert_eq!(start_ticks(stat), Some(8755));
    }

    #[test]
    fn the_start_time_of_this_process_is_recent() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
        let age = now - start_time().expect("proc is readable");
        assert!((-2.0..3600.0).contains(&age), "{age}");
    }
}
