//! The number of cores, which is the default number of workers.

use std::thread;

/// Number of cores that may receive packets: all online cores, regardless of this process's CPU limits.
pub(super) fn cores() -> u16 {
    let is_core = |line: &&str| {
        line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let online =
        std::fs::read_to_string("/proc/stat").map(|text| text.lines().filter(is_core).count()).unwrap_or(0);
    let cores = if online > 0 { online } else { thread::available_parallelism().map_or(1, usize::from) };
    u16::try_from(cores).unwrap_or(u16::MAX).min(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_least_one_core_is_counted() {
        assert!(cores() >= 1);
    }
}
