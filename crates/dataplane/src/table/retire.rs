//! Rules that let everything pass: for a node that is to have no agent any more.

use nix::errno::Errno;
use rustables::sys;

use super::chain_names::NFQUEUE;
use super::in_force::{InForce, exists};
use super::{INET, TRIES, Table, TableError, bridge, open, remove_rules};
use crate::nft::batch::{Batch, Part, Refusal};
use crate::nft::expression::Expression;
use crate::nft::queue::Queue;
use crate::nft::rule::Rule;
use crate::queues::QueueRange;

/// What people who read the ruleset see meanwhile.
const HOLDER: &str = "kube-verdict cleanup";

impl Table {
    /// Lets everything pass from now on, in one atomic batch, and has agents that run stand by as if another one had taken over: no rule
    /// is left but one that no packet meets, which names a queue that is none of theirs. Chains and tables stay, and packets that wait
    /// in queues keep waiting, for [`Table::remove`] once agents have noticed. `false` without rules: then nothing was changed.
    ///
    /// # Errors
    /// [`TableError`] if it can't be done: then nothing was changed.
    pub fn retire() -> Result<bool, TableError> {
        let mut socket = open()?;
        for _ in 0..TRIES {
            let InForce { generation, queue } = InForce::read(&mut socket)?;
            let Some((Queue { queues, .. }, form)) = queue else { return Ok(false) };
            let mut batch = Batch::default();
            remove_rules(&mut batch);
            if exists(&mut socket, bridge::TABLE)? {
                let part = Part::plain(format!("removal of the rules of table {}", bridge::TABLE));
                batch.raw_in(bridge::TABLE.family, part, sys::NFT_MSG_DELRULE, 0, |rule| {
                    rule.string(sys::NFTA_RULE_TABLE, bridge::TABLE.name);
                });
            }
            let first = if queues.first == 0 { u16::MAX } else { 0 };
            let queue =
                Expression::Queue(Queue { queues: QueueRange { first, count: 1 }, bypass: true }, form);
            let comment = Some(HOLDER.to_owned());
            Rule { chain: NFQUEUE, purpose: "have agents stand by", expressions: vec![queue], comment }
                .add_to(INET, &mut batch);
            match batch.commit(&mut socket, Some(generation)) {
                Ok(()) => return Ok(true),
                // Another program has changed rules since they were read.
                Err(Refusal::Outdated | Refusal::Part(_, Errno::ENOENT)) => {}
                Err(refusal) => return Err(refusal.into()),
            }
        }
        Err(TableError::Unquiet)
    }

    /// Whether the rules in the kernel are those that [`Table::retire`] leaves: they name queue 0 or 65535 alone, with bypass, which
    /// agents don't use by default.
    ///
    /// # Errors
    /// [`TableError`] if the rules can't be read.
    pub fn is_retired() -> Result<bool, TableError> {
        let queue = InForce::read(&mut open()?)?.queue;
        Ok(queue.is_some_and(|(Queue { queues, bypass }, _)| {
            bypass && queues.count == 1 && [0, u16::MAX].contains(&queues.first)
        }))
    }
}
