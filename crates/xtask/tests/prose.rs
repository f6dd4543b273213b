//! The words and the width of the project's text. Comments, documentation, names and messages use the field's
//! standard terms in plain English, and comments wrap where code does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Each phrase with what to write instead. A phrase matches whole words, also in names of any case: `_` and
/// `-` separate words.
const PHRASES: &[(&str, &str)] = &[
    ("anew", "again"),
    ("nobody", "none, no pod, no program"),
    ("whoever", "any caller"),
    ("so many", "at most N"),
    ("of which", "two sentences"),
    ("hears of", "is notified of, receives"),
    ("is told", "receives, knows"),
    ("are told", "receive, know"),
    ("in vain", "without success"),
    ("came back", "was reinjected"),
    ("under way", "in flight, in progress"),
    ("endure", "handle"),
    ("hopes", "potential matches"),
    ("unsure", "provisional"),
    ("touched", "affected"),
    ("judge", "evaluate"),
    ("judged", "evaluated"),
    ("judges", "evaluates"),
    ("judging", "evaluating"),
    ("unjudged", "unevaluated"),
    ("judgement", "evaluation"),
    ("judgements", "evaluations"),
    ("recheck", "revalidate"),
    ("remembered", "cached"),
    ("story", "scenario"),
    ("stories", "scenarios"),
    ("patience", "timeout"),
    ("when down", "fail mode"),
    ("when unsure", "on unknown pod"),
];

/// Comments wrap at the width of the code (`max_width` in `rustfmt.toml`).
const WIDTH: usize = 110;

/// This file lists the words, the results of benchmarks are written by programs, and the definitions of
/// cluster-wide policies are upstream's.
const SKIPPED: &[&str] = &[
    "crates/xtask/tests/prose.rs",
    "docs/performance/",
    "manifests/crds/experimental/clusternetworkpolicies.yaml",
    "manifests/crds/standard/clusternetworkpolicies.yaml",
    "manifests/helm/kube-verdict/files/clusternetworkpolicies-experimental.yaml",
    "manifests/helm/kube-verdict/files/clusternetworkpolicies-standard.yaml",
    "LICENSE",
    "Cargo.lock",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every file of the project that is text, by its path from the root.
fn texts() -> Vec<(String, String)> {
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output().expect("git runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let paths = String::from_utf8(output.stdout).expect("paths are UTF-8");
    let wanted = |path: &&str| !path.is_empty() && !SKIPPED.iter().any(|skipped| path.starts_with(skipped));
    let read = |path: &str| Some((path.to_owned(), fs::read_to_string(root().join(path)).ok()?));
    paths.split('\0').filter(wanted).filter_map(read).collect()
}

/// The words of a line, in lower case, with one space before, between and after them. `Some_newName` has
/// three words.
fn words(line: &str) -> String {
    let mut words = String::from(" ");
    let mut before = ' ';
    for character in line.chars() {
        let begins_word = character.is_ascii_uppercase() && before.is_ascii_lowercase();
        if (begins_word || !character.is_alphanumeric()) && !words.ends_with(' ') {
            words.push(' ');
        }
        if character.is_alphanumeric() {
            words.extend(character.to_lowercase());
        }
        before = character;
    }
    if !words.ends_with(' ') {
        words.push(' ');
    }
    words
}

fn report(found: &[String], rule: &str) {
    assert!(found.is_empty(), "{} lines {rule}:\n{}", found.len(), found.join("\n"));
}

#[test]
fn text_uses_the_fields_standard_terms() {
    let mut found = Vec::new();
    for (path, text) in texts() {
        for (number, line) in (1..).zip(text.lines()) {
            let words = words(line);
            for (phrase, instead) in PHRASES {
                if words.contains(&format!(" {phrase} ")) {
                    found.push(format!("{path}:{number}: \"{phrase}\": write {instead}"));
                }
            }
        }
    }
    report(&found, "hold words that the field has better ones for");
}

#[test]
fn comments_wrap_at_the_width_of_the_code() {
    let is_wide = |line: &&str| line.trim_start().starts_with("//") && line.chars().count() > WIDTH;
    let mut found = Vec::new();
    for (path, text) in texts().iter().filter(|(path, _)| path.ends_with(".rs")) {
        let wide = (1..).zip(text.lines()).filter(|(_, line)| is_wide(line));
        found.extend(wide.map(|(number, _)| format!("{path}:{number}")));
    }
    report(&found, "of comments are wider than the code");
}

#[test]
fn words_are_found_in_names_of_any_case() {
    assert_eq!(words("/// Some_newName: `so-many`"), " some new name so many ");
}
