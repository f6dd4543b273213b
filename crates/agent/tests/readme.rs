//! README's examples that need neither a cluster nor root: word for word, they print what it says.

use std::path::Path;
use std::process::Command;

/// A command and what it prints.
struct Example {
    command: String,
    output: String,
}

/// The lines behind `$ ` in indented blocks, each with the lines that it goes on in and the output below it.
fn examples(readme: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let (mut is_open, mut goes_on) = (false, false);
    for line in readme.lines() {
        let Some(line) = line.strip_prefix("    ").or(line.is_empty().then_some("")) else {
            is_open = false;
            continue;
        };
        if let Some(command) = line.strip_prefix("$ ") {
            examples.push(Example { command: command.to_owned(), output: String::new() });
            (is_open, goes_on) = (true, command.ends_with('\\'));
        } else if let Some(last) = examples.last_mut().filter(|_| is_open) {
            let text = if goes_on { &mut last.command } else { &mut last.output };
            text.push('\n');
            text.push_str(line);
            goes_on &= line.ends_with('\\');
        }
    }
    examples
}

#[test]
fn commands_print_what_the_readme_says() {
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
    assert_eq!(ran, 3, "every example of `explain` over the manifests is run");
}

#[test]
fn the_program_is_where_the_readmes_commands_look_for_it() {
    let readme = include_str!("../../../README.md");
    let built: Vec<&str> =
        readme.lines().filter(|line| line.contains("target/release/kube-verdict")).collect();
    assert_eq!(
        built,
        ["    install target/release/kube-verdict /usr/local/bin/"],
        "it is installed once, and then called by name"
    );
}
