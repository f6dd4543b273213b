//! The table in the kernel: what this agent wrote, and how it commits changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use nix::errno::Errno;

use super::bridge::{self, BridgeContents, BridgeFamily, has_bridge_family};
use super::chains;
use super::config::TableConfig;
use super::error::TableError;
use super::installed_rules::{self, InstalledRules};
use super::names::{INET, NFQUEUE};
use super::objects::empty_chain;
use super::origin::{self, OriginContents};
use super::origins::Origins;
use super::pod_cidrs::PodCidrs;
use super::quota;
use super::sets::Contents;
use super::socket::open;
use super::verdict_cache::VerdictCache;
use crate::drops::DropCounts;
use crate::netlink::Socket;
use crate::nft::batch::{Batch, Refusal};
use crate::nft::queue::{Queue, QueueForm};
use crate::nft::rule::Rule;
use crate::ports::{Bindings, InterfaceIndex};
use crate::queues::QueueRange;

/// How often a change is tried again because another process changed the ruleset meanwhile.
pub(super) const TRIES: usize = 64;

/// The table in the kernel, as this agent wrote it. Dropping this value leaves the rules in place: stopping
/// an agent never removes them.
#[derive(Debug)]
pub struct Table {
    /// Kept for the life of the table: see [`Batch::commit`].
    pub(super) socket: Socket,
    pub(super) queues: QueueRange,
    pub(super) form: QueueForm,
    /// `None` if the kernel can't have table `bridge`, or if sources are not checked.
    pub(super) bridge: Option<BridgeFamily>,
    pub(super) config: TableConfig,
    /// What the sets of pod CIDRs contain in the kernel.
    pub(super) pod_cidrs: PodCidrs,
    /// What the sets about pods contain in the kernel.
    pub(super) contents: Contents,
    /// The state of the verdict cache in the kernel.
    pub(super) cache: VerdictCache,
    /// Pods whose packets the rules evaluate again until a sweep has evaluated all connections. Invariant:
    /// equals the kernel's set of pods under revalidation.
    pub(super) revalidated: BTreeSet<IpAddr>,
    /// What the kernel's tables contain about ports; `None` if sources are not checked.
    pub(super) origin: Option<Origin>,
    /// Whether the kernel can remove elements from a set whether or not they exist (since Linux 6.3).
    pub(super) destroys: bool,
}

/// Where packets may come from: the current content of the kernel's sets, and the wanted one.
#[derive(Debug)]
pub(super) struct Origin {
    /// The content for the next batch.
    pub(super) wanted: Origins,
    /// What the sets of table `inet` contain in the kernel.
    pub(super) inet: OriginContents,
    /// What the sets of table `bridge` contain; `None` if the kernel can't have that table.
    pub(super) bridge: Option<BridgeContents>,
    /// The pods' bridges that the rules in the kernel name.
    pub(super) bridges: BTreeSet<InterfaceIndex>,
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

    /// The form of the queue rules that the kernel supports.
    pub fn form(&self) -> QueueForm {
        self.form
    }

    /// The queues to which this agent's rules send packets.
    pub fn queues(&self) -> QueueRange {
        self.queues
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
    pub fn queued_by_sender(&mut self) -> Result<BTreeMap<IpAddr, u64>, TableError> {
        quota::read_queued(&mut self.socket).map_err(TableError::from_reading)
    }
}

/// For the changes of the table in other files.
impl Table {
    /// The wanted content of the sets of ports.
    pub(super) fn wanted_origins(&self) -> Option<(OriginContents, Option<BridgeContents>)> {
        let Origin { wanted, bridge, .. } = self.origin.as_ref()?;
        let contents = || BridgeContents::new(wanted);
        Some((OriginContents::new(wanted), bridge.is_some().then(contents)))
    }

    pub(super) fn holds(&self, (inet, bridge): &(OriginContents, Option<BridgeContents>)) -> bool {
        self.origin.as_ref().is_none_or(|origin| origin.inet == *inet && origin.bridge == *bridge)
    }

    /// [`Table::commit`], with the sets of ports updated in the same batch.
    pub(super) fn commit_all(&mut self, fill: impl Fn(&Self, &mut Batch, bool)) -> Result<(), TableError> {
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
    pub(super) fn commit(&mut self, fill: impl Fn(&Self, &mut Batch, bool)) -> Result<(), TableError> {
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
    pub(super) fn rewrite(&self, cache: &VerdictCache, revalidating: bool, batch: &mut Batch) {
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
