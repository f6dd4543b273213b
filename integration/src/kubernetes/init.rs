//! The first process of a node. It mounts the node's own folders, and then reaps orphans until it is killed.

use std::io::Write;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sys::wait::wait;

/// Folders of the machine that are replaced by a node's own.
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

/// The subcommand that runs a node's first process.
pub const COMMAND: &str = "node-init";

/// The line that it prints when the folders are mounted.
pub const READY: &str = "ready";

/// Mounts the node's folders, which are in `root`, prints [`READY`], and then reaps orphans.
pub fn run(root: &Path) -> Result<()> {
    let nothing = None::<&str>;
    // Other mount namespaces must not see the following mounts.
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)
        .context("making the mounts private")?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), nothing).context("mounting /proc")?;
    for folder in PRIVATE {
        let own = root.join(folder.trim_start_matches('/'));
        mount(Some(&own), folder, nothing, MsFlags::MS_BIND, nothing)
            .with_context(|| format!("mounting {} at {folder}", own.display()))?;
    }
    // The kubelet's volumes must appear in containers that already run.
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_SHARED, nothing)
        .context("sharing the mounts within the node")?;
    // The process that started this one reads only this line.
    writeln!(std::io::stdout(), "{READY}")?;
    loop {
        if wait().is_err() {
            // There is no child process yet.
            sleep(Duration::from_millis(200));
        }
    }
}
