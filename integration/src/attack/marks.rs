//! Marks of packets and connections that others on the node set: no mark is a verdict but the agent's own.

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

/// Longer than a verdict takes, so that no packet meets the next rule.
const VERDICT: Duration = Duration::from_millis(40);

/// Rules about marks, in words.
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

/// Where such rules stand: before the verdict on a packet that enters, and just before the agent's own chain.
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

/// Sends what policy denies while another program's rule sets marks.
fn under_a_rule(suite: &mut Suite, what: &str, rule: &str, hook: &str) {
    let foreign = format!("table inet foreign {{\nchain c {{\ntype filter hook {hook};\n{rule}\n}}\n}}\n");
    let load = |suite: &Suite, rules: &str| -> Result<()> {
        nft(suite.scenario.testbed.namespace("node-a")?, rules)
    };
    let loaded = load(suite, &foreign);
    let name = hook.split(' ').next().unwrap_or_default();
    if loaded.is_err() {
        suite.note_allowed(Case::new(format!("{what} in {name}"), "evil/a", "victim/v"), loaded);
        return;
    }
    for family in Family::BOTH {
        for (from, to) in [("evil/a", "victim/v"), ("closed/c", "open/p")] {
            for protocol in ["UDP", "TCP"] {
                let case = Case::new(format!("{protocol} while {what} in {name}"), from, to).family(family);
                suite.attempt(case, |means, mark| {
                    let field = means.field;
                    let path = field.path(from, to, family);
                    let message = match protocol {
                        "UDP" => message::udp(path, mark.ports(), &mark.bytes()),
                        _ => message::tcp(path, mark.ports(), flag::SYN, (1, 0), &mark.bytes()),
                    };
                    let packet = packet(path, &message);
                    let frame = frame::of_packet(field.next_hop(from, to), field[from].mac(), &packet);
                    // Once more, after the first has made an entry.
                    let frames = [frame.clone(), frame];
                    wire::send_frames(means.testbed.namespace(from)?, &field[from].interface, &frames)
                });
            }
        }
    }
    sleep(VERDICT);
    if let Err(error) = load(suite, "delete table inet foreign\n") {
        suite.note_allowed(Case::new(format!("{what} in {name}"), "evil/a", "victim/v"), Err(error));
    }
}
