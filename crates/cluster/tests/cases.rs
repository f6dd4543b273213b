//! Folders of manifests that were found in the wild, each with packets and their correct verdicts.
//!
//! A case has `manifests/`, a folder source; `packets.jsonl`, in the format of `explain --packets`, with the
//! correct verdict in `expect`; and `messages`. In `messages`, lines with `#` describe the case. Every other
//! line is a part of the text of a problem that must be reported. If two lines match the same problem, it
//! must contain both. A problem that no line matches fails the case. A line that begins with `read: ` gives
//! the expected read counts.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use cluster::{Folder, Update};
use policy::{Compiler, Directions, Packet, Protocol, Scope, Verdict};
use serde::Deserialize;

/// A line of `packets.jsonl`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    src: IpAddr,
    dst: IpAddr,
    protocol: String,
    dst_port: u16,
    expect: String,
}

#[test]
fn every_case_gets_its_verdicts_and_its_messages() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let cases = fs::read_dir(root).expect("the folder of cases").map(|entry| entry.expect("an entry").path());
    let cases: BTreeSet<PathBuf> = cases.collect();
    assert!(!cases.is_empty());
    let mut wrong = String::new();
    for case in cases {
        let name = case.file_name().expect("a name").to_str().expect("text");
        let found = run(&case);
        if !found.is_empty() {
            writeln!(wrong, "{name}\n{found}").expect("a String takes all");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Runs a case. Returns its failures.
fn run(case: &Path) -> String {
    let (_, update) =
        Folder::read(case.join("manifests"), policy::Budget::default()).expect("a readable folder");
    let read = |file: &str| fs::read_to_string(case.join(file)).expect("a readable file");
    let mut wrong = messages(&update, &read("messages"));
    let mut compiler = Compiler::new(Scope::Cluster);
    let snapshot = compiler.apply(update.changes).snapshot;
    let packets = read("packets.jsonl");
    assert!(!packets.is_empty(), "{}", case.display());
    for text in packets.lines() {
        let line: Line = serde_json::from_str(text).expect("a packet");
        let protocol: Protocol = line.protocol.parse().expect("a protocol");
        let packet = Packet::new(line.src, line.dst, protocol).to_port(line.dst_port);
        let verdict = match snapshot.evaluate(&packet, Directions::Both).verdict() {
            Verdict::Allow => "allow",
            Verdict::Deny => "deny",
        };
        if verdict != line.expect {
            writeln!(wrong, "  {verdict}, but expected {text}").expect("a String takes all");
        }
    }
    wrong
}

/// Compares the reported problems with the expected ones. Returns the differences.
fn messages(update: &Update, expected: &str) -> String {
    let sentence = expected.lines().next().unwrap_or_default();
    assert!(sentence.starts_with("# "), "a case begins with a sentence about it: {sentence}");
    let mut wrong = String::new();
    let said: Vec<String> = update.problems.iter().map(ToString::to_string).collect();
    let mut named = vec![false; said.len()];
    for part in expected.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let mut found = false;
        if let Some(read) = part.strip_prefix("read: ") {
            found = update.read.to_string() == read;
        }
        for (text, named) in said.iter().zip(&mut named) {
            let here = text.contains(part);
            *named |= here;
            found |= here;
        }
        if !found {
            writeln!(wrong, "  not reported: {part}").expect("a String takes all");
        }
    }
    for (text, _) in said.iter().zip(&named).filter(|(_, named)| !**named) {
        writeln!(wrong, "  unexpected: {text}").expect("a String takes all");
    }
    if !wrong.is_empty() {
        writeln!(wrong, "  read: {}", update.read).expect("a String takes all");
    }
    wrong
}
