//! The version of the kernel, where what to do depends on it.

use std::fmt;
use std::fs;
use std::str::FromStr;

/// The first two numbers of a kernel's version.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KernelVersion {
    /// 6 of 6.12.
    pub major: u32,
    /// 12 of 6.12.
    pub minor: u32,
}

/// The first kernel in which two DNS queries from one socket don't lose one of them when both wait in a queue after they
/// were routed (netfilter bug 1766).
const KEEPS_PARALLEL_DNS: KernelVersion = KernelVersion { major: 6, minor: 12 };

impl KernelVersion {
    /// The version of the running kernel; `None` if it doesn't say so in a form that is understood.
    pub fn running() -> Option<Self> {
        fs::read_to_string("/proc/sys/kernel/osrelease").ok()?.parse().ok()
    }

    /// Whether this kernel loses parallel DNS queries that are evaluated after they were routed, so that they should be
    /// evaluated before (chain `prerouting-dns`).
    pub fn loses_parallel_dns(self) -> bool {
        self < KEEPS_PARALLEL_DNS
    }
}

/// A text that is no kernel version.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is no kernel version such as 6.12.3")]
pub struct NoKernelVersion(String);

impl FromStr for KernelVersion {
    type Err = NoKernelVersion;

    /// Reads `6.12.3-anything`.
    fn from_str(text: &str) -> Result<Self, NoKernelVersion> {
        let mut numbers = text.trim().split(|c: char| !c.is_ascii_digit()).map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok(Self { major, minor }),
            _ => Err(NoKernelVersion(text.to_owned())),
        }
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        for (text, loses) in [
            ("5.15.0-1060-aws\n", true),
            ("6.1.0-28-cloud-amd64", true),
            ("6.9.3", true),
            ("6.11", true),
            ("6.12.3", false),
            ("6.12-rc1", false),
            ("6.18.44", false),
            ("7.0.0", false),
        ] {
            let version: KernelVersion = text.parse().expect(text);
            assert_eq!(version.loses_parallel_dns(), loses, "{text}");
        }
    }

    #[test]
    fn what_is_no_version_is_said() {
        for text in ["", "x", "6", "six.12", "-6.12"] {
            assert!(text.parse::<KernelVersion>().is_err(), "{text}");
        }
    }
}
