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
pub(crate) mod expression;
pub(crate) mod queue;
pub(crate) mod rule;
pub(crate) mod set;

/// Subsystem of nf_tables in the high byte of a netlink message's type (`linux/netfilter/nfnetlink.h`).
pub(crate) const SUBSYSTEM: u16 = (rustables::sys::NFNL_SUBSYS_NFTABLES as u16) << 8;

/// `NFPROTO_INET`: IPv4 and IPv6 in one table.
pub(crate) const FAMILY: u8 = libc::NFPROTO_INET as u8;

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
        Self { family: libc::NFPROTO_BRIDGE as u8, name }
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
