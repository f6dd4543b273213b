//! Rules that let everything pass, for a node that is to have no agent any more.

use nix::errno::Errno;
use rustables::{MsgType, sys};

use super::bridge;
use super::error::TableError;
use super::handle::{TRIES, Table};
use super::installed_rules::{InstalledRules, exists};
use super::names::{INET, NFQUEUE};
use super::objects::remove_rules;
use super::socket::open;
use crate::nft::batch::{Batch, Refusal, Subject};
use crate::nft::expression::Expression;
use crate::nft::queue::Queue;
use crate::nft::rule::Rule;
use crate::queues::{QueueNumber, QueueRange};

/// The queues that the queue rule names meanwhile: the highest for an agent that serves the lowest.
const LOWEST: QueueNumber = QueueNumber(0);
const HIGHEST: QueueNumber = QueueNumber(u16::MAX);

/// The comment of the queue rule meanwhile, for people who read the ruleset.
const HOLDER: &str = "kube-verdict cleanup";

impl Table {
    /// Lets everything pass from now on, in one atomic batch, and has running agents stand by as if another
    /// agent had taken over. Only one rule is left, which no packet reaches and which names a queue that
    /// belongs to none of them. Chains and tables stay, and queued packets stay queued, so that
    /// [`Table::remove`] can follow once the agents have noticed. Returns `false` without rules; then nothing
    /// was changed.
    ///
    /// # Errors
    /// [`TableError`] if the rules can't be changed; then nothing was changed.
    pub fn retire() -> Result<bool, TableError> {
        let mut socket = open()?;
        for _ in 0..TRIES {
            let InstalledRules { generation, queue } = InstalledRules::read(&mut socket)?;
            let Some((Queue { queues, .. }, form)) = queue else { return Ok(false) };
            let mut batch = Batch::default();
            remove_rules(&mut batch);
            if exists(&mut socket, bridge::TABLE)? {
                let subject = Subject::plain(format!("removal of the rules of table {}", bridge::TABLE));
                batch.raw_in(bridge::TABLE.family, subject, sys::NFT_MSG_DELRULE, 0, |rule| {
                    rule.string(sys::NFTA_RULE_TABLE, bridge::TABLE.name);
                });
            }
            let first = if queues.first == LOWEST { HIGHEST } else { LOWEST };
            let queue =
                Expression::Queue(Queue { queues: QueueRange { first, count: 1 }, bypass: true }, form);
            let comment = Some(HOLDER.to_owned());
            Rule { chain: NFQUEUE, purpose: "make agents stand by", expressions: vec![queue], comment }
                .add_to(INET, &mut batch);
            match batch.commit(&mut socket, Some(generation)) {
                Ok(()) => return Ok(true),
                // Another program has changed rules since they were read.
                Err(Refusal::Outdated | Refusal::Message(_, Errno::ENOENT)) => {}
                Err(refusal) => return Err(refusal.into()),
            }
        }
        Err(TableError::Unquiet)
    }

    /// Whether the rules in the kernel are those of [`Table::retire`]: they name only queue 0 or 65535, with
    /// bypass, which agents don't use by default.
    ///
    /// # Errors
    /// [`TableError`] if the rules can't be read.
    pub fn is_retired() -> Result<bool, TableError> {
        let queue = InstalledRules::read(&mut open()?)?.queue;
        Ok(queue.is_some_and(|(Queue { queues, bypass }, _)| {
            bypass && queues.count == 1 && [LOWEST, HIGHEST].contains(&queues.first)
        }))
    }

    /// Deletes the table; `false` if there was none. The kernel drops queued packets, and policy is no longer
    /// enforced on this node.
    pub fn remove() -> Result<bool, TableError> {
        let mut socket = open()?;
        let mut any = false;
        // The inet table last: as long as it exists, a starting agent finds rules.
        for table in [bridge::TABLE, INET] {
            let mut batch = Batch::default();
            let subject = Subject::plain(format!("deletion of table {table}"));
            batch.library(subject, |library| library.add(&table.library(), MsgType::Del));
            match batch.commit(&mut socket, None) {
                Ok(()) => any = true,
                // A kernel without the family has no such table either.
                Err(Refusal::Message(_, Errno::ENOENT | Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP)) => {}
                Err(refusal) => return Err(refusal.into()),
            }
        }
        Ok(any)
    }
}
