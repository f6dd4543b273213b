//! What `doctor` sees in a real kernel.

use std::fs;

use dataplane::needs::{Need, NeedState, NeedsConfig, check};
use dataplane::table::Table;

use crate::namespace::{become_nobody, in_namespace};
use crate::{RANGE_A, RANGE_B, hold_table, install, node_a};

fn config() -> NeedsConfig {
    NeedsConfig { queues: vec![RANGE_A, RANGE_B], ..NeedsConfig::default() }
}

fn state(name: &str) -> NeedState {
    let needs = check(&config());
    let need = needs.iter().find(|need| need.name == name);
    let Need { state, .. } = need.unwrap_or_else(|| panic!("no need {name} in {needs:?}"));
    state.clone()
}

#[test]
fn a_namespace_with_everything_has_nothing_wrong() {
    in_namespace(|| {
        let needs = check(&config());
        let names: Vec<&str> = needs.iter().map(|need| need.name).collect();
        let expected = [
            "permission",
            "nf_tables",
            "queue-rule",
            "table",
            "nfnetlink_queue",
            "nfnetlink_log",
            "conntrack",
            "br_netfilter",
            "forwarding",
            "kernel",
            "queues",
        ];
        assert_eq!(names, expected);
        assert!(needs.iter().all(|need| !need.state.is_wrong()), "{needs:?}");
        // Looking left nothing behind.
        assert_eq!(Table::queues_in_use(), Ok(None));
        assert_eq!(crate::run("nft", &["list", "ruleset"]), "");
    });
}

#[test]
fn sysctls_are_those_of_the_thread_s_namespace() {
    in_namespace(|| {
        for (forward, fine) in [("1", true), ("0", false), ("1", true)] {
            fs::write("/proc/sys/net/ipv4/ip_forward", forward).expect("a sysctl of this namespace");
            fs::write("/proc/sys/net/ipv6/conf/all/forwarding", forward).expect("a sysctl of this namespace");
            let state = state("forwarding");
            assert_eq!(matches!(state, NeedState::Fine { .. }), fine, "{state:?}");
        }
    });
}

#[test]
fn a_bridge_without_br_netfilter_is_wrong() {
    in_namespace(|| {
        fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "0").expect("a sysctl of this namespace");
        assert!(state("br_netfilter").is_wrong());
    });
}

#[test]
fn queues_that_another_program_has_bound_are_wrong_until_the_rules_say_that_it_is_an_agent() {
    in_namespace(|| {
        let mut stranger = nfq::Queue::open().expect("a queue socket");
        stranger.bind(RANGE_A.first).expect("a free queue");
        let NeedState::Wrong { what, .. } = state("queues") else { panic!("not seen") };
        assert!(what.starts_with("queue 100 is bound by another program"), "{what}");
        install(node_a(), RANGE_A);
        let state = state("queues");
        assert!(
            matches!(&state, NeedState::Fine { what } if what.contains("100-101 are served")),
            "{state:?}"
        );
    });
}

#[test]
fn a_table_that_another_program_holds_is_wrong() {
    in_namespace(|| {
        install(node_a(), RANGE_A);
        assert!(!state("table").is_wrong());
        Table::remove().expect("the table is ours");
        let _socket = hold_table();
        assert!(state("table").is_wrong());
    });
}

#[test]
fn without_permission_that_is_what_is_said_first() {
    in_namespace(|| {
        become_nobody();
        let needs = check(&config());
        assert_eq!(needs[0].name, "permission");
        assert!(needs[0].state.is_wrong(), "{needs:?}");
    });
}
