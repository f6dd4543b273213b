//! Keeps the agent's memory small after a large cluster was read.
//!
//! The GNU C library gives each thread its own arena. Once a large buffer was freed, it also allocates large
//! buffers from these arenas. After a few changes to thousands of pods, it holds twice the memory that is in
//! use. With one arena, and with large buffers mapped individually, it returns memory to the system. Workers
//! allocate nothing per packet, so they don't contend for the one arena. Other C libraries have no such
//! settings.
#![allow(unsafe_code, reason = "mallopt(3) and malloc_trim(3) have no safe form")]

#[cfg(target_env = "gnu")]
mod gnu {
    use libc::{M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, c_int};

    /// The settings, their values, and the environment variables by which an operator can override them
    /// (mallopt(3)).
    pub(super) const SETTINGS: [(c_int, c_int, &str); 3] = [
        (M_ARENA_MAX, 1, "MALLOC_ARENA_MAX"),
        (M_MMAP_THRESHOLD, 64 << 10, "MALLOC_MMAP_THRESHOLD_"),
        (M_TRIM_THRESHOLD, 64 << 10, "MALLOC_TRIM_THRESHOLD_"),
    ];

    pub(super) fn trim() {
        // SAFETY: takes one integer, and returns only unused memory to the system.
        unsafe {
            libc::malloc_trim(0);
        }
    }

    pub(super) fn set(setting: c_int, value: c_int) -> bool {
        // SAFETY: takes two integers, keeps no pointer, and is called before there is a second thread.
        unsafe { libc::mallopt(setting, value) == 1 }
    }
}

/// Configures malloc. Call this first, before there is a second thread. Settings of the operator stay. If the
/// library does not support a setting, the agent only needs more memory.
pub(crate) fn configure_malloc() {
    #[cfg(target_env = "gnu")]
    for (setting, value, variable) in gnu::SETTINGS {
        if std::env::var_os(variable).is_none() {
            gnu::set(setting, value);
        }
    }
}

/// Returns unused memory to the system, which takes a few milliseconds. Call this after large objects were
/// read or compiled.
pub(crate) fn trim() {
    #[cfg(target_env = "gnu")]
    gnu::trim();
}

/// Trims the heap when the program has grown.
#[derive(Debug, Default)]
pub(crate) struct HeapTrimmer {
    /// The resident pages after the last trim, or fewer if the program has shrunk since.
    baseline: u64,
}

impl HeapTrimmer {
    /// The growth in pages that causes a trim.
    const PAGES: u64 = 2048;

    /// Trims the heap if the program has grown. Call this periodically: other threads also read objects, some
    /// of them invalid.
    pub(crate) fn trim_if_grown(&mut self) {
        let Some(resident) = resident_pages() else { return };
        if resident > self.baseline + Self::PAGES {
            trim();
            self.baseline = resident_pages().unwrap_or(resident);
        } else {
            self.baseline = self.baseline.min(resident);
        }
    }
}

/// The program's resident pages (proc_pid_statm(5)); `None` if they can't be read.
fn resident_pages() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    statm.split(' ').nth(1)?.parse().ok()
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::gnu;

    #[test]
    fn freed_memory_is_returned_to_the_system_after_the_program_has_grown() {
        let mut trimmer = super::HeapTrimmer::default();
        trimmer.trim_if_grown();
        let resident = || super::resident_pages().expect("statm is readable");
        // These buffers are too small to be mapped individually, and one that stays is above them.
        let buffers: Vec<Vec<u8>> = (0..4_000).map(|_| vec![1; 16 << 10]).collect();
        let (grown, last) = (resident(), vec![1_u8; 16 << 10]);
        drop(buffers);
        trimmer.trim_if_grown();
        assert!(resident() + 8_000 < grown, "{} pages of {grown}", resident());
        drop(last);
    }

    #[test]
    fn the_library_supports_each_setting() {
        for (setting, value, variable) in gnu::SETTINGS {
            assert!(gnu::set(setting, value), "{variable}");
        }
    }
}
