//! The order in which an interface is set up.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The order in which an interface is set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// It is up and running when it gets its addresses: packets can flow at once.
    UpFirst,
    /// It gets its addresses while it is down.
    AddressFirst,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UpFirst => "up, address",
            Self::AddressFirst => "address, up",
        })
    }
}
