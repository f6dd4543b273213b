//! The programs of a cluster, built from source: Kubernetes, etcd, Flannel, Helm and the upstream test suite.
//!
//! From: the modules under `integration/parts`, each a `go.mod` that pins versions and a `go.sum` that pins
//! contents.
//!
//! To: one folder of programs, kept until a version, a flag, the compiler or a source file of this project
//! changes. All but one program are from one module, so shared packages are compiled once.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::prerequisite::is_static;
use crate::task::{Output, Task};
use crate::workspace::{Workspace, lock};

/// The limit for the largest program and all its dependencies, on a slow machine.
const LIMIT: Duration = Duration::from_secs(60 * 60);

/// Links to the sources of modules, which contain more than programs.
const SOURCES: [Link; 2] = [
    // Flannel's Helm chart and its manifest.
    Link { name: "flannel-sources", folder: ".", module: FLANNEL },
    // The pods of the ClusterNetworkPolicy suite.
    Link { name: "network-policy-api-sources", folder: "conformance", module: NETWORK_POLICY_API },
];

/// A link to the sources of a Go module.
#[derive(Clone, Copy, Debug)]
struct Link {
    /// Its file name.
    name: &'static str,
    /// The folder under `integration/parts` that pins the module's version.
    folder: &'static str,
    /// The module's path.
    module: &'static str,
}

/// One program.
#[derive(Clone, Copy, Hash, Debug)]
struct Component {
    /// Its file name.
    program: &'static str,
    /// Further names under which the program is called.
    names: &'static [&'static str],
    /// The folder under `integration/parts` that pins its version.
    module: &'static str,
    /// Its Go package; with `./` if it is component of this project.
    package: &'static str,
    /// Whether the package is a test, which is built by another command.
    test: bool,
    /// Whether the program goes into a container, which has no libraries.
    contained: bool,
}

const COMPONENTS: [Component; 10] = [
    Component {
        names: &[
            "kube-apiserver",
            "kube-controller-manager",
            "kube-proxy",
            "kube-scheduler",
            "kubectl",
            "kubelet",
        ],
        ..component("kubernetes", "./kubernetes")
    },
    component("etcd", "go.etcd.io/etcd/server/v3"),
    Component { contained: true, ..component("agnhost", "./agnhost") },
    Component { test: true, ..component("netpol.test", "./netpol") },
    // It needs a later version of Kubernetes' libraries than Kubernetes itself.
    Component {
        module: "conformance",
        test: true,
        ..component("conformance.test", "sigs.k8s.io/network-policy-api/conformance")
    },
    component("ginkgo", "github.com/onsi/ginkgo/v2/ginkgo"),
    Component { contained: true, ..component("flanneld", FLANNEL) },
    Component {
        contained: true,
        ..component("install-conf", "github.com/flannel-io/flannel/cmd/install_conf")
    },
    // The last version of the CNI project that still contains Flannel's plugin. Flannel itself needs a later
    // version of the project.
    Component {
        module: "flannel-cni",
        ..component("flannel", "github.com/containernetworking/plugins/plugins/meta/flannel")
    },
    component("helm", "helm.sh/helm/v3/cmd/helm"),
];

const FLANNEL: &str = "github.com/flannel-io/flannel";
const KUBERNETES: &str = "k8s.io/kubernetes";
const NETWORK_POLICY_API: &str = "sigs.k8s.io/network-policy-api";

const fn component(program: &'static str, package: &'static str) -> Component {
    Component { program, names: &[], module: ".", package, test: false, contained: false }
}

/// Builds the programs that are missing in the pinned version, and returns the folder of all of them. The
/// first build takes many minutes.
pub(crate) fn build(workspace: &Workspace) -> Result<PathBuf> {
    let sources = Sources { folder: workspace.root().join("integration/parts") };
    let cache = workspace.components();
    fs::create_dir_all(&cache).with_context(|| format!("making {}", cache.display()))?;
    let _lock = lock(&cache)?;
    let compiler = sources.query(".", &["version"])?;
    let version = sources.query(".", &["list", "-m", "-f", "{{.Version}}", KUBERNETES])?;
    for component in COMPONENTS {
        let flags = component.linker_flags(&version);
        let stamp = sources.stamp(&component, &compiler, &flags)?;
        let (program, stamp_file) =
            (cache.join(component.program), cache.join(format!(".{}.stamp", component.program)));
        if program.is_file() && fs::read_to_string(&stamp_file).is_ok_and(|found| found == stamp) {
            continue;
        }
        let task = Task {
            name: component.program,
            command: sources.build(&component, &flags, &program),
            limit: LIMIT,
            output: Output::Logged,
        };
        if let Some(failure) = task.run(&workspace.logs())?.failure {
            bail!("{} was not built: {failure}", component.program);
        }
        if component.contained {
            let bytes = fs::read(&program).with_context(|| format!("reading {}", program.display()))?;
            ensure!(is_static(&bytes), "{} is not linked statically: no image can run it", component.program);
        }
        for name in component.names {
            link(&cache.join(name), Path::new(component.program))?;
        }
        fs::write(&stamp_file, stamp).with_context(|| format!("writing {}", stamp_file.display()))?;
    }
    for Link { name, folder, module } in SOURCES {
        let target = sources.query(folder, &["list", "-m", "-f", "{{.Dir}}", module])?;
        link(&cache.join(name), Path::new(&target))?;
    }
    Ok(cache)
}

/// Creates the link `at` to `target`.
fn link(at: &Path, target: &Path) -> Result<()> {
    match fs::remove_file(at) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => symlink(target, at),
    }
    .with_context(|| format!("linking {}", at.display()))
}

impl Component {
    /// Kubernetes' programs refuse to work together unless they have a version, which a plain `go build`
    /// doesn't set.
    fn linker_flags(&self, version: &str) -> String {
        let mut numbers = version.trim_start_matches('v').split('.');
        let mut flags = String::from("-s -w");
        for (variable, value) in [
            ("gitVersion", version),
            ("gitMajor", numbers.next().unwrap_or_default()),
            ("gitMinor", numbers.next().unwrap_or_default()),
        ] {
            flags.push_str(&format!(" -X k8s.io/component-base/version.{variable}={value}"));
        }
        if self.contained {
            flags.push_str(" -linkmode=external -extldflags=-static");
        }
        flags
    }
}

/// The folder of the components' modules.
struct Sources {
    folder: PathBuf,
}

impl Sources {
    fn build(&self, component: &Component, linker_flags: &str, to: &Path) -> Command {
        let mut command = self.go(component.module);
        // Upstream vets the suite itself; here go would vet all packages that it imports.
        command.args(if component.test { &["test", "-c", "-vet=off"][..] } else { &["build"] });
        // These programs are not debugged, and without debug information the compiler is faster.
        command.args(["-gcflags=all=-dwarf=false", "-ldflags", linker_flags]);
        command.arg("-o").arg(to).arg(component.package);
        command
    }

    /// A digest of everything that the built program depends on.
    fn stamp(&self, component: &Component, compiler: &str, linker_flags: &str) -> Result<String> {
        let mut hasher = DefaultHasher::new();
        (component, compiler, linker_flags).hash(&mut hasher);
        let module = self.folder.join(component.module);
        let mut files = vec![module.join("go.mod"), module.join("go.sum")];
        if component.package.starts_with("./") {
            let folder = module.join(component.package);
            let entries = fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
            files.extend(entries.flatten().map(|entry| entry.path()));
        }
        for path in files {
            fs::read(&path).with_context(|| format!("reading {}", path.display()))?.hash(&mut hasher);
        }
        Ok(format!("{:016x}", hasher.finish()))
    }

    /// The output of `go` in the folder of a module.
    fn query(&self, module: &str, arguments: &[&str]) -> Result<String> {
        let output = self
            .go(module)
            .args(arguments)
            .output()
            .context("go could not be started: is Go installed (https://go.dev/dl)?")?;
        if !output.status.success() {
            bail!("go {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn go(&self, module: &str) -> Command {
        let mut command = Command::new("go");
        command
            .current_dir(self.folder.join(module))
            // flanneld is partly C. All programs use the same setting, so that shared packages are compiled
            // once.
            .env("CGO_ENABLED", "1")
            .env("GOFLAGS", "-mod=readonly -buildvcs=false")
            .env("GOWORK", "off")
            // A compiler that runs for seconds needs no garbage collection, unless it grows large.
            .env("GOGC", "off")
            .env("GOMEMLIMIT", "2GiB");
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources() -> Sources {
        Sources { folder: Path::new(env!("CARGO_MANIFEST_DIR")).join("../../integration/parts") }
    }

    #[test]
    fn every_program_is_pinned_by_contents() {
        for component in COMPONENTS {
            let sums = fs::read_to_string(sources().folder.join(component.module).join("go.sum")).unwrap();
            assert!(sums.lines().count() > 1, "{} has no go.sum", component.program);
        }
    }

    #[test]
    fn linked_sources_are_of_a_required_module() {
        for Link { name, folder, module } in SOURCES {
            let required = fs::read_to_string(sources().folder.join(folder).join("go.mod")).unwrap();
            assert!(required.contains(&format!("{module} v")), "{name}: {folder}/go.mod has no {module}");
        }
    }

    #[test]
    fn a_stamp_changes_with_the_compiler_the_flags_and_the_package() {
        let [one, two, ..] = COMPONENTS;
        let stamp = |component, compiler, flags| sources().stamp(component, compiler, flags).unwrap();
        let stamped = stamp(&one, "go 1", "-s");
        assert_eq!(stamped, stamp(&one, "go 1", "-s"));
        for other in [stamp(&two, "go 1", "-s"), stamp(&one, "go 2", "-s"), stamp(&one, "go 1", "-w")] {
            assert_ne!(stamped, other);
        }
    }

    #[test]
    fn kubernetes_has_its_version_and_programs_in_images_are_static() {
        let [kubernetes, _, agnhost, ..] = COMPONENTS;
        let flags = kubernetes.linker_flags("v1.34.1");
        for variable in ["gitVersion=v1.34.1", "gitMajor=1", "gitMinor=34"] {
            assert!(flags.contains(&format!(" -X k8s.io/component-base/version.{variable}")), "{flags}");
        }
        assert!(!flags.contains("static") && agnhost.linker_flags("v1.34.1").contains("-static"));
    }
}
