//! Which form of the queue rule the kernel supports.

use nix::errno::Errno;
use rustables::{Chain, MsgType};

use super::error::TableError;
use super::installed_rules::InstalledRules;
use crate::netlink::Socket;
use crate::nft::TableId;
use crate::nft::batch::{Batch, Refusal, Subject};
use crate::nft::expression::Expression;
use crate::nft::queue::{Queue, QueueForm};
use crate::nft::rule::Rule;
use crate::queues::{QueueNumber, QueueRange};

/// The form of the queue rule that this kernel supports: that of the rule in the kernel, or else one that
/// passes a trial with a batch that is never committed.
///
/// The trial comes before the installation, because a refused batch with new base chains removes them again,
/// which drops every queued packet of the network namespace. There is no trial if a rule exists, because
/// rolling back a trial costs an RCU grace period, in which no program can change a rule.
pub(crate) fn available_form(socket: &mut Socket) -> Result<QueueForm, TableError> {
    if let Some((_, form)) = InstalledRules::read(socket)?.queue {
        return Ok(form);
    }
    for form in [QueueForm::Native, QueueForm::Target] {
        match form_trial(form).check(socket) {
            Ok(()) => return Ok(form),
            Err(Refusal::Message(_, Errno::ENOENT | Errno::EOPNOTSUPP)) => {}
            Err(refusal) => return Err(refusal.into()),
        }
    }
    Err(TableError::NoQueue)
}

/// A queue rule in a regular chain, in a separate table.
pub(super) fn form_trial(form: QueueForm) -> Batch {
    const TRIAL: TableId = TableId::inet("kube-verdict-trial");
    let table = TRIAL.library();
    let chain = Chain::new(&table).with_name(TRIAL.name);
    let mut batch = Batch::default();
    batch.library(Subject::plain("table for a trial"), |library| library.add(&table, MsgType::Add));
    batch.library(Subject::plain("chain for a trial"), |library| library.add(&chain, MsgType::Add));
    let queue = Expression::Queue(
        Queue { queues: QueueRange { first: QueueNumber(0), count: 1 }, bypass: true },
        form,
    );
    Rule { chain: TRIAL.name, purpose: "trial of the queue", expressions: vec![queue], comment: None }
        .add_to(TRIAL, &mut batch);
    batch
}
