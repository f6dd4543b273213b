//! Writes the whole table: at the start, in a takeover, and after another program changed it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Instant, SystemTime};

use rustables::MsgType;

use super::bridge::{self, BridgeContents, BridgeFamily, BridgeRules};
use super::chains;
use super::config::{OriginConfig, TableConfig};
use super::error::TableError;
use super::handle::{Origin, TRIES, Table};
use super::installed_rules::{self, InstalledRules, read_generation};
use super::names::{INET, NFQUEUE};
use super::objects::{add_base_chain, add_regular_chain, add_table, empty_chain, remove_rules};
use super::origin::{self, OriginContents};
use super::pod_cidrs::PodCidrs;
use super::queue_form::available_form;
use super::queues::{port_queue_of, queue_of};
use super::sets::Contents;
use super::socket::open;
use super::verdict_cache::{self, VerdictCache};
use super::{quota, revalidation, revoked};
use crate::nft::batch::{Batch, Refusal, Subject};
use crate::nft::queue::{Queue, QueueForm};
use crate::queues::QueueRange;

/// How often the sets of pod CIDRs are written before the rules, at most. They are read before each time, but
/// a kernel might show intervals in another form than the one in which they were sent.
const POD_CIDR_WRITES: usize = 3;

impl Table {
    /// Writes the table, its chains, sets and rules in one atomic batch. If the sets of pod CIDRs differ,
    /// they are written in a batch before that one. Creates what is missing, rewrites rules and sets, and
    /// leaves existing chains in place. The same call serves the first start, a restart over the table of a
    /// dead agent, an upgrade with other marks or flags, and a live takeover. The queues must be ready before
    /// the call, since packets arrive at once.
    ///
    /// Pods under revalidation by the rules in the kernel stay so until [`Table::end_revalidation`]. The
    /// previous agent may have ended before the sweep that marks the connections cut by its last change.
    ///
    /// # Errors
    /// [`TableError`]: no rule was changed.
    pub fn install(mut config: TableConfig, queues: QueueRange) -> Result<Self, TableError> {
        config.marks = config.marks.for_queues(queues);
        let mut socket = open()?;
        let form = available_form(&mut socket)?;
        let bridge = match &config.origin {
            Some(_) => BridgeFamily::available(&mut socket)?,
            None => None,
        };
        let pod_cidrs = PodCidrs::new(&config.pod_cidrs);
        let mut writes = 0;
        for _ in 0..TRIES {
            let generation = read_generation(&mut socket)?;
            if writes < POD_CIDR_WRITES {
                match pod_cidrs.write(&mut socket, generation) {
                    Ok(false) => {}
                    Ok(true) => {
                        writes += 1;
                        continue;
                    }
                    Err(Refusal::Outdated) => continue,
                    Err(refusal) => return Err(refusal.into()),
                }
            }
            let revalidated = revalidation::read_pods(&mut socket)?;
            let written = Installation { queues, form, bridge, revalidated: &revalidated };
            let (batch, (contents, cache, origin)) = installation(&config, &written, &BTreeSet::new());
            // The previous agent may add pods meanwhile. Then the set is read again.
            match batch.commit(&mut socket, Some(generation)) {
                Ok(()) => {
                    return Ok(Self {
                        socket,
                        queues,
                        form,
                        bridge,
                        config,
                        pod_cidrs,
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
    /// Existing objects are replaced as by [`Table::install`], and queued packets stay queued. All cached
    /// verdicts are invalidated. Pods under revalidation stay so. Returns the generation of the ruleset that
    /// was replaced: all changes up to it are undone
    /// ([`ForeignChange::is_undone_by`](super::ForeignChange::is_undone_by)).
    ///
    /// # Errors
    /// [`TableError::Superseded`] if another agent has taken over. After this and any other error no rule was
    /// changed.
    pub fn restore(&mut self, mut config: TableConfig) -> Result<u32, TableError> {
        config.marks = config.marks.for_queues(self.queues);
        let pod_cidrs = PodCidrs::new(&config.pod_cidrs);
        let (mut writes, mut is_replaced) = (0, false);
        for _ in 0..TRIES {
            let in_force = InstalledRules::read(&mut self.socket)?;
            if let Some((Queue { queues, .. }, _)) = in_force.queue
                && queues != self.queues
            {
                return Err(TableError::Superseded(queues));
            }
            let changed = match writes < POD_CIDR_WRITES {
                true => pod_cidrs.write(&mut self.socket, in_force.generation),
                false => Ok(false),
            };
            let written = match changed {
                Ok(true) => {
                    writes += 1;
                    continue;
                }
                Ok(false) => {
                    let kept = self.intact_queue_chains(&config)?;
                    self.install_again(&config, &kept, in_force.generation)
                }
                Err(refusal) => Err(refusal),
            };
            match written {
                Ok((contents, cache, origin)) => {
                    (self.config, self.pod_cidrs, self.contents) = (config, pod_cidrs, contents);
                    (self.cache, self.origin) = (cache, origin);
                    return Ok(in_force.generation);
                }
                Err(Refusal::Outdated) => {}
                // Another program has created an object of the same name and another kind. Deleting base
                // chains drops queued packets, but without this agent's rules nothing is enforced anyway.
                Err(Refusal::Message(..)) if !is_replaced => {
                    let mut batch = Batch::default();
                    delete_tables(self.bridge.is_some(), &mut batch);
                    pod_cidrs.create(&mut batch);
                    is_replaced = match batch.commit(&mut self.socket, Some(in_force.generation)) {
                        Ok(()) => true,
                        Err(Refusal::Outdated) => false,
                        Err(refusal) => return Err(refusal.into()),
                    };
                }
                Err(refusal) => return Err(refusal.into()),
            }
        }
        Err(TableError::Unquiet)
    }

    /// Writes everything but the sets of pod CIDRs and the rules of the `kept` chains, if the ruleset still
    /// has this generation.
    fn install_again(
        &mut self,
        config: &TableConfig,
        kept: &BTreeSet<&str>,
        generation: u32,
    ) -> Result<Installed, Refusal> {
        let Self { queues, form, bridge, ref revalidated, .. } = *self;
        let (batch, installed) =
            installation(config, &Installation { queues, form, bridge, revalidated }, kept);
        batch.commit(&mut self.socket, Some(generation))?;
        Ok(installed)
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
}

/// What an installation depends on besides the configuration.
pub(super) struct Installation<'a> {
    pub(super) queues: QueueRange,
    pub(super) form: QueueForm,
    pub(super) bridge: Option<BridgeFamily>,
    /// The pods under revalidation.
    pub(super) revalidated: &'a BTreeSet<IpAddr>,
}

/// What the sets and chains contain after an installation.
type Installed = (Contents, VerdictCache, Option<Origin>);

/// Everything that an installation writes, except the sets of pod CIDRs and the rules of the `kept` chains.
fn installation(
    config: &TableConfig,
    written: &Installation<'_>,
    kept: &BTreeSet<&str>,
) -> (Batch, Installed) {
    let mut cache = VerdictCache::new(config, SystemTime::now());
    cache.mark_changed(written.revalidated, Instant::now());
    let contents = Contents::new(&config.open, cache.changed());
    let mut batch = install_batch(config, &contents, &cache, written, kept);
    let parts = (written.form, written.bridge);
    let install = |origin| install_origin(origin, config, parts, kept, &mut batch);
    let origin = config.origin.as_ref().map(install);
    (batch, (contents, cache, origin))
}

pub(super) fn install_batch(
    config: &TableConfig,
    contents: &Contents,
    cache: &VerdictCache,
    &Installation { queues, form, revalidated, .. }: &Installation<'_>,
    kept: &BTreeSet<&str>,
) -> Batch {
    let mut batch = Batch::default();
    add_table(&mut batch);
    for chain in chains::base_chains(config.prerouting_dns) {
        add_base_chain(&mut batch, chain);
    }
    for name in chains::regular_chains() {
        add_regular_chain(&mut batch, name);
    }
    if config.origin.is_some() {
        add_base_chain(&mut batch, chains::prerouting());
    }
    for name in origin::regular_chains() {
        add_regular_chain(&mut batch, name);
    }
    Contents::create(&mut batch);
    verdict_cache::create(&mut batch);
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
