//! The program under test, and its commands other than `run`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

use crate::namespace::NetworkNamespace;

/// Runs another command of `kube-verdict` in a node's namespace: its exit code, standard output and standard
/// error.
pub fn command(namespace: &NetworkNamespace, arguments: &[&str]) -> Result<(i32, String, String)> {
    let binary = binary()?;
    let output = namespace.run(|| Command::new(&binary).args(arguments).stdin(Stdio::null()).output())?;
    let output = output.with_context(|| format!("running {}", binary.display()))?;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr)))
}

/// The program under test: `KUBE_VERDICT_BIN`, or the workspace's own, which is built first if its sources
/// have changed.
pub fn binary() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    if let Some(path) = env::var_os("KUBE_VERDICT_BIN") {
        return Ok(PathBuf::from(path));
    }
    BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}"))).clone().map_err(anyhow::Error::msg)
}

/// Builds the program in the target folder of the running test. It is optimised, since tests have bounds in
/// time.
fn build() -> Result<PathBuf> {
    let test = env::current_exe().context("finding the running program")?;
    let target = test
        .ancestors()
        .find(|folder| folder.file_name().is_some_and(|name| name == "debug" || name == "release"))
        .and_then(Path::parent)
        .context("the running program is not in a target folder: set KUBE_VERDICT_BIN")?;
    let output = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--release", "--package", "kube-verdict", "--bin", "kube-verdict"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("CARGO_TARGET_DIR", target)
        .output()
        .context("running cargo to build kube-verdict (or set KUBE_VERDICT_BIN)")?;
    if !output.status.success() {
        bail!("building kube-verdict failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(target.join("release/kube-verdict"))
}
