//! A minimal ruleset that sends packets to workers: one rule queues all packets at one hook that have no
//! verdict yet.

use std::io::Write;
use std::process::{Command, Stdio};

use dataplane::netlink::{ACK, APPEND, CREATE, Header, Messages, REQUEST, Socket};
use dataplane::queues::QueueRange;

const NFPROTO_INET: u8 = 1;
const NFT_MSG_NEWRULE: u16 = 10 << 8 | 6;
const NFT_MSG_DELRULE: u16 = 10 << 8 | 8;

/// Creates the table `t` with the empty chain `workers`, to which all packets at `hook` go except those that
/// were reinjected as allowed. The later chain `after` has these rules.
pub(crate) fn create_chains(hook: &str, after: &[&str]) {
    let rules = "meta mark & 0x01000000 != 0 accept\njump workers";
    let mut text = format!(
        "table inet t {{\nchain workers {{ }}\nchain evaluate {{ type filter hook {hook} priority \
         95;\n{rules}\n}}\n"
    );
    text += &format!("chain after {{ type filter hook {hook} priority 96;\n{}\n}}\n}}\n", after.join("\n"));
    let mut nft =
        Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft is installed");
    nft.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success(), "nft refused:\n{text}");
}

/// Makes the chain `workers` send all packets to these queues, by core. With `None` packets pass without a
/// queue. The change is atomic: no packet sees the chain empty.
pub(crate) fn queue_to(queues: Option<QueueRange>) {
    let mut socket = Socket::open().unwrap();
    let mut messages = Messages::default();
    let delete = socket.next_sequence();
    messages.push(
        Header { kind: NFT_MSG_DELRULE, flags: REQUEST | ACK, sequence: delete, family: NFPROTO_INET },
        |rule| {
            rule.string(1, "t").string(2, "workers");
        },
    );
    let mut last = delete;
    if let Some(queues) = queues {
        last = socket.next_sequence();
        let flags = REQUEST | ACK | CREATE | APPEND;
        messages.push(
            Header { kind: NFT_MSG_NEWRULE, flags, sequence: last, family: NFPROTO_INET },
            |rule| {
                rule.string(1, "t").string(2, "workers").nested(4, |expressions| {
                    expressions.nested(1, |expression| {
                        expression.string(1, "target").nested(2, |target| {
                            // struct xt_NFQ_info_v3, padded: first queue, how many, flags (2: by core).
                            let words = [queues.first.0, queues.count, 2, 0];
                            let info: Vec<u8> = words.into_iter().flat_map(u16::to_ne_bytes).collect();
                            target.string(1, "NFQUEUE").be32(2, 3).bytes(3, &info);
                        });
                    });
                });
            },
        );
    }
    let batch = [frame(16), messages.as_bytes().to_vec(), frame(17)].concat();
    socket.send_and_wait(&batch, last).unwrap();
}

/// The beginning (16) or end (17) of a batch for nf_tables (subsystem 10).
fn frame(kind: u16) -> Vec<u8> {
    let mut message = Vec::new();
    message.extend(20u32.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([0, 0, 0, 10]);
    message
}
