//! Puts a snapshot in force: the end of a policy's life.
//!
//! From: the compiler. To: workers, rules and connections. Invariant: once [`Engine::put_in_force`] has returned, nothing passes on
//! this node that the snapshot denies, on new connections or old.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use dataplane::conntrack::{Conntrack, ConntrackError};
use dataplane::marks::Marks;
use dataplane::sweep::{LocalAddresses, Scope, SweepReport, sweep, sweep_after_rules_changed, sweep_scope};
use dataplane::table::{OpenAddresses, Table, TableError};
use dataplane::workers::Holders;
use ipnet::IpNet;
use policy::published::Grace;
use policy::{Direction, Published, Snapshot};

/// How long to sleep between two looks at workers that are inside a verdict; a verdict takes some microseconds.
const GRACE_POLL: Duration = Duration::from_micros(50);

/// No verdict takes so long: a worker that is still inside then is not coming back.
const GRACE_LIMIT: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub struct Engine {
    published: Arc<Published>,
    /// Workers whose packets wait for a snapshot that knows more.
    holders: Holders,
    table: Table,
    conntrack: Conntrack,
    marks: Marks,
    /// Whether every connection is judged, even where no policy applies, so that it is recorded.
    record_open: bool,
    /// What passes the rules without a verdict now.
    unjudged: Unjudged,
}

/// A snapshot that is not, or not wholly, in force. What was in force before may be so still; trying again is safe.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A worker does not finish.
    #[error("a worker has been at one verdict for {} seconds: start the agent anew", GRACE_LIMIT.as_secs())]
    Grace,
    /// The rules' sets.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The connections.
    #[error(transparent)]
    Conntrack(#[from] ConntrackError),
    /// The node's own addresses.
    #[error("cannot list this node's own addresses: {0}")]
    LocalAddresses(io::Error),
}

/// What it took to put a snapshot in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Applied {
    /// What became of the connections; both passes together.
    pub swept: SweepReport,
    /// Waiting for verdicts under way.
    pub grace: Duration,
    /// Bringing the rules' sets up to date.
    pub table: Duration,
    /// From publication until now.
    pub whole: Duration,
}

impl Engine {
    /// Over rules that are installed with what `published` holds now. Connections are not adopted yet:
    /// [`Engine::put_in_force`] does that.
    pub fn new(
        published: Arc<Published>,
        holders: Holders,
        table: Table,
        conntrack: Conntrack,
        marks: Marks,
        record_open: bool,
    ) -> Self {
        // Before the rules were installed everything passed.
        Self { published, holders, table, conntrack, marks, record_open, unjudged: Unjudged::Everything }
    }

    /// Publish, grace, rules, sweep. `first` are the pods whose connections are looked at before all others.
    pub fn put_in_force(
        &mut self,
        next: &Arc<Snapshot>,
        first: &[(Direction, IpAddr)],
    ) -> Result<Applied, EngineError> {
        let started = Instant::now();
        // 1. From here on every verdict that begins follows `next`...
        let mut grace = self.published.publish(Arc::clone(next));
        self.holders.wake();
        // 2. ... and from here on no verdict of an older snapshot reaches the kernel any more.
        wait_for(&mut grace, started)?;
        let graced = Instant::now();
        // 3. Packets of pods that are open no longer come to the workers from here on.
        let narrowed = self.update_rules(next)?;
        let updated = Instant::now();
        // 4. Connections that got in before are judged again.
        let swept = self.sweep(next, narrowed, first)?;
        Ok(Applied { swept, grace: graced - started, table: updated - graced, whole: started.elapsed() })
    }

    /// Lets verdicts follow `next`, and changes nothing else.
    pub fn publish(&self, next: &Arc<Snapshot>) {
        // No one waits: what an older verdict allowed is for whoever changes the rules to look at.
        drop(self.published.publish(Arc::clone(next)));
        self.holders.wake();
    }

    /// The rules.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Goes on with rules that were written anew, since someone had deleted the old ones: everything passed meanwhile.
    pub fn replace_table(&mut self, table: Table) {
        self.table = table;
        self.unjudged = Unjudged::Everything;
    }

    /// Whether the rules let less pass unjudged than before.
    fn update_rules(&mut self, next: &Snapshot) -> Result<bool, TableError> {
        let open = open_addresses(next, self.record_open);
        let pod_cidrs = next.pod_cidrs();
        self.table.update(pod_cidrs, &open)?;
        let narrowed = self.unjudged.narrows_to(pod_cidrs, &open);
        self.unjudged = Unjudged::Only { pod_cidrs: pod_cidrs.to_vec(), open };
        Ok(narrowed)
    }

    /// The pods of `first`, then all. Where the rules let less pass than before, packets that passed the older ones may have
    /// had no connection yet: the longer sweep looks at those, too.
    fn sweep(
        &mut self,
        snapshot: &Snapshot,
        narrowed: bool,
        first: &[(Direction, IpAddr)],
    ) -> Result<SweepReport, EngineError> {
        let started = Instant::now();
        let local = LocalAddresses::read().map_err(EngineError::LocalAddresses)?;
        let (revoked, restored) = self.sweep_pods(snapshot, &local, first)?;
        let sweep = if narrowed { sweep_after_rules_changed } else { sweep };
        let all = sweep(&mut self.conntrack, snapshot, &self.marks, &local)?;
        Ok(SweepReport {
            revoked: all.revoked + revoked,
            restored: all.restored + restored,
            elapsed: started.elapsed(),
            ..all
        })
    }

    /// Each of these pods on a thread of its own: whatever a pass finds, it is a walk through the kernel's whole table.
    /// Returns how many connections were revoked, and how many restored.
    fn sweep_pods(
        &self,
        snapshot: &Snapshot,
        local: &LocalAddresses,
        pods: &[(Direction, IpAddr)],
    ) -> Result<(u64, u64), ConntrackError> {
        let sweep_pod = |direction, address| {
            let scope = Scope::Pod(direction, address);
            sweep_scope(&mut Conntrack::open()?, snapshot, &self.marks, local, scope)
        };
        thread::scope(|threads| {
            let passes: Vec<_> = pods
                .iter()
                .map(|&(direction, address)| threads.spawn(move || sweep_pod(direction, address)))
                .collect();
            passes.into_iter().try_fold((0, 0), |(revoked, restored), pass| {
                let swept = pass.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                Ok((revoked + swept.revoked, restored + swept.restored))
            })
        })
    }
}

/// Addresses whose packets need no verdict, as the rules' sets hold them.
pub fn open_addresses(snapshot: &Snapshot, record_open: bool) -> OpenAddresses {
    let open = |direction| match record_open {
        true => BTreeSet::new(),
        false => snapshot.open_addresses(direction).collect(),
    };
    OpenAddresses { ingress: open(Direction::Ingress), egress: open(Direction::Egress) }
}

fn wait_for(grace: &mut Grace, started: Instant) -> Result<(), EngineError> {
    while !grace.over() {
        if started.elapsed() > GRACE_LIMIT {
            return Err(EngineError::Grace);
        }
        thread::sleep(GRACE_POLL);
    }
    Ok(())
}

/// What the rules in the kernel let pass without a verdict.
#[derive(Debug)]
enum Unjudged {
    Everything,
    Only { pod_cidrs: Vec<IpNet>, open: OpenAddresses },
}

impl Unjudged {
    /// Whether anything that passes now would not under these sets.
    fn narrows_to(&self, pod_cidrs: &[IpNet], open: &OpenAddresses) -> bool {
        let Self::Only { pod_cidrs: before, open: open_before } = self else { return true };
        let lost = |before: &BTreeSet<IpAddr>, now: &BTreeSet<IpAddr>| !before.is_subset(now);
        // A CIDR that is new holds addresses that passed as foreign ones until now.
        pod_cidrs.iter().any(|cidr| !before.contains(cidr))
            || lost(&open_before.ingress, &open.ingress)
            || lost(&open_before.egress, &open.egress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(addresses: &[&str]) -> BTreeSet<IpAddr> {
        addresses.iter().map(|address| address.parse().expect("address")).collect()
    }

    #[test]
    fn a_second_look_is_needed_only_where_less_passes_unjudged() {
        let cidr: Vec<IpNet> = vec!["10.0.0.0/24".parse().expect("CIDR")];
        let open =
            |ingress: &[&str], egress: &[&str]| OpenAddresses { ingress: set(ingress), egress: set(egress) };
        let before =
            Unjudged::Only { pod_cidrs: cidr.clone(), open: open(&["10.0.0.2", "10.0.0.3"], &["10.0.0.2"]) };
        assert!(Unjudged::Everything.narrows_to(&cidr, &open(&["10.0.0.2"], &[])), "at the start");
        assert!(
            !before.narrows_to(&cidr, &open(&["10.0.0.2", "10.0.0.3"], &["10.0.0.2"])),
            "nothing changed"
        );
        assert!(
            !before.narrows_to(&cidr, &open(&["10.0.0.2", "10.0.0.3", "10.0.0.4"], &["10.0.0.2"])),
            "one more is open"
        );
        assert!(before.narrows_to(&cidr, &open(&["10.0.0.2"], &["10.0.0.2"])), "one less for ingress");
        assert!(
            before.narrows_to(&cidr, &open(&["10.0.0.2", "10.0.0.3"], &["10.0.0.3"])),
            "another for egress"
        );
        let wider: Vec<IpNet> = vec![cidr[0], "10.0.1.0/24".parse().expect("CIDR")];
        assert!(before.narrows_to(&wider, &open(&["10.0.0.2", "10.0.0.3"], &["10.0.0.2"])), "one more CIDR");
    }
}
