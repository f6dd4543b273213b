//! The real program gives the verdicts on an exported case that the naive reference expects.
#![allow(clippy::unwrap_used, reason = "what goes wrong here is what the test reports")]

use std::fs;
use std::process::Command;

use benches::export::{self, MANIFESTS, PACKETS};
use integration::agent;
use serde_json::Value;
use workload::grid::Point;

#[test]
fn the_programs_verdicts_are_the_references() {
    let program = agent::binary().unwrap();
    for name in ["120-pods-20-policies-3-rules-selector", "250-pods-20-policies-3-rules-ipBlock"] {
        let folder = tempfile::tempdir().unwrap();
        let point: Point = name.parse().unwrap();
        assert_eq!(export::export(point, 200, folder.path()).unwrap(), 200);
        let packets = folder.path().join(PACKETS);
        let output = Command::new(&program)
            .arg("explain")
            .arg("--source")
            .arg(folder.path().join(MANIFESTS))
            .arg("--packets")
            .arg(&packets)
            .output()
            .unwrap();
        let answers = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{name}: every manifest is understood");
        let packets = fs::read_to_string(packets).unwrap();
        let read = |line: &str| serde_json::from_str::<Value>(line).unwrap();
        let (mut allowed, mut rules) = (0, 0);
        assert_eq!(answers.lines().count(), 200, "{name}");
        for (packet, answer) in packets.lines().map(read).zip(answers.lines().map(read)) {
            assert_eq!(answer, packet["expected"], "{name}: {packet}");
            allowed += usize::from(answer["verdict"] == "allow");
            rules += usize::from(!answer["ingress"]["rule"].is_null());
        }
        assert_eq!((allowed, rules), (100, 100), "{name}: half of them are allowed, each by a rule");
    }
}

#[test]
fn a_folder_with_content_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("mine"), "").unwrap();
    let point: Point = "10-pods-1-policies-1-rules-selector".parse().unwrap();
    let error = export::export(point, 1, folder.path()).unwrap_err().to_string();
    assert!(error.contains("is not empty"), "{error}");
    assert!(!folder.path().join(PACKETS).exists());
}
