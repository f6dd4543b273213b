//! Keeps the agent small after a large folder was read.
//!
//! The GNU C library serves each thread from an arena of its own, and large buffers from these arenas, too, once it has seen one
//! freed: after a few edits of a manifest with thousands of pods it holds twice the memory that is in use. With one arena, and
//! buffers of some size mapped by themselves, it gives them back. Workers allocate nothing per packet, so that they don't meet
//! in the one arena.
//!
//! The library reads these settings only when a program begins, so the agent begins once more, in the same process.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Set once the program has begun with the settings. Other C libraries have no use for them, and ignore them.
const DONE: &str = "KUBE_VERDICT_MALLOC";

/// What the GNU C library reads (`mallopt(3)`).
const SETTINGS: [(&str, &str); 3] =
    [("MALLOC_ARENA_MAX", "1"), ("MALLOC_MMAP_THRESHOLD_", "65536"), ("MALLOC_TRIM_THRESHOLD_", "65536")];

/// Begins the program once more with the settings, unless that was done. To be called before anything was begun. It
/// returns if it was done, or with why it can't be: then the agent works as well, and is larger.
pub fn keep_small() -> Result<(), io::Error> {
    if std::env::var_os(DONE).is_some() {
        return Ok(());
    }
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| OsString::from("kube-verdict"));
    let mut command = Command::new(std::env::current_exe()?);
    // What the operator chose stays.
    let unset = SETTINGS.into_iter().filter(|(setting, _)| std::env::var_os(setting).is_none());
    Err(command.arg0(name).args(arguments).envs(unset).env(DONE, "1").exec())
}
