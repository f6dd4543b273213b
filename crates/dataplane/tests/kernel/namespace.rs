//! A network namespace for one test.

use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, unshare};

/// Runs `scenario` on a new thread in a new network namespace, whose loopback device has `addresses`. The
/// namespace ends with the last thread and socket in it.
pub(crate) fn in_namespace(addresses: &[&str], scenario: impl FnOnce() + Send) {
    let result = thread::scope(|scope| {
        let inside = scope.spawn(|| {
            if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
                panic!("this test requires root to create a network namespace ({error}): run it as root");
            }
            run("ip link set lo up");
            for address in addresses {
                run(&format!("ip address add {address} dev lo"));
            }
            scenario();
        });
        inside.join()
    });
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a command in the calling thread's network namespace and returns what it printed.
pub(crate) fn run(command: &str) -> String {
    let mut words = command.split_ascii_whitespace();
    let program = words.next().expect("a command");
    let output = Command::new(program).args(words).output();
    let output = output.unwrap_or_else(|error| panic!("`{command}`: {error}; is {program} installed?"));
    assert!(output.status.success(), "`{command}`: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
