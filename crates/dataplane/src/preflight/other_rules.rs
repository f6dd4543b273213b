//! The check `other-rules`: no other policy engine's rules are on the node, and no rules of another program take packets past ours.
//!
//! From: tables, chains, flowtables and rules of all families, which include those of `iptables-nft`. To: those at fault, by name. Rules of
//! `iptables-legacy` are not in nftables, and are not seen.
//!
//! An `accept` in a chain that comes before ours is no fault: it ends that chain, and the packet meets ours all the same. What takes packets
//! past our hooks is a flowtable, and a program behind a queue that answers with a verdict for all hooks (`NF_STOP`).

use std::collections::{BTreeMap, BTreeSet};

use rustables::sys;

use super::CheckState;
use crate::netlink::{self, AttributeReader, Header, Messages, NetlinkError, Socket};
use crate::nft::SUBSYSTEM;
use crate::nft::queue::text;
use crate::table::TABLE;

/// How many objects are named.
const MOST_NAMED: usize = 5;
/// How often a list is read again because it changed meanwhile.
const TRIES: usize = 8;

/// By what names of tables and chains another policy engine is known: the beginning of the name, and the engine.
const TABLES: [(&str, &str); 4] = [
    ("calico", "Calico"),
    ("cilium", "Cilium"),
    ("kindnet-network-policies", "kindnet"),
    ("kube-network-policies", "kube-network-policies"),
];
const CHAINS: [(&str, &str); 7] = [
    ("cali-", "Calico"),
    ("CILIUM_", "Cilium"),
    ("KUBE-ROUTER-", "kube-router"),
    ("KUBE-NWPLCY-", "kube-router"),
    ("KUBE-POD-FW-", "kube-router"),
    ("ANTREA-", "Antrea"),
    ("WEAVE-NPC", "Weave Net"),
];

/// What was found of other programs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct OtherRules {
    /// Policy engines, each with its tables, or the tables that hold its chains, as `nft` takes them.
    engines: BTreeMap<&'static str, BTreeSet<String>>,
    /// Flowtables, whose connections pass by all hooks.
    flowtables: BTreeSet<String>,
    /// Chains that hand packets to a program.
    queues: BTreeSet<String>,
}

/// How the check stands with what [`read`] found.
pub(super) fn need(found: Result<OtherRules, NetlinkError>) -> CheckState {
    let OtherRules { engines, flowtables, queues } = match found {
        Ok(found) => found,
        Err(error) => {
            return CheckState::warning(
                format!("whether another policy engine's rules are on this node can't be read ({error})"),
                "look for them with `nft list ruleset`",
            );
        }
    };
    let (mut what, mut todo) = (Vec::new(), Vec::new());
    if !engines.is_empty() {
        let named = engines.iter().map(|(engine, tables)| format!("{engine} ({})", names(tables)));
        what.push(format!(
            "rules of another policy engine are on this node: {}. A packet passes only if both allow it, and connections don't follow \
             both engines' changes",
            named.collect::<Vec<_>>().join("; ")
        ));
        todo.push(
            "run one engine, and remove what the other left (its own uninstall, or a reboot of the node)"
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
        todo.push(format!(
            "see whether that program's packets are pods' (the first: `nft list chain {first}`)"
        ));
    }
    if what.is_empty() {
        return CheckState::fine(
            "no other policy engine's rules are here, and none that take packets past the agent's",
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

/// Reads all tables but ours.
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
        if attribute(rule, sys::NFTA_RULE_EXPRESSIONS).is_some_and(hands_to_a_program) {
            found.queues.insert(chain.to_string());
        }
    })?;
    Ok(found)
}

fn known(names: &[(&str, &'static str)], name: &str) -> Option<&'static str> {
    names.iter().find(|(begin, _)| name.starts_with(begin)).map(|(_, engine)| *engine)
}

/// Whether ANY of a rule's expressions is a queue.
fn hands_to_a_program(expressions: &[u8]) -> bool {
    // `linux/netfilter/nf_tables_compat.h`, which the library doesn't cover.
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

/// An object as `nft` takes it: family, table, and its own name if it is in a table.
struct Name {
    family: &'static str,
    names: Vec<String>,
}

impl Name {
    /// `None` for an object of our tables, or one without a name.
    fn read(family: u8, attributes: &[u8], kinds: &[u16]) -> Option<Self> {
        // The kernel takes any bytes for a name; a terminal should not.
        let name = |kind: &u16| {
            Some(String::from_utf8_lossy(text(attribute(attributes, *kind)?)).escape_debug().to_string())
        };
        let names: Vec<String> = kinds.iter().map(name).collect::<Option<_>>()?;
        let is_ours =
            names.first()? == TABLE && [libc::NFPROTO_INET, libc::NFPROTO_BRIDGE].contains(&family.into());
        (!is_ours).then(|| Self { family: super::family_name(family), names })
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
    let mut tries = TRIES;
    loop {
        let mut request = Messages::default();
        let kind = SUBSYSTEM | kind as u16;
        let flags = netlink::REQUEST | netlink::DUMP;
        let family = libc::NFPROTO_UNSPEC as u8;
        request.push(Header { kind, flags, sequence: socket.next_sequence(), family }, |_| {});
        tries -= 1;
        match socket.dump(request.as_bytes(), |message| each(message.family, message.attributes)) {
            // What was found twice counts once.
            Err(NetlinkError::Interrupted) if tries > 0 => {}
            answer => return answer,
        }
    }
}

fn attribute(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    AttributeReader::new(attributes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}
