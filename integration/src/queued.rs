//! How many packets a node's kernel has queued for workers.
//!
//! From: the kernel's own statistics (`/proc/net/netfilter/nfnetlink_queue`, which
//! net/netfilter/nfnetlink_queue.c writes). To: tests that count which packets need a verdict. The agent has
//! no part in these figures.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::namespace::NetworkNamespace;

/// The file, in the network namespace of the thread that reads it.
const FILE: &str = "/proc/thread-self/net/netfilter/nfnetlink_queue";

/// The column with the identifier of the queue's last packet. The kernel counts up from 1.
const LAST_PACKET: usize = 7;

/// The number of packets that were queued so far in a network namespace, over all queues that exist now.
/// Fails if there is none.
pub fn queued_packets(namespace: &NetworkNamespace) -> Result<u64> {
    let text = namespace.run(|| fs::read_to_string(FILE))?.with_context(|| format!("reading {FILE}"))?;
    sum(&text).with_context(|| format!("{FILE}:\n{text}"))
}

fn sum(text: &str) -> Result<u64> {
    if text.trim().is_empty() {
        bail!("no program has bound a queue");
    }
    text.lines()
        .map(|line| {
            let last = line.split_whitespace().nth(LAST_PACKET).context("a line has too few columns")?;
            last.parse::<u64>().with_context(|| format!("{last:?} is not the identifier of a packet"))
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_packets_of_all_queues_are_added() {
        let text = "  100  31705     0 2   128     0     0       12  1\n  101  31705     0 2   128     0     3  1000000  1\n";
        assert_eq!(sum(text).expect("a valid file"), 1_000_012);
    }

    #[test]
    fn a_file_without_queues_or_with_another_format_is_an_error() {
        for wrong in ["", "100 31705 0\n", "100 31705 0 2 128 0 0 x 1\n"] {
            assert!(sum(wrong).is_err(), "{wrong:?}");
        }
    }
}
