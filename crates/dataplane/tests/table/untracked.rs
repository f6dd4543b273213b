//! Packets that connection tracking does not track: real packets, real workers and the whole table, as in
//! `verdict_cache`.

use std::thread::sleep;
use std::time::{Duration, Instant};

use dataplane::table::CacheCounters;

use crate::namespace::{in_namespace, run};
use crate::packets::{POD, REMOTE, REMOTE_6, counted, other};
use crate::verdict_cache::{Agent, policy};

const TIMEOUT: Duration = Duration::from_secs(5);
const NOTRACK: &str = "chain untracking { type filter hook prerouting priority -300; notrack; }";

/// Packets that workers have allowed and denied, and packets without a connection that passed because their
/// flow was cached, once the expected numbers are reached.
#[track_caller]
fn expect(agent: &Agent, allowed: u64, denied: u64, passed: u64) {
    let now = || {
        let counters = agent.workers.counters();
        let passed = CacheCounters::open().and_then(|mut all| all.untracked());
        (
            counters.iter().map(|one| one.allowed).sum::<u64>(),
            counters.iter().map(|one| one.denied).sum::<u64>(),
            passed.expect("the counter is there"),
        )
    };
    let deadline = Instant::now() + TIMEOUT;
    while now() != (allowed, denied, passed) && Instant::now() < deadline {
        sleep(Duration::from_millis(2));
    }
    assert_eq!(now(), (allowed, denied, passed));
}

#[test]
fn one_verdict_serves_all_packets_of_an_untracked_flow() {
    in_namespace(|| {
        let agent = Agent::with_long_ttl();
        other(NOTRACK);
        for (number, to) in (1..).zip([REMOTE, REMOTE_6]) {
            for _ in 0..4 {
                assert!(agent.reaches((to, 7000)));
            }
            expect(&agent, number, number - 1, 3 * number);
            for _ in 0..3 {
                assert!(!agent.reaches((to, 7001)));
            }
            expect(&agent, number, number, 3 * number);
        }
        let dropped = CacheCounters::open().and_then(|mut all| all.denied());
        assert_eq!(dropped, Ok(4));
    });
}

#[test]
fn a_change_applies_to_the_next_packet_of_an_untracked_flow() {
    in_namespace(|| {
        let mut agent = Agent::with_long_ttl();
        other(NOTRACK);
        for affected in [&[POD][..], &[REMOTE]] {
            assert!(agent.reaches((REMOTE, 7000)) && agent.reaches((REMOTE, 7000)));
            assert!(!agent.reaches((REMOTE, 7001)) && !agent.reaches((REMOTE, 7001)));
            agent.change_affecting(policy(&[7001]), affected);
            assert!(!agent.reaches((REMOTE, 7000)) && agent.reaches((REMOTE, 7001)));
            agent.change_affecting(policy(&[7000]), affected);
        }
        agent.table.invalidate_cache().expect("the table is ours");
        expect(&agent, 4, 4, 2);
        assert!(agent.reaches((REMOTE, 7000)));
        expect(&agent, 5, 4, 2);
    });
}

#[test]
fn a_packet_keeps_foreign_marks_and_loses_the_verdict_marks() {
    in_namespace(|| {
        let agent = Agent::with_long_ttl();
        other(
            "chain untracking { type filter hook prerouting priority -300; \
               notrack; meta mark set 0x00004000; } \
             chain passed { type filter hook postrouting priority 97; \
               udp dport 7000 meta mark 0x00004000 counter; }",
        );
        assert!(agent.reaches((REMOTE, 7000)) && agent.reaches((REMOTE, 7000)));
        expect(&agent, 1, 0, 1);
        assert_eq!(counted("passed"), 2);
    });
}

#[test]
fn marks_of_other_programs_neither_allow_nor_deny_an_untracked_flow() {
    in_namespace(|| {
        let mut agent = Agent::with_long_ttl();
        // Every value of the four bits on every packet, as written by a program that uses the same bits.
        for bits in 0..16_u32 {
            let mark = bits << 24;
            other(&format!(
                "chain marks {{ type filter hook prerouting priority -300; \
                   notrack; meta mark set {mark:#010x}; }}"
            ));
            assert!(agent.reaches((REMOTE, 7000)) && agent.reaches((REMOTE, 7000)), "{bits:#x}");
            assert!(!agent.reaches((REMOTE, 7001)) && !agent.reaches((REMOTE, 7001)), "{bits:#x}");
            expect(&agent, u64::from(bits) + 1, u64::from(bits) + 1, u64::from(bits) + 1);
            run("nft", &["delete", "table", "inet", "other"]);
            agent.change(policy(&[7000]));
        }
    });
}
