//! What `doctor` reports about a real kernel.

use std::fs;

use dataplane::marks::Marks;
use dataplane::netlink::{self, Attributes, Header, Messages, Socket};
use dataplane::preflight::{Check, CheckState, InstalledTables, PreflightConfig, check, installed_tables};
use dataplane::table::Table;

use crate::namespace::{drop_privileges, in_namespace};
use crate::{RANGE_A, RANGE_B, hold_table, install, node_a, run};

fn config() -> PreflightConfig {
    PreflightConfig {
        queues: vec![RANGE_A, RANGE_B],
        marks: Some(Marks::default()),
        ..PreflightConfig::default()
    }
}

fn state(name: &str) -> CheckState {
    let checks = check(&config());
    let found = checks.iter().find(|check| check.name == name);
    let Check { state, .. } = found.unwrap_or_else(|| panic!("no check {name} in {checks:?}"));
    state.clone()
}

#[test]
fn a_namespace_with_everything_has_nothing_wrong() {
    in_namespace(|| {
        let checks = check(&config());
        let names: Vec<&str> = checks.iter().map(|check| check.name).collect();
        let expected = [
            "permission",
            "nf_tables",
            "queue-rule",
            "table",
            "origins",
            "marks",
            "other-rules",
            "nfnetlink_queue",
            "nfnetlink_log",
            "conntrack",
            "br_netfilter",
            "forwarding",
            "kernel",
            "queues",
        ];
        assert_eq!(names, expected);
        assert!(checks.iter().all(|check| !check.state.is_wrong()), "{checks:?}");
        assert_eq!(installed_tables(), Ok(InstalledTables { inet: false, bridge: false }));
        // The checks left nothing behind.
        assert_eq!(Table::queues_in_use(), Ok(None));
        assert_eq!(crate::run("nft", &["list", "ruleset"]), "");
    });
}

#[test]
fn sysctls_are_those_of_the_threads_namespace() {
    in_namespace(|| {
        for (forward, fine) in [("1", true), ("0", false), ("1", true)] {
            fs::write("/proc/sys/net/ipv4/ip_forward", forward).expect("a sysctl of this namespace");
            fs::write("/proc/sys/net/ipv6/conf/all/forwarding", forward).expect("a sysctl of this namespace");
            let state = state("forwarding");
            assert_eq!(matches!(state, CheckState::Fine { .. }), fine, "{state:?}");
        }
    });
}

#[test]
fn a_bridge_without_br_netfilter_is_wrong() {
    in_namespace(|| {
        fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "0").expect("a sysctl of this namespace");
        assert!(state("br_netfilter").is_wrong());
        // A bridge that is not the pods' makes no difference.
        run("ip", &["link", "add", "br9", "type", "bridge", "nf_call_iptables", "1"]);
        assert!(state("br_netfilter").is_wrong());
    });
}

#[test]
fn a_bridge_that_calls_iptables_by_its_own_option_is_fine_with_the_sysctls_off() {
    in_namespace(|| {
        for name in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
            fs::write(format!("/proc/sys/net/bridge/{name}"), "0").expect("a sysctl of this namespace");
        }
        run("ip", &["link", "add", "pods", "type", "bridge", "nf_call_iptables", "1"]);
        run("ip", &["addr", "add", "10.244.1.1/24", "dev", "pods"]);
        let node = PreflightConfig { pod_cidrs: node_a().pod_cidrs, ..config() };
        let state = || {
            let checks = check(&node);
            checks.into_iter().find(|check| check.name == "br_netfilter").expect("the check").state
        };
        let CheckState::Wrong { what, .. } = state() else { panic!("IPv6 bypasses every rule") };
        assert!(what.contains("bridge-nf-call-ip6tables is 0, and bridge pods"), "{what}");
        run("ip", &["link", "set", "pods", "type", "bridge", "nf_call_ip6tables", "1"]);
        assert!(matches!(state(), CheckState::Fine { .. }), "{:?}", state());
    });
}

#[test]
fn the_bridge_table_is_reported_once_it_exists() {
    in_namespace(|| {
        let CheckState::Fine { what } = state("origins") else { panic!("this kernel has the bridge family") };
        assert!(what.contains("can be checked"), "{what}");
        run("nft", &["add table bridge kube-verdict; add table ip kube-verdict"]);
        assert_eq!(installed_tables(), Ok(InstalledTables { inet: false, bridge: true }));
        let CheckState::Fine { what } = state("origins") else { panic!("it is there") };
        assert!(what.contains("table bridge kube-verdict is there"), "{what}");
    });
}

/// Programs that share a node with the agent, each with its own chain.
const OTHERS: &str = "
table ip kube-proxy {
    chain mark-for-masquerade { meta mark set mark or 0x4000; }
    chain masquerading {
        mark and 0x4000 == 0 return
        meta mark set mark xor 0x4000
    }
    chain bystander { ct mark 0x1 counter; meta mark 0x1 meta priority set 0x10001; }
}
table inet vpn {
    chain save { ct mark set meta mark; }
    chain restore { ip protocol udp meta mark set ct mark; }
}
table ip6 router { chain out { meta mark set 0x2a; }; }
table bridge tagger { chain in { meta mark set mark or 0x01000000; }; }
table ip careful { chain out { ct mark set ct mark and 0xffffff00 or 0x7; }; }
table ip mapper { chain out { meta mark set ip daddr map { 192.0.2.1 : 0x1 }; }; }
";

#[test]
fn rules_of_other_programs_that_write_our_bits_are_named() {
    in_namespace(|| {
        assert!(matches!(state("marks"), CheckState::Fine { .. }), "{:?}", state("marks"));
        // The agent's own rules write only its own bits.
        install(node_a(), RANGE_A);
        assert!(matches!(state("marks"), CheckState::Fine { .. }), "{:?}", state("marks"));
        let file = std::env::temp_dir().join(format!("kube-verdict-others-{}.nft", std::process::id()));
        fs::write(&file, OTHERS).expect("a temporary file");
        run("nft", &["-f", file.to_str().expect("UTF-8")]);
        fs::remove_file(&file).expect("it is there");
        let CheckState::Warning { what, todo } = state("marks") else { panic!("no warning") };
        for named in [
            "inet vpn save handle 3 (connection mark, all bits)",
            "inet vpn restore handle 4 (packet mark, all bits)",
            "ip6 router out handle 2 (packet mark, all bits)",
            "bridge tagger in handle 2 (packet mark, bits 0x01000000)",
            "ip mapper out handle 3 (packet mark, all bits)",
        ] {
            assert!(what.contains(named), "{named}: {what}");
        }
        for fine in ["kube-proxy", "careful", "inet kube-verdict"] {
            assert!(!what.contains(fine), "{fine}: {what}");
        }
        assert!(todo.contains("--packet-marks"), "{todo}");
        // The command in the first line of the remedy.
        let chain = todo.rsplit('`').nth(1).expect("a command");
        let words: Vec<&str> = chain.split(' ').collect();
        assert!(run(words[0], &words[1..]).contains("# handle"), "{chain}");

        for table in ["inet vpn", "ip6 router", "bridge tagger", "ip mapper"] {
            run("nft", &[&format!("delete table {table}")]);
        }
        assert!(matches!(state("marks"), CheckState::Fine { .. }), "{:?}", state("marks"));
    });
}

/// Adds a rule as written by `iptables-nft`, with an xtables target, for which `nft` has no syntax.
fn add_target(chain: &str, name: &str, revision: u32, info: &[u8]) {
    // `NFNL_MSG_BATCH_BEGIN` and `_END`, with nftables as the resource; `NFT_MSG_NEWRULE`.
    const BEGIN: u16 = 0x10;
    const END: u16 = 0x11;
    const NEW_RULE: u16 = (10 << 8) | 6;
    let mut socket = Socket::open().expect("a socket");
    let mut messages = Messages::default();
    let flags = netlink::REQUEST;
    let first = socket.next_sequences(3);
    messages.push(Header { kind: BEGIN, flags, sequence: first, family: 0 }, |_| {});
    messages.set_resource(10);
    let flags = netlink::REQUEST | netlink::ACK | netlink::CREATE | netlink::APPEND;
    let rule = |rule: &mut Attributes<'_>| {
        rule.string(1, "mangle").string(2, chain).nested(4, |list| {
            list.nested(1, |element| {
                element.string(1, "target").nested(2, |data| {
                    data.string(1, name).be32(2, revision).bytes(3, info);
                });
            });
        });
    };
    let header = Header { kind: NEW_RULE, flags, sequence: first + 1, family: libc::NFPROTO_IPV4 as u8 };
    messages.push(header, rule);
    messages.push(Header { kind: END, flags: netlink::REQUEST, sequence: first + 2, family: 0 }, |_| {});
    messages.set_resource(10);
    socket.send_and_wait(messages.as_bytes(), first + 1).expect("the rule can be added");
}

#[test]
fn targets_of_iptables_that_write_our_bits_are_named() {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
    in_namespace(move || {
        run(
            "nft",
            &["add table ip mangle; add chain ip mangle A; add chain ip mangle B; add chain ip mangle C"],
        );
        add_target("A", "MARK", 2, &words(&[0x4000, 0x4000]));
        add_target("A", "CONNMARK", 1, &words(&[0, 0xff, 0xff, 1]));
        assert!(matches!(state("marks"), CheckState::Fine { .. }), "{:?}", state("marks"));
        add_target("B", "MARK", 2, &words(&[1, u32::MAX]));
        // Mode 2 restores.
        add_target("C", "CONNMARK", 1, &words(&[0, u32::MAX, u32::MAX, 2]));
        let CheckState::Warning { what, .. } = state("marks") else { panic!("no warning") };
        for named in ["ip mangle B handle", "ip mangle C handle"] {
            assert!(what.contains(named), "{named}: {what}");
        }
        assert_eq!(what.matches("packet mark, all bits").count(), 2, "{what}");
        assert!(!what.contains("ip mangle A"), "{what}");
    });
}

#[test]
fn queues_that_another_program_has_bound_are_not_fine_unless_the_rules_name_them() {
    in_namespace(|| {
        let mut stranger = nfq::Queue::open().expect("a queue socket");
        stranger.bind(RANGE_A.first.0).expect("a free queue");
        let (CheckState::Wrong { what, .. } | CheckState::Warning { what, .. }) = state("queues") else {
            panic!("no warning")
        };
        assert!(what.starts_with("queue 100 is bound by another program"), "{what}");
        install(node_a(), RANGE_A);
        let state = state("queues");
        assert!(
            matches!(&state, CheckState::Fine { what } if what.contains("100-101 are served")),
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
fn missing_permission_is_reported_first() {
    in_namespace(|| {
        drop_privileges();
        let checks = check(&config());
        assert_eq!(checks[0].name, "permission");
        assert!(checks[0].state.is_wrong(), "{checks:?}");
    });
}

#[test]
fn other_policy_engines_and_queues_get_a_warning() {
    in_namespace(|| {
        install(node_a(), RANGE_A);
        run("nft", &["add table inet kube-proxy; add table ip filter; add chain ip filter KUBE-SERVICES"]);
        let CheckState::Fine { .. } = state("other-rules") else {
            panic!("kube-proxy is no policy engine: {:?}", state("other-rules"))
        };
        for (rules, engine) in [
            ("add table inet kube-network-policies", "kube-network-policies (inet kube-network-policies)"),
            ("add table inet kindnet-network-policies", "kindnet (inet kindnet-network-policies)"),
            ("add chain ip filter KUBE-ROUTER-FORWARD", "kube-router (ip filter)"),
            ("add chain ip filter cali-FORWARD", "Calico (ip filter)"),
            ("add chain ip filter CILIUM_FORWARD", "Cilium (ip filter)"),
        ] {
            run("nft", &[rules]);
            let CheckState::Warning { what, todo } = state("other-rules") else {
                panic!("{rules}: no warning")
            };
            assert!(what.contains(engine), "{rules}: {what}");
            assert!(todo.contains("run one engine"), "{todo}");
        }
        run(
            "nft",
            &["add table ip mangle; add chain ip mangle FORWARD { type filter hook forward priority -150; }"],
        );
        // `struct xt_NFQ_info` (linux/netfilter/xt_NFQUEUE.h), padded as the kernel requires: queue 0.
        add_target("FORWARD", "NFQUEUE", 0, &[0; 8]);
        let CheckState::Warning { what, .. } = state("other-rules") else { panic!("no warning") };
        assert!(
            what.contains("another program, which may let them pass by all rules: ip mangle FORWARD"),
            "{what}"
        );
    });
}
