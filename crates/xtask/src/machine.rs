//! Facts about this machine that decide what can be installed, and how.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// This machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Machine {
    /// Whether this process is root, and so may install packages and create network namespaces.
    pub root: bool,
    /// How packages are installed.
    pub distribution: Distribution,
}

/// How packages are installed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Distribution {
    /// By apt, with Debian's package names, which Ubuntu shares.
    Debian,
    /// Unknown; this is the distribution's name.
    Other(String),
}

impl Machine {
    /// Examines this machine.
    pub(crate) fn this() -> Self {
        let os_release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        Self {
            root: nix::unistd::Uid::effective().is_root(),
            distribution: Distribution::from_os_release(&os_release),
        }
    }
}

impl Distribution {
    /// Reads os-release(5): `ID` and `ID_LIKE` name a distribution and those that it is derived from.
    fn from_os_release(text: &str) -> Self {
        let value = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
                .map(|value| value.trim_matches(['"', '\'']))
        };
        let id = value("ID").unwrap_or("linux");
        let like = value("ID_LIKE").unwrap_or_default();
        // Derivatives of Debian and Ubuntu (Mint, Raspberry Pi OS) name one of the two in ID_LIKE.
        if like.split_whitespace().chain([id]).any(|name| matches!(name, "debian" | "ubuntu")) {
            Self::Debian
        } else {
            Self::Other(value("PRETTY_NAME").unwrap_or(id).to_owned())
        }
    }
}

/// The path of a program: in PATH, or in Debian's folders for root's programs, which PATH often omits.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_are_identified_by_their_os_release() {
        let bookworm = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nID=debian\n";
        let noble = "PRETTY_NAME=\"Ubuntu 24.04 LTS\"\nID=ubuntu\nID_LIKE=debian\n";
        let mint = "ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n";
        let fedora = "NAME=\"Fedora Linux\"\nID=fedora\nPRETTY_NAME=\"Fedora Linux 43\"\n";
        for text in [bookworm, noble, mint] {
            assert_eq!(Distribution::from_os_release(text), Distribution::Debian, "{text}");
        }
        assert_eq!(Distribution::from_os_release(fedora), Distribution::Other("Fedora Linux 43".to_owned()));
        assert_eq!(Distribution::from_os_release(""), Distribution::Other("linux".to_owned()));
    }

    #[test]
    fn a_program_is_a_file_that_may_be_run() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tool");
        fs::write(&file, "").unwrap();
        assert!(!is_program(&file));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(is_program(&file));
        assert!(!is_program(folder.path()));
        assert_eq!(program("a-program-that-does-not-exist"), None);
    }
}
