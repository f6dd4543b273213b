//! The nftables table of this agent: which packets go to userspace, and which connections need no further
//! verdict.
//!
//! Place in a packet's life: the first step (`postrouting` queues it for the workers) and the last (`allowed`
//! marks its connection). Place in a policy's life: [`Table::update`] at the start of the sweep.
//!
//! Invariants: every change is one batch, committed whole or not at all. Chains are created once and never
//! deleted or recreated while an agent lives, because deleting any base chain drops every queued packet of
//! the network namespace. An agent that another one has superseded changes nothing any more, not even in a
//! race: its batches are valid for one generation of the ruleset only.
//!
//! No change waits for the RCU grace period in which the kernel frees what the change before it deleted
//! (tenths of a second on a busy node). For that, an agent sends all its batches over one socket, and never
//! rewrites the queue rule.
//!
//! Calls without a [`Table`] act in the network namespace of the calling thread. A [`Table`] acts in the
//! namespace in which it was installed.

mod bridge;
mod chain_names;
mod chains;
mod drops;
mod error;
mod family;
mod installed_rules;
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
use self::installed_rules::InstalledRules;
pub(crate) use self::installed_rules::{check_holder, read_generation};
use self::origin::OriginContents;
pub(crate) use self::own_rules::OwnRules;
use self::sets::Contents;
use self::verdict_cache::VerdictCache;
pub(crate) use self::verdict_cache::{DENIED_PREFIX, LOG_PREFIX};
use crate::drops::DropCounts;
use crate::marks::Marks;
use crate::netlink::Socket;
use crate::nft::TableId;
use crate::nft::batch::{Batch, Refusal, Subject};
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

/// How often a change is tried again because another process changed the ruleset meanwhile.
const TRIES: usize = 64;

/// What happens to first packets while no agent listens.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FailMode {
    /// They pass, unevaluated.
    Open,
    /// They are dropped. Connections that were accepted before continue.
    Closed,
}

/// The configuration of the table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableConfig {
    /// The bits through which rules and workers communicate.
    pub marks: Marks,
    /// What happens to first packets while no agent listens.
    pub fail_mode: FailMode,
    /// Whether DNS queries of local pods are evaluated before they are routed: needed on kernels before 6.12.
    pub prerouting_dns: bool,
    /// The agent that serves the queues, for people who read the ruleset: `node-a pid 123`. It is the comment
    /// of the queue rule, and up to 127 bytes of it are shown.
    pub holder: String,
    /// This node's pod CIDRs, of both families. Packets from and to them are evaluated.
    pub pod_cidrs: Vec<IpNet>,
    /// Pod addresses that need no verdict.
    pub open: OpenAddresses,
    /// How the kernel caches verdicts; `None` if every connection goes to a worker.
    pub verdict_cache: Option<VerdictCacheConfig>,
    /// How many packets of each sender may be queued; `None` for no limit.
    pub queue_quota: Option<QueueQuota>,
    /// The generation of the snapshot that `open` comes from.
    pub generation: Generation,
    /// Where packets may come from; `None` if sources are not checked.
    pub origin: Option<OriginConfig>,
    /// Whether replies pass because connection tracking calls them replies, until
    /// [`Table::distrust_replies`]. Set by an agent that finds connections that no agent has evaluated.
    pub trust_replies: bool,
}

/// Addresses of local pods that no policy isolates: their packets pass without a verdict, in that direction.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OpenAddresses {
    /// Pods that no policy isolates for ingress.
    pub ingress: BTreeSet<IpAddr>,
    /// Pods that no policy isolates for egress.
    pub egress: BTreeSet<IpAddr>,
}

/// The table in the kernel, as this agent wrote it. Dropping this value leaves the rules in place: stopping
/// an agent never removes them.
#[derive(Debug)]
pub struct Table {
    /// Kept for the life of the table: see [`Batch::commit`].
    socket: Socket,
    queues: QueueRange,
    form: QueueForm,
    /// `None` if the kernel can't have table `bridge`, or if sources are not checked.
    bridge: Option<BridgeFamily>,
    config: TableConfig,
    /// What the sets contain in the kernel.
    contents: Contents,
    /// The state of the verdict cache in the kernel.
    cache: VerdictCache,
    /// Pods whose packets the rules evaluate again until a sweep has evaluated all connections. Invariant:
    /// equals the kernel's set of pods under revalidation.
    revalidated: BTreeSet<IpAddr>,
    /// What the kernel's tables contain about ports; `None` if sources are not checked.
    origin: Option<Origin>,
    /// Whether the kernel can remove elements from a set whether or not they exist (since Linux 6.3).
    destroys: bool,
}

/// Where packets may come from: the current content of the kernel's sets, and the wanted one.
#[derive(Debug)]
struct Origin {
    /// The content for the next batch.
    wanted: Origins,
    /// What the sets of table `inet` contain in the kernel.
    inet: OriginContents,
    /// What the sets of table `bridge` contain; `None` if the kernel can't have that table.
    bridge: Option<BridgeContents>,
    /// The pods' bridges that the rules in the kernel name.
    bridges: BTreeSet<InterfaceIndex>,
}

/// Which protections of packets' origins are active or available.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Protections {
    /// The sources of packets from routed ports and from outside the node are checked.
    pub routed: bool,
    /// The frames of pods on a bridge are checked.
    pub bridged: bool,
}

impl Table {
    /// The queues to which the rules in the kernel send packets now; `None` without table or rules. A
    /// starting agent takes another range.
    pub fn queues_in_use() -> Result<Option<QueueRange>, TableError> {
        Ok(InstalledRules::read(&mut open()?)?.queue.map(|(queue, _)| queue.queues))
    }

    /// Writes the table, its chains, sets and rules in one atomic batch. Creates what is missing, rewrites
    /// rules and sets, and leaves existing chains in place. The same call serves the first start, a restart
    /// over the table of a dead agent, an upgrade with other marks or flags, and a live takeover. The queues
    /// must be ready before the call, since packets arrive at once.
    ///
    /// Pods under revalidation by the rules in the kernel stay so until [`Table::end_revalidation`]. The
    /// previous agent may have ended before the sweep that marks the connections cut by its last change.
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
            let revalidated = revalidation::read_pods(&mut socket)?;
            let written = Installation { queues, form, bridge, revalidated: &revalidated };
            let (batch, contents, cache, origin) = installation(&config, &written, &BTreeSet::new());
            // The previous agent may add pods meanwhile. Then the set is read again.
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

    /// Writes everything again, with this configuration, after another program changed or deleted it.
    /// Existing objects are replaced in one atomic batch, and queued packets stay queued. All cached verdicts
    /// are invalidated. Pods under revalidation stay so. Returns the generation of the ruleset that was
    /// replaced: all changes up to it are undone ([`ForeignChange::is_undone_by`]).
    ///
    /// # Errors
    /// [`TableError::Superseded`] if another agent has taken over. After this and any other error nothing was
    /// changed.
    pub fn restore(&mut self, mut config: TableConfig) -> Result<u32, TableError> {
        config.marks = config.marks.answered_by(self.queues);
        let mut is_foreign = false;
        for _ in 0..TRIES {
            let in_force = InstalledRules::read(&mut self.socket)?;
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
                // Another program has created an object of the same name and another kind. Deleting base
                // chains drops queued packets, but without this agent's rules nothing is enforced anyway.
                Err(Refusal::Message(..)) if !is_foreign => is_foreign = true,
                Err(refusal) => return Err(refusal.into()),
            }
        }
        Err(TableError::Unquiet)
    }

    /// Which protections of packets' origins this kernel supports, whether or not rules exist: for `doctor`.
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

    /// Whether the rules in the kernel, if any, let packets pass unevaluated while no agent listens. Without
    /// rules everything passes.
    pub fn passes_unevaluated() -> Result<bool, TableError> {
        Ok(InstalledRules::read(&mut open()?)?.queue.is_none_or(|(queue, _)| queue.bypass))
    }

    /// The bindings in the kernel's sets, as an earlier agent left them, without the names of ports. Empty
    /// without rules.
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

    /// Sets where packets may come from as of the next [`Table::update`] or [`Table::update_origins`].
    /// Returns whether that differs from before.
    pub fn set_origins(&mut self, origins: Origins) -> bool {
        let Some(origin) = &mut self.origin else { return false };
        let is_news = origin.wanted != origins;
        origin.wanted = origins;
        is_news
    }

    /// Updates the sets of ports to the value given to [`Table::set_origins`], in one atomic batch that
    /// contains only the differences. Sends nothing if there are none.
    ///
    /// # Errors
    /// As [`Table::update`].
    pub fn update_origins(&mut self) -> Result<(), TableError> {
        if self.wanted_origins().is_some_and(|wanted| !self.holds(&wanted)) {
            self.commit_all(|_, _, _| {})?;
        }
        Ok(())
    }

    /// From now on a reply passes because its connection was accepted, not because connection tracking calls
    /// it a reply. The connections from before this agent must be marked by now.
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

    /// How many packets the rules have dropped since the table was created.
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

    /// How many packets of each sender were queued for workers. A count ends when none has been queued for
    /// ten seconds. This node's pods are counted by address, all other senders together as 0.0.0.0 or `::`.
    ///
    /// # Errors
    /// [`TableError`] if the counts can't be read.
    pub fn asking(&mut self) -> Result<BTreeMap<IpAddr, u64>, TableError> {
        quota::read_queued(&mut self.socket).map_err(TableError::from_reading)
    }

    /// Updates the sets to these networks and addresses, as the snapshot of this generation requires, and
    /// invalidates cached verdicts of `affected` connections. Does so in one atomic batch that contains only
    /// the differences. Sends nothing if there are none.
    ///
    /// From then on, and until [`Table::end_revalidation`], packets from and to affected addresses are
    /// evaluated in both directions, those of established connections included. If all connections are
    /// affected, they are left to a sweep, and the pods under revalidation stay the same.
    ///
    /// Call this when no evaluation with an older snapshot is in flight: its verdict would be cached.
    ///
    /// # Errors
    /// [`TableError::Superseded`] if another agent has taken over, [`TableError::Missing`] if the rules are
    /// gone. After these and all other errors nothing was changed.
    pub fn update(
        &mut self,
        pod_cidrs: &[IpNet],
        open: &OpenAddresses,
        generation: Generation,
        affected: &Affected,
    ) -> Result<(), TableError> {
        let revalidated = affected.addresses().unwrap_or_else(|| self.revalidated.clone());
        let mut cache = self.cache.next(generation, affected, Instant::now());
        cache.mark_changed(&revalidated, Instant::now());
        let wanted = Contents::new(pod_cidrs, open, cache.changed());
        let revalidating = !revalidated.is_empty();
        let rewrite = revalidating || self.is_revalidating();
        let origins = self.wanted_origins();
        let are_same = origins.is_none_or(|origins| self.holds(&origins));
        if wanted == self.contents && are_same && !rewrite && self.config.verdict_cache.is_none() {
            return Ok(());
        }
        self.commit_all(|table, batch, refill| {
            if refill {
                wanted.fill(batch);
            } else {
                wanted.change_from(&table.contents, batch);
            }
            if rewrite {
                revalidation::set_pods(&revalidated, batch);
                table.rewrite(&cache, revalidating, batch);
            } else {
                cache.replace(batch);
            }
        })?;
        cache.mark_changed(&revalidated, Instant::now());
        (self.contents, self.cache, self.revalidated) = (wanted, cache, revalidated);
        Ok(())
    }

    /// Whether some pods are under revalidation.
    pub fn is_revalidating(&self) -> bool {
        !self.revalidated.is_empty()
    }

    /// Ends revalidation: a sweep has evaluated all connections. Does nothing if no pod is under
    /// revalidation.
    ///
    /// # Errors
    /// As [`Table::update`].
    pub fn end_recheck(&mut self) -> Result<(), TableError> {
        if self.is_revalidating() {
            self.commit(|table, batch, _| {
                table.rewrite(&table.cache, false, batch);
                revalidation::set_pods(&BTreeSet::new(), batch);
            })?;
            self.revalidated.clear();
        }
        Ok(())
    }

    /// Invalidates all cached verdicts, for an agent that ends: from now on every first packet is queued for
    /// the next agent.
    ///
    /// # Errors
    /// As [`Table::update`].
    pub fn forget(&mut self) -> Result<(), TableError> {
        self.commit(|_, batch, _| verdict_cache::invalidate(batch))
    }

    /// Whether the rules send packets to other queues than this agent's: another agent has taken over, and
    /// this one should leave once its own queues are empty.
    ///
    /// # Errors
    /// [`TableError::Missing`] if there is no queue rule: another program deleted it.
    pub fn superseded(&mut self) -> Result<bool, TableError> {
        match self.check_not_superseded() {
            Ok(_)
                if self.protections().bridged
                    && !installed_rules::exists(&mut self.socket, bridge::TABLE)? =>
            {
                Err(TableError::Missing)
            }
            Ok(_) => Ok(false),
            Err(TableError::Superseded(_)) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The chains whose queue rule is already the wanted one. Writing an xtables target takes an RCU grace
    /// period if a batch has just deleted something (`nft_target_init`).
    fn intact_queue_chains(&mut self, config: &TableConfig) -> Result<BTreeSet<&'static str>, TableError> {
        let mut queues = vec![(NFQUEUE, queue_of(config, self.queues))];
        queues.extend(config.origin.as_ref().map(|origin| (origin::NFQUEUE, port_queue_of(config, origin))));
        let mut intact = BTreeSet::new();
        for (chain, queue) in queues {
            if installed_rules::has_only_queue(&mut self.socket, chain, queue)? {
                intact.insert(chain);
            }
        }
        Ok(intact)
    }

    /// The form of the queue rules that the kernel supports.
    pub fn form(&self) -> QueueForm {
        self.form
    }

    /// The queues to which this agent's rules send packets.
    pub fn queues(&self) -> QueueRange {
        self.queues
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

    /// The wanted content of the sets of ports.
    fn wanted_origins(&self) -> Option<(OriginContents, Option<BridgeContents>)> {
        let Origin { wanted, bridge, .. } = self.origin.as_ref()?;
        let contents = || BridgeContents::new(wanted);
        Some((OriginContents::new(wanted), bridge.is_some().then(contents)))
    }

    fn holds(&self, (inet, bridge): &(OriginContents, Option<BridgeContents>)) -> bool {
        self.origin.as_ref().is_none_or(|origin| origin.inet == *inet && origin.bridge == *bridge)
    }

    /// [`Table::commit`], with the sets of ports updated in the same batch.
    fn commit_all(&mut self, fill: impl Fn(&Self, &mut Batch, bool)) -> Result<(), TableError> {
        let wanted = self.wanted_origins();
        self.commit(|table, batch, refill| {
            if let (Some((inet, bridge)), Some(origin)) = (&wanted, &table.origin) {
                if refill {
                    inet.fill(batch);
                    bridge.iter().for_each(|bridge| bridge.fill(batch));
                } else {
                    inet.change_from(&origin.inet, batch);
                    if let (Some(new), Some(old)) = (bridge, &origin.bridge) {
                        new.change_from(old, batch);
                    }
                }
                let rules = table.prerouting_rules(&origin.wanted.bindings.pod_bridges, origin);
                if refill || rules != table.prerouting_rules(&origin.bridges, origin) {
                    empty_chain(batch, origin::PREROUTING);
                    rules.iter().for_each(|rule| rule.add_to(INET, batch));
                }
            }
            fill(table, batch, refill);
        })?;
        if let (Some((inet, bridge)), Some(origin)) = (wanted, &mut self.origin) {
            origin.bridges = origin.wanted.bindings.pod_bridges.clone();
            (origin.inet, origin.bridge) = (inet, bridge);
        }
        Ok(())
    }

    fn prerouting_rules(&self, bridges: &BTreeSet<InterfaceIndex>, origin: &Origin) -> Vec<Rule> {
        origin::prerouting_rules(bridges, &self.config.marks, origin.bridge.is_some())
    }

    /// Commits what `fill` puts into a batch, again if the ruleset changed meanwhile. The last argument of
    /// `fill` is false at first. It is true after a batch was refused because of what the sets contain:
    /// another program changed them, so `fill` must rewrite them whole.
    fn commit(&mut self, fill: impl Fn(&Self, &mut Batch, bool)) -> Result<(), TableError> {
        let mut refill = false;
        for _ in 0..TRIES {
            let in_force = self.check_not_superseded()?;
            let mut batch = Batch::default();
            fill(self, &mut batch, refill);
            match batch.commit(&mut self.socket, Some(in_force.generation)) {
                Ok(()) => return Ok(()),
                Err(Refusal::Outdated) => {}
                Err(Refusal::Message(_, Errno::ENOENT | Errno::EEXIST | Errno::EBUSY)) if !refill => {
                    refill = true
                }
                Err(refusal) => return Err(refusal.into()),
            }
        }
        Err(TableError::Unquiet)
    }

    /// Replaces the rules of all chains but the static ones. `nfqueue` must not be written again: writing an
    /// xtables target takes an RCU grace period if a batch has just deleted something (`nft_target_init`).
    fn rewrite(&self, cache: &VerdictCache, revalidating: bool, batch: &mut Batch) {
        let hooked = chains::base_chains(self.config.prerouting_dns).into_iter().map(|(name, _)| name);
        let stays: BTreeSet<&str> = chains::static_chains().chain([NFQUEUE]).collect();
        let names = hooked.chain(chains::regular_chains()).filter(|name| !stays.contains(name));
        names.for_each(|name| empty_chain(batch, name));
        let rules = chains::rules(&self.config, cache, self.queues, self.form, revalidating);
        rules.iter().filter(|rule| !stays.contains(rule.chain)).for_each(|rule| rule.add_to(INET, batch));
    }

    fn check_not_superseded(&mut self) -> Result<InstalledRules, TableError> {
        let in_force = InstalledRules::read(&mut self.socket)?;
        match in_force.queue {
            None => Err(TableError::Missing),
            Some((Queue { queues, .. }, _)) if queues != self.queues => Err(TableError::Superseded(queues)),
            Some(_) => Ok(in_force),
        }
    }
}

/// A socket to read and change rules, in the network namespace of the calling thread.
fn open() -> Result<Socket, TableError> {
    Socket::open().map_err(TableError::from_reading)
}

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

/// A queue rule in a chain without a hook, in a separate table.
fn form_trial(form: QueueForm) -> Batch {
    const TRIAL: TableId = TableId::inet("kube-verdict-trial");
    let table = TRIAL.library();
    let chain = Chain::new(&table).with_name(TRIAL.name);
    let mut batch = Batch::default();
    batch.library(Subject::plain("table for a trial"), |library| library.add(&table, MsgType::Add));
    batch.library(Subject::plain("chain for a trial"), |library| library.add(&chain, MsgType::Add));
    let queue = Expression::Queue(Queue { queues: QueueRange { first: 0, count: 1 }, bypass: true }, form);
    Rule { chain: TRIAL.name, purpose: "trial of the queue", expressions: vec![queue], comment: None }
        .add_to(TRIAL, &mut batch);
    batch
}

/// What an installation depends on besides the configuration.
struct Installation<'a> {
    queues: QueueRange,
    form: QueueForm,
    bridge: Option<BridgeFamily>,
    /// The pods under revalidation.
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
    // Active, if another program has made the table dormant.
    let awake = INET.library().with_flags(0_u32);
    batch.library(Subject::plain("table inet kube-verdict"), |library| library.add(&awake, MsgType::Add));
    for chain in chains::base_chains(config.prerouting_dns) {
        add_hooked_chain(&mut batch, chain);
    }
    for name in chains::regular_chains() {
        let chain = Chain::new(&table).with_name(name);
        batch.library(Subject::plain(format!("chain {name}")), |library| library.add(&chain, MsgType::Add));
    }
    if config.origin.is_some() {
        add_hooked_chain(&mut batch, chains::prerouting());
    }
    for name in origin::regular_chains() {
        let chain = Chain::new(&table).with_name(name);
        batch.library(Subject::plain(format!("chain {name}")), |library| library.add(&chain, MsgType::Add));
    }
    Contents::create(&mut batch);
    VerdictCache::create(&mut batch);
    revoked::create(&mut batch);
    quota::create(&mut batch);
    origin::create_sets(&mut batch);
    remove_rules_but(kept, config, &mut batch);
    contents.fill(&mut batch);
    revalidation::set_pods(revalidated, &mut batch);
    let rules = chains::rules(config, cache, queues, form, !revalidated.is_empty());
    rules.iter().filter(|rule| !kept.contains(rule.chain)).for_each(|rule| rule.add_to(INET, &mut batch));
    let log_group = config.origin.as_ref().and_then(|origin| origin.log_group);
    if config.origin.is_none() {
        // Rules above jump to these chains.
        origin::DROPS.rules(log_group).iter().for_each(|rule| rule.add_to(INET, &mut batch));
    }
    batch
}

/// Everything that an installation writes, except rules of the `kept` chains, and what the sets and chains
/// contain afterwards.
fn installation(
    config: &TableConfig,
    written: &Installation<'_>,
    kept: &BTreeSet<&str>,
) -> (Batch, Contents, VerdictCache, Option<Origin>) {
    let mut cache = VerdictCache::new(config, SystemTime::now());
    cache.mark_changed(written.revalidated, Instant::now());
    let contents = Contents::new(&config.pod_cidrs, &config.open, cache.changed());
    let mut batch = install_batch(config, &contents, &cache, written, kept);
    let parts = (written.form, written.bridge);
    let install = |origin| install_origin(origin, config, parts, kept, &mut batch);
    let origin = config.origin.as_ref().map(install);
    (batch, contents, cache, origin)
}

/// The sets and rules about origins: those of table `inet`, and table `bridge` where the kernel supports it.
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
    let mut rules = origin::prerouting_rules(&wanted.bindings.pod_bridges, &config.marks, bridge.is_some());
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

/// Deletes the agent's tables, whether or not they exist.
fn delete_tables(has_bridge: bool, batch: &mut Batch) {
    for table in [INET].into_iter().chain(has_bridge.then_some(bridge::TABLE)) {
        let subject = || Subject::plain(format!("deletion of table {table}"));
        batch.library(subject(), |library| library.add(&table.library(), MsgType::Add));
        batch.library(subject(), |library| library.add(&table.library(), MsgType::Del));
    }
}

/// What this kernel supports of nftables' bridge family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct BridgeFamily {
    /// Whether rules can match a port's bridge by name.
    knows_bridges: bool,
}

impl BridgeFamily {
    /// `None` if the kernel lacks the family.
    fn available(socket: &mut Socket) -> Result<Option<Self>, TableError> {
        if !has_bridge_family(socket)? {
            return Ok(None);
        }
        Ok(Some(Self { knows_bridges: bridge::trial_of_names().check(socket).is_ok() }))
    }
}

/// Whether the kernel has nftables' bridge family.
fn has_bridge_family(socket: &mut Socket) -> Result<bool, TableError> {
    match bridge::trial().check(socket) {
        Ok(()) => Ok(true),
        Err(Refusal::Message(_, Errno::ENOENT | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT)) => Ok(false),
        Err(refusal) => Err(refusal.into()),
    }
}

fn add_hooked_chain(batch: &mut Batch, (name, hook): (&'static str, rustables::Hook)) {
    let chain = Chain::new(&library_table())
        .with_name(name)
        .with_hook(hook)
        .with_type(ChainType::Filter)
        .with_policy(ChainPolicy::Accept);
    batch.library(Subject::plain(format!("chain {name}")), |library| library.add(&chain, MsgType::Add));
}

fn remove_rules(batch: &mut Batch) {
    // Without a chain's name: the rules of all chains of the table, including those that this configuration
    // doesn't use.
    batch.raw(Subject::plain("removal of the old rules"), sys::NFT_MSG_DELRULE, 0, |rule| {
        rule.string(sys::NFTA_RULE_TABLE, TABLE);
    });
}

/// Removes the rules of all chains except the `kept` ones.
fn remove_rules_but(kept: &BTreeSet<&str>, config: &TableConfig, batch: &mut Batch) {
    if kept.is_empty() {
        return remove_rules(batch);
    }
    let hooked = chains::base_chains(config.prerouting_dns).into_iter().map(|(name, _)| name);
    let prerouting = config.origin.is_some().then_some(origin::PREROUTING);
    let plain = chains::regular_chains().chain(origin::regular_chains());
    let chains = hooked.chain(prerouting).chain(plain).filter(|name| !kept.contains(name));
    chains.for_each(|name| empty_chain(batch, name));
}

/// The queues to which chain `nfqueue` sends packets.
fn queue_of(config: &TableConfig, queues: QueueRange) -> Queue {
    Queue { queues, bypass: config.fail_mode == FailMode::Open }
}

/// The queue in which packets of new ports wait.
fn port_queue_of(config: &TableConfig, origin: &OriginConfig) -> Queue {
    queue_of(config, QueueRange { first: origin.queue, count: 1 })
}

fn empty_chain(batch: &mut Batch, chain: &'static str) {
    batch.raw(Subject::plain(format!("emptying chain {chain}")), sys::NFT_MSG_DELRULE, 0, |rule| {
        rule.string(sys::NFTA_RULE_TABLE, TABLE).string(sys::NFTA_RULE_CHAIN, chain);
    });
}

fn library_table() -> rustables::Table {
    INET.library()
}

#[cfg(test)]
mod tests;
