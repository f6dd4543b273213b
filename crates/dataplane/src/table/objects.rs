//! Messages that create chains and delete rules.

use rustables::{Chain, ChainPolicy, ChainType, Hook, MsgType, sys};

use super::names::{INET, TABLE};
use crate::nft::batch::{Batch, Subject};

/// Creates table `inet` if it does not exist. Makes it active if another program has made it dormant.
pub(super) fn add_table(batch: &mut Batch) {
    let awake = INET.library().with_flags(0_u32);
    batch.library(Subject::plain("table inet kube-verdict"), |library| library.add(&awake, MsgType::Add));
}

/// Creates a base chain of table `inet` if it does not exist.
pub(super) fn add_base_chain(batch: &mut Batch, (name, hook): (&'static str, Hook)) {
    let chain = Chain::new(&INET.library())
        .with_name(name)
        .with_hook(hook)
        .with_type(ChainType::Filter)
        .with_policy(ChainPolicy::Accept);
    batch.library(Subject::plain(format!("chain {name}")), |library| library.add(&chain, MsgType::Add));
}

/// Creates a regular chain if it does not exist.
pub(super) fn add_regular_chain(batch: &mut Batch, name: &'static str) {
    let chain = Chain::new(&INET.library()).with_name(name);
    batch.library(Subject::plain(format!("chain {name}")), |library| library.add(&chain, MsgType::Add));
}

/// Removes the rules of all chains.
pub(super) fn remove_rules(batch: &mut Batch) {
    // Without a chain's name: the rules of all chains of the table, including those that this configuration
    // doesn't use.
    batch.raw(Subject::plain("removal of the old rules"), sys::NFT_MSG_DELRULE, 0, |rule| {
        rule.string(sys::NFTA_RULE_TABLE, TABLE);
    });
}

/// Removes the rules of one chain.
pub(super) fn empty_chain(batch: &mut Batch, chain: &'static str) {
    batch.raw(Subject::plain(format!("emptying chain {chain}")), sys::NFT_MSG_DELRULE, 0, |rule| {
        rule.string(sys::NFTA_RULE_TABLE, TABLE).string(sys::NFTA_RULE_CHAIN, chain);
    });
}
