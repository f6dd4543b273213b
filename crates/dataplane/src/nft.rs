//! Messages of nf_tables: batches, rules and the expressions in them.
//!
//! Tables, chains, sets and their plain elements are built by `rustables`. Rules are built here: a rule is one message
//! with all its expressions, most of ours need one that `rustables` lacks (`queue`, `target`, `fib`, the direction of a
//! connection, a negated lookup), and the order of the rules in a chain decides. So every rule is written in one way.
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

/// Subsystem of nf_tables in the high byte of a netlink message's type (`linux/netfilter/nfnetlink.h`).
pub(crate) const SUBSYSTEM: u16 = (rustables::sys::NFNL_SUBSYS_NFTABLES as u16) << 8;

/// `NFPROTO_INET`: IPv4 and IPv6 in one table.
pub(crate) const FAMILY: u8 = libc::NFPROTO_INET as u8;
