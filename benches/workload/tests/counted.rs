//! The program under callgrind evaluates the packets that it reports.
#![allow(clippy::unwrap_used, reason = "what goes wrong here is what the test reports")]

use std::process::Command;

#[test]
fn the_program_under_callgrind_reports_its_verdicts() {
    let output = Command::new(env!("CARGO_BIN_EXE_count-verdicts"))
        .args(["100-pods-10-policies-1-rules-selector", "miss"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "4096");
}
