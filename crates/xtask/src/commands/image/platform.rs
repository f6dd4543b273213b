//! The supported platforms of nodes, and how the program is built for each.

use std::env::consts::ARCH;
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;

/// A platform. All are little-endian Linux.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
pub(super) enum Platform {
    /// x86-64.
    #[value(name = "linux/amd64")]
    Amd64,
    /// 64-bit ARM.
    #[value(name = "linux/arm64")]
    Arm64,
}

impl Platform {
    /// All platforms, in their order in an archive.
    pub(super) const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    /// This machine's platform.
    pub(super) fn own() -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|platform| platform.is_own())
            .with_context(|| format!("there is no image for {ARCH}: choose a --platform"))
    }

    /// Whether this machine runs the platform's programs.
    pub(super) fn is_own(self) -> bool {
        self.machine() == ARCH
    }

    /// The name in image indexes.
    pub(super) fn architecture(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// The name that compilers use.
    fn machine(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    /// A target with the GNU C library, because the agent tunes that library's allocator.
    pub(super) fn rust_target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// The emulator that runs the platform's programs on other machines.
    pub(super) fn emulator(self) -> &'static str {
        match self {
            Self::Amd64 => "qemu-x86_64-static",
            Self::Arm64 => "qemu-aarch64-static",
        }
    }

    /// Configures a cargo command for the platform: a static build, the agent without symbols, and a cross
    /// compiler if it is not this machine's platform.
    pub(super) fn set_up(self, command: &mut Command) {
        let target = self.rust_target();
        let variable = target.replace('-', "_");
        let cargo = |setting: &str| format!("CARGO_TARGET_{}_{setting}", variable.to_uppercase());
        command
            // These would override the target's own flags.
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .args(["--config", "profile.release.package.kube-verdict.strip = 'symbols'"])
            .env(cargo("RUSTFLAGS"), "-C target-feature=+crt-static");
        if !self.is_own() {
            let gnu = format!("{}-linux-gnu", self.machine());
            let compiler = format!("{gnu}-gcc");
            command
                .env(cargo("LINKER"), &compiler)
                .env(format!("CC_{variable}"), &compiler)
                .env(format!("AR_{variable}"), format!("{gnu}-ar"))
                // bindgen reads the C library's and the kernel's headers, which differ by platform.
                .env(format!("BINDGEN_EXTRA_CLANG_ARGS_{variable}"), format!("-isystem /usr/{gnu}/include"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_platform_and_the_other_needs_a_cross_compiler() {
        let own = Platform::own().unwrap();
        let linker = |platform: Platform| {
            let mut command = Command::new("cargo");
            platform.set_up(&mut command);
            let linker = |(name, value): (&std::ffi::OsStr, Option<&std::ffi::OsStr>)| {
                name.to_str()?.ends_with("_LINKER").then(|| value.map(std::ffi::OsStr::to_owned))?
            };
            command.get_envs().find_map(linker)
        };
        assert_eq!(linker(own), None);
        for other in Platform::ALL.into_iter().filter(|platform| *platform != own) {
            assert!(
                linker(other).is_some_and(|name| name.to_str().is_some_and(|name| name.ends_with("-gcc")))
            );
        }
    }
}
