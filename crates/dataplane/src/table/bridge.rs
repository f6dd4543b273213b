//! The table `bridge kube-verdict`: checks that a frame comes from the pod behind the port where it enters,
//! and leaves by the port behind which its destination is.
//!
//! ```text
//!  hook         chain (priority)    before br_netfilter (0) passes the packet to the inet hooks
//!  prerouting   prerouting (-300)   source:       bound4, bound6 (maps)  -> one of the chains below
//!  forward      forward (filter)    destination:  deliver4, deliver6     -> accept
//!                                   multicast to open-ports only
//!  input        input (filter)      drops frames to Ethernet's link-local groups, which meet no other chain
//!
//!  isolated4, isolated6           of a pod that isolates egress: no multicast, broadcast, link-local
//!  open4, open6                   of a pod that does not
//!  link-local-...                 from a link-local source: only to link-local and multicast destinations
//!  icmp-errors, icmpv6-messages   restrict errors and neighbour discovery
//!  unmatched                      ARP, unspecified sources, exempt pods, new ports; other frames are forged
//! ```
//!
//! A packet of a new port continues with a mark. By that mark the inet table's chain `prerouting` sends it to
//! userspace, where it waits until the port is bound (`ports::PortQueue`). Not every kernel can queue from
//! the bridge family itself.
//!
//! The common case is one chain with one lookup at each of prerouting and forward. A key is the port, the
//! frame's source and protocol, and the address. The protocol is read from the frame, so that a VLAN tag is
//! seen. Unbound ports and unknown bridges match nothing, so unknown traffic does not pass.
//!
//! Rules are written once, at installation. Afterwards only the sets' elements change. They may change
//! between two lookups for one frame, so a rule that drops an address bound to another port checks last
//! whether it is bound to this port.

mod available;
mod contents;
mod matches;
mod names;
mod rules;
mod senders;
mod sets;
mod table_id;

use rustables::{Chain, ChainPolicy, ChainType, Hook, HookClass, MsgType, sys};

pub(super) use self::available::{BridgeFamily, has_bridge_family};
pub(super) use self::contents::{BridgeContents, read_bindings};
pub(super) use self::names::DROPS;
use self::names::{CHAINS, FORWARD, INPUT, PREROUTING};
pub(super) use self::rules::BridgeRules;
use self::sets::SETS;
pub(super) use self::table_id::TABLE;
use crate::nft::batch::{Batch, Subject};
use crate::nft::rule::Rule;

/// `NF_BR_PRI_FILTER_BRIDGED`.
const FILTER: i32 = -200;
/// Before br_netfilter (`NF_BR_PRI_BRNF`, 0) and ebtables' nat (-300) and filter alike.
const FIRST: i32 = -300;

impl BridgeRules {
    /// Creates the table, chains and sets if they don't exist, and writes all rules again.
    pub(super) fn install(&self, contents: &BridgeContents, batch: &mut Batch) {
        let table = TABLE.library();
        let awake = TABLE.library().with_flags(0_u32);
        batch.library(Subject::plain(format!("table {TABLE}")), |library| library.add(&awake, MsgType::Add));
        for (name, class, priority) in [
            (PREROUTING, HookClass::PreRouting, FIRST),
            (FORWARD, HookClass::Forward, FILTER),
            (INPUT, HookClass::In, FILTER),
        ] {
            let chain = Chain::new(&table)
                .with_name(name)
                .with_hook(Hook::new(class, priority))
                .with_type(ChainType::Filter)
                .with_policy(ChainPolicy::Accept);
            batch.library(Subject::plain(format!("chain {name} of table {TABLE}")), |library| {
                library.add(&chain, MsgType::Add);
            });
        }
        for name in CHAINS.into_iter().chain(DROPS.chains()) {
            let chain = Chain::new(&table).with_name(name);
            batch.library(Subject::plain(format!("chain {name} of table {TABLE}")), |library| {
                library.add(&chain, MsgType::Add);
            });
        }
        SETS.iter().for_each(|set| set.create(batch));
        DROPS.create(batch);
        let subject = Subject::plain(format!("removal of the old rules of table {TABLE}"));
        batch.raw_in(TABLE.family, subject, sys::NFT_MSG_DELRULE, 0, |rule| {
            rule.string(sys::NFTA_RULE_TABLE, TABLE.name);
        });
        contents.fill(batch);
        self.rules().iter().for_each(|rule| rule.add_to(TABLE, batch));
    }

    fn rules(&self) -> Vec<Rule> {
        let mut rules = self.prerouting();
        rules.extend(self.forward());
        rules.extend(self.input());
        rules.extend(senders::bound());
        rules.extend(senders::icmp_messages());
        rules.extend(senders::unmatched(&self.marks));
        rules.extend(senders::exempt());
        rules.extend(senders::unspecified());
        rules.extend(DROPS.rules(self.log_group));
        rules
    }
}
