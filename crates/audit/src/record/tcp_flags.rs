//! The flags of a TCP header, in words.

use std::fmt;
use std::str::FromStr;

/// The flags of a TCP header (RFC 9293, RFC 3168). Shown as their names with commas, such as `SYN,ACK`, or as
/// `none`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// The names of all flags, from the lowest bit.
    pub const NAMES: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];

    /// The names of the flags that are set.
    pub(crate) fn names(self) -> impl Iterator<Item = &'static str> {
        let is_set = move |(bit, _): &(usize, &str)| self.0 & (1 << bit) != 0;
        Self::NAMES.into_iter().enumerate().filter(is_set).map(|(_, name)| name)
    }
}

impl fmt::Display for TcpFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("none");
        }
        for (position, name) in self.names().enumerate() {
            write!(f, "{}{name}", if position == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// The text is not a list of TCP flags.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is no TCP flag: use {names} with commas, or none", names = TcpFlags::NAMES.join(", "))]
pub struct NoTcpFlags(pub String);

impl FromStr for TcpFlags {
    type Err = NoTcpFlags;

    fn from_str(text: &str) -> Result<Self, NoTcpFlags> {
        if text == "none" {
            return Ok(Self(0));
        }
        text.split(',').try_fold(Self(0), |flags, name| {
            let bit = Self::NAMES.iter().position(|known| *known == name);
            bit.map(|bit| Self(flags.0 | 1 << bit)).ok_or_else(|| NoTcpFlags(name.to_owned()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_is_read_back() {
        for bits in 0..=u8::MAX {
            assert_eq!(TcpFlags(bits).to_string().parse(), Ok(TcpFlags(bits)));
        }
        assert_eq!(TcpFlags(0x12).to_string(), "SYN,ACK");
        assert!("SYN,".parse::<TcpFlags>().is_err() && "".parse::<TcpFlags>().is_err());
    }
}
