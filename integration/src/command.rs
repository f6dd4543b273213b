//! Runs the programs `ip`, `bridge` and `nft` in a namespace.

use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

use crate::namespace::NetworkNamespace;

/// Runs lines of `ip` commands (`link add ...`) in a namespace, with one process.
pub fn ip(namespace: &NetworkNamespace, lines: &str) -> Result<()> {
    run_with_input(namespace, "ip", &["-batch", "-"], lines).map(drop)
}

/// The output of `ip` in a namespace, for example of `neigh show`.
pub fn ip_output(namespace: &NetworkNamespace, arguments: &[&str]) -> Result<String> {
    run_with_input(namespace, "ip", arguments, "")
}

/// Runs lines of `bridge` commands (`fdb add ...`) in a namespace, with one process.
pub fn bridge(namespace: &NetworkNamespace, lines: &str) -> Result<()> {
    run_with_input(namespace, "bridge", &["-batch", "-"], lines).map(drop)
}

/// Loads nftables rules in a namespace, atomically.
pub fn nft(namespace: &NetworkNamespace, rules: &str) -> Result<()> {
    run_with_input(namespace, "nft", &["-f", "-"], rules).map(drop)
}

/// The output of `nft` in a namespace, for example of `list ruleset`.
pub fn nft_output(namespace: &NetworkNamespace, arguments: &[&str]) -> Result<String> {
    run_with_input(namespace, "nft", arguments, "")
}

/// Runs a program in a namespace with `input` as its standard input, and returns its standard output. Fails
/// unless the program succeeds.
fn run_with_input(
    namespace: &NetworkNamespace,
    program: &str,
    arguments: &[&str],
    input: &str,
) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments);
    let output = output_with_input(namespace, command, input)
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

/// Runs a command in a namespace with `input` as its standard input, and returns its output and exit status.
pub(crate) fn output_with_input(
    namespace: &NetworkNamespace,
    mut command: Command,
    input: &str,
) -> Result<Output> {
    let output = namespace.run(|| -> io::Result<Output> {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that exits early explains that on its standard error.
            let _ = stdin.write_all(input.as_bytes());
        }
        child.wait_with_output()
    })?;
    Ok(output?)
}
