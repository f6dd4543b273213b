//! Ends a child together with all its descendants: a hung test may have agents, servers and a virtual machine
//! as children.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procfs::process::all_processes;

/// Kills process `root` and all its descendants.
pub(crate) fn kill_tree(root: u32) {
    let mut tree = vec![root.cast_signed()];
    let parents = parents();
    let mut at = 0;
    while let Some(&parent) = tree.get(at) {
        tree.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child));
        at += 1;
    }
    // The root first, so that it starts nothing new while its children are killed.
    for process in tree {
        // A process that has already ended is no error.
        let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
    }
}

/// Each process with its parent. A process that has just ended has none.
fn parents() -> Vec<(i32, i32)> {
    let processes = all_processes().into_iter().flatten().flatten();
    processes.filter_map(|process| process.stat().ok()).map(|stat| (stat.pid, stat.ppid)).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::process::{CommandExt, parent_id};
    use std::process::{Command, Stdio, id};

    use procfs::process::Process;

    use super::*;

    #[test]
    fn the_parent_is_read_after_any_process_name() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("a) b (c");
        symlink("/bin/sh", &program).unwrap();
        // It waits for a line. The kernel names a process after the link.
        let mut child = Command::new(&program)
            .arg0("sh")
            .args(["-c", "read line"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let expected = (child.id().cast_signed(), id().cast_signed());
        let stat = Process::new(expected.0).and_then(|process| process.stat());
        let found = parents().contains(&expected);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(stat.unwrap().comm, "a) b (c");
        assert!(found);
    }

    #[test]
    fn this_process_is_a_child_of_its_parent() {
        assert!(parents().contains(&(id().cast_signed(), parent_id().cast_signed())));
    }
}
