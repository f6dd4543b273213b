//! The kernel's version, on which the agent's configuration depends.

use std::fmt;
use std::fs;
use std::str::FromStr;

/// The first two numbers of a kernel's version.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KernelVersion {
    /// 6 in 6.12.
    pub major: u32,
    /// 12 in 6.12.
    pub minor: u32,
}

/// The first kernel that doesn't lose one of two DNS queries from one socket when both wait in a queue after
/// they were routed (netfilter bug 1766).
const FIXES_PARALLEL_DNS: KernelVersion = KernelVersion { major: 6, minor: 12 };

impl KernelVersion {
    /// The version of the running kernel; `None` if it can't be parsed.
    pub fn running() -> Option<Self> {
        fs::read_to_string("/proc/sys/kernel/osrelease").ok()?.parse().ok()
    }

    /// Whether this kernel loses parallel DNS queries that are evaluated after they were routed. They should
    /// be evaluated before (chain `prerouting-dns`).
    pub fn loses_parallel_dns(self) -> bool {
        self < FIXES_PARALLEL_DNS
    }
}

/// The text is not a kernel version.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is not a kernel version such as 6.12.3")]
pub struct NoKernelVersion(String);

impl FromStr for KernelVersion {
    type Err = NoKernelVersion;

    /// Parses `6.12.3-anything`.
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
    fn a_text_that_is_not_a_version_is_an_error() {
        for text in ["", "x", "6", "six.12", "-6.12"] {
            assert!(text.parse::<KernelVersion>().is_err(), "{text}");
        }
    }
}
