//! Connections that exist while policy changes: which packets from and to a changed pod pass before any
//! sweep.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use dataplane::table::OpenAddresses;
use policy::Affected;

use crate::namespace::{in_namespace, list_set, list_table, run};
use crate::packets::{POD, POD_6, REMOTE, REMOTE_6, counted, other, received, socket};
use crate::verdict_cache::{Agent, TRUSTED, expect, policy};
use crate::{RANGE_A, addresses, check_golden, install, node_a};

/// A connection of the pod to the remote host, which both sides keep open.
struct Flow {
    pod: UdpSocket,
    remote: UdpSocket,
    client: SocketAddr,
}

impl Flow {
    /// Opens the connection, and has it answered once.
    fn open(agent: &Agent, to: &'static str, port: u16) -> Self {
        let from = if to.contains(':') { POD_6 } else { POD };
        let remote = agent.world.remote.run(move || socket(to, port));
        let pod = agent.world.pod.run(move || {
            let pod = socket(from, 0);
            pod.connect((to, port)).expect("a route");
            pod.send(b"x").expect("sent");
            pod
        });
        let (_, client) = remote.recv_from(&mut [0; 16]).expect("the first packet arrives");
        let flow = Self { pod, remote, client };
        assert!(flow.reply_arrives());
        flow
    }

    /// Whether a packet of the pod still reaches the remote host.
    fn request_arrives(&self) -> bool {
        self.pod.send(b"x").expect("sent");
        received(&self.remote)
    }

    /// Whether a packet of the remote host still reaches the pod.
    fn reply_arrives(&self) -> bool {
        self.remote.send_to(b"y", self.client).expect("sent");
        received(&self.pod)
    }
}

#[test]
fn what_a_change_denies_is_cut_in_both_directions_before_any_sweep() {
    in_namespace(|| {
        let mut agent = Agent::with_long_ttl();
        let flows = [(REMOTE, 7000), (REMOTE_6, 7000)].map(|(to, port)| Flow::open(&agent, to, port));
        agent.change_affecting(policy(&[7001]), &[POD, POD_6]);
        for flow in &flows {
            assert!(!flow.reply_arrives() && !flow.request_arrives());
        }
        // The change is reverted, and the connections pass again.
        agent.change_affecting(policy(&[7000]), &[POD, POD_6]);
        for flow in &flows {
            assert!(flow.request_arrives() && flow.reply_arrives());
        }
        agent.table.end_revalidation().expect("the table is ours");
        for flow in &flows {
            assert!(flow.request_arrives() && flow.reply_arrives());
        }
    });
}

#[test]
fn what_stays_allowed_is_evaluated_once_whichever_direction_comes_first() {
    in_namespace(|| {
        let mut agent = Agent::with_long_ttl();
        let client_first = Flow::open(&agent, REMOTE, 7000);
        let server_first = Flow::open(&agent, REMOTE_6, 7000);
        let second = Flow::open(&agent, REMOTE, 53);
        expect(&agent, 3, 0, 0);
        agent.change_affecting(policy(&[53, 7000, 7001]), &[POD, POD_6]);
        for _ in 0..5 {
            assert!(client_first.request_arrives() && client_first.reply_arrives());
        }
        expect(&agent, 4, 0, 0);
        for _ in 0..5 {
            assert!(server_first.reply_arrives() && server_first.request_arrives());
        }
        expect(&agent, 5, 0, 0);
        assert!(second.reply_arrives());
        expect(&agent, 6, 0, 0);
        // New connections of the flows are cached as usual, and logged.
        agent.world.pod.run(|| socket(POD, 0).send_to(b"x", (REMOTE, 7000)).expect("sent"));
        assert!(received(&client_first.remote));
        expect(&agent, 6, 0, 1);
        agent.table.end_revalidation().expect("the table is ours");
        assert!(client_first.request_arrives() && server_first.reply_arrives());
        expect(&agent, 6, 0, 1);
    });
}

#[test]
fn a_reply_keeps_foreign_marks_and_loses_the_verdict_marks() {
    in_namespace(|| {
        let mut agent = Agent::with_long_ttl();
        let flow = Flow::open(&agent, REMOTE, 7000);
        other(
            "chain marks { type filter hook prerouting priority -140; meta mark set 0x00004000; } \
             chain passed { type filter hook postrouting priority 97; \
               udp sport 7000 meta mark 0x00004000 ct mark 0x10000000 counter; }",
        );
        agent.change_affecting(policy(&[7000, 7001]), &[POD]);
        assert!(flow.reply_arrives() && flow.reply_arrives());
        assert_eq!(counted("passed"), 2);
        expect(&agent, 2, 0, 0);
    });
}

#[test]
fn packets_of_unchanged_pods_are_not_queued() {
    in_namespace(|| {
        let mut agent = Agent::with_long_ttl();
        let flow = Flow::open(&agent, REMOTE, 7000);
        agent.change_affecting(policy(&[7001]), &["10.244.1.77"]);
        assert!(flow.reply_arrives() && flow.request_arrives(), "until the sweep");
        expect(&agent, 1, 0, 0);
    });
}

#[test]
fn a_connection_that_was_never_evaluated_is_cut_in_the_reply_direction_as_well() {
    in_namespace(|| {
        let mut agent = Agent::with_long_ttl();
        let cidrs = agent.snapshot.pod_cidrs().to_vec();
        let open =
            OpenAddresses { ingress: BTreeSet::new(), egress: [POD.parse().expect("an address")].into() };
        let generation = agent.snapshot.generation();
        agent.table.update(&cidrs, &open, generation, &Affected::All).expect("update");
        let flow = Flow::open(&agent, REMOTE, 7002);
        expect(&agent, 0, 0, 0);
        agent.change_affecting(policy(&[7000]), &[POD]);
        assert!(!flow.reply_arrives() && !flow.request_arrives());
    });
}

#[test]
fn connections_opened_by_the_node_continue_and_packets_to_the_node_are_evaluated() {
    const NODE: &str = "10.244.1.1";
    in_namespace(|| {
        let mut agent = Agent::with_long_ttl();
        // The node to its pod, and the pod to its node.
        let (pod, node) = (agent.world.pod.run(|| socket(POD, 9000)), socket(NODE, 9001));
        let probe = |payload: &[u8]| {
            node.send_to(payload, (POD, 9000)).expect("sent");
            received(&pod)
        };
        let reply = || {
            pod.send_to(b"y", (NODE, 9001)).expect("sent");
            received(&node)
        };
        assert!(probe(b"x") && reply());
        let (service, client) = (socket(NODE, 7000), agent.world.pod.run(|| socket(POD, 9002)));
        let request_arrives = || {
            client.send_to(b"x", (NODE, 7000)).expect("sent");
            received(&service)
        };
        assert!(request_arrives());
        expect(&agent, 1, 0, 0);

        agent.change_affecting(policy(&[7000]), &[POD, POD_6]);
        for _ in 0..3 {
            assert!(probe(b"x") && reply() && request_arrives());
        }
        expect(&agent, 2, 0, 0);
        agent.change_affecting(policy(&[7001]), &[POD, POD_6]);
        assert!(probe(b"x") && reply());
        assert!(!request_arrives());
    });
}

#[test]
fn what_has_no_ports_is_evaluated_packet_by_packet() {
    in_namespace(|| {
        let mut agent = Agent::with_long_ttl();
        let echo = |number| agent.world.pod.run(move || crate::verdict_cache::echo_request(number));
        echo(1);
        expect(&agent, 1, 0, 0);
        echo(1);
        expect(&agent, 1, 0, 0);
        agent.change_affecting(policy(&[7000]), &[POD]);
        let before: u64 = agent.workers.counters().iter().map(|one| one.packets).sum();
        agent.world.pod.run(|| crate::verdict_cache::echo_request(1));
        std::thread::sleep(Duration::from_millis(200));
        // The request, and the trusted address's answer.
        let after: u64 = agent.workers.counters().iter().map(|one| one.packets).sum();
        assert_eq!(after - before, 2, "to {TRUSTED} and back");
    });
}

#[test]
fn the_ruleset_during_and_after_revalidation() {
    in_namespace(|| {
        let mut table = install(node_a(), RANGE_A);
        let before = list_table();
        // With the rules' handles: this chain is never written again, which may take the kernel long.
        let list_nfqueue = || run("nft", &["--handle", "list", "chain", "inet", "kube-verdict", "nfqueue"]);
        let before_update = list_nfqueue();
        let affected = Affected::any_peer(addresses(&[POD, POD_6]));
        let (cidrs, open) = (node_a().pod_cidrs, node_a().open);
        table.update(&cidrs, &open, node_a().generation, &affected).expect("update");
        check_golden("revalidation.nft", &list_table());
        assert_eq!(list_nfqueue(), before_update);
        table.end_revalidation().expect("the table is ours");
        // The chains of the verdict cache come last. They contain more than before.
        let without_cache = |text: String| {
            let (_, chains) = text.split_once("chain postrouting {").expect("the chain");
            chains.split_once("chain cached {").expect("the chain").0.to_owned()
        };
        assert_eq!(without_cache(list_table()), without_cache(before.clone()));
        assert!(list_set("revalidated4").is_empty() && list_set("revalidated6").is_empty());
        table.end_revalidation().expect("nothing to do");
        table.update(&cidrs, &open, node_a().generation, &Affected::All).expect("update");
        assert_eq!(list_table(), before);
    });
}
