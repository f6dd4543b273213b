//! The programs of a cluster, built from their sources: Kubernetes, etcd, Flannel, Helm and upstream's test suite.
//!
//! From: the modules under `integration/parts`, each a `go.mod` that pins versions and a `go.sum` that pins contents. To:
//! one folder of programs, kept until a version, a flag or the compiler changes.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use super::progress::Step;
use crate::programs::libraries;

/// One program.
#[derive(Clone, Copy, Hash, Debug)]
struct Part {
    /// Its file name.
    program: &'static str,
    /// The folder under `integration/parts` that pins it.
    module: &'static str,
    /// Its Go package.
    package: &'static str,
    /// Whether the package is a test, which another command builds.
    test: bool,
    /// Whether it goes into a container, where it finds no libraries.
    contained: bool,
}

const PARTS: [Part; 14] = [
    part("kube-apiserver", "kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver"),
    part("kube-controller-manager", "kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    part("kube-scheduler", "kubernetes", "k8s.io/kubernetes/cmd/kube-scheduler"),
    part("kubelet", "kubernetes", "k8s.io/kubernetes/cmd/kubelet"),
    part("kube-proxy", "kubernetes", "k8s.io/kubernetes/cmd/kube-proxy"),
    part("kubectl", "kubernetes", "k8s.io/kubernetes/cmd/kubectl"),
    part("etcd", "kubernetes", "go.etcd.io/etcd/server/v3"),
    Part { contained: true, ..part("agnhost", "kubernetes", "k8s.io/kubernetes/test/images/agnhost") },
    Part { test: true, ..part("e2e.test", "kubernetes", "k8s.io/kubernetes/test/e2e") },
    part("ginkgo", "kubernetes", "github.com/onsi/ginkgo/v2/ginkgo"),
    Part { contained: true, ..part("flanneld", "flannel", "github.com/flannel-io/flannel") },
    Part {
        contained: true,
        ..part("install-conf", "flannel", "github.com/flannel-io/flannel/cmd/install_conf")
    },
    // The last version of the CNI project that still has Flannel's plugin.
    part("flannel", "flannel-cni", "github.com/containernetworking/plugins/plugins/meta/flannel"),
    part("helm", "helm", "helm.sh/helm/v3/cmd/helm"),
];

const fn part(program: &'static str, module: &'static str, package: &'static str) -> Part {
    Part { program, module, package, test: false, contained: false }
}

/// The folder of built programs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parts {
    folder: PathBuf,
}

impl Parts {
    /// Builds in `cache` what isn't there in the pinned version. The first time that takes many minutes.
    pub fn build(cache: &Path) -> Result<Self> {
        fs::create_dir_all(cache).with_context(|| format!("making {}", cache.display()))?;
        // Go runs in another folder.
        let cache = &fs::canonicalize(cache).with_context(|| format!("finding {}", cache.display()))?;
        let lock = File::open(cache).with_context(|| format!("opening {}", cache.display()))?;
        let _lock = Flock::lock(lock, FlockArg::LockExclusive)
            .map_err(|(_, errno)| errno)
            .context("locking the folder of built programs")?;
        let compiler = go(Path::new("."), &["version"])?;
        for part in PARTS {
            let stamp = part.stamp(&compiler)?;
            let (program, stamp_file) =
                (cache.join(part.program), cache.join(format!(".{}.stamp", part.program)));
            if program.is_file() && fs::read_to_string(&stamp_file).is_ok_and(|found| found == stamp) {
                continue;
            }
            Step::run(&format!("building {}", part.program), |_| part.build(&program))?;
            fs::write(&stamp_file, stamp).with_context(|| format!("writing {}", stamp_file.display()))?;
        }
        Ok(Self { folder: cache.to_owned() })
    }

    /// Where a program lies.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The folder of all of them, for PATH.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Flannel's sources, which hold its Helm chart and its manifest.
    pub fn flannel_sources(&self) -> Result<PathBuf> {
        let folder =
            go(&module("flannel"), &["list", "-m", "-f", "{{.Dir}}", "github.com/flannel-io/flannel"])?;
        Ok(PathBuf::from(folder))
    }
}

impl Part {
    fn build(&self, to: &Path) -> Result<()> {
        let flags = self.flags()?;
        let to = to.to_str().context("the folder for built programs has a name that is no text")?;
        let mut arguments = if self.test { vec!["test", "-c"] } else { vec!["build"] };
        arguments.extend(["-ldflags", &flags, "-o", to, self.package]);
        go(&module(self.module), &arguments)?;
        if self.contained && !libraries(Path::new(to))?.is_empty() {
            bail!("{} is not linked statically: no image can run it", self.program);
        }
        Ok(())
    }

    /// Flags for the linker.
    fn flags(&self) -> Result<String> {
        let mut flags = version_flags(self.module)?;
        if self.contained {
            flags.push_str(" -linkmode=external -extldflags=-static");
        }
        Ok(flags)
    }

    /// What the built program depends on, in a short form.
    fn stamp(&self, compiler: &str) -> Result<String> {
        let mut hasher = DefaultHasher::new();
        (self, compiler, self.flags()?).hash(&mut hasher);
        for file in ["go.mod", "go.sum"] {
            let path = module(self.module).join(file);
            fs::read(&path).with_context(|| format!("reading {}", path.display()))?.hash(&mut hasher);
        }
        Ok(format!("{:016x}", hasher.finish()))
    }
}

/// Programs of Kubernetes refuse one another unless they know their version, which a build of
/// one's own doesn't set.
fn version_flags(module_name: &str) -> Result<String> {
    let mut flags = String::from("-s -w");
    if module_name == "kubernetes" {
        let version = kubernetes_version()?;
        let mut numbers = version.trim_start_matches('v').split('.');
        for (variable, value) in [
            ("gitVersion", version.as_str()),
            ("gitMajor", numbers.next().unwrap_or_default()),
            ("gitMinor", numbers.next().unwrap_or_default()),
        ] {
            flags.push_str(&format!(" -X k8s.io/component-base/version.{variable}={value}"));
        }
    }
    Ok(flags)
}

/// The version of Kubernetes that `integration/parts` pins, such as `v1.34.1`.
pub fn kubernetes_version() -> Result<String> {
    go(&module("kubernetes"), &["list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes"])
}

fn module(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("parts").join(name)
}

/// Runs `go` in a folder and returns what it printed.
fn go(folder: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new("go")
        .current_dir(folder)
        .args(arguments)
        // flanneld is partly C. One setting for all, so that what they share is compiled once.
        .env("CGO_ENABLED", "1")
        .env("GOFLAGS", "-mod=readonly -buildvcs=false")
        .env("GOWORK", "off")
        .output()
        .context("go could not be started: is Go installed?")?;
    if !output.status.success() {
        bail!("go {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_is_pinned_by_contents() {
        for part in PARTS {
            let sums = fs::read_to_string(module(part.module).join("go.sum")).unwrap();
            assert!(sums.lines().count() > 1, "{} has no go.sum", part.program);
        }
    }

    #[test]
    fn a_stamp_changes_with_the_compiler_and_the_package() {
        let [one, two, ..] = PARTS;
        assert_ne!(one.stamp("go 1").unwrap(), two.stamp("go 1").unwrap());
        assert_ne!(one.stamp("go 1").unwrap(), one.stamp("go 2").unwrap());
        assert_eq!(one.stamp("go 1").unwrap(), one.stamp("go 1").unwrap());
    }
}
