//! docs/semantics.md and the workspace agree: each clause has a test, and each citation has a clause.
//!
//! A clause is an anchor and a paragraph: `<a id="s22"></a>`, then `**22. Address owners.** ...`. A test
//! shows a clause if its name begins with the clause's id: `s22_...`, or `s20_s22_...` for two clauses. A
//! clause with `(not yet enforced)` in its title needs no test.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The number of a clause.
type Clause = u32;

/// The end of the title of a clause that needs no test.
const NOT_ENFORCED: &str = "(not yet enforced)";

#[test]
fn every_clause_has_one_number_an_anchor_and_an_entry_in_the_contents() {
    let text = specification();
    let mut wrong = Vec::new();
    let mut before = None;
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        if let Some((clause, _)) = clause_of(line) {
            let anchor = format!("<a id=\"s{clause:02}\"></a>");
            if !seen.insert(clause) {
                wrong.push(format!("{clause} is defined twice"));
            }
            if before != Some(anchor.as_str()) {
                wrong.push(format!("{clause} has no line {anchor} before it"));
            }
            if !text.contains(&format!("[{clause}](#s{clause:02})")) {
                wrong.push(format!("{clause} is not in the contents"));
            }
        } else if before.is_some_and(|before| before.starts_with("<a id=\"s")) {
            wrong.push(format!("an anchor without a clause, before: {line}"));
        }
        before = Some(line);
    }
    assert!(seen.len() > 40, "only {} clauses are recognised", seen.len());
    assert!(wrong.is_empty(), "docs/semantics.md:\n{}", wrong.join("\n"));
}

#[test]
fn every_clause_that_is_enforced_has_a_test() {
    let tested: BTreeSet<Clause> =
        files(&["rs"]).iter().flat_map(|file| tests(&file.text)).map(|(_, clause)| clause).collect();
    let untested: Vec<String> = clauses()
        .into_iter()
        .filter(|(clause, is_enforced)| *is_enforced && !tested.contains(clause))
        .map(|(clause, _)| {
            format!("{clause}: name a test s{clause:02}_..., or mark its title {NOT_ENFORCED}")
        })
        .collect();
    assert!(untested.is_empty(), "clauses of docs/semantics.md without a test:\n{}", untested.join("\n"));
}

#[test]
fn every_citation_names_a_clause() {
    let clauses = clauses();
    let mut count = 0;
    let mut wrong = Vec::new();
    for file in files(&["rs", "md", "toml", "yaml"]) {
        let named = if file.is("rs") { tests(&file.text) } else { Vec::new() };
        for (line, clause) in citations(&file.text).into_iter().chain(links(&file.text)).chain(named) {
            count += 1;
            if !clauses.contains_key(&clause) {
                wrong.push(format!("{}:{line}: there is no clause {clause}", file.path.display()));
            }
        }
    }
    assert!(count > 200, "only {count} citations are recognised");
    assert!(wrong.is_empty(), "citations of docs/semantics.md:\n{}", wrong.join("\n"));
}

#[test]
fn citations_are_recognised_in_every_form() {
    let cited = |text| citations(text).into_iter().map(|(_, clause)| clause).collect::<Vec<_>>();
    assert_eq!(cited("// Allowed (semantics 21), also to others."), [21]);
    assert_eq!(cited("/// (NetworkPolicy alone isolates; semantics 1, 8)."), [1, 8]);
    assert_eq!(cited("// Semantics 12, 13, 26: ipBlock."), [12, 13, 26]);
    assert_eq!(cited("// Semantics 2 and 3: `semantics 17 to 19`"), [2, 3, 17, 18, 19]);
    assert_eq!(citations("/// Of a pod (semantics\n    /// 22, 23); 5 others."), [(2, 22), (2, 23)]);
    assert_eq!(cited("The semantics of 22 pods, see semantics.md"), []);
    assert_eq!(links("[a](docs/semantics.md#s22), [b](#s07)\nsemantics.md#terms"), [(1, 22), (1, 7)]);
    let code = "#[test]\n// Slow.\nfn s20_s22_pods() {}\nfn s23_helper() {}\n#[tokio::test]\nasync fn s24_replies() {}";
    assert_eq!(tests(code), [(3, 20), (3, 22), (6, 24)]);
    assert_eq!(clause_of("**7. Outside addresses.** A selector"), Some((7, true)));
    assert_eq!(clause_of("**51. Tiers (not yet enforced).** Tier Admin"), Some((51, false)));
    assert_eq!(clause_of("**Policies and rules**: 1"), None);
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn specification() -> String {
    fs::read_to_string(workspace().join("docs/semantics.md")).expect("docs/semantics.md")
}

/// Each clause, and whether it is enforced.
fn clauses() -> BTreeMap<Clause, bool> {
    specification().lines().filter_map(clause_of).collect()
}

/// The clause that begins with this line, and whether it is enforced.
fn clause_of(line: &str) -> Option<(Clause, bool)> {
    let (number, rest) = line.strip_prefix("**")?.split_once(". ")?;
    let (title, _) = rest.split_once(".**")?;
    Some((number.parse().ok()?, !title.ends_with(NOT_ENFORCED)))
}

/// A file of the workspace, with its path there.
struct File {
    path: PathBuf,
    text: String,
}

impl File {
    fn is(&self, extension: &str) -> bool {
        self.path.extension().is_some_and(|e| e == extension)
    }
}

/// The files with one of these extensions, except those in build directories and hidden directories.
fn files(extensions: &[&str]) -> Vec<File> {
    let root = workspace();
    let (mut files, mut folders) = (Vec::new(), vec![root.clone()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let entry = entry.expect("an entry");
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let (path, kind) = (entry.path(), entry.file_type().expect("a kind"));
            if kind.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if kind.is_file()
                && path.extension().is_some_and(|e| extensions.iter().any(|extension| e == *extension))
            {
                // Some manifests are deliberately not UTF-8.
                let text = String::from_utf8_lossy(&fs::read(&path).expect("a file")).into_owned();
                let path = path.strip_prefix(&root).expect("a path below the workspace").to_owned();
                files.push(File { path, text });
            }
        }
    }
    assert!(files.len() > 100, "only {} files below {}", files.len(), root.display());
    files
}

/// The clauses in names of tests, each with its line.
fn tests(code: &str) -> Vec<(usize, Clause)> {
    let lines: Vec<&str> = code.lines().map(str::trim).collect();
    let is_test = |at: usize| {
        let above =
            lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("//"));
        above.into_iter().any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
    };
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let line = line.strip_prefix("async ").unwrap_or(line);
        let Some(mut name) = line.strip_prefix("fn ").filter(|_| is_test(at)) else { continue };
        // Each id is `s`, two or more digits, and `_`.
        while let Some((digits, rest)) = name.strip_prefix('s').and_then(|name| name.split_once('_'))
            && digits.len() >= 2
            && let Ok(clause) = digits.parse()
        {
            found.push((at + 1, clause));
            name = rest;
        }
    }
    found
}

/// The clauses that a text cites as in `semantics 2, 8`, each with its line. A citation may continue on the
/// next line of a comment.
fn citations(text: &str) -> Vec<(usize, Clause)> {
    let words: Vec<(usize, &str)> = text
        .lines()
        .enumerate()
        .flat_map(|(at, line)| line.split_whitespace().map(move |word| (at + 1, word)))
        .filter(|(_, word)| !["//", "///", "//!", "#", "*"].contains(word))
        .collect();
    let mut found = Vec::new();
    for (at, (_, word)) in words.iter().enumerate() {
        let word = word.trim_start_matches(|c: char| !c.is_alphanumeric());
        if !word.eq_ignore_ascii_case("semantics") {
            continue;
        }
        let mut rest = words[at + 1..].iter();
        let mut first_of_range = None;
        while let Some((line, word)) = rest.next() {
            let digits = word.trim_end_matches(|c: char| !c.is_ascii_digit());
            let Ok(clause) = digits.parse::<Clause>() else { break };
            found.extend((first_of_range.take().unwrap_or(clause)..=clause).map(|clause| (*line, clause)));
            let mut next = rest.clone();
            match (&word[digits.len()..], next.next().map(|(_, word)| *word)) {
                (",", _) => {}
                ("", Some("and" | "or")) => rest = next,
                ("", Some("to")) => {
                    first_of_range = Some(clause + 1);
                    rest = next;
                }
                _ => break,
            }
        }
    }
    found
}

/// The clauses that a text links to as in `#s22`, each with its line.
fn links(text: &str) -> Vec<(usize, Clause)> {
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        for prefix in ["semantics.md#s", "](#s"] {
            for (_, rest) in line.match_indices(prefix).map(|(at, prefix)| line.split_at(at + prefix.len())) {
                let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
                found.extend(rest[..end].parse().ok().map(|clause| (at + 1, clause)));
            }
        }
    }
    found
}
