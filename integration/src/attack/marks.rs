//! Packet and connection marks that other programs on the node set: only the agent's own marks may act as
//! verdicts.

use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;

use super::case::Case;
use super::frame;
use super::message::{self, flag};
use super::packet::packet;
use super::suite::Suite;
use super::wire;
use crate::command::nft;
use crate::probe::Family;

/// Longer than a verdict takes, so that no packet reaches the rules of the next test.
const VERDICT: Duration = Duration::from_millis(40);

/// Rules that change marks, and their descriptions.
const RULES: [(&str, &str); 5] = [
    ("each connection mark is saved in whole", "ct mark set meta mark"),
    ("each packet mark is restored in whole", "meta mark set ct mark"),
    ("both, saved first", "ct mark set meta mark meta mark set ct mark"),
    ("the packet mark is set to all bits", "meta mark set 0xffffffff"),
    (
        "the packet mark is set and saved in whole",
        "meta mark set meta mark or 0xff000000 ct mark set meta mark",
    ),
];

/// The hooks of such rules: before an incoming packet's verdict, and just before the agent's own chain.
const HOOKS: [&str; 2] = ["prerouting priority mangle", "postrouting priority mangle"];

/// All attempts.
pub fn all(suite: &mut Suite) {
    let bits = (24..32).map(|bit| {
        let bit = 1_u32 << bit;
        (format!("bit {bit:#010x} of the packet mark"), format!("meta mark set meta mark or {bit:#010x}"))
    });
    let others = RULES.iter().map(|(what, rule)| ((*what).to_owned(), (*rule).to_owned()));
    for (what, rule) in bits.chain(others) {
        for hook in HOOKS {
            under_a_rule(suite, &what, &rule, hook);
        }
    }
}

/// Sends packets that policy denies while another program's rule sets marks.
fn under_a_rule(suite: &mut Suite, what: &str, rule: &str, hook: &str) {
    let foreign = format!("table inet foreign {{\nchain c {{\ntype filter hook {hook};\n{rule}\n}}\n}}\n");
    let load = |suite: &Suite, rules: &str| -> Result<()> {
        nft(suite.scenario.testbed.namespace("node-a")?, rules)
    };
    let loaded = load(suite, &foreign);
    let name = hook.split(' ').next().unwrap_or_default();
    if loaded.is_err() {
        suite.record_allowed(Case::new(format!("{what} in {name}"), "evil/a", "victim/v"), loaded);
        return;
    }
    for family in Family::BOTH {
        for (from, to) in [("evil/a", "victim/v"), ("closed/c", "open/p")] {
            for protocol in ["UDP", "TCP"] {
                let case = Case::new(format!("{protocol} while {what} in {name}"), from, to).family(family);
                suite.attempt(case, |context, mark| {
                    let topology = context.topology;
                    let path = topology.path(from, to, family);
                    let message = match protocol {
                        "UDP" => message::udp(path, mark.ports(), &mark.bytes()),
                        _ => message::tcp(path, mark.ports(), flag::SYN, (1, 0), &mark.bytes()),
                    };
                    let packet = packet(path, &message);
                    let frame = frame::of_packet(topology.next_hop(from, to), topology[from].mac(), &packet);
                    // Sent twice, since the first creates a conntrack entry.
                    let frames = [frame.clone(), frame];
                    wire::send_frames(context.testbed.namespace(from)?, &topology[from].interface, &frames)
                });
            }
        }
    }
    sleep(VERDICT);
    if let Err(error) = load(suite, "delete table inet foreign\n") {
        suite.record_allowed(Case::new(format!("{what} in {name}"), "evil/a", "victim/v"), Err(error));
    }
}
