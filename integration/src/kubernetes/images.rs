//! The images of the cluster's own pods: the pause container, the test server, Flannel and its CNI plugin.
//!
//! Each has the name that its user expects: upstream's suite, Flannel's manifest, or containerd's
//! configuration. So no image is downloaded.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::components::Components;
use super::image::{Image, save};
use crate::programs::{libraries, program};

/// The image of the container that holds a pod's namespaces.
pub const PAUSE: &str = "localhost/pause:1";

/// The image of our prober.
pub const PROBER: &str = "localhost/prober:1";

/// A process that holds namespaces, reaps orphans, and exits on SIGINT and SIGTERM.
const PAUSE_SOURCE: &str = "
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
static void end(int signal) { _exit(0); }
static void reap(int signal) { while (waitpid(-1, 0, WNOHANG) > 0); }
int main(void) {
    signal(SIGINT, end);
    signal(SIGTERM, end);
    signal(SIGCHLD, reap);
    for (;;) pause();
}
";

/// The ClusterNetworkPolicy suite starts its servers by this shell.
const BASH_SOURCE: &str = "#!/bin/sh\nexec /bin/sh \"$@\"\n";

/// The names of the images in Flannel's manifest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlannelImages {
    /// The daemon.
    pub flannel: String,
    /// The CNI plugin.
    pub plugin: String,
}

impl FlannelImages {
    /// Reads them from `Documentation/kube-flannel.yml` of Flannel's sources.
    pub fn in_manifest(manifest: &str) -> Result<Self> {
        let images = || manifest.lines().filter_map(|line| line.trim().strip_prefix("image: "));
        let find = |plugin: bool| {
            images()
                .find(|image| image.contains("cni-plugin") == plugin)
                .map(str::to_owned)
                .context("Flannel's manifest names no image: its format has changed")
        };
        Ok(Self { flannel: find(false)?, plugin: find(true)? })
    }
}

/// Writes all of them as one archive to `folder` and returns its path.
pub fn write(components: &Components, flannel: &FlannelImages, folder: &Path) -> Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let archive = folder.join("images.tar");
    let busybox = program("busybox").context("busybox is missing: install the package busybox-static")?;
    let images = [
        Image::new(PAUSE).file(&pause(folder)?, "/pause").entrypoint(&["/pause"]),
        Image::new(&test_server(components)?)
            .reference(&conformance_server(components)?)
            .file(&components.program("agnhost"), "/agnhost")
            .file(&busybox, "/bin/busybox")
            .link("/bin/sh", "busybox")
            .file(&bash(folder)?, "/bin/bash")
            // Each of the suite's probes starts a process, which takes most of the probe's time. These
            // settings make the start faster.
            .env("GOMAXPROCS=1")
            .env("GOGC=400")
            .entrypoint(&["/agnhost"])
            .arguments(&["pause"]),
        flannel_daemon(components, &flannel.flannel)?,
        Image::new(&flannel.plugin)
            .file(&components.program("flannel"), "/flannel")
            .file(&busybox, "/bin/busybox")
            .link("/bin/cp", "busybox"),
        Image::new(PROBER).file(&prober()?, "/prober").entrypoint(&["/prober"]),
    ];
    save(&images, &archive)?;
    Ok(archive)
}

/// The path of our prober, which is built beside this program.
fn prober() -> Result<PathBuf> {
    let ourselves = std::env::current_exe().context("finding our own program")?;
    let prober = ourselves.with_file_name("prober");
    if prober.is_file() {
        Ok(prober)
    } else {
        bail!("{} is missing: run it by cargo xtask", prober.display())
    }
}

/// The name of upstream's test server image.
pub fn test_server(components: &Components) -> Result<String> {
    let listed = Command::new(components.program("netpol.test"))
        .arg("--list-images")
        .output()
        .context("listing the images of netpol.test")?;
    String::from_utf8_lossy(&listed.stdout)
        .lines()
        .find(|image| image.contains("/e2e-test-images/agnhost:"))
        .map(str::to_owned)
        .context("netpol.test names no image of agnhost")
}

/// The name of the test server image in the ClusterNetworkPolicy suite, which may be of another version.
fn conformance_server(components: &Components) -> Result<String> {
    let path = components.conformance_pods();
    let pods = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let named = pods.lines().find_map(|line| line.trim().strip_prefix("image: "));
    named.map(str::to_owned).with_context(|| format!("{} names no image", path.display()))
}

/// Flannel's daemon. It creates masquerading rules with iptables, so the image contains that with its
/// libraries and extensions.
fn flannel_daemon(components: &Components, reference: &str) -> Result<Image> {
    let iptables =
        program("iptables-nft").context("iptables-nft is missing: install the package iptables")?;
    let iptables = fs::canonicalize(&iptables).with_context(|| format!("{}", iptables.display()))?;
    let mut image = Image::new(reference)
        .file(&components.program("flanneld"), "/opt/bin/flanneld")
        .file(&components.program("install-conf"), "/opt/bin/install-conf")
        .folder("/run")
        .file(&iptables, "/usr/sbin/xtables-nft-multi");
    for name in
        ["iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"]
    {
        image = image.link(&format!("/usr/sbin/{name}"), "xtables-nft-multi");
    }
    for library in libraries(&iptables)? {
        let at = library.to_string_lossy().into_owned();
        image = image.file(&library, &at);
    }
    let extensions = extensions()?;
    let files = fs::read_dir(&extensions).with_context(|| format!("reading {}", extensions.display()))?;
    // In a fixed order, so that the image is the same each time.
    let files: BTreeSet<PathBuf> = files.flatten().map(|entry| entry.path()).collect();
    for extension in files {
        image = image.file(&extension, &extension.to_string_lossy());
    }
    Ok(image.entrypoint(&["/opt/bin/flanneld"]))
}

/// The folder where Debian installs the extensions of iptables.
fn extensions() -> Result<PathBuf> {
    fs::read_dir("/usr/lib")
        .context("reading /usr/lib")?
        .flatten()
        .map(|entry| entry.path().join("xtables"))
        .find(|folder| folder.is_dir())
        .context("the extensions of iptables are missing: install the package iptables")
}

fn bash(folder: &Path) -> Result<PathBuf> {
    let script = folder.join("bash");
    fs::write(&script, BASH_SOURCE).with_context(|| format!("writing {}", script.display()))?;
    Ok(script)
}

fn pause(folder: &Path) -> Result<PathBuf> {
    let (source, program) = (folder.join("pause.c"), folder.join("pause"));
    fs::write(&source, PAUSE_SOURCE).with_context(|| format!("writing {}", source.display()))?;
    let compiled = Command::new("cc")
        .args(["-static", "-Os", "-s", "-o"])
        .args([&program, &source])
        .output()
        .context("cc could not be started: install the package gcc")?;
    if !compiled.status.success() {
        bail!("compiling the pause program: {}", String::from_utf8_lossy(&compiled.stderr).trim());
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flannels_images_are_distinguished() {
        let manifest = "
      initContainers:
      - name: install-cni-plugin
        image: registry.example/flannel-cni-plugin:v1
      containers:
      - name: kube-flannel
        image: registry.example/flannel:v2
";
        let images = FlannelImages::in_manifest(manifest).unwrap();
        assert_eq!(images.plugin, "registry.example/flannel-cni-plugin:v1");
        assert_eq!(images.flannel, "registry.example/flannel:v2");
        assert!(FlannelImages::in_manifest("kind: DaemonSet").is_err());
    }
}
