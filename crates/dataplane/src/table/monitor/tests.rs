use super::*;
use crate::netlink::{Header, Messages};

const OURS: PortId = PortId(7);
const NFT: PortId = PortId(8);

/// The attributes of a message, as a notification carries them.
fn attributes(fill: impl FnOnce(&mut crate::netlink::Attributes<'_>)) -> Vec<u8> {
    let mut messages = Messages::default();
    messages.push(Header { kind: 0, flags: 0, sequence: 0, family: 0 }, fill);
    messages.as_bytes()[20..].to_vec()
}

fn batches(is_installed: bool) -> Batches {
    Batches { ours: OURS, is_installed, changed: None }
}

fn message(kind: u32, port: PortId, family: i32, attributes: &[u8]) -> Received<'_> {
    Received { kind: message_kind(kind), sequence: 0, port, family: family as u8, attributes }
}

fn rule_of(table: &str) -> Vec<u8> {
    attributes(|rule| {
        rule.string(sys::NFTA_RULE_TABLE, table).string(sys::NFTA_RULE_CHAIN, "postrouting");
    })
}

fn generation() -> Vec<u8> {
    attributes(|generation| {
        generation
            .be32(sys::NFTA_GEN_ID, 5)
            .be32(sys::NFTA_GEN_PROC_PID, 42)
            .string(sys::NFTA_GEN_PROC_NAME, "nft");
    })
}

/// The report about a batch of one deleted rule.
fn deletion(batches: &mut Batches, port: PortId, family: i32, table: &str) -> Option<String> {
    let [begun, ended] = [1, 2].map(|second| SystemTime::UNIX_EPOCH + Duration::from_secs(second));
    let reported = batches.take(message(sys::NFT_MSG_DELRULE, port, family, &rule_of(table)), begun);
    assert_eq!(reported, None, "a batch is reported at its end");
    let ForeignChange { since, program, what, .. } =
        batches.take(message(sys::NFT_MSG_NEWGEN, port, 0, &generation()), ended)?;
    assert_eq!((program.name.as_deref(), program.pid, since), (Some("nft"), Some(42), begun));
    Some(what.to_string())
}

#[test]
fn a_foreign_batch_about_our_tables_is_reported_with_its_program() {
    let mut batches = batches(true);
    let reported = deletion(&mut batches, NFT, libc::NFPROTO_INET, TABLE);
    assert_eq!(reported.as_deref(), Some("deleted a rule of chain postrouting in table inet kube-verdict"));
    let reported = deletion(&mut batches, NFT, libc::NFPROTO_BRIDGE, TABLE);
    assert_eq!(reported.as_deref(), Some("deleted a rule of chain postrouting in table bridge kube-verdict"));
}

#[test]
fn a_deleted_table_is_named_and_not_its_contents() {
    let mut batches = batches(true);
    let [begun, ended] = [1, 2].map(|second| SystemTime::UNIX_EPOCH + Duration::from_secs(second));
    let mut take =
        |kind, family, attributes: &[u8], now| batches.take(message(kind, NFT, family, attributes), now);
    let table = |name| {
        attributes(|table| {
            table.string(sys::NFTA_TABLE_NAME, name);
        })
    };
    let inet = libc::NFPROTO_INET;
    // In the kernel's order, and with another program's table in the same batch.
    assert_eq!(take(sys::NFT_MSG_DELRULE, inet, &rule_of(TABLE), begun), None);
    assert_eq!(take(sys::NFT_MSG_DELTABLE, inet, &table(TABLE), ended), None);
    assert_eq!(take(sys::NFT_MSG_DELTABLE, inet, &table("kube-proxy"), ended), None);
    let reported = take(sys::NFT_MSG_NEWGEN, 0, &generation(), ended).expect("a foreign change");
    assert_eq!(reported.what.to_string(), "deleted the table itself in table inet kube-verdict");
    assert_eq!(reported.since, begun);
}

#[test]
fn own_batches_and_those_about_other_tables_are_not_reported() {
    let mut batches = batches(true);
    for (port, family, table) in [
        (OURS, libc::NFPROTO_INET, TABLE),
        (NFT, libc::NFPROTO_INET, "kube-proxy"),
        (NFT, libc::NFPROTO_INET, "kube-verdict2"),
        (NFT, libc::NFPROTO_IPV4, TABLE),
    ] {
        assert_eq!(deletion(&mut batches, port, family, table), None, "{family} {table}");
    }
}

#[test]
fn changes_before_the_installation_are_not_reported() {
    let mut batches = batches(false);
    assert_eq!(deletion(&mut batches, NFT, libc::NFPROTO_INET, TABLE), None);
    assert_eq!(deletion(&mut batches, OURS, libc::NFPROTO_INET, TABLE), None);
    assert!(deletion(&mut batches, NFT, libc::NFPROTO_INET, TABLE).is_some());
}

#[test]
fn the_filter_compares_in_network_order() {
    let [_, kind, _, port, ..] = all_but(PortId(0x0102_0304));
    assert_eq!(kind.k, u32::from(u16::from_be_bytes([0x0f, 0x0a])), "on a little-endian machine");
    assert_eq!(port.k, u32::from_be_bytes(0x0102_0304_u32.to_ne_bytes()));
}
