//! Programs of the system that the testbed calls: `ip`, `bridge` and `nft`.

use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

use crate::namespace::Namespace;

/// Runs lines of `ip` commands (`link add ...`) by one process in a namespace.
pub fn ip(namespace: &Namespace, lines: &str) -> Result<()> {
    feed(namespace, "ip", &["-batch", "-"], lines).map(drop)
}

/// What `ip` answers in a namespace, such as to `neigh show`.
pub fn ip_answer(namespace: &Namespace, arguments: &[&str]) -> Result<String> {
    feed(namespace, "ip", arguments, "")
}

/// Runs lines of `bridge` commands (`fdb add ...`) by one process in a namespace.
pub fn bridge(namespace: &Namespace, lines: &str) -> Result<()> {
    feed(namespace, "bridge", &["-batch", "-"], lines).map(drop)
}

/// Loads a text of nftables rules, atomically, in a namespace.
pub fn nft(namespace: &Namespace, rules: &str) -> Result<()> {
    feed(namespace, "nft", &["-f", "-"], rules).map(drop)
}

/// What `nft` answers in a namespace, such as to `list ruleset`.
pub fn nft_answer(namespace: &Namespace, arguments: &[&str]) -> Result<String> {
    feed(namespace, "nft", arguments, "")
}

/// Runs a program in a namespace, gives it `input`, and returns its standard output. It must succeed.
fn feed(namespace: &Namespace, program: &str, arguments: &[&str], input: &str) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments);
    let output = fed(namespace, command, input)
        .with_context(|| format!("running {program} (are the packages iproute2 and nftables installed?)"))?;
    if !output.status.success() {
        bail!(
            "{program} {} in {}: {}\n{input}",
            arguments.join(" "),
            namespace.name(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command in a namespace, gives it `input`, and returns how it ended.
pub(crate) fn fed(namespace: &Namespace, mut command: Command, input: &str) -> Result<Output> {
    let output = namespace.run(|| -> io::Result<Output> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that ends early says why on its standard error.
            let _ = stdin.write_all(input.as_bytes());
        }
        child.wait_with_output()
    })?;
    Ok(output?)
}
