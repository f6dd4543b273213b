//! README's examples that need neither a cluster nor root print exactly what README shows.

use std::path::Path;
use std::process::Command;

/// A command and what it prints.
struct Example {
    command: String,
    output: String,
}

/// The commands after `$ ` in indented blocks, each with its continuation lines and the output below it.
fn examples(readme: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let (mut is_open, mut is_continued) = (false, false);
    for line in readme.lines() {
        let Some(line) = line.strip_prefix("    ").or(line.is_empty().then_some("")) else {
            is_open = false;
            continue;
        };
        if let Some(command) = line.strip_prefix("$ ") {
            examples.push(Example { command: command.to_owned(), output: String::new() });
            (is_open, is_continued) = (true, command.ends_with('\\'));
        } else if let Some(last) = examples.last_mut().filter(|_| is_open) {
            let text = if is_continued { &mut last.command } else { &mut last.output };
            text.push('\n');
            text.push_str(line);
            is_continued &= line.ends_with('\\');
        }
    }
    examples
}

#[test]
fn commands_print_what_the_readme_shows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let readme = std::fs::read_to_string(root.join("README.md")).expect("README.md");
    let program = Path::new(env!("CARGO_BIN_EXE_kube-verdict")).parent().expect("a folder");
    let path = std::env::join_paths(
        std::iter::once(program.to_owned())
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    );
    let path = path.expect("a path");
    let mut ran = 0;
    for Example { command, output } in examples(&readme) {
        if command.contains("kubectl") {
            continue;
        }
        let shell = Command::new("sh").args(["-c", &command]).current_dir(&root).env("PATH", &path).output();
        let shell = shell.expect("a shell");
        let printed = String::from_utf8(shell.stdout).expect("text");
        let errors = String::from_utf8_lossy(&shell.stderr);
        assert_eq!(printed.trim(), output.trim(), "{command}: {errors}");
        ran += 1;
    }
    assert_eq!(ran, 3, "all examples of `explain` over the manifests have run");
}

#[test]
fn the_readme_installs_the_program_once() {
    let readme = include_str!("../../../README.md");
    let built: Vec<&str> =
        readme.lines().filter(|line| line.contains("target/release/kube-verdict")).collect();
    assert_eq!(
        built,
        ["    install target/release/kube-verdict /usr/local/bin/"],
        "it is installed once, and then called by its name"
    );
}
