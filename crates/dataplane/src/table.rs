//! The nftables table of this agent: which packets go to userspace, and which connections need no more verdict.
//!
//! Place in a packet's life: the first step (`postrouting` sends it to the workers) and the last (`allowed` marks its
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

mod bridge;
mod chain_names;
mod chains;
mod drops;
mod error;
mod family;
mod in_force;
mod link_rules;
mod monitor;
mod origin;
mod own_rules;
mod quota;
mod read_back;
mod retire;
mod revalidation;
mod revoked;
mod rule;
mod set_contents;
mod sets;
mod verdict_cache;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Instant, SystemTime};

use ipnet::IpNet;
use nix::errno::Errno;
use policy::{Affected, Generation};
use rustables::{Chain, ChainPolicy, ChainType, MsgType, sys};

use self::bridge::{BridgeContents, BridgeRules};
use self::chain_names::NFQUEUE;
use self::in_force::InForce;
pub(crate) use self::in_force::{check_holder, read_generation};
use self::origin::OriginContents;
pub(crate) use self::own_rules::OwnRules;
use self::sets::Contents;
use self::verdict_cache::VerdictCache;
pub(crate) use self::verdict_cache::{DENIED_PREFIX, LOG_PREFIX};
use crate::drops::DropCounts;
use crate::marks::Marks;
use crate::netlink::Socket;
use crate::nft::TableId;
use crate::nft::batch::{Batch, Part, Refusal};
use crate::nft::expression::Expression;
use crate::nft::queue::Queue;
use crate::nft::rule::Rule;
use crate::ports::{Bindings, InterfaceIndex};
use crate::queues::QueueRange;

pub use self::error::TableError;
pub use self::monitor::{Changed, ForeignChange, Program, RulesListener, RulesMonitor};
pub use self::origin::{OriginConfig, Origins};
pub use self::quota::QueueQuota;
pub use self::verdict_cache::{CacheCounters, VerdictCacheConfig};
pub use crate::nft::queue::QueueForm;

/// The name of the table, in family `inet`.
pub const TABLE: &str = "kube-verdict";

/// The table at the hooks of IPv4 and IPv6.
const INET: TableId = TableId::inet(TABLE);

/// How often an update is tried again because another process changed the ruleset meanwhile.
const TRIES: usize = 64;

/// What happens to first packets while no agent listens.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FailMode {
    /// They pass, unevaluated.
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
    pub fail_mode: FailMode,
    /// Whether DNS queries of local pods are evaluated before they are routed: needed on kernels before 6.12.
    pub prerouting_dns: bool,
    /// Who holds the queues, for people who read the ruleset: `node-a pid 123`. The queue rules' comment; up to 127 bytes
    /// are shown.
    pub holder: String,
    /// This node's pod CIDRs, of both families: packets from and to them are evaluated.
    pub pod_cidrs: Vec<IpNet>,
    /// Addresses in them that need no verdict.
    pub open: OpenAddresses,
    /// What the kernel caches of verdicts; `None` if it is to ask about every connection.
    pub verdict_cache: Option<VerdictCacheConfig>,
    /// How many packets each sender may ask workers about; `None` for any number.
    pub queue_quota: Option<QueueQuota>,
    /// Of the snapshot that `open` comes from.
    pub generation: Generation,
    /// Where packets may come from; `None` if their sources are believed.
    pub origin: Option<OriginConfig>,
    /// Whether replies pass on connection tracking's word, until [`Table::distrust_replies`]: for an agent that finds connections
    /// that no agent has seen.
    pub trust_replies: bool,
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
    /// `None` if the kernel can't have table `bridge`, or if sources are believed.
    bridge: Option<BridgeFamily>,
    config: TableConfig,
    /// What the sets hold in the kernel.
    contents: Contents,
    /// The epoch of what the kernel caches.
    cache: VerdictCache,
    /// Pods whose packets the rules evaluate again until a sweep has looked at all connections. Invariant: equals the kernel's set of
    /// changing pods.
    revalidated: BTreeSet<IpAddr>,
    /// What is known of ports; `None` if sources are believed.
    origin: Option<Origin>,
    /// Whether the kernel removes elements from a set whether or not they are there (since Linux 6.3).
    destroys: bool,
}

/// Where packets may come from, in the kernel and as it is to be.
#[derive(Debug)]
struct Origin {
    /// As the next batch shall have it.
    wanted: Origins,
    /// What the sets of table `inet` hold in the kernel.
    inet: OriginContents,
    /// What the sets of table `bridge` hold; `None` if the kernel can't have that table.
    bridge: Option<BridgeContents>,
    /// The pods' bridges by the rules in the kernel.
    bridges: BTreeSet<InterfaceIndex>,
}

/// Which protections hold in the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Protections {
    /// The sources of packets are checked where they enter by routed ports, and of packets from outside.
    pub routed: bool,
    /// The frames of pods that hang on a bridge are checked.
    pub bridged: bool,
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
    ///
    /// Pods whose packets the rules in force evaluate again keep being evaluated until [`Table::end_recheck`]. The previous agent may have
    /// ended before the sweep that marks the connections that its last change cut.
    ///
    /// # Errors
    /// [`TableError`]: nothing was changed.
    pub fn install(mut config: TableConfig, queues: QueueRange) -> Result<Self, TableError> {
        config.marks = config.marks.answered_by(queues);
        let mut socket = open()?;
        let form = available_form(&mut socket)?;
        let bridge = match &config.origin {
            Some(_) => BridgeFamily::available(&mut socket)?,
            None => None,
        };
        for _ in 0..TRIES {
            let generation = read_generation(&mut socket)?;
            let revalidated = revalidation::read(&mut socket)?;
            let written = Installation { queues, form, bridge, revalidated: &revalidated };
            let (batch, contents, cache, origin) = installation(&config, &written, &BTreeSet::new());
            // The previous agent may add pods meanwhile: then the set is read again.
            match batch.commit(&mut socket, Some(generation)) {
                Ok(()) => {
                    return Ok(Self {
                        socket,
                        queues,
                        form,
                        bridge,
                        config,
                        contents,
                        cache,
                        revalidated,
                        origin,
                        destroys: true,
                    });
                }
                Err(Refusal::Outdated) => {}
                Err(refusal) => return Err(refusal.into()),
            }
        }
        Err(TableError::Unquiet)
    }

    /// Writes all of it again, with this configuration, after another program changed or deleted it: what is there still is
    /// replaced in one atomic batch, and packets that wait in queues keep waiting. Nothing that was cached holds any more. Pods whose
    /// packets were evaluated again stay so. Returns the generation of the ruleset that this replaced: all changes until then are undone
    /// ([`ForeignChange::is_undone_by`]).
    ///
    /// # Errors
    /// [`TableError::Superseded`] if another agent has taken over. After this and any other error nothing was changed.
    pub fn restore(&mut self, mut config: TableConfig) -> Result<u32, TableError> {
        config.marks = config.marks.answered_by(self.queues);
        let mut is_foreign = false;
        for _ in 0..TRIES {
            let in_force = InForce::read(&mut self.socket)?;
            if let Some((Queue { queues, .. }, _)) = in_force.queue
                && queues != self.queues
            {
                return Err(TableError::Superseded(queues));
            }
            let kept = if is_foreign { BTreeSet::new() } else { self.intact_queue_chains(&config)? };
            let Self { queues, form, bridge, ref revalidated, .. } = *self;
            let (install, contents, cache, origin) =
                installation(&config, &Installation { queues, form, bridge, revalidated }, &kept);
            let mut batch = Batch::default();
            if is_foreign {
                delete_tables(self.bridge.is_some(), &mut batch);
            }
            batch.append(install);
            match batch.commit(&mut self.socket, Some(in_force.generation)) {
                Ok(()) => {
                    (self.config, self.contents, self.cache) = (config, contents, cache);
                    self.origin = origin;
                    return Ok(in_force.generation);
                }
                Err(Refusal::Outdated) => {}
                // Another program has made something of the same name and another kind. To delete base chains drops what is queued,
                // and nothing is enforced before.
                Err(Refusal::Part(..)) if !is_foreign => is_foreign = true,
                Err(refusal) => return Err(refusal.into()),
            }
        }
        Err(TableError::Unquiet)
    }

    /// Which protections of packets' origins this kernel can have, whether or not rules are there: for `doctor`.
    pub fn protections_available() -> Result<Protections, TableError> {
        Ok(Protections { routed: true, bridged: has_bridge_family(&mut open()?)? })
    }

    /// Which protections of packets' origins are in force.
    pub fn protections(&self) -> Protections {
        let origin = self.origin.as_ref();
        Protections {
            routed: origin.is_some(),
            bridged: origin.is_some_and(|origin| origin.bridge.is_some()),
        }
    }

    /// Whether the rules that are in the kernel now, if any, let packets pass unevaluated while no agent listens. Without
    /// rules everything passes.
    pub fn passes_unevaluated() -> Result<bool, TableError> {
        Ok(InForce::read(&mut open()?)?.queue.is_none_or(|(queue, _)| queue.bypass))
    }

    /// The bindings that the rules in the kernel have now, as an earlier agent left them, without the names of ports; none without
    /// rules.
    ///
    /// # Errors
    /// [`TableError`] if they can't be read.
    pub fn bindings_in_force() -> Result<Bindings, TableError> {
        let mut socket = open()?;
        let mut bindings = Bindings::default();
        bridge::read_bindings(&mut socket, &mut bindings)
            .and_then(|()| origin::read_bindings(&mut socket, &mut bindings))
            .map_err(TableError::from_reading)?;
        Ok(bindings)
    }

    /// Where packets may come from from the next [`Table::update`] or [`Table::update_origins`] on. Returns whether that is news.
    pub fn set_origins(&mut self, origins: Origins) -> bool {
        let Some(origin) = &mut self.origin else { return false };
        let is_news = origin.wanted != origins;
        origin.wanted = origins;
        is_news
    }

    /// Brings the sets of ports up to date with what [`Table::set_origins`] was given, in one atomic batch with only what differs. If
    /// nothing does, nothing is sent.
    ///
    /// # Errors
    /// As [`Table::update`].
    pub fn update_origins(&mut self) -> Result<(), TableError> {
        if self.wanted_origins().is_some_and(|wanted| !self.holds(&wanted)) {
            self.commit_all(|_, _, _| {})?;
        }
        Ok(())
    }

    /// From here on a reply passes because its connection was accepted, not because connection tracking calls it one: the connections
    /// that were there before this agent are marked.
    ///
    /// # Errors
    /// As [`Table::update`].
    pub fn distrust_replies(&mut self) -> Result<(), TableError> {
        if self.config.trust_replies {
            self.config.trust_replies = false;
            let committed =
                self.commit(|table, batch, _| table.rewrite(&table.cache, table.is_revalidating(), batch));
            self.config.trust_replies = committed.is_err();
            committed?;
        }
        Ok(())
    }

    /// What rules have dropped since they were first installed.
    ///
    /// # Errors
    /// [`TableError`] if the counts can't be read.
    pub fn drop_counts(&mut self) -> Result<DropCounts, TableError> {
        let mut counts = DropCounts::new();
        for drops in [origin::DROPS, bridge::DROPS] {
            for (key, packets) in drops.read(&mut self.socket).map_err(TableError::from_reading)? {
                *counts.entry(key).or_default() += packets;
            }
        }
        Ok(counts)
    }

    /// How many packets of each sender workers were asked about, since it last asked nothing for ten seconds: of this node's pods by
    /// address, of all others as 0.0.0.0 or `::`.
    ///
    /// # Errors
    /// [`TableError`] if the counts can't be read.
    pub fn asking(&mut self) -> Result<BTreeMap<IpAddr, u64>, TableError> {
        quota::read_asking(&mut self.socket).map_err(TableError::from_reading)
    }

    /// Makes the sets hold these networks and addresses, as the snapshot of this generation wants it, and has the kernel forget
    /// cached verdicts of `affected` connections, in one atomic batch with only what differs from before. If nothing does,
    /// nothing is sent.
    ///
    /// From then on, and until [`Table::end_recheck`], packets from and to affected addresses are evaluated, those of established
    /// connections included, in both directions. If all connections are affected, they are left to a sweep, and the rules evaluate again
    /// the packets of the same pods as before.
    ///
    /// To be called when no verdict of an older snapshot is under way any more: it would be cached.
    ///
    /// # Errors
    /// [`TableError::Superseded`] if another agent has taken over, [`TableError::Missing`] if the rules are gone: in both
    /// cases, and all others, nothing was changed.
    pub fn update(
        &mut self,
        pod_cidrs: &[IpNet],
        open: &OpenAddresses,
        generation: Generation,
        affected: &Affected,
    ) -> Result<(), TableError> {
        let revalidated = affected.addresses().unwrap_or_else(|| self.revalidated.clone());
        let mut cache = self.cache.next(generation, affected, Instant::now());
        cache.keep_apart(&revalidated, Instant::now());
        let wanted = Contents::new(pod_cidrs, open, cache.changed());
        let window = !revalidated.is_empty();
        let rewrite = window || self.is_revalidating();
        let origins = self.wanted_origins();
        let are_same = origins.is_none_or(|origins| self.holds(&origins));
        if wanted == self.contents && are_same && !rewrite && self.config.verdict_cache.is_none() {
            return Ok(());
        }
        self.commit_all(|table, batch, is_new| {
            if is_new {
                wanted.fill(batch);
            } else {
                wanted.change_from(&table.contents, batch);
            }
            if rewrite {
                revalidation::watch(&revalidated, batch);
                table.rewrite(&cache, window, batch);
            } else {
                cache.replace(batch);
            }
        })?;
        cache.keep_apart(&revalidated, Instant::now());
        (self.contents, self.cache, self.revalidated) = (wanted, cache, revalidated);
        Ok(())
    }

    /// Whether packets of some pods are evaluated again.
    pub fn is_revalidating(&self) -> bool {
        !self.revalidated.is_empty()
    }

    /// Evaluates changing pods no more: all connections have been looked at. Does nothing if none are.
    ///
    /// # Errors
    /// As [`Table::update`].
    pub fn end_recheck(&mut self) -> Result<(), TableError> {
        if self.is_revalidating() {
            self.commit(|table, batch, _| {
                table.rewrite(&table.cache, false, batch);
                revalidation::watch(&BTreeSet::new(), batch);
            })?;
            self.revalidated.clear();
        }
        Ok(())
    }

    /// Has the kernel forget all pairs, for an agent that ends: from here on every first packet is for the next one.
    ///
    /// # Errors
    /// As [`Table::update`].
    pub fn forget(&mut self) -> Result<(), TableError> {
        self.commit(|_, batch, _| verdict_cache::forget(batch))
    }

    /// Whether the rules send packets to other queues than ours: another agent has taken over, and this one should leave
    /// once its own queues are empty.
    ///
    /// # Errors
    /// [`TableError::Missing`] if there is no queue rule at all: somebody deleted it.
    pub fn superseded(&mut self) -> Result<bool, TableError> {
        match self.check_ours() {
            Ok(_) if self.protections().bridged && !in_force::exists(&mut self.socket, bridge::TABLE)? => {
                Err(TableError::Missing)
            }
            Ok(_) => Ok(false),
            Err(TableError::Superseded(_)) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The chains whose queue rule is as it is to be: to write an xtables target takes a grace period of RCU if a batch has just deleted
    /// something (`nft_target_init`).
    fn intact_queue_chains(&mut self, config: &TableConfig) -> Result<BTreeSet<&'static str>, TableError> {
        let mut queues = vec![(NFQUEUE, queue_of(config, self.queues))];
        queues.extend(config.origin.as_ref().map(|origin| (origin::NFQUEUE, port_queue_of(config, origin))));
        let mut intact = BTreeSet::new();
        for (chain, queue) in queues {
            if in_force::holds_only(&mut self.socket, chain, queue)? {
                intact.insert(chain);
            }
        }
        Ok(intact)
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
        let mut socket = open()?;
        let mut any = false;
        // The inet table last: while it stands, an agent that starts finds rules.
        for table in [bridge::TABLE, INET] {
            let mut batch = Batch::default();
            let part = Part::plain(format!("deletion of table {table}"));
            batch.library(part, |library| library.add(&table.library(), MsgType::Del));
            match batch.commit(&mut socket, None) {
                Ok(()) => any = true,
                // A kernel without the family has no such table either.
                Err(Refusal::Part(_, Errno::ENOENT | Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP)) => {}
                Err(refusal) => return Err(refusal.into()),
            }
        }
        Ok(any)
    }

    /// What the sets of ports shall hold.
    fn wanted_origins(&self) -> Option<(OriginContents, Option<BridgeContents>)> {
        let Origin { wanted, bridge, .. } = self.origin.as_ref()?;
        let contents = || BridgeContents::new(wanted);
        Some((OriginContents::new(wanted), bridge.is_some().then(contents)))
    }

    fn holds(&self, (inet, bridge): &(OriginContents, Option<BridgeContents>)) -> bool {
        self.origin.as_ref().is_none_or(|origin| origin.inet == *inet && origin.bridge == *bridge)
    }

    /// [`Table::commit`], and the sets of ports in the same batch.
    fn commit_all(&mut self, fill: impl Fn(&Self, &mut Batch, bool)) -> Result<(), TableError> {
        let wanted = self.wanted_origins();
        self.commit(|table, batch, is_new| {
            if let (Some((inet, bridge)), Some(origin)) = (&wanted, &table.origin) {
                if is_new {
                    inet.fill(batch);
                    bridge.iter().for_each(|bridge| bridge.fill(batch));
                } else {
                    inet.change_from(&origin.inet, batch);
                    if let (Some(new), Some(old)) = (bridge, &origin.bridge) {
                        new.change_from(old, batch);
                    }
                }
                let rules = table.first_rules(&origin.wanted.bindings.pod_bridges, origin);
                if is_new || rules != table.first_rules(&origin.bridges, origin) {
                    empty_chain(batch, origin::PREROUTING);
                    rules.iter().for_each(|rule| rule.add_to(INET, batch));
                }
            }
            fill(table, batch, is_new);
        })?;
        if let (Some((inet, bridge)), Some(origin)) = (wanted, &mut self.origin) {
            origin.bridges = origin.wanted.bindings.pod_bridges.clone();
            (origin.inet, origin.bridge) = (inet, bridge);
        }
        Ok(())
    }

    fn first_rules(&self, bridges: &BTreeSet<InterfaceIndex>, origin: &Origin) -> Vec<Rule> {
        origin::first_rules(bridges, &self.config.marks, origin.bridge.is_some())
    }

    /// Commits what `fill` puts into a batch, as often as it takes; once it was refused for what the sets
    /// hold, `fill` is told that this is not what it should be: somebody changed them by hand.
    fn commit(&mut self, fill: impl Fn(&Self, &mut Batch, bool)) -> Result<(), TableError> {
        let mut is_new = false;
        for _ in 0..TRIES {
            let in_force = self.check_ours()?;
            let mut batch = Batch::default();
            fill(self, &mut batch, is_new);
            match batch.commit(&mut self.socket, Some(in_force.generation)) {
                Ok(()) => return Ok(()),
                Err(Refusal::Outdated) => {}
                Err(Refusal::Part(_, Errno::ENOENT | Errno::EEXIST | Errno::EBUSY)) if !is_new => {
                    is_new = true
                }
                Err(refusal) => return Err(refusal.into()),
            }
        }
        Err(TableError::Unquiet)
    }

    /// Replaces the rules of all chains but those that are always the same. `nfqueue` must not be written again: to write an xtables
    /// target takes the kernel a grace period of RCU if a batch has just deleted something (`nft_target_init`).
    fn rewrite(&self, cache: &VerdictCache, window: bool, batch: &mut Batch) {
        let hooked = chains::chains(self.config.prerouting_dns).into_iter().map(|(name, _)| name);
        let stays: BTreeSet<&str> = chains::static_chains().chain([NFQUEUE]).collect();
        let names = hooked.chain(chains::plain_chains()).filter(|name| !stays.contains(name));
        names.for_each(|name| empty_chain(batch, name));
        let rules = chains::rules(&self.config, cache, self.queues, self.form, window);
        rules.iter().filter(|rule| !stays.contains(rule.chain)).for_each(|rule| rule.add_to(INET, batch));
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
    const TRIAL: TableId = TableId::inet("kube-verdict-trial");
    let table = TRIAL.library();
    let chain = Chain::new(&table).with_name(TRIAL.name);
    let mut batch = Batch::default();
    batch.library(Part::plain("table for a trial"), |library| library.add(&table, MsgType::Add));
    batch.library(Part::plain("chain for a trial"), |library| library.add(&chain, MsgType::Add));
    let queue = Expression::Queue(Queue { queues: QueueRange { first: 0, count: 1 }, bypass: true }, form);
    Rule { chain: TRIAL.name, purpose: "try the queue", expressions: vec![queue], comment: None }
        .add_to(TRIAL, &mut batch);
    batch
}

/// What an installation depends on beside the configuration.
struct Installation<'a> {
    queues: QueueRange,
    form: QueueForm,
    bridge: Option<BridgeFamily>,
    /// The pods whose packets are evaluated again.
    revalidated: &'a BTreeSet<IpAddr>,
}

fn install_batch(
    config: &TableConfig,
    contents: &Contents,
    cache: &VerdictCache,
    &Installation { queues, form, revalidated, .. }: &Installation<'_>,
    kept: &BTreeSet<&str>,
) -> Batch {
    let mut batch = Batch::default();
    let table = library_table();
    // Awake, if another program has made the table dormant.
    let awake = INET.library().with_flags(0_u32);
    batch.library(Part::plain("table inet kube-verdict"), |library| library.add(&awake, MsgType::Add));
    for chain in chains::chains(config.prerouting_dns) {
        add_hooked_chain(&mut batch, chain);
    }
    for name in chains::plain_chains() {
        let chain = Chain::new(&table).with_name(name);
        batch.library(Part::plain(format!("chain {name}")), |library| library.add(&chain, MsgType::Add));
    }
    if config.origin.is_some() {
        add_hooked_chain(&mut batch, chains::prerouting());
    }
    for name in origin::plain_chains() {
        let chain = Chain::new(&table).with_name(name);
        batch.library(Part::plain(format!("chain {name}")), |library| library.add(&chain, MsgType::Add));
    }
    Contents::create(&mut batch);
    VerdictCache::create(&mut batch);
    revoked::create(&mut batch);
    quota::create(&mut batch);
    origin::create_sets(&mut batch);
    remove_rules_but(kept, config, &mut batch);
    contents.fill(&mut batch);
    revalidation::watch(revalidated, &mut batch);
    let rules = chains::rules(config, cache, queues, form, !revalidated.is_empty());
    rules.iter().filter(|rule| !kept.contains(rule.chain)).for_each(|rule| rule.add_to(INET, &mut batch));
    let log_group = config.origin.as_ref().and_then(|origin| origin.log_group);
    if config.origin.is_none() {
        // Rules above drop by these chains.
        origin::DROPS.rules(log_group).iter().for_each(|rule| rule.add_to(INET, &mut batch));
    }
    batch
}

/// All that an installation writes, but for rules of the `kept` chains, and what the sets and chains then hold.
fn installation(
    config: &TableConfig,
    written: &Installation<'_>,
    kept: &BTreeSet<&str>,
) -> (Batch, Contents, VerdictCache, Option<Origin>) {
    let mut cache = VerdictCache::new(config, SystemTime::now());
    cache.keep_apart(written.revalidated, Instant::now());
    let contents = Contents::new(&config.pod_cidrs, &config.open, cache.changed());
    let mut batch = install_batch(config, &contents, &cache, written, kept);
    let parts = (written.form, written.bridge);
    let install = |origin| install_origin(origin, config, parts, kept, &mut batch);
    let origin = config.origin.as_ref().map(install);
    (batch, contents, cache, origin)
}

/// The sets and rules about origins: those of table `inet`, and table `bridge` where the kernel can have it.
fn install_origin(
    origin: &OriginConfig,
    config: &TableConfig,
    (form, bridge): (QueueForm, Option<BridgeFamily>),
    kept: &BTreeSet<&str>,
    batch: &mut Batch,
) -> Origin {
    let queue = port_queue_of(config, origin);
    let wanted = &origin.origins;
    let inet = OriginContents::new(wanted);
    inet.fill(batch);
    let mut rules = origin::first_rules(&wanted.bindings.pod_bridges, &config.marks, bridge.is_some());
    rules.extend(origin::rules(queue, form, origin.log_group));
    rules.iter().filter(|rule| !kept.contains(rule.chain)).for_each(|rule| rule.add_to(INET, batch));
    let bridge = bridge.map(|BridgeFamily { knows_bridges }| {
        let contents = BridgeContents::new(wanted);
        let (marks, log_group) = (config.marks, origin.log_group);
        BridgeRules { marks, log_group, knows_bridges }.install(&contents, batch);
        contents
    });
    let bridges = wanted.bindings.pod_bridges.clone();
    Origin { wanted: wanted.clone(), inet, bridge, bridges }
}

/// Deletes our tables, whether or not they are there.
fn delete_tables(has_bridge: bool, batch: &mut Batch) {
    for table in [INET].into_iter().chain(has_bridge.then_some(bridge::TABLE)) {
        let part = || Part::plain(format!("deletion of table {table}"));
        batch.library(part(), |library| library.add(&table.library(), MsgType::Add));
        batch.library(part(), |library| library.add(&table.library(), MsgType::Del));
    }
}

/// What nftables' bridge family of this kernel can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct BridgeFamily {
    /// Whether it knows a port's bridge by name.
    knows_bridges: bool,
}

impl BridgeFamily {
    /// `None` if the kernel lacks the family.
    fn available(socket: &mut Socket) -> Result<Option<Self>, TableError> {
        if !has_bridge_family(socket)? {
            return Ok(None);
        }
        Ok(Some(Self { knows_bridges: bridge::trial_of_names().rehearse(socket).is_ok() }))
    }
}

/// Whether the kernel has nftables' bridge family.
fn has_bridge_family(socket: &mut Socket) -> Result<bool, TableError> {
    match bridge::trial().rehearse(socket) {
        Ok(()) => Ok(true),
        Err(Refusal::Part(_, Errno::ENOENT | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT)) => Ok(false),
        Err(refusal) => Err(refusal.into()),
    }
}

fn add_hooked_chain(batch: &mut Batch, (name, hook): (&'static str, rustables::Hook)) {
    let chain = Chain::new(&library_table())
        .with_name(name)
        .with_hook(hook)
        .with_type(ChainType::Filter)
        .with_policy(ChainPolicy::Accept);
    batch.library(Part::plain(format!("chain {name}")), |library| library.add(&chain, MsgType::Add));
}

fn remove_rules(batch: &mut Batch) {
    // Without a chain's name: the rules of all chains of the table, also of those that this configuration doesn't use.
    batch.raw(Part::plain("removal of the old rules"), sys::NFT_MSG_DELRULE, 0, |rule| {
        rule.string(sys::NFTA_RULE_TABLE, TABLE);
    });
}

/// Removes the rules of all chains but the `kept` ones.
fn remove_rules_but(kept: &BTreeSet<&str>, config: &TableConfig, batch: &mut Batch) {
    if kept.is_empty() {
        return remove_rules(batch);
    }
    let hooked = chains::chains(config.prerouting_dns).into_iter().map(|(name, _)| name);
    let prerouting = config.origin.is_some().then_some(origin::PREROUTING);
    let plain = chains::plain_chains().chain(origin::plain_chains());
    let chains = hooked.chain(prerouting).chain(plain).filter(|name| !kept.contains(name));
    chains.for_each(|name| empty_chain(batch, name));
}

/// Where chain `nfqueue` sends packets.
fn queue_of(config: &TableConfig, queues: QueueRange) -> Queue {
    Queue { queues, bypass: config.fail_mode == FailMode::Open }
}

/// Where packets of new ports wait.
fn port_queue_of(config: &TableConfig, origin: &OriginConfig) -> Queue {
    queue_of(config, QueueRange { first: origin.queue, count: 1 })
}

fn empty_chain(batch: &mut Batch, chain: &'static str) {
    batch.raw(Part::plain(format!("emptying chain {chain}")), sys::NFT_MSG_DELRULE, 0, |rule| {
        rule.string(sys::NFTA_RULE_TABLE, TABLE).string(sys::NFTA_RULE_CHAIN, chain);
    });
}

fn library_table() -> rustables::Table {
    INET.library()
}

#[cfg(test)]
mod tests;
