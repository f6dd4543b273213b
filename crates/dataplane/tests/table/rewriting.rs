//! A flood of first packets while the rules are written again: not one of them passes.
//!
//! The kernel swaps the content of a set with intervals a moment after the rules of the same batch are in
//! force (`nft_set_commit_update` in net/netfilter/nf_tables_api.c). Meanwhile no address was in a pod CIDR,
//! so packets passed as those of others do, and their connections were marked as accepted.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dataplane::table::{Table, TableConfig};
use ipnet::IpNet;
use policy::{Affected, Generation};

use super::namespace::{in_namespace, run};
use super::packets::{POD, REMOTE, World, closed, received, socket};
use super::{RANGE_A, RANGE_B, install, open};

const PORT: u16 = 7000;
/// How often the rules are written. With the pod CIDRs in the batch of the rules, some of these times let a
/// packet pass.
const TIMES: u64 = 150;

/// Without a quota, which would drop most packets before a worker gets them.
fn config() -> TableConfig {
    TableConfig { queue_quota: None, ..closed() }
}

/// Packets from the pod to the remote host, all of them first packets of a connection that policy denies.
struct Flood {
    is_over: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
}

impl Flood {
    fn start(world: &World) -> Self {
        let flood = Self { is_over: Arc::default(), sent: Arc::default() };
        let (is_over, sent) = (Arc::clone(&flood.is_over), Arc::clone(&flood.sent));
        world.pod.run(move || {
            let socket = UdpSocket::bind((POD, 0)).expect("a socket");
            // The thread of the namespace must remain free for other work.
            std::thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    socket.send_to(b"x", (REMOTE, PORT)).expect("sent");
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            });
        });
        flood
    }

    /// Waits for the next packets, since a batch may be written in a moment in which none is sent.
    fn wait(&self) {
        let (begun, before) = (Instant::now(), self.sent.load(Ordering::Relaxed));
        while self.sent.load(Ordering::Relaxed) < before + 10 {
            assert!(begun.elapsed() < Duration::from_secs(5), "the flood has stopped");
            std::thread::yield_now();
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// Writes rules again and again with `write`, whose argument counts. No packet may pass.
fn no_packet_passes(write: impl Fn(&mut Table, u64) + Send + 'static) {
    in_namespace(move || {
        let world = World::new();
        let server = world.remote.run(|| socket(REMOTE, PORT));
        let mut table = install(config(), RANGE_A);
        let flood = Flood::start(&world);
        for time in 0..TIMES {
            flood.wait();
            write(&mut table, time);
        }
        flood.wait();
        drop(flood);
        assert!(!received(&server), "a packet that policy denies has passed");
        // The rules drop the packets of this pod because no program listens: they pass once it is open.
        table
            .update(&config().pod_cidrs, &open(&[], &[POD]), Generation(1_000), &Affected::All)
            .expect("update");
        world.pod.run(|| socket(POD, 0).send_to(b"x", (REMOTE, PORT)).expect("sent"));
        assert!(received(&server));
    });
}

#[test]
fn during_takeovers() {
    no_packet_passes(|table, time| {
        *table = install(config(), if time % 2 == 0 { RANGE_B } else { RANGE_A });
    });
}

#[test]
fn while_they_are_restored() {
    no_packet_passes(|table, _| {
        table.restore(config()).expect("restored");
    });
}

#[test]
fn while_the_node_gets_and_loses_another_pod_cidr() {
    no_packet_passes(|table, time| {
        let mut cidrs: Vec<IpNet> = config().pod_cidrs;
        if time % 2 == 0 {
            cidrs.push("10.244.7.0/24".parse().expect("a CIDR"));
        }
        table.update(&cidrs, &open(&[], &[]), Generation(time + 8), &Affected::All).expect("updated");
    });
}

/// Without rules everything passes. Once they are back, a connection is marked as accepted only if it needs
/// no verdict. Found with real connections: one of them continued after the rules were back.
#[test]
fn after_the_rules_were_deleted_no_packet_marks_its_connection() {
    in_namespace(|| {
        let world = World::new();
        let mut table = install(config(), RANGE_A);
        let flood = Flood::start(&world);
        for _ in 0..TIMES {
            run("nft", &["flush", "ruleset"]);
            flood.wait();
            table.restore(config()).expect("restored");
            let accepted = config().marks.accepted().0;
            let entries = std::fs::read_to_string("/proc/thread-self/net/nf_conntrack").expect("the table");
            let marks = entries.split_whitespace().filter_map(|word| word.strip_prefix("mark="));
            let marked = marks.filter(|mark| mark.parse::<u32>().is_ok_and(|mark| mark & accepted != 0));
            assert_eq!(marked.count(), 0, "{entries}");
        }
    });
}

/// The kernel may store an interval in another form than the one in which it was sent.
#[test]
fn whatever_the_form_of_their_intervals_they_are_written_and_restored() {
    for cidrs in
        [&["0.0.0.0/0", "::/0"][..], &["128.0.0.0/1", "8000::/1"], &["10.0.0.0/24", "10.0.1.0/24"], &[]]
    {
        in_namespace(move || {
            let pod_cidrs: Vec<IpNet> = cidrs.iter().map(|cidr| cidr.parse().expect("a CIDR")).collect();
            let config = || TableConfig { pod_cidrs: pod_cidrs.clone(), ..config() };
            let mut table = install(config(), RANGE_A);
            table.restore(config()).expect("restored");
            install(config(), RANGE_B);
        });
    }
}
