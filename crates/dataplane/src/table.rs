//! The nftables table of this agent: which packets go to userspace, and which connections need no more verdict.
//!
//! Place in a packet's life: the first step (`judge` sends it to the workers) and the last (`allowed` marks its
//! connection). Place in a policy's life: [`Table::update`] at the start of the sweep.
//!
//! Invariants: every change is one batch, committed whole or not at all. Chains are created once and never deleted or
//! recreated while an agent lives, because taking any base chain out of a network namespace drops every queued packet
//! there. An agent whose rules another agent has taken over changes nothing any more, not even in a race: its batches
//! hold for one generation of the ruleset only.
//!
//! No change waits for the kernel to let go of what the one before it deleted (a grace period of RCU, tenths of a second on a busy
//! node): all batches of an agent go by one socket, and the queue rule, once written, stays.
//!
//! Calls without a [`Table`] act in the network namespace of the calling thread, a [`Table`] in that in which it was installed.

mod chains;
mod error;
mod in_force;
mod memory;
mod recheck;
mod sets;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Instant, SystemTime};

use ipnet::IpNet;
use nix::errno::Errno;
use policy::{Generation, Touched};
use rustables::{Chain, ChainPolicy, ChainType, MsgType, ProtocolFamily, sys};

use self::chains::ASK;
use self::in_force::InForce;
pub(crate) use self::in_force::{check_holder, read_generation};
pub(crate) use self::memory::LOG_PREFIX;
use self::memory::Memory;
use self::sets::Contents;
use crate::marks::Marks;
use crate::netlink::Socket;
use crate::nft::batch::{Batch, Part, Refusal};
use crate::nft::expression::Expression;
use crate::nft::queue::Queue;
use crate::nft::rule::Rule;
use crate::queues::QueueRange;

pub use self::error::TableError;
pub use self::memory::{Remember, RememberedConnections};
pub use crate::nft::queue::QueueForm;

/// The name of the table, in family `inet`.
pub const TABLE: &str = "kube-verdict";

/// How often an update is tried anew because somebody else changed the ruleset meanwhile.
const TRIES: usize = 64;

/// What happens to first packets while no agent listens.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum WhenDown {
    /// They pass, unjudged.
    Open,
    /// They are dropped. Connections that were accepted before go on.
    Closed,
}

/// What the table is made from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableConfig {
    /// The bits by which rules and workers speak.
    pub marks: Marks,
    /// What happens to first packets while no agent listens.
    pub when_down: WhenDown,
    /// Whether DNS queries of local pods are judged before they are routed: needed on kernels before 6.12.
    pub judge_dns: bool,
    /// Who holds the queues, for people who read the ruleset: `node-a pid 123`. The queue rules' comment; up to 127 bytes
    /// are shown.
    pub holder: String,
    /// This node's pod CIDRs, of both families: packets from and to them are judged.
    pub pod_cidrs: Vec<IpNet>,
    /// Addresses in them that need no verdict.
    pub open: OpenAddresses,
    /// What the kernel remembers of verdicts; `None` if it is to ask about every connection.
    pub remember: Option<Remember>,
    /// Of the snapshot that `open` comes from.
    pub generation: Generation,
}

/// Addresses of local pods that no policy isolates: their packets pass without a question, in that direction.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OpenAddresses {
    /// Pods that no policy isolates for ingress.
    pub ingress: BTreeSet<IpAddr>,
    /// Pods that no policy isolates for egress.
    pub egress: BTreeSet<IpAddr>,
}

/// The table in the kernel, as this agent wrote it. It stays when this value is dropped: stopping an agent never removes
/// the rules.
#[derive(Debug)]
pub struct Table {
    /// For all its life: see [`Batch::commit`].
    socket: Socket,
    queues: QueueRange,
    form: QueueForm,
    config: TableConfig,
    /// What the sets hold in the kernel.
    contents: Contents,
    /// The epoch of what the kernel remembers.
    memory: Memory,
    /// Whether the rules judge changing pods again.
    window: bool,
}

impl Table {
    /// The queues to which the rules in the kernel send packets now; `None` without table or rules. An agent that starts
    /// sets itself up on another range.
    pub fn queues_in_use() -> Result<Option<QueueRange>, TableError> {
        Ok(InForce::read(&mut open()?)?.queue.map(|(queue, _)| queue.queues))
    }

    /// Writes table, chains, sets and rules in one atomic batch: creates what is missing, rewrites rules and sets, leaves
    /// chains that exist in place. The same call is the first start, a restart over the table of a dead agent, an upgrade
    /// with other marks or flags, and a live takeover: the queues must be ready before, since packets come at once.
    pub fn install(config: TableConfig, queues: QueueRange) -> Result<Self, TableError> {
        let mut socket = open()?;
        let form = available_form(&mut socket)?;
        let contents = Contents::new(&config.pod_cidrs, &config.open, []);
        let memory = Memory::new(&config, SystemTime::now());
        install_batch(&config, &contents, &memory, queues, form).commit(&mut socket, None)?;
        Ok(Self { socket, queues, form, config, contents, memory, window: false })
    }

    /// Makes the sets hold these networks and addresses, as the snapshot of this generation wants it, and has the kernel forget
    /// what it remembers of those that are `touched`, in one atomic batch with only what differs from before. If nothing does,
    /// nothing is sent.
    ///
    /// From then on, and until [`Table::end_recheck`], what passes from or to pods that are touched was judged since, connections
    /// that exist included, in both directions. If all are, their connections are left to a sweep.
    ///
    /// To be called when no verdict of an older snapshot is under way any more: it would be remembered.
    ///
    /// # Errors
    /// [`TableError::Superseded`] if another agent has taken over, [`TableError::Missing`] if the rules are gone: in both
    /// cases, and all others, nothing was changed.
    pub fn update(
        &mut self,
        pod_cidrs: &[IpNet],
        open: &OpenAddresses,
        generation: Generation,
        touched: &Touched,
    ) -> Result<(), TableError> {
        let mut memory = self.memory.next(generation, touched, Instant::now());
        let wanted = Contents::new(pod_cidrs, open, memory.changed());
        let none = BTreeSet::new();
        let changing = match touched {
            Touched::Pods(pods) => pods,
            Touched::All => &none,
        };
        let window = !changing.is_empty();
        let rewrite = window || self.window;
        if wanted == self.contents && !rewrite && self.config.remember.is_none() {
            return Ok(());
        }
        self.commit(|table, batch, anew| {
            if anew {
                wanted.fill(batch);
            } else {
                wanted.change_from(&table.contents, batch);
            }
            if rewrite {
                recheck::watch(changing, batch);
                table.rewrite(&memory, window, batch);
            } else {
                memory.replace(batch);
            }
        })?;
        memory.committed(touched, Instant::now());
        (self.contents, self.memory, self.window) = (wanted, memory, window);
        Ok(())
    }

    /// Judges changing pods no more: all connections have been looked at. Does nothing if none are.
    ///
    /// # Errors
    /// As [`Table::update`].
    pub fn end_recheck(&mut self) -> Result<(), TableError> {
        if self.window {
            self.commit(|table, batch, _| {
                table.rewrite(&table.memory, false, batch);
                recheck::watch(&BTreeSet::new(), batch);
            })?;
            self.window = false;
        }
        Ok(())
    }

    /// Has the kernel forget all pairs, for an agent that ends: from here on every first packet is for the next one.
    ///
    /// # Errors
    /// As [`Table::update`].
    pub fn forget(&mut self) -> Result<(), TableError> {
        self.commit(|_, batch, _| memory::forget(batch))
    }

    /// Whether the rules send packets to other queues than ours: another agent has taken over, and this one should leave
    /// once its own queues are empty.
    ///
    /// # Errors
    /// [`TableError::Missing`] if there is no queue rule at all: somebody deleted it.
    pub fn superseded(&mut self) -> Result<bool, TableError> {
        match self.check_ours() {
            Ok(_) => Ok(false),
            Err(TableError::Superseded(_)) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The form of the queue rules, chosen by what the kernel answers.
    pub fn form(&self) -> QueueForm {
        self.form
    }

    /// The queues to which this agent's rules send packets.
    pub fn queues(&self) -> QueueRange {
        self.queues
    }

    /// Deletes the table; `false` if there was none. Packets that wait in queues are dropped by the kernel, and policy
    /// is no longer enforced on this node.
    pub fn remove() -> Result<bool, TableError> {
        let mut batch = Batch::default();
        let part = Part::plain("deletion of table inet kube-verdict");
        batch.library(part, |library| library.add(&library_table(), MsgType::Del));
        match batch.commit(&mut open()?, None) {
            Ok(()) => Ok(true),
            Err(Refusal::Part(_, Errno::ENOENT)) => Ok(false),
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// Commits what `fill` puts into a batch, as often as it takes; once it was refused for what the sets
    /// hold, `fill` is told that this is not what it should be: somebody changed them by hand.
    fn commit(&mut self, fill: impl Fn(&Self, &mut Batch, bool)) -> Result<(), TableError> {
        let mut anew = false;
        for _ in 0..TRIES {
            let in_force = self.check_ours()?;
            let mut batch = Batch::default();
            fill(self, &mut batch, anew);
            match batch.commit(&mut self.socket, Some(in_force.generation)) {
                Ok(()) => return Ok(()),
                Err(Refusal::Outdated) => {}
                Err(Refusal::Part(_, Errno::ENOENT | Errno::EEXIST)) if !anew => anew = true,
                Err(refusal) => return Err(refusal.into()),
            }
        }
        Err(TableError::Unquiet)
    }

    /// Replaces the rules of all chains but `ask`, which are always the same: to write an xtables target takes the kernel a grace
    /// period of RCU if a batch has just deleted something (`nft_target_init`).
    fn rewrite(&self, memory: &Memory, window: bool, batch: &mut Batch) {
        let hooked = chains::chains(self.config.judge_dns).into_iter().map(|(name, _)| name);
        let names = hooked.chain(chains::plain_chains()).filter(|name| *name != ASK);
        names.for_each(|name| empty_chain(batch, name));
        let rules = chains::rules(&self.config, memory, self.queues, self.form, window);
        rules.iter().filter(|rule| rule.chain != ASK).for_each(|rule| rule.add_to(TABLE, batch));
    }

    fn check_ours(&mut self) -> Result<InForce, TableError> {
        let in_force = InForce::read(&mut self.socket)?;
        match in_force.queue {
            None => Err(TableError::Missing),
            Some((Queue { queues, .. }, _)) if queues != self.queues => Err(TableError::Superseded(queues)),
            Some(_) => Ok(in_force),
        }
    }
}

/// A socket to read and change rules by, in the network namespace of the calling thread.
fn open() -> Result<Socket, TableError> {
    Socket::open().map_err(TableError::from_reading)
}

/// The form of the queue rule that this kernel has: that of the rule in force, or else tried with a batch that is never
/// committed.
///
/// It is tried before and not by installing: a refused batch that brought new base chains takes them back, which drops
/// every queued packet of the network namespace. And not while there is a rule: to take a trial back costs the kernel a
/// grace period of RCU, in which nobody can change a rule.
pub(crate) fn available_form(socket: &mut Socket) -> Result<QueueForm, TableError> {
    if let Some((_, form)) = InForce::read(socket)?.queue {
        return Ok(form);
    }
    for form in [QueueForm::Native, QueueForm::Target] {
        match form_trial(form).rehearse(socket) {
            Ok(()) => return Ok(form),
            Err(Refusal::Part(_, Errno::ENOENT | Errno::EOPNOTSUPP)) => {}
            Err(refusal) => return Err(refusal.into()),
        }
    }
    Err(TableError::NoQueue)
}

/// A queue rule in a chain without a hook, in a table of its own.
fn form_trial(form: QueueForm) -> Batch {
    const TRIAL: &str = "kube-verdict-trial";
    let table = rustables::Table::new(ProtocolFamily::Inet).with_name(TRIAL);
    let chain = Chain::new(&table).with_name(TRIAL);
    let mut batch = Batch::default();
    batch.library(Part::plain("table for a trial"), |library| library.add(&table, MsgType::Add));
    batch.library(Part::plain("chain for a trial"), |library| library.add(&chain, MsgType::Add));
    let queue = Expression::Queue(Queue { queues: QueueRange { first: 0, count: 1 }, bypass: true }, form);
    Rule { chain: TRIAL, purpose: "try the queue", expressions: vec![queue], comment: None }
        .add_to(TRIAL, &mut batch);
    batch
}

fn install_batch(
    config: &TableConfig,
    contents: &Contents,
    memory: &Memory,
    queues: QueueRange,
    form: QueueForm,
) -> Batch {
    let mut batch = Batch::default();
    let table = library_table();
    batch.library(Part::plain("table inet kube-verdict"), |library| library.add(&table, MsgType::Add));
    for (name, hook) in chains::chains(config.judge_dns) {
        let chain = Chain::new(&table)
            .with_name(name)
            .with_hook(hook)
            .with_type(ChainType::Filter)
            .with_policy(ChainPolicy::Accept);
        batch.library(Part::plain(format!("chain {name}")), |library| library.add(&chain, MsgType::Add));
    }
    for name in chains::plain_chains() {
        let chain = Chain::new(&table).with_name(name);
        batch.library(Part::plain(format!("chain {name}")), |library| library.add(&chain, MsgType::Add));
    }
    Contents::create(&mut batch);
    Memory::create(&mut batch);
    remove_rules(&mut batch);
    contents.fill(&mut batch);
    recheck::watch(&BTreeSet::new(), &mut batch);
    let rules = chains::rules(config, memory, queues, form, false);
    rules.iter().for_each(|rule| rule.add_to(TABLE, &mut batch));
    batch
}

fn remove_rules(batch: &mut Batch) {
    // Without a chain's name: the rules of all chains of the table, also of those that this configuration doesn't use.
    batch.raw(Part::plain("removal of the old rules"), sys::NFT_MSG_DELRULE, 0, |rule| {
        rule.string(sys::NFTA_RULE_TABLE, TABLE);
    });
}

fn empty_chain(batch: &mut Batch, chain: &'static str) {
    batch.raw(Part::plain(format!("emptying chain {chain}")), sys::NFT_MSG_DELRULE, 0, |rule| {
        rule.string(sys::NFTA_RULE_TABLE, TABLE).string(sys::NFTA_RULE_CHAIN, chain);
    });
}

fn library_table() -> rustables::Table {
    rustables::Table::new(ProtocolFamily::Inet).with_name(TABLE)
}

#[cfg(test)]
mod tests;
