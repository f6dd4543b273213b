//! Maps a packet's protocol and port to the first rule that matches, among rules with a peer that matches.
//!
//! Rules are compiled into disjoint intervals of ports, each with its first rule. A verdict looks up one
//! interval, no matter how many rules there are.
//!
//! If peers overlap so much that this would take more memory than [`PortsCompiler`] allows, rules are stored
//! as bitsets instead (`wide`). A verdict then intersects two sets: the rules that match the peer and those
//! that match the port.

mod bitsets;
mod compiler;
mod intervals;
mod port_set;
mod table;
mod wide;

pub(crate) use self::bitsets::{Cursor, insert_rules, rules_in};
pub(crate) use self::compiler::{PortsCompiler, RulesAt};
pub(crate) use self::port_set::{
    NO_RULE, PortAlias, PortRange, PortSet, PortSymbol, ResolvedPort, ResolvedPorts, RuleIndex, SetIndex,
    Target,
};
pub(crate) use self::table::{PortTable, PortsId};
