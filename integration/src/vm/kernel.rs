//! Debian's cloud kernel with its modules: downloaded by apt once, unpacked, and cached in the target folder.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

/// The package that depends on the current kernel.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// A kernel and its modules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kernel {
    version: String,
    root: PathBuf,
}

impl Kernel {
    /// The kernel in `cache`, which is downloaded first if it isn't there yet.
    pub fn cached(cache: &Path) -> Result<Self> {
        fs::create_dir_all(cache).with_context(|| format!("creating {}", cache.display()))?;
        let folder = File::open(cache).with_context(|| format!("opening {}", cache.display()))?;
        let _lock = Flock::lock(folder, FlockArg::LockExclusive)
            .map_err(|(_, errno)| errno)
            .context("locking the cache")?;
        let root = cache.join("kernel");
        if !root.exists() {
            fetch(cache, &root)?;
        }
        Self::unpacked(root)
    }

    /// Its version, such as `6.1.0-56-cloud-amd64`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The path of the kernel image.
    pub fn image(&self) -> PathBuf {
        self.root.join(format!("boot/vmlinuz-{}", self.version))
    }

    /// The files of these modules and of their dependencies, in the order in which they must be loaded.
    /// Modules that are built into the kernel are skipped.
    pub fn modules(&self, wanted: &[&str]) -> Result<Vec<PathBuf>> {
        let folder = self.modules_folder();
        let read = |file: &str| {
            let path = folder.join(file);
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        let (dependencies, built_in) = (read("modules.dep")?, read("modules.builtin")?);
        let mut order = Vec::new();
        for name in wanted {
            if built_in.lines().any(|path| module_name(path) == *name) {
                continue;
            }
            let line = dependencies
                .lines()
                .find(|line| line.split_once(':').is_some_and(|(path, _)| module_name(path) == *name));
            let Some((module, needed)) = line.and_then(|line| line.split_once(':')) else {
                bail!("kernel {} has no module {name}", self.version);
            };
            // depmod lists dependencies in reverse order of loading.
            order.extend(needed.split_whitespace().rev().map(|path| folder.join(path)));
            order.push(folder.join(module));
        }
        let mut seen = HashSet::new();
        order.retain(|path| seen.insert(path.clone()));
        Ok(order)
    }

    /// Finds the version of an unpacked kernel.
    fn unpacked(root: PathBuf) -> Result<Self> {
        let modules = root.join("lib/modules");
        let mut versions =
            fs::read_dir(&modules).with_context(|| format!("reading {}", modules.display()))?;
        let version = versions.next().context("the kernel package holds no modules")??.file_name();
        let version = version.into_string().ok().context("a kernel version that is not UTF-8")?;
        Ok(Self { version, root })
    }

    fn modules_folder(&self) -> PathBuf {
        self.root.join("lib/modules").join(&self.version)
    }
}

/// Downloads the package, unpacks it and lists the dependencies of its modules. `root` appears only when all
/// of that is done.
fn fetch(cache: &Path, root: &Path) -> Result<()> {
    let depends = output(Command::new("apt-cache").args(["depends", PACKAGE]))?;
    let package = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: linux-image-"))
        .map(|version| format!("linux-image-{version}"))
        .with_context(|| format!("apt has no package {PACKAGE}: run apt-get update (it is Debian's)"))?;
    let fresh = tempfile::tempdir_in(cache).context("creating a folder in the cache")?;
    output(Command::new("apt-get").args(["download", "-q", &package]).current_dir(fresh.path()))?;
    let deb = fs::read_dir(fresh.path())?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt-get download {package} left no file"))?;
    let unpacked = fresh.path().join("root");
    output(Command::new("dpkg-deb").arg("-x").arg(deb).arg(&unpacked))?;
    let kernel = Kernel::unpacked(unpacked.clone())?;
    output(Command::new("depmod").arg("-b").arg(&unpacked).arg(kernel.version()))?;
    fs::rename(&unpacked, root).with_context(|| format!("moving the kernel to {}", root.display()))
}

/// The standard output of a program, which must succeed.
fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The name of a module: `sctp` for `kernel/net/sctp/sctp.ko` and for `sctp.ko.xz`. Dashes become
/// underscores.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or_default();
    file.split(".ko").next().unwrap_or_default().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_names_are_parsed() {
        assert_eq!(module_name("kernel/net/netfilter/nft_queue.ko"), "nft_queue");
        assert_eq!(module_name("kernel/lib/crc-itu.ko.xz"), "crc_itu");
    }

    #[test]
    fn modules_follow_their_dependencies() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("lib/modules/1.2");
        fs::create_dir_all(&folder).unwrap();
        let dependencies = "net/c.ko: net/b.ko net/a.ko\nnet/b.ko: net/a.ko\nnet/a.ko:\n";
        fs::write(folder.join("modules.dep"), dependencies).unwrap();
        fs::write(folder.join("modules.builtin"), "net/inside.ko\n").unwrap();
        let kernel = Kernel::unpacked(root.path().to_owned()).unwrap();
        let order = kernel.modules(&["inside", "b", "c"]).unwrap();
        let names: Vec<String> = order.iter().map(|path| module_name(&path.to_string_lossy())).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert!(kernel.modules(&["nowhere"]).is_err());
    }
}
