//! Changes of an installed table: a new snapshot, new bindings of ports, the end of revalidation.

use std::collections::BTreeSet;
use std::time::Instant;

use ipnet::IpNet;
use policy::{Affected, Generation};

use super::error::TableError;
use super::handle::Table;
use super::open_addresses::OpenAddresses;
use super::origins::Origins;
use super::pod_cidrs::PodCidrs;
use super::revalidation;
use super::sets::Contents;
use super::verdict_cache;

impl Table {
    /// Sets where packets may come from as of the next [`Table::update`] or [`Table::update_origins`].
    /// Returns whether that differs from before.
    pub fn set_origins(&mut self, origins: Origins) -> bool {
        let Some(origin) = &mut self.origin else { return false };
        let is_changed = origin.wanted != origins;
        origin.wanted = origins;
        is_changed
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

    /// Updates the sets to these networks and addresses, as the snapshot of this generation requires, and
    /// invalidates cached verdicts of `affected` connections. Does so in one atomic batch that contains only
    /// the differences, after a batch for the networks if these differ. Sends nothing if nothing does.
    ///
    /// From then on, and until [`Table::end_revalidation`], packets from and to affected addresses are
    /// evaluated in both directions, those of established connections included. If all connections are
    /// affected, they are left to a sweep, and the pods under revalidation stay the same.
    ///
    /// Call this when no evaluation with an older snapshot is in flight: its verdict would be cached.
    ///
    /// # Errors
    /// [`TableError::Superseded`] if another agent has taken over, [`TableError::Missing`] if the rules are
    /// gone. After these and all other errors nothing but the networks was changed.
    pub fn update(
        &mut self,
        pod_cidrs: &[IpNet],
        open: &OpenAddresses,
        generation: Generation,
        affected: &Affected,
    ) -> Result<(), TableError> {
        self.update_pod_cidrs(PodCidrs::new(pod_cidrs))?;
        let revalidated = affected.addresses().unwrap_or_else(|| self.revalidated.clone());
        let mut cache = self.cache.next(generation, affected, Instant::now());
        cache.mark_changed(&revalidated, Instant::now());
        let wanted = Contents::new(open, cache.changed());
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
                verdict_cache::replace(&cache, batch);
            }
        })?;
        cache.mark_changed(&revalidated, Instant::now());
        (self.contents, self.cache, self.revalidated) = (wanted, cache, revalidated);
        Ok(())
    }

    /// Updates the sets of pod CIDRs, if they differ.
    fn update_pod_cidrs(&mut self, wanted: PodCidrs) -> Result<(), TableError> {
        if wanted != self.pod_cidrs {
            self.commit(|_, batch, _| wanted.fill(batch))?;
            self.pod_cidrs = wanted;
        }
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
    pub fn end_revalidation(&mut self) -> Result<(), TableError> {
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
    pub fn invalidate_cache(&mut self) -> Result<(), TableError> {
        self.commit(|_, batch, _| verdict_cache::invalidate(batch))
    }
}
