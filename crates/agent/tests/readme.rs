//! README's examples that need neither a cluster nor root print exactly what README shows.

#[allow(dead_code, reason = "each test uses a part of it")]
mod support;

use support::quoted::{examples, root};

#[test]
fn commands_print_what_the_readme_shows() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("README.md");
    let mut ran = 0;
    for example in examples(&readme) {
        if !example.command.contains("kubectl") {
            example.check();
            ran += 1;
        }
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
