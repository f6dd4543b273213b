//! Messages of nf_tables: batches, rules and the expressions in them.
//!
//! `rustables` builds tables, chains, sets and their plain elements. Rules are built here: a rule is one
//! message with all its expressions, most rules need an expression that `rustables` lacks (`queue`, `target`,
//! `fib`, the direction of a connection, a negated lookup), and the order of the rules in a chain matters. So
//! all rules are built in the same way.
//!
//! ```text
//!  rustables objects --+
//!                      +--> [ Batch ] --> one datagram --> committed whole, or not at all
//!  [ Rule ] of [ Expression ]s, interval elements
//! ```

pub(crate) mod batch;
use crate::numbers::{NFPROTO_BRIDGE, NFPROTO_INET};
pub(crate) mod expression;
pub(crate) mod queue;
pub(crate) mod rule;
pub(crate) mod set;

/// The type of a netlink message of nf_tables, from its number (`NFT_MSG_`). The high byte is the subsystem
/// (`linux/netfilter/nfnetlink.h`).
#[expect(clippy::cast_possible_truncation, reason = "subsystems and messages have one byte each")]
pub(crate) const fn message_kind(message: u32) -> u16 {
    (rustables::sys::NFNL_SUBSYS_NFTABLES << 8 | message) as u16
}

/// `NFPROTO_INET`: IPv4 and IPv6 in one table.
pub(crate) const FAMILY: u8 = NFPROTO_INET;

/// A table, identified by its name and by the family whose hooks its chains use.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct TableId {
    /// `NFPROTO_INET` or `NFPROTO_BRIDGE`.
    pub family: u8,
    /// The table's name: unique within its family.
    pub name: &'static str,
}

impl TableId {
    /// A table at the hooks of IPv4 and IPv6.
    pub(crate) const fn inet(name: &'static str) -> Self {
        Self { family: FAMILY, name }
    }

    /// A table at the hooks of bridges: its chains match frames.
    pub(crate) const fn bridge(name: &'static str) -> Self {
        Self { family: NFPROTO_BRIDGE, name }
    }

    /// The table as the library's type.
    pub(crate) fn library(self) -> rustables::Table {
        let family = if self.family == FAMILY {
            rustables::ProtocolFamily::Inet
        } else {
            rustables::ProtocolFamily::Bridge
        };
        rustables::Table::new(family).with_name(self.name)
    }
}

impl std::fmt::Display for TableId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let family = if self.family == FAMILY { "inet" } else { "bridge" };
        write!(f, "{family} {}", self.name)
    }
}
