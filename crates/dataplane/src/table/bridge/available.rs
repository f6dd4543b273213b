//! What the kernel supports of nftables' bridge family.

use nix::errno::Errno;
use rustables::{Chain, MsgType};

use crate::netlink::Socket;
use crate::nft::TableId;
use crate::nft::batch::{Batch, Refusal, Subject};
use crate::nft::expression::{Expression, Meta};
use crate::table::error::TableError;
use crate::table::rule::rule;

/// What this kernel supports of nftables' bridge family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::table) struct BridgeFamily {
    /// Whether rules can match a port's bridge by name.
    pub(in crate::table) knows_bridges: bool,
}

impl BridgeFamily {
    /// `None` if the kernel lacks the family.
    pub(in crate::table) fn available(socket: &mut Socket) -> Result<Option<Self>, TableError> {
        if !has_bridge_family(socket)? {
            return Ok(None);
        }
        Ok(Some(Self { knows_bridges: trial_of_names().check(socket).is_ok() }))
    }
}

/// Whether the kernel has nftables' bridge family.
pub(in crate::table) fn has_bridge_family(socket: &mut Socket) -> Result<bool, TableError> {
    match trial().check(socket) {
        Ok(()) => Ok(true),
        Err(Refusal::Message(_, Errno::ENOENT | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT)) => Ok(false),
        Err(refusal) => Err(refusal.into()),
    }
}

/// A batch that a kernel accepts if it has what the table needs. It is never committed.
fn trial() -> Batch {
    trial_with("match a veth device", [Expression::LoadMeta(Meta::IifKind)])
}

/// A batch that a kernel accepts if rules can match a port's bridge by name. It is never committed.
fn trial_of_names() -> Batch {
    trial_with("match a bridge by name", [Expression::LoadMeta(Meta::BridgeName)])
}

fn trial_with(purpose: &'static str, expressions: impl IntoIterator<Item = Expression>) -> Batch {
    const TRIAL: TableId = TableId::bridge("kube-verdict-trial");
    let mut batch = Batch::default();
    let table = TRIAL.library();
    let chain = Chain::new(&table).with_name("trial");
    batch.library(Subject::plain("table of family bridge"), |library| library.add(&table, MsgType::Add));
    batch.library(Subject::plain("chain of family bridge"), |library| library.add(&chain, MsgType::Add));
    rule("trial", purpose, expressions).add_to(TRIAL, &mut batch);
    batch
}
