//! The first process of a node: gives the node its own file systems, then buries orphans until it is killed.

use std::io::Write;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sys::wait::wait;

/// Folders of the machine that each node has for itself.
pub const PRIVATE: [&str; 11] = [
    "/var/lib/kubelet",
    "/var/lib/containerd",
    "/var/lib/cni",
    "/var/log/pods",
    "/var/log/containers",
    "/var/log/kube-verdict",
    "/etc/cni/net.d",
    "/opt/cni/bin",
    "/run/containerd",
    "/run/flannel",
    "/run/netns",
];

/// The argument by which our program becomes a node's first process.
pub const COMMAND: &str = "node-init";

/// What it prints when the file systems are mounted.
pub const READY: &str = "ready";

/// Mounts, says so, and stays. `root` holds the folders that the node has for itself.
pub fn run(root: &Path) -> Result<()> {
    let nothing = None::<&str>;
    // What is mounted here is nobody else's to see.
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)
        .context("making the mounts private")?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), nothing).context("mounting /proc")?;
    for folder in PRIVATE {
        let own = root.join(folder.trim_start_matches('/'));
        mount(Some(&own), folder, nothing, MsFlags::MS_BIND, nothing)
            .with_context(|| format!("mounting {} at {folder}", own.display()))?;
    }
    // The kubelet's volumes must reach containers that run already.
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_SHARED, nothing)
        .context("sharing the mounts within the node")?;
    // Whoever started us reads this one line and goes away.
    writeln!(std::io::stdout(), "{READY}")?;
    loop {
        if wait().is_err() {
            // Nobody has died, or nobody lives yet.
            sleep(Duration::from_millis(200));
        }
    }
}
