//! Where packets enter: the chain `prerouting` of table `inet kube-verdict`, and what it shares with the
//! bridge table.
//!
//! ```text
//!  prerouting (-450)        before reassembly of fragments (-400), which netfilter does by addresses and
//!                           identifier only, and before connection tracking (-200), so a forged packet
//!                           changes no entry
//!    from the pods' bridge                 the bridge table has checked it: accept
//!    from a veth device       --goto-->    from-port       the source is bound to the port (CNI plugin
//!                                                          ptp), or the packet waits for a binding, or it
//!                                                          is forged
//!    from elsewhere           --goto-->    from-elsewhere  not with an address of the node or of its pods
//! ```
//!
//! A frame to one of Ethernet's link-local groups (01:80:c2:00:00:0x) bypasses the bridge and is received at
//! the port itself. At these hooks it is a packet of a bridged port, and is dropped.

mod contents;
mod names;
mod rules;
mod sets;

pub(super) use self::contents::{OriginContents, read_bindings};
use self::names::CHAINS;
pub(super) use self::names::{BEFORE_DEFRAGMENTATION, DROPS, NFQUEUE, PREROUTING};
pub(super) use self::rules::prerouting_rules;
use self::sets::SETS;
pub(super) use self::sets::{
    FORGEABLE_PORTS, FORGEABLE_PROTOCOLS, OVERLAY_DEVICES, OVERLAY_PORTS, OVERLAY_PROTOCOLS, POD_BRIDGES,
    SETTLED,
};
use crate::nft::batch::Batch;
use crate::nft::queue::{Queue, QueueForm};
use crate::nft::rule::Rule;

/// The names of the regular chains.
pub(super) fn regular_chains() -> impl Iterator<Item = &'static str> {
    CHAINS.into_iter().chain(DROPS.chains())
}

/// Creates the sets if they don't exist.
pub(super) fn create_sets(batch: &mut Batch) {
    SETS.iter().for_each(|set| set.create(batch));
    DROPS.create(batch);
}

/// The rules of all chains except [`PREROUTING`], written once. Examples of dropped packets go to
/// `log_group`.
pub(super) fn rules(queue: Queue, form: QueueForm, log_group: Option<u16>) -> Vec<Rule> {
    let mut rules = rules::rules(queue, form);
    rules.extend(DROPS.rules(log_group));
    rules
}
