//! Keeps the agent small after a large cluster was read.
//!
//! The GNU C library serves each thread from an arena of its own, and large buffers from these arenas, too, once it has seen one
//! freed: after a few changes to thousands of pods it holds twice the memory that is in use. With one arena, and buffers of
//! some size mapped by themselves, it gives them back. Workers allocate nothing per packet, so that they don't meet in the one
//! arena. Other C libraries have no such settings.
#![allow(unsafe_code, reason = "mallopt(3) and malloc_trim(3) have no safe form")]

#[cfg(target_env = "gnu")]
mod gnu {
    use libc::{M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, c_int};

    /// What is set, its value, and the variable by which an operator sets it instead (mallopt(3)).
    pub(super) const SETTINGS: [(c_int, c_int, &str); 3] = [
        (M_ARENA_MAX, 1, "MALLOC_ARENA_MAX"),
        (M_MMAP_THRESHOLD, 64 << 10, "MALLOC_MMAP_THRESHOLD_"),
        (M_TRIM_THRESHOLD, 64 << 10, "MALLOC_TRIM_THRESHOLD_"),
    ];

    pub(super) fn trim() {
        // SAFETY: takes one integer, and gives memory back that nothing uses.
        unsafe {
            libc::malloc_trim(0);
        }
    }

    pub(super) fn set(setting: c_int, value: c_int) -> bool {
        // SAFETY: takes two integers, keeps nothing of ours, and is called before there is a second thread.
        unsafe { libc::mallopt(setting, value) == 1 }
    }
}

/// To be called first of all, before there is a second thread. What the operator chose stays; a setting that the library
/// doesn't know leaves the agent as good, and larger.
pub fn keep_small() {
    #[cfg(target_env = "gnu")]
    for (setting, value, variable) in gnu::SETTINGS {
        if std::env::var_os(variable).is_none() {
            gnu::set(setting, value);
        }
    }
}

/// Gives memory back to the system that was in use for a moment: after large objects were read or compiled. It takes a few milliseconds.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    gnu::trim();
}

/// Gives memory back when the program has grown.
#[derive(Debug, Default)]
pub struct Growth {
    /// Pages in memory after memory was given back last.
    kept: u64,
}

impl Growth {
    /// Gives memory back if the program has grown by this many pages since the last time.
    const PAGES: u64 = 2048;

    /// To be called now and then: objects are also read, and found wrong, on other threads.
    pub fn look(&mut self) {
        let Some(resident) = resident_pages() else { return };
        if resident > self.kept + Self::PAGES {
            give_back();
            self.kept = resident_pages().unwrap_or(resident);
        } else {
            self.kept = self.kept.min(resident);
        }
    }
}

/// Pages of the program that are in memory (proc_pid_statm(5)); `None` if the kernel doesn't say.
fn resident_pages() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    statm.split(' ').nth(1)?.parse().ok()
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::gnu;

    #[test]
    fn memory_that_is_free_again_is_given_back_when_the_program_has_grown() {
        let mut growth = super::Growth::default();
        growth.look();
        let resident = || super::resident_pages().expect("the kernel says");
        // Too small to be mapped by themselves, and freed below one that stays.
        let buffers: Vec<Vec<u8>> = (0..4_000).map(|_| vec![1; 16 << 10]).collect();
        let (grown, last) = (resident(), vec![1_u8; 16 << 10]);
        drop(buffers);
        growth.look();
        assert!(resident() + 8_000 < grown, "{} pages of {grown}", resident());
        drop(last);
    }

    #[test]
    fn the_library_knows_each_setting() {
        for (setting, value, variable) in gnu::SETTINGS {
            assert!(gnu::set(setting, value), "{variable}");
        }
    }
}
