//! What the commands need from the machine, how each prerequisite is checked, and what installs it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::machine::program;
use crate::workspace::Workspace;

/// What a prerequisite is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// Building the crates that use the kernel's interfaces.
    Build,
    /// Network namespaces with real connections.
    Namespaces,
    /// The virtual machine with another kernel.
    VirtualMachine,
    /// Lints, format and licences.
    Checks,
    /// A real Kubernetes cluster.
    Cluster,
    /// Counting the instructions of a verdict.
    Instructions,
    /// The image for the platform other than this machine's.
    Foreign,
    /// Mutation tests.
    Mutants,
}

impl Purpose {
    /// The name in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Namespaces => "namespaces",
            Self::VirtualMachine => "virtual machine",
            Self::Checks => "checks",
            Self::Cluster => "cluster",
            Self::Instructions => "instructions",
            Self::Foreign => "other platform",
            Self::Mutants => "mutants",
        }
    }
}

/// One prerequisite.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prerequisite {
    /// What must be there.
    pub name: &'static str,
    /// What it is for.
    pub purpose: Purpose,
    /// What installs it.
    pub remedy: Remedy,
    /// Finds it: returns where it is.
    found: fn(&Workspace) -> Option<String>,
}

/// What installs a prerequisite.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Remedy {
    /// A package, by its name in Debian and Ubuntu.
    Package(&'static str),
    /// apt's package lists.
    PackageLists,
    /// A module of the kernel.
    Module(&'static str),
    /// A component of the Rust toolchain.
    RustComponent(&'static str),
    /// The standard library of another platform.
    Target(&'static str),
    /// A program of cargo's, built from source into the target folder.
    CargoTool(CargoTool),
    /// Something that people install themselves: what, and where it is available.
    ByHand(&'static str),
}

impl Remedy {
    /// The text in the table.
    pub(crate) fn describe(self) -> String {
        match self {
            Self::Package(name) => format!("package {name}"),
            Self::PackageLists => "apt-get update".to_owned(),
            Self::Module(name) => format!("modprobe {name}"),
            Self::RustComponent(name) => format!("rustup component add {name}"),
            Self::Target(name) => format!("rustup target add {name}"),
            Self::CargoTool(CargoTool { name, version }) => format!("cargo install {name}@{version}"),
            Self::ByHand(what) => what.to_owned(),
        }
    }
}

impl Prerequisite {
    /// Where it is, or `None` if it is missing.
    pub(crate) fn found(&self, workspace: &Workspace) -> Option<String> {
        (self.found)(workspace)
    }
}

/// A program that cargo builds from a registry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CargoTool {
    /// The package and the program, such as `cargo-deny`.
    pub name: &'static str,
    /// The version in use.
    pub version: &'static str,
}

/// Checks licences and sources; deny.toml is written for this version.
pub(crate) const CARGO_DENY: CargoTool = CargoTool { name: "cargo-deny", version: "0.20.2" };

/// Changes the code to see whether a test fails.
pub(crate) const CARGO_MUTANTS: CargoTool = CargoTool { name: "cargo-mutants", version: "27.1.0" };

/// The kernel that the virtual machine boots.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";

/// All prerequisites, in the order in which they are installed.
pub(crate) const PREREQUISITES: [Prerequisite; 28] = [
    // rustables generates its constants from the kernel's headers with bindgen, which loads libclang.
    prerequisite("libclang", Purpose::Build, Remedy::Package("libclang-dev"), |_| path(libclang()?)),
    prerequisite("clang's headers", Purpose::Build, Remedy::Package("libclang-dev"), |_| {
        path(clang_headers()?)
    }),
    prerequisite("kernel headers", Purpose::Build, Remedy::Package("linux-libc-dev"), |_| {
        existing("/usr/include/linux/netfilter/nf_tables.h")
    }),
    prerequisite("C library headers", Purpose::Build, Remedy::Package("libc6-dev"), |_| {
        existing("/usr/include/stdint.h")
    }),
    prerequisite("ip", Purpose::Namespaces, Remedy::Package("iproute2"), |_| path(program("ip")?)),
    prerequisite("nft", Purpose::Namespaces, Remedy::Package("nftables"), |_| path(program("nft")?)),
    prerequisite("modprobe", Purpose::Namespaces, Remedy::Package("kmod"), |_| path(program("modprobe")?)),
    // Built into some kernels. As a module it is seldom loaded before a program needs it.
    prerequisite("br_netfilter", Purpose::Namespaces, Remedy::Module("br_netfilter"), |_| {
        existing("/proc/sys/net/bridge")
    }),
    prerequisite("qemu", Purpose::VirtualMachine, Remedy::Package("qemu-system-x86"), |_| {
        path(program("qemu-system-x86_64")?)
    }),
    prerequisite("busybox, static", Purpose::VirtualMachine, Remedy::Package("busybox-static"), |_| {
        path(static_busybox()?)
    }),
    // The virtual machine's kernel is downloaded on first use, which needs apt's package lists.
    prerequisite("a kernel to download", Purpose::VirtualMachine, Remedy::PackageLists, |_| {
        version(Command::new("apt-cache").args(["show", KERNEL_PACKAGE]))
    }),
    prerequisite("rustfmt", Purpose::Checks, Remedy::RustComponent("rustfmt"), |workspace| {
        version(workspace.cargo("fmt").arg("--version"))
    }),
    prerequisite("clippy", Purpose::Checks, Remedy::RustComponent("clippy"), |workspace| {
        version(Command::new("cargo-clippy").arg("--version"))
            .or_else(|| version(workspace.cargo("clippy").arg("--version")))
    }),
    prerequisite("cargo-deny", Purpose::Checks, Remedy::CargoTool(CARGO_DENY), |workspace| {
        path(cargo_tool(workspace, CARGO_DENY)?)
    }),
    prerequisite("cargo-mutants", Purpose::Mutants, Remedy::CargoTool(CARGO_MUTANTS), |workspace| {
        path(cargo_tool(workspace, CARGO_MUTANTS)?)
    }),
    // Most distributions' packages are too old. From this version on Go downloads newer versions by itself.
    prerequisite("Go", Purpose::Cluster, Remedy::ByHand("Go 1.24 or later (https://go.dev/dl)"), |_| go()),
    prerequisite("cc", Purpose::Cluster, Remedy::Package("gcc"), |_| path(program("cc")?)),
    prerequisite("containerd", Purpose::Cluster, Remedy::Package("containerd"), |_| {
        path(program("containerd")?)
    }),
    prerequisite("runc", Purpose::Cluster, Remedy::Package("runc"), |_| path(program("runc")?)),
    prerequisite("CNI plugins", Purpose::Cluster, Remedy::Package("containernetworking-plugins"), |_| {
        existing("/usr/lib/cni/bridge")
    }),
    prerequisite("iptables", Purpose::Cluster, Remedy::Package("iptables"), |_| {
        path(program("iptables-nft")?)
    }),
    prerequisite("busybox for images", Purpose::Cluster, Remedy::Package("busybox-static"), |_| {
        path(static_busybox()?)
    }),
    prerequisite("static C library", Purpose::Cluster, Remedy::Package("libc6-dev"), |_| {
        path(static_c_library()?)
    }),
    prerequisite("valgrind", Purpose::Instructions, Remedy::Package("valgrind"), |_| {
        path(program("valgrind")?)
    }),
    prerequisite("cross compiler", Purpose::Foreign, Remedy::Package(OTHER.compiler), |_| {
        path(program(&format!("{}-gcc", OTHER.gnu))?)
    }),
    prerequisite("its C library and headers", Purpose::Foreign, Remedy::Package(OTHER.library), |_| {
        existing(&format!("/usr/{}/lib/libc.a", OTHER.gnu))
    }),
    prerequisite("its emulator", Purpose::Foreign, Remedy::Package("qemu-user-static"), |_| {
        path(program(OTHER.emulator)?)
    }),
    prerequisite("its Rust library", Purpose::Foreign, Remedy::Target(OTHER.rust_target), |_| {
        rust_library(OTHER.rust_target)
    }),
];

/// The cross build for the platform other than this machine's.
struct Other {
    /// The prefix of the cross compiler's tools, and the folder of its libraries.
    gnu: &'static str,
    compiler: &'static str,
    library: &'static str,
    emulator: &'static str,
    rust_target: &'static str,
}

#[cfg(not(target_arch = "aarch64"))]
const OTHER: Other = Other {
    gnu: "aarch64-linux-gnu",
    compiler: "gcc-aarch64-linux-gnu",
    library: "libc6-dev-arm64-cross",
    emulator: "qemu-aarch64-static",
    rust_target: "aarch64-unknown-linux-gnu",
};
#[cfg(target_arch = "aarch64")]
const OTHER: Other = Other {
    gnu: "x86_64-linux-gnu",
    compiler: "gcc-x86-64-linux-gnu",
    library: "libc6-dev-amd64-cross",
    emulator: "qemu-x86_64-static",
    rust_target: "x86_64-unknown-linux-gnu",
};

const fn prerequisite(
    name: &'static str,
    purpose: Purpose,
    remedy: Remedy,
    found: fn(&Workspace) -> Option<String>,
) -> Prerequisite {
    Prerequisite { name, purpose, remedy, found }
}

/// The tool in the target folder, or one of the right version in PATH.
pub(crate) fn cargo_tool(workspace: &Workspace, tool: CargoTool) -> Option<PathBuf> {
    let found = [Some(workspace.tools().join("bin").join(tool.name)), program(tool.name)];
    let subcommand = tool.name.trim_start_matches("cargo-");
    found.into_iter().flatten().find(|file| {
        version(Command::new(file).args([subcommand, "--version"]))
            .is_some_and(|text| text.ends_with(&format!(" {}", tool.version)))
    })
}

/// The first version of Go that can download the version that Kubernetes requires.
const GO: (u32, u32) = (1, 24);

fn go() -> Option<String> {
    let text = version(Command::new("go").arg("version"))?;
    (go_version(&text)? >= GO).then_some(text)
}

/// Reads `go version go1.26.8 linux/amd64`.
fn go_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(' ').nth(2)?.strip_prefix("go")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn static_c_library() -> Option<PathBuf> {
    let file = version(Command::new("cc").arg("-print-file-name=libc.a")).map(PathBuf::from)?;
    file.is_file().then_some(file)
}

/// The standard library of a target, in the toolchain that is used for the build.
fn rust_library(target: &str) -> Option<String> {
    let folder = version(Command::new("rustc").args(["--print", "target-libdir", "--target", target]))?;
    fs::read_dir(&folder).ok()?.next().map(|_| folder)
}

/// The library as bindgen finds it: in `LIBCLANG_PATH`, or up to two folders below the system's library
/// folders.
fn libclang() -> Option<PathBuf> {
    if let Some(place) = std::env::var_os("LIBCLANG_PATH").map(PathBuf::from) {
        return if place.is_file() { Some(place) } else { libclang_below(&place, 0) };
    }
    library_folders().into_iter().find_map(|folder| libclang_below(&folder, 2))
}

fn libclang_below(folder: &Path, depth: usize) -> Option<PathBuf> {
    let entries: Vec<PathBuf> = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
    let here = entries.iter().find(|file| {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // `libclang-cpp.so.14` is another library.
        let ours = name == "libclang.so" || name.starts_with("libclang.so.") || name.starts_with("libclang-");
        ours && name.contains(".so") && !name.contains("-cpp.") && file.is_file()
    });
    if let Some(file) = here {
        return Some(file.clone());
    }
    let below = depth.checked_sub(1)?;
    entries.iter().filter(|entry| entry.is_dir()).find_map(|folder| libclang_below(folder, below))
}

/// clang's own `stddef.h`. Without it bindgen fails at the first include, even if the library is there.
fn clang_headers() -> Option<PathBuf> {
    let mut places = library_folders();
    for folder in library_folders() {
        let versions = fs::read_dir(folder).ok().into_iter().flatten().flatten();
        places.extend(versions.map(|entry| entry.path().join("lib")));
    }
    places
        .iter()
        .filter_map(|place| fs::read_dir(place.join("clang")).ok())
        .flat_map(|versions| versions.flatten())
        .map(|version| version.path().join("include/stddef.h"))
        .find(|header| header.is_file())
}

fn library_folders() -> Vec<PathBuf> {
    ["/usr/local/lib", "/usr/local/lib64", "/usr/lib", "/usr/lib64"].map(PathBuf::from).into()
}

/// busybox without a dynamic loader: it is the only program in the virtual machine's initial file system.
fn static_busybox() -> Option<PathBuf> {
    program("busybox").filter(|file| fs::read(file).is_ok_and(|bytes| is_static(&bytes)))
}

/// Whether an ELF program has no dynamic loader. The loader's path is right after the headers, so a search
/// for its text suffices.
pub(crate) fn is_static(program: &[u8]) -> bool {
    let start = &program[..program.len().min(4096)];
    start.starts_with(b"\x7fELF")
        && ![&b"/ld-linux"[..], b"/ld-musl", b"/ld64"].iter().any(|name| contains(start, name))
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// The first line of a program's version output, or `None` if the program isn't there.
fn version(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout);
    Some(text.lines().next().unwrap_or_default().trim().to_owned())
}

fn existing(place: &str) -> Option<String> {
    Path::new(place).exists().then(|| place.to_owned())
}

fn path(place: PathBuf) -> Option<String> {
    Some(place.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libclang_is_found_under_its_versioned_names_and_not_mistaken_for_its_cpp_sibling() {
        let usr_lib = tempfile::tempdir().unwrap();
        let folder = usr_lib.path().join("llvm-14/lib");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("libclang-cpp.so.14"), "").unwrap();
        assert_eq!(libclang_below(usr_lib.path(), 2), None);
        let library = folder.join("libclang-14.so.1");
        fs::write(&library, "").unwrap();
        assert_eq!(libclang_below(usr_lib.path(), 2), Some(library.clone()));
        assert_eq!(libclang_below(usr_lib.path(), 1), None, "only as deep as asked");
        assert_eq!(libclang_below(&folder, 0), Some(library));
    }

    #[test]
    fn a_program_with_a_loader_is_not_static() {
        assert!(is_static(b"\x7fELF\x02\x01\x01 headers and code"));
        assert!(!is_static(b"\x7fELF\x02\x01\x01 headers /lib64/ld-linux-x86-64.so.2 code"));
        assert!(!is_static(b"#!/bin/sh\n"));
        let ourselves = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(!is_static(&ourselves), "the test program itself is linked dynamically");
    }

    #[test]
    fn a_program_that_is_missing_or_fails_has_no_version() {
        assert_eq!(
            version(Command::new("sh").args(["-c", "echo tool 1.2; echo more"])).as_deref(),
            Some("tool 1.2")
        );
        assert_eq!(version(Command::new("sh").args(["-c", "echo tool 1.2; exit 1"])), None);
        assert_eq!(version(&mut Command::new("a-program-that-does-not-exist")), None);
    }

    #[test]
    fn the_version_of_go_is_read() {
        assert_eq!(go_version("go version go1.26.8 linux/amd64"), Some((1, 26)));
        assert!(go_version("go version go1.9 linux/amd64").is_some_and(|version| version < GO));
        assert_eq!(go_version("go version devel +abc linux/amd64"), None);
    }

    #[test]
    fn every_prerequisite_has_its_own_name() {
        let names: std::collections::BTreeSet<_> =
            PREREQUISITES.iter().map(|prerequisite| prerequisite.name).collect();
        assert_eq!(names.len(), PREREQUISITES.len());
    }
}
