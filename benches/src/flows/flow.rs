//! The kinds of long flows.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The kind of flow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flow {
    /// Bytes through one TCP connection.
    Bytes,
    /// Datagrams of 64 bytes from one UDP socket to another.
    Packets,
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bytes => "TCP, bytes",
            Self::Packets => "UDP, packets",
        })
    }
}
