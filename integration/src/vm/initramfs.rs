//! The machine's initramfs, its only file system: busybox, modules, programs with their libraries, and the
//! commands to run. It is a cpio archive of the format "newc" (the kernel's
//! `Documentation/driver-api/early-userspace`).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use cpio::NewcBuilder;
use cpio::newc::{ModeFileType, trailer};

use super::kernel::Kernel;
use crate::programs::{libraries, program};

/// The start of a line that reports the exit code of a command.
pub(super) const RESULT: &str = "RESULT";

/// Modules that the testbed, the agent and SCTP need.
const MODULES: [&str; 28] = [
    "nf_tables",
    "nf_conntrack",
    "nf_conntrack_netlink",
    "nfnetlink_queue",
    "nfnetlink_log",
    "nft_queue",
    "nft_ct",
    "nft_fib",
    "nft_fib_ipv4",
    "nft_fib_ipv6",
    "nft_fib_inet",
    "nft_compat",
    "xt_NFQUEUE",
    "nft_nat",
    "nft_chain_nat",
    "nft_masq",
    "nft_numgen",
    "nft_limit",
    "nft_log",
    "nft_objref",
    "nft_reject_inet",
    "nf_defrag_ipv4",
    "nf_defrag_ipv6",
    "veth",
    "bridge",
    "br_netfilter",
    "vxlan",
    "sctp",
];

/// Programs of the system that the testbed calls.
const PROGRAMS: [&str; 3] = ["ip", "bridge", "nft"];

/// The programs of an initramfs, and the commands that it runs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Initramfs {
    programs: Vec<(PathBuf, String)>,
    commands: Vec<(String, String)>,
}

impl Initramfs {
    /// An image without added programs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a program of this machine to `/bin`, with the libraries that it needs.
    #[must_use]
    pub fn program(mut self, path: &Path, name: &str) -> Self {
        self.programs.push((path.to_owned(), name.to_owned()));
        self
    }

    /// Adds a command that a shell runs after the earlier ones. Its exit code is reported under `name`.
    #[must_use]
    pub fn command(mut self, name: &str, command: &str) -> Self {
        self.commands.push((name.to_owned(), command.to_owned()));
        self
    }

    /// Writes it as an archive.
    pub(super) fn write(&self, kernel: &Kernel, to: &Path) -> Result<()> {
        let busybox = program("busybox").context("busybox is missing: install the package busybox-static")?;
        let modules = kernel.modules(&MODULES)?;
        let mut files = vec![(busybox, "bin/busybox".to_owned())];
        for name in PROGRAMS {
            let path =
                program(name).with_context(|| format!("{name} is missing: install iproute2, nftables"))?;
            files.push((path, format!("bin/{name}")));
        }
        for (path, name) in &self.programs {
            files.push((path.clone(), format!("bin/{name}")));
        }
        let libraries: BTreeSet<PathBuf> = files
            .iter()
            .skip(1)
            .map(|(path, _)| libraries(path))
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .flatten()
            .collect();
        for library in libraries {
            let name = library.to_string_lossy().trim_start_matches('/').to_owned();
            files.push((library, name));
        }
        let mut order = String::new();
        for (number, module) in modules.iter().enumerate() {
            let name = format!("modules/{number:03}.ko");
            order.push_str(&format!("/{name}\n"));
            files.push((module.clone(), name));
        }
        let file = File::create(to).with_context(|| format!("creating {}", to.display()))?;
        let mut archive = BufWriter::new(file);
        let mut add = |kind, name: &str, data: &[u8]| {
            append(&mut archive, kind, name, data).with_context(|| format!("adding {name} to the initramfs"))
        };
        for folder in folders(&files) {
            add(ModeFileType::Directory, &folder, &[])?;
        }
        for (path, name) in &files {
            let bytes = contents(path).with_context(|| format!("reading {}", path.display()))?;
            add(ModeFileType::Regular, name, &bytes)?;
        }
        add(ModeFileType::Symlink, "bin/sh", b"busybox")?;
        add(ModeFileType::Regular, "modules/order", order.as_bytes())?;
        add(ModeFileType::Regular, "init", self.init().as_bytes())?;
        trailer(archive).and_then(|mut archive| archive.flush()).context("writing the initramfs")
    }

    /// The script of the first process: mounts file systems, loads the modules, runs the commands, and powers
    /// off.
    fn init(&self) -> String {
        let mut script = String::from(
            "#!/bin/sh\n\
             export PATH=/bin HOME=/tmp RUST_BACKTRACE=0\n\
             busybox mount -t proc proc /proc\n\
             busybox mount -t sysfs sysfs /sys\n\
             busybox mount -t devtmpfs devtmpfs /dev\n\
             busybox mount -t tmpfs tmpfs /run\n\
             busybox mount -t tmpfs tmpfs /tmp\n\
             while read module; do busybox insmod $module || echo \"insmod $module failed\"; done \
             </modules/order\n\
             ip link set lo up\n",
        );
        for (name, command) in &self.commands {
            script.push_str(&format!("{command} </dev/null\necho \"{RESULT} {name} $?\"\n"));
        }
        script.push_str("busybox sync\nbusybox poweroff -f\n");
        script
    }
}

/// Appends an entry. A folder must precede its content. The data of a link is its target. Every file may be
/// executed by everyone.
fn append(archive: impl Write, kind: ModeFileType, name: &str, data: &[u8]) -> io::Result<()> {
    let size = u32::try_from(data.len()).map_err(io::Error::other)?;
    let mut entry = NewcBuilder::new(name).mode(0o755).set_mode_file_type(kind).write(archive, size);
    entry.write_all(data)?;
    entry.finish().map(drop)
}

/// All folders of the files and of the file systems to mount. Each folder follows its parent.
fn folders(files: &[(PathBuf, String)]) -> BTreeSet<String> {
    let mut all: BTreeSet<String> = ["proc", "sys", "dev", "run", "tmp"].map(str::to_owned).into();
    for (_, name) in files {
        let parents = Path::new(name).ancestors().skip(1).map(|folder| folder.to_string_lossy().into_owned());
        all.extend(parents.filter(|folder| !folder.is_empty()));
    }
    all
}

/// The bytes of a file. A compressed module is decompressed.
fn contents(path: &Path) -> Result<Vec<u8>> {
    let unpack = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return Ok(fs::read(path)?),
    };
    let unpacked =
        Command::new(unpack).arg("-dc").arg(path).output().with_context(|| format!("running {unpack}"))?;
    if !unpacked.status.success() {
        bail!("{unpack}: {}", String::from_utf8_lossy(&unpacked.stderr).trim());
    }
    Ok(unpacked.stdout)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use cpio::NewcReader;

    use super::*;

    #[test]
    fn entries_have_the_newc_format() {
        let mut bytes = Vec::new();
        append(&mut bytes, ModeFileType::Directory, "bin", &[]).unwrap();
        append(&mut bytes, ModeFileType::Symlink, "bin/sh", b"busybox").unwrap();
        append(&mut bytes, ModeFileType::Regular, "init", b"hello").unwrap();
        let bytes = trailer(bytes).unwrap();
        assert!(bytes.starts_with(b"070701") && bytes.len() % 4 == 0);

        let (mut rest, mut entries) = (&bytes[..], Vec::new());
        loop {
            let mut reader = NewcReader::new(rest).unwrap();
            let (name, mode) = (reader.entry().name().to_owned(), reader.entry().mode());
            if reader.entry().is_trailer() {
                break;
            }
            let mut data = String::new();
            reader.read_to_string(&mut data).unwrap();
            entries.push((name, mode, data));
            rest = reader.finish().unwrap();
        }
        let entry = |name: &str, mode, data: &str| (name.to_owned(), mode, data.to_owned());
        assert_eq!(
            entries,
            [
                entry("bin", 0o040_755, ""),
                entry("bin/sh", 0o120_755, "busybox"),
                entry("init", 0o100_755, "hello"),
            ]
        );
    }
}
