//! Commands in the documentation, with the output that the documentation shows.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A command and what it prints.
#[derive(Debug)]
pub(crate) struct Example {
    pub command: String,
    pub output: String,
}

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The commands after `$ ` in indented blocks, each with its continuation lines and the output below it.
pub(crate) fn examples(page: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let (mut is_open, mut is_continued) = (false, false);
    for line in page.lines() {
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

impl Example {
    /// Runs the command in the root of the repository, and checks that it prints what the page shows.
    pub(crate) fn check(&self) {
        let Self { command, output } = self;
        let program = Path::new(env!("CARGO_BIN_EXE_kube-verdict")).parent().expect("a folder");
        let path = std::env::join_paths(
            std::iter::once(program.to_owned())
                .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
        );
        let path = path.expect("a path");
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).current_dir(root()).env("PATH", &path).env_remove("COLUMNS");
        let shell = shell.output().expect("a shell");
        let printed = String::from_utf8(shell.stdout).expect("text");
        let printed: Vec<&str> = printed.trim().lines().map(str::trim_end).collect();
        let errors = String::from_utf8_lossy(&shell.stderr);
        assert_eq!(printed.join("\n"), output.trim(), "{command}: {errors}");
    }
}
