//! Classes of ports and addresses: what is in one class is matched by the same rules.
//!
//! A verdict depends on a port only by comparing it with the ranges in policies and with the named ports of
//! the destination. So between two neighbouring boundaries of these nothing changes, and one port of each
//! class shows the verdict of all. The same holds for addresses and the prefixes in policies.

pub mod addresses;
pub mod ports;
