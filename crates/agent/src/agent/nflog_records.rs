//! The state of recording by NFLOG.

use audit::Recorder;
use dataplane::cache_log::CacheLog;
use dataplane::table::CacheCounters;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct NflogRecords {
    /// `None` if nothing is recorded, or if the group can't be bound.
    pub(super) log: Option<CacheLog>,
    /// The group to which the rules in the kernel log.
    pub(super) group: Option<u16>,
    /// Counts connections as lost while the group can't be bound.
    pub(super) lost: Option<Recorder>,
    counters: Option<CacheCounters>,
    /// How many connections the kernel had allowed from its cache at the last count.
    counted: u64,
}

impl NflogRecords {
    /// The group to which the rules must log: the configured one if it is bound.
    pub(super) fn group(&self, wanted: Option<u16>) -> Option<u16> {
        wanted.filter(|_| self.log.is_some())
    }

    /// Call this before the rules are installed: another agent records what the kernel has counted before.
    pub(super) fn begin(&mut self) {
        self.count();
    }

    /// Sets the group to which the rules in the kernel log.
    pub(super) fn rules_log_to(&mut self, group: Option<u16>) {
        self.group = group;
    }

    /// Stops listening, after receiving the messages in flight.
    pub(super) fn end(&mut self) {
        *self = Self::default();
    }

    /// How many connections the kernel has allowed from its cache since the last call; 0 if that can't be
    /// read.
    pub(super) fn count(&mut self) -> u64 {
        if self.counters.is_none() {
            self.counters = CacheCounters::open().ok();
        }
        let Some(count) = self.counters.as_mut().and_then(|counters| counters.count().ok()) else { return 0 };
        // The counter of a table that was deleted and restored starts at zero.
        let before = std::mem::replace(&mut self.counted, count);
        if count < before { count } else { count - before }
    }
}
