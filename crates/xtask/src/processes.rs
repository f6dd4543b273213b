//! Ends a child together with all its descendants: a hung test may have agents, servers and a virtual machine
//! as children.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Kills process `root` and all its descendants.
pub(crate) fn kill_tree(root: u32) {
    let mut tree = vec![root];
    let parents = parents();
    let mut at = 0;
    while let Some(&parent) = tree.get(at) {
        tree.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child));
        at += 1;
    }
    // The root first, so that it starts nothing new while its children are killed.
    for process in tree {
        // A process that has already ended is no error.
        let _ = kill(Pid::from_raw(process.cast_signed()), Signal::SIGKILL);
    }
}

/// Each process with its parent, from /proc.
fn parents() -> Vec<(u32, u32)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let process = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            Some((process, parent(&stat)?))
        })
        .collect()
}

/// The fourth field of proc_pid_stat(5). The second is a name in parentheses that may contain spaces and
/// parentheses.
fn parent(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_read_after_any_process_name() {
        assert_eq!(parent("7 (sh) S 5 7 7 0"), Some(5));
        assert_eq!(parent("7 (a) b (c) S 5 7 7 0"), Some(5));
        assert_eq!(parent("7 (sh"), None);
    }

    #[test]
    fn this_process_is_a_child_of_its_parent() {
        assert!(parents().contains(&(std::process::id(), std::os::unix::process::parent_id())));
    }
}
