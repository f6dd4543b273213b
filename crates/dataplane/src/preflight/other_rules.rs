//! The check `other-rules`: no other policy engine's rules are on the node, and no rules of another program
//! make packets bypass the agent's.
//!
//! From: tables, chains, flowtables and rules of all families, which include those of `iptables-nft`. To: the
//! objects at fault, by name. Rules of `iptables-legacy` are not in nftables and are not found.
//!
//! An `accept` in a chain before the agent's is harmless: it ends that chain, and the packet still reaches
//! the agent's chains. Packets bypass the agent's hooks through a flowtable, or if a program that reads a
//! queue answers with a verdict that skips the remaining hooks (`NF_STOP`).

use std::collections::{BTreeMap, BTreeSet};

use rustables::sys;

use super::family::family_name;
use super::result::CheckState;
use crate::netlink::{self, AttributeReader, Header, Messages, NetlinkError, Socket};
use crate::nft::message_kind;
use crate::nft::queue::text;
use crate::numbers::NFPROTO_UNSPEC;
use crate::table::TABLE;

/// How many objects are listed by name.
const MOST_NAMED: usize = 5;
/// How often a list is read at most, if it changes while it is read.
const MAX_TRIES: usize = 8;

/// The prefixes of the names of other policy engines' tables, with the engine.
const TABLES: [(&str, &str); 4] = [
    ("calico", "Calico"),
    ("cilium", "Cilium"),
    ("kindnet-network-policies", "kindnet"),
    ("kube-network-policies", "kube-network-policies"),
];
/// The prefixes of the names of other policy engines' chains, with the engine.
const CHAINS: [(&str, &str); 7] = [
    ("cali-", "Calico"),
    ("CILIUM_", "Cilium"),
    ("KUBE-ROUTER-", "kube-router"),
    ("KUBE-NWPLCY-", "kube-router"),
    ("KUBE-POD-FW-", "kube-router"),
    ("ANTREA-", "Antrea"),
    ("WEAVE-NPC", "Weave Net"),
];

/// The objects of other programs that were found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct OtherRules {
    /// Policy engines, each with its tables, or the tables with its chains, in `nft`'s syntax.
    engines: BTreeMap<&'static str, BTreeSet<String>>,
    /// Flowtables, whose connections bypass all hooks.
    flowtables: BTreeSet<String>,
    /// Chains that queue packets to a program.
    queues: BTreeSet<String>,
}

/// The result of the check, from the result of [`read`].
pub(super) fn check(found: Result<OtherRules, NetlinkError>) -> CheckState {
    let OtherRules { engines, flowtables, queues } = match found {
        Ok(found) => found,
        Err(error) => {
            return CheckState::warning(
                format!("cannot find out whether another policy engine's rules are on this node ({error})"),
                "look for them with `nft list ruleset`",
            );
        }
    };
    let (mut what, mut todo) = (Vec::new(), Vec::new());
    if !engines.is_empty() {
        let named = engines.iter().map(|(engine, tables)| format!("{engine} ({})", names(tables)));
        what.push(format!(
            "rules of another policy engine are on this node: {}. A packet passes only if both allow it, and \
             connections don't follow both engines' changes",
            named.collect::<Vec<_>>().join("; ")
        ));
        todo.push(
            "run one engine, and remove the rules of the other (by its own uninstall, or a reboot of the \
             node)"
                .to_owned(),
        );
    }
    if let Some(first) = flowtables.first() {
        what.push(format!(
            "connections in a flowtable pass by all rules, so changes of policy don't cut them: {}",
            names(&flowtables)
        ));
        todo.push(format!(
            "keep pods' connections out of it, or delete it (the first: `nft delete flowtable {first}`)"
        ));
    }
    if let Some(first) = queues.first() {
        what.push(format!(
            "chains hand packets to another program, which may let them pass by all rules: {}",
            names(&queues)
        ));
        todo.push(format!("check whether these are packets of pods (the first: `nft list chain {first}`)"));
    }
    if what.is_empty() {
        return CheckState::fine(
            "no other policy engine's rules are on this node, and no rules make packets bypass the agent's",
        );
    }
    CheckState::warning(what.join("; "), todo.join("; "))
}

fn names(all: &BTreeSet<String>) -> String {
    let named: Vec<&str> = all.iter().take(MOST_NAMED).map(String::as_str).collect();
    match all.len().saturating_sub(MOST_NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// Reads all tables except the agent's.
pub(super) fn read(socket: &mut Socket) -> Result<OtherRules, NetlinkError> {
    let mut found = OtherRules::default();
    dump(socket, sys::NFT_MSG_GETTABLE, |family, table| {
        let Some(table) = Name::read(family, table, &[sys::NFTA_TABLE_NAME]) else { return };
        if let Some(engine) = known(&TABLES, table.last()) {
            found.engines.entry(engine).or_default().insert(table.to_string());
        }
    })?;
    dump(socket, sys::NFT_MSG_GETCHAIN, |family, chain| {
        let Some(chain) = Name::read(family, chain, &[sys::NFTA_CHAIN_TABLE, sys::NFTA_CHAIN_NAME]) else {
            return;
        };
        if let Some(engine) = known(&CHAINS, chain.last()) {
            found.engines.entry(engine).or_default().insert(chain.table());
        }
    })?;
    dump(socket, sys::NFT_MSG_GETFLOWTABLE, |family, flowtable| {
        let names = [sys::NFTA_FLOWTABLE_TABLE, sys::NFTA_FLOWTABLE_NAME];
        found.flowtables.extend(Name::read(family, flowtable, &names).map(|name| name.to_string()));
    })?;
    dump(socket, sys::NFT_MSG_GETRULE, |family, rule| {
        let Some(chain) = Name::read(family, rule, &[sys::NFTA_RULE_TABLE, sys::NFTA_RULE_CHAIN]) else {
            return;
        };
        if attribute(rule, sys::NFTA_RULE_EXPRESSIONS).is_some_and(queues_packets) {
            found.queues.insert(chain.to_string());
        }
    })?;
    Ok(found)
}

fn known(names: &[(&str, &'static str)], name: &str) -> Option<&'static str> {
    names.iter().find(|(begin, _)| name.starts_with(begin)).map(|(_, engine)| *engine)
}

/// Whether ANY of a rule's expressions queues the packet.
fn queues_packets(expressions: &[u8]) -> bool {
    // `linux/netfilter/nf_tables_compat.h`, which the library lacks.
    const NFTA_TARGET_NAME: u16 = 1;
    AttributeReader::new(expressions).any(|(_, expression)| {
        let data = attribute(expression, sys::NFTA_EXPR_DATA).unwrap_or_default();
        match attribute(expression, sys::NFTA_EXPR_NAME).map(text) {
            Some(b"queue") => true,
            Some(b"target") => attribute(data, NFTA_TARGET_NAME).map(text) == Some(b"NFQUEUE"),
            _ => false,
        }
    })
}

/// An object in `nft`'s syntax: family, table, and its own name if it is in a table.
struct Name {
    family: &'static str,
    names: Vec<String>,
}

impl Name {
    /// Parses the name; `None` for an object of the agent's tables, or one without a name.
    fn read(family: u8, attributes: &[u8], kinds: &[u16]) -> Option<Self> {
        // The kernel allows any bytes in a name, which must not reach a terminal.
        let name = |kind: &u16| {
            Some(String::from_utf8_lossy(text(attribute(attributes, *kind)?)).escape_debug().to_string())
        };
        let names: Vec<String> = kinds.iter().map(name).collect::<Option<_>>()?;
        let is_ours =
            names.first()? == TABLE && [libc::NFPROTO_INET, libc::NFPROTO_BRIDGE].contains(&family.into());
        (!is_ours).then(|| Self { family: family_name(family), names })
    }

    fn last(&self) -> &str {
        self.names.last().map_or("", String::as_str)
    }

    fn table(&self) -> String {
        format!("{} {}", self.family, self.names.first().map_or("", String::as_str))
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.family, self.names.join(" "))
    }
}

fn dump(socket: &mut Socket, kind: u32, mut each: impl FnMut(u8, &[u8])) -> Result<(), NetlinkError> {
    let mut tries = MAX_TRIES;
    loop {
        let mut request = Messages::default();
        let kind = message_kind(kind);
        let flags = netlink::REQUEST | netlink::DUMP;
        let family = NFPROTO_UNSPEC;
        request.push(Header { kind, flags, sequence: socket.next_sequence(), family }, |_| {});
        tries -= 1;
        match socket.dump(request.as_bytes(), |message| each(message.family, message.attributes)) {
            // Objects that were found twice count once.
            Err(NetlinkError::Interrupted) if tries > 0 => {}
            answer => return answer,
        }
    }
}

fn attribute(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    AttributeReader::new(attributes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}
