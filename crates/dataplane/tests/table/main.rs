//! The table in a real kernel, each test in its own network namespace. The tests need root, and fail without
//! it.

mod denied;
mod foreign_changes;
mod namespace;
mod packets;
mod preflight;
mod revalidation;
mod rewriting;
mod untracked;
mod verdict_cache;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use dataplane::marks::{Mark, Marks};
use dataplane::ports::{Attachment, Bindings, InterfaceIndex, Mac, Overlay, Port};
use dataplane::queues::{QueueNumber, QueueRange};
use dataplane::table::{
    FailMode, OpenAddresses, OriginConfig, Origins, QueueQuota, Table, TableConfig, TableError,
    VerdictCacheConfig,
};
use policy::{Affected, Generation, Packet, Protocol};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, send, socket,
};

use self::namespace::{drop_privileges, in_namespace, list_set, list_table, run};

const RANGE_A: QueueRange = QueueRange { first: QueueNumber(100), count: 2 };
const RANGE_B: QueueRange = QueueRange { first: QueueNumber(102), count: 2 };
/// The generation of an update's snapshot.
const GENERATION: Generation = Generation(8);

fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

fn open(ingress: &[&str], egress: &[&str]) -> OpenAddresses {
    OpenAddresses { ingress: addresses(ingress), egress: addresses(egress) }
}

fn node_a() -> TableConfig {
    TableConfig {
        marks: Marks::default(),
        fail_mode: FailMode::Open,
        prerouting_dns: true,
        holder: "node-a pid 123".to_owned(),
        pod_cidrs: vec![
            "10.244.1.0/24".parse().expect("a CIDR"),
            "fd00:10:244:1::/64".parse().expect("a CIDR"),
        ],
        open: open(&["10.244.1.2", "fd00:10:244:1::2"], &["10.244.1.2", "10.244.1.3"]),
        verdict_cache: Some(VerdictCacheConfig { ttl: Duration::from_secs(5), log_group: Some(100) }),
        queue_quota: Some(QueueQuota { rate: 10_000, burst: 1_024 }),
        generation: Generation(7),
        origin: None,
        trust_replies: false,
    }
}

fn install(config: TableConfig, queues: QueueRange) -> Table {
    Table::install(config, queues).expect("the table can be installed")
}

/// Compares with a golden file (`nft` 1.0.6); `UPDATE_GOLDEN=1` writes it again.
///
/// `nft` names the xtables target of the queue rule only if the package iptables is installed, so the name is
/// omitted.
fn check_golden(name: &str, text: &str) {
    let text = text.replace("\t\tQUEUE comment", "\t\t comment");
    let unnamed = |line: &str| match line.trim_start().starts_with("queue num ") {
        true => "\t\t\n".to_owned(),
        false => line.to_owned(),
    };
    let text = &text.split_inclusive('\n').map(unnamed).collect::<String>();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).expect("the golden file can be written");
    }
    let golden = std::fs::read_to_string(&path).expect("the golden file is there");
    assert!(golden == *text, "{name} differs; UPDATE_GOLDEN=1 writes it again:\n{text}");
}

#[test]
fn the_ruleset_with_dns_evaluated_early() {
    in_namespace(|| {
        install(node_a(), RANGE_A);
        check_golden("with-dns.nft", &list_table());
    });
}

#[test]
fn the_ruleset_with_other_marks() {
    in_namespace(|| {
        let marks = Marks::new(Mark(0x0000_0f00), Mark(0x00f0_0000)).expect("eight bits");
        install(TableConfig { marks, prerouting_dns: false, ..node_a() }, RANGE_A);
        check_golden("other-marks.nft", &list_table());
    });
}

/// Two ports on a bridge and a routed one, with a pod that no policy isolates, one that policies isolate, and
/// one that is not known.
fn origins() -> Origins {
    let port = |name: &str, attachment, last: u8, at: &[&str]| Port {
        name: name.into(),
        attachment,
        mac: Mac([2, 0, 0, 0, 0, last]),
        addresses: addresses(at),
        is_settled: last != 4,
        is_exempt: last == 3,
        is_confirmed: false,
        has_lost: false,
    };
    let bridged = Attachment::Bridged;
    let ports = [
        (2, port("veth2", bridged, 2, &["10.244.1.2", "fd00:10:244:1::2", "fe80::2"])),
        (3, port("veth3", bridged, 3, &["10.244.1.3", "fd00:10:244:1::3", "fe80::3"])),
        (4, port("veth4", Attachment::Routed, 4, &["10.244.1.4"])),
    ];
    let bindings = Bindings {
        ports: ports.map(|(index, port)| (InterfaceIndex(index), port)).into(),
        other_ports: [InterfaceIndex(5)].into(),
        other_bridges: ["docker0".into()].into(),
        pod_bridges: [InterfaceIndex(9)].into(),
        own_addresses: addresses(&["10.244.1.1", "192.0.2.7"]),
        overlays: [Overlay::Udp(8472)].into(),
        overlay_devices: [InterfaceIndex(4)].into(),
        conflicts: BTreeSet::new(),
    };
    Origins {
        bindings,
        open: open(&["10.244.1.2", "fd00:10:244:1::2"], &["10.244.1.2", "fd00:10:244:1::2"]),
        node_addresses: addresses(&["192.0.2.8", "2001:db8::8"]),
        pod_cidrs: BTreeSet::new(),
        more_overlays: [Overlay::Protocol(4)].into(),
    }
}

fn with_origins(origins: Origins) -> TableConfig {
    let origin = OriginConfig {
        queue: QueueNumber(104),
        log_group: Some(100),
        overlay_sources_are_nodes: true,
        origins,
    };
    TableConfig { origin: Some(origin), prerouting_dns: false, ..node_a() }
}

#[test]
fn the_rulesets_with_ports() {
    in_namespace(|| {
        install(with_origins(origins()), RANGE_A);
        check_golden("origins.nft", &list_table());
        check_golden("bridge.nft", &run("nft", &["list", "table", "bridge", "kube-verdict"]));
    });
}

/// If a name is a keyword of nft's grammar, the object can only be listed with its whole table.
#[test]
fn each_chain_and_set_can_be_listed_by_its_name() {
    in_namespace(|| {
        install(with_origins(origins()), RANGE_A);
        for family in ["inet", "bridge"] {
            let table = run("nft", &["list", "table", family, "kube-verdict"]);
            let named = table.lines().filter_map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                let kind = *words.first().filter(|kind| ["chain", "set", "map"].contains(kind))?;
                Some((kind, *words.get(1)?))
            });
            let mut count = 0;
            for (kind, name) in named {
                run("nft", &["list", kind, family, "kube-verdict", name]);
                count += 1;
            }
            assert!(count > 20, "{family}: {count}");
        }
    });
}

#[test]
fn bindings_that_are_in_the_kernel_are_read_back() {
    in_namespace(|| {
        install(with_origins(origins()), RANGE_A);
        let mut expected = origins().bindings.ports;
        for port in expected.values_mut() {
            // Neither is in the kernel, except the hardware addresses of bridged ports.
            (port.name, port.is_exempt) = ("".into(), false);
            if port.attachment == Attachment::Routed {
                port.mac = Mac::default();
            }
        }
        let read = Table::bindings_in_force().expect("they can be read");
        assert_eq!(read.ports, expected);
        assert_eq!(read.pod_bridges, origins().bindings.pod_bridges);
    });
}

#[test]
fn a_change_of_ports_leaves_what_a_new_table_would_contain() {
    in_namespace(|| {
        let mut table = install(with_origins(Origins::default()), RANGE_A);
        let list = || (list_table(), run("nft", &["list", "table", "bridge", "kube-verdict"]));
        assert!(table.set_origins(origins()));
        table.update_origins().expect("updated");
        let changed = list();
        let mut open_to_all = origins();
        open_to_all.open = open(&["10.244.1.2", "10.244.1.3"], &["10.244.1.2", "10.244.1.3"]);
        table.set_origins(open_to_all);
        table.update_origins().expect("updated");
        assert!(list() != changed);
        assert!(table.set_origins(origins()));
        assert!(!table.set_origins(origins()), "no difference");
        table.update_origins().expect("updated");
        assert!(list() == changed, "as before");
        install(with_origins(origins()), RANGE_A);
        assert!(list() == changed, "as a new table");
    });
}

#[test]
fn both_tables_are_removed() {
    in_namespace(|| {
        install(with_origins(origins()), RANGE_A);
        assert_eq!(Table::remove(), Ok(true));
        assert_eq!(run("nft", &["list", "tables"]), "");
        assert_eq!(Table::remove(), Ok(false));
    });
}

#[test]
fn s35_revoked_connections_are_kept_in_both_orientations_over_a_restart() {
    in_namespace(|| {
        let mut table = install(with_origins(origins()), RANGE_A);
        let connection = |port| {
            let [from, to] = ["10.244.1.2", "10.244.1.3"].map(|text| text.parse().expect("an address"));
            let mut connection = Packet::new(from, to, Protocol::TCP).to_port(port);
            connection.source_port = Some(40_000);
            connection
        };
        table.add_revoked(&[connection(80), connection(81)]).expect("added");
        table.add_revoked(&[connection(80)]).expect("it is there already");
        table.remove_revoked(&[connection(81), connection(82)]).expect("removed");
        let mut after_a_restart = install(with_origins(origins()), RANGE_B);
        let kept: BTreeSet<_> =
            after_a_restart.revoked().expect("read").iter().map(|kept| kept.destination_port).collect();
        assert_eq!(kept, [Some(80), Some(40_000)].into());
    });
}

/// As many connections as fit into the set, all between two pods.
fn a_full_set() -> Vec<Packet> {
    let [from, to] = ["10.244.1.2", "10.244.1.3"].map(|text| text.parse().expect("an address"));
    let connection = |number: u32| {
        let mut connection = Packet::new(from, to, Protocol::TCP).to_port(80 + (number >> 15) as u16);
        connection.source_port = Some(10_000 + (number & 0x7fff) as u16);
        connection
    };
    (0..65_536).map(connection).collect()
}

#[test]
fn a_full_set_of_revoked_connections_is_emptied_again() {
    in_namespace(|| {
        let mut table = install(node_a(), RANGE_A);
        let connections = a_full_set();
        assert_eq!(table.add_revoked(&connections), Ok(Vec::new()));
        // One of them was never added, as if the set had been full.
        let never_added = connections[0].to_port(5_432);
        let restored = [&[never_added], &connections[..5_000]].concat();
        table.remove_revoked(&restored).expect("removed");
        assert_eq!(table.revoked().expect("read").len(), 2 * (65_536 - 5_000));

        // There is room for 5,000 again, and for as many of the other family.
        let more: Vec<Packet> =
            connections[..5_003].iter().map(|connection| connection.to_port(5_432)).collect();
        let mut of_v6 = Packet::new(
            "fd00:10:244:1::2".parse().expect("an address"),
            "fd00:10:244:1::3".parse().expect("an address"),
            Protocol::TCP,
        )
        .to_port(80);
        of_v6.source_port = Some(40_000);
        let left_over = table.add_revoked(&[&more[..], &[of_v6]].concat());
        assert_eq!(left_over, Ok(more[5_000..].to_vec()));
        assert_eq!(table.revoked().expect("read").len(), 2 * 65_536 + 2);
    });
}

#[test]
fn queues_in_use_are_read_back() {
    in_namespace(|| {
        assert_eq!(Table::queues_in_use(), Ok(None));
        let mut table = install(node_a(), RANGE_A);
        assert_eq!(Table::queues_in_use(), Ok(Some(RANGE_A)));
        assert_eq!(table.queues(), RANGE_A);
        run("nft", &["flush", "table", "inet", "kube-verdict"]);
        assert_eq!(Table::queues_in_use(), Ok(None));
        assert_eq!(table.superseded(), Err(TableError::Missing));
    });
}

#[test]
fn a_restart_over_the_table_of_a_dead_agent_changes_nothing() {
    in_namespace(|| {
        install(node_a(), RANGE_A);
        let first = list_table();
        install(node_a(), RANGE_A);
        assert_eq!(list_table(), first);
    });
}

#[test]
fn an_upgrade_rewrites_rules_and_sets_and_keeps_the_chains() {
    in_namespace(|| {
        install(node_a(), RANGE_A);
        let chains = || {
            let text = run("nft", &["--handle", "list", "chains"]);
            text.lines().filter(|line| line.contains("chain ")).map(str::to_owned).collect::<Vec<_>>()
        };
        let before = chains();
        let marks = Marks::new(Mark(0x0000_0f00), Mark(0x00f0_0000)).expect("eight bits");
        let upgraded = TableConfig {
            marks,
            prerouting_dns: false,
            fail_mode: FailMode::Closed,
            pod_cidrs: vec![
                "10.244.1.0/24".parse().expect("a CIDR"),
                "10.244.7.0/24".parse().expect("a CIDR"),
            ],
            open: open(&["10.244.1.9"], &[]),
            ..node_a()
        };
        install(upgraded, RANGE_B);
        assert_eq!(chains(), before);
        assert_eq!(list_set("pod-cidrs4"), ["10.244.1.0/24", "10.244.7.0/24"]);
        assert!(list_set("pod-cidrs6").is_empty());
        assert_eq!(list_set("open-ingress4"), ["10.244.1.9"]);
        assert!(list_set("open-egress4").is_empty());
        let text = list_table();
        assert!(!text.contains("0x01000000"), "old marks: {text}");
        // The chain of an option that is off stays, without rules.
        let dns = run("nft", &["list", "chain", "inet", "kube-verdict", "prerouting-dns"]);
        assert!(dns.contains("hook prerouting") && !dns.contains("udp"), "{dns}");
    });
}

#[test]
fn a_takeover_switches_the_rules_to_the_other_range() {
    in_namespace(|| {
        let mut old = install(node_a(), RANGE_A);
        assert_eq!(old.superseded(), Ok(false));
        let mut new = install(TableConfig { holder: "node-a pid 456".to_owned(), ..node_a() }, RANGE_B);
        assert_eq!(Table::queues_in_use(), Ok(Some(RANGE_B)));
        assert_eq!(new.superseded(), Ok(false));
        assert_eq!(old.superseded(), Ok(true));
        let text = list_table();
        assert!(text.contains("node-a pid 456") && !text.contains("node-a pid 123"), "{text}");
        // A late update of the old agent changes nothing.
        let before = list_table();
        let late = old.update(&node_a().pod_cidrs, &open(&["10.244.1.77"], &[]), GENERATION, &Affected::All);
        assert_eq!(late, Err(TableError::Superseded(RANGE_B)));
        assert_eq!(list_table(), before);
    });
}

#[test]
fn retired_rules_let_all_pass_and_make_a_running_agent_stand_by() {
    in_namespace(|| {
        assert_eq!(Table::retire(), Ok(false), "without rules");
        let mut agent = install(node_a(), RANGE_A);
        assert_eq!(Table::retire(), Ok(true));
        assert_eq!(agent.superseded(), Ok(true));
        let rules = |text: &str| text.matches("queue").count() + text.matches("drop").count();
        let text = list_table();
        assert!(text.contains("comment \"kube-verdict cleanup\""), "{text}");
        let hooked: Vec<&str> = text.split("\tchain ").filter(|chain| chain.contains(" hook ")).collect();
        assert!(!hooked.is_empty());
        assert!(hooked.iter().all(|chain| rules(chain) == 0), "{hooked:?}");
        assert_eq!(
            Table::queues_in_use().map(|queues| queues.is_some_and(|queues| queues != RANGE_A)),
            Ok(true)
        );
        assert_eq!(Table::retire(), Ok(true), "again");
        assert_eq!(Table::remove(), Ok(true));
        assert_eq!(agent.superseded(), Err(TableError::Missing));
        // The next agent finds no table, and installs everything.
        install(node_a(), RANGE_A);
        assert_eq!(Table::queues_in_use(), Ok(Some(RANGE_A)));
    });
}

#[test]
fn updates_change_only_sets_and_the_verdict_cache() {
    in_namespace(|| {
        let config = node_a();
        let mut table = install(config.clone(), RANGE_A);
        let rules = || {
            let text = run("nft", &["--handle", "--stateless", "list", "table", "inet", "kube-verdict"]);
            let (_, chains) = text.split_once("\tchain ").expect("a chain");
            // The chains of the verdict cache come last.
            chains.split_once("chain cached {").expect("the chain").0.to_owned()
        };
        let before = rules();
        table
            .update(
                &config.pod_cidrs,
                &open(&["10.244.1.5", "fd00:10:244:1::2"], &["fd00:10:244:1::6"]),
                GENERATION,
                &Affected::All,
            )
            .expect("update");
        assert_eq!(list_set("open-ingress4"), ["10.244.1.5"]);
        assert_eq!(list_set("open-ingress6"), ["fd00:10:244:1::2"]);
        assert!(list_set("open-egress4").is_empty());
        assert_eq!(list_set("open-egress6"), ["fd00:10:244:1::6"]);
        // Adjacent and overlapping networks, and the whole of an address family.
        let cidrs = ["10.0.0.0/24", "10.0.1.0/24", "10.0.1.128/25", "10.0.3.0/24", "::/0"];
        let cidrs: Vec<_> = cidrs.iter().map(|cidr| cidr.parse().expect("a CIDR")).collect();
        table.update(&cidrs, &open(&[], &[]), GENERATION, &Affected::All).expect("update");
        assert_eq!(list_set("pod-cidrs4"), ["10.0.0.0/23", "10.0.3.0/24"]);
        assert_eq!(list_set("pod-cidrs6"), ["::/0"]);
        assert!(list_set("open-ingress4").is_empty());
        assert_eq!(rules(), before);
    });
}

#[test]
fn an_update_without_difference_sends_nothing_if_there_is_no_verdict_cache() {
    in_namespace(|| {
        let config = TableConfig { verdict_cache: None, ..node_a() };
        let mut table = install(config.clone(), RANGE_A);
        // If anything were sent, the missing table would be noticed.
        run("nft", &["delete", "table", "inet", "kube-verdict"]);
        assert_eq!(table.update(&config.pod_cidrs, &config.open, GENERATION, &Affected::All), Ok(()));
        assert_eq!(
            table.update(&config.pod_cidrs, &open(&[], &[]), GENERATION, &Affected::All),
            Err(TableError::Missing)
        );
    });
}

#[test]
fn an_update_repairs_sets_that_were_changed_by_hand() {
    in_namespace(|| {
        let config = node_a();
        let mut table = install(config.clone(), RANGE_A);
        run("nft", &["flush", "set", "inet", "kube-verdict", "open-egress4"]);
        table
            .update(
                &config.pod_cidrs,
                &open(&["10.244.1.2"], &["10.244.1.3", "10.244.1.4"]),
                GENERATION,
                &Affected::All,
            )
            .expect("update");
        assert_eq!(list_set("open-egress4"), ["10.244.1.3", "10.244.1.4"]);
        assert_eq!(list_set("open-ingress4"), ["10.244.1.2"]);
    });
}

#[test]
fn ten_thousand_addresses_of_each_family_are_one_batch() {
    in_namespace(|| {
        let v4 = |i: u32| IpAddr::from(Ipv4Addr::from_bits(0x0af4_0000 + i));
        let v6 = |i: u32| IpAddr::from(Ipv6Addr::from_bits((0xfd00 << 112) + u128::from(i)));
        let many = |range: std::ops::Range<u32>| -> BTreeSet<IpAddr> {
            range.clone().map(v4).chain(range.map(v6)).collect()
        };
        let config = TableConfig {
            open: OpenAddresses { ingress: many(0..10_000), egress: many(0..10_000) },
            ..node_a()
        };
        let mut table = install(config.clone(), RANGE_A);
        assert_eq!(list_set("open-ingress4").len(), 10_000);
        assert_eq!(list_set("open-egress6").len(), 10_000);
        let open = OpenAddresses { ingress: many(5_000..15_000), egress: BTreeSet::new() };
        table.update(&config.pod_cidrs, &open, GENERATION, &Affected::All).expect("update");
        let set = list_set("open-ingress4");
        assert_eq!(set.len(), 10_000);
        assert!(set.contains(&v4(14_999).to_string()) && !set.contains(&v4(4_999).to_string()));
        assert!(list_set("open-egress6").is_empty());
        // Over the same table, full again.
        install(config, RANGE_B);
        assert_eq!(list_set("open-ingress6").len(), 10_000);
    });
}

#[test]
fn a_batch_that_fails_leaves_the_old_state() {
    in_namespace(|| {
        install(TableConfig { prerouting_dns: false, ..node_a() }, RANGE_A);
        // A chain with the same name and another priority, as another version might have left it.
        run(
            "nft",
            &[
                "add",
                "chain",
                "inet",
                "kube-verdict",
                "prerouting-dns",
                "{ type filter hook prerouting priority -90; }",
            ],
        );
        let before = list_table();
        let error = Table::install(
            TableConfig { fail_mode: FailMode::Closed, open: open(&[], &[]), ..node_a() },
            RANGE_B,
        );
        let error = error.expect_err("the chain conflicts");
        assert!(
            matches!(&error, TableError::OtherKind { object, .. } if object == "chain prerouting-dns"),
            "{error:?}"
        );
        assert!(error.to_string().contains("kube-verdict cleanup"), "{error}");
        assert_eq!(list_table(), before);
        assert_eq!(Table::queues_in_use(), Ok(Some(RANGE_A)));
    });
}

#[test]
fn updates_get_through_while_others_change_the_ruleset() {
    in_namespace(|| {
        let config = node_a();
        let mut table = install(config.clone(), RANGE_A);
        run("nft", &["add", "table", "inet", "other"]);
        let script = "for i in $(seq 1 60); do nft add chain inet other c$i; done";
        let mut other = std::process::Command::new("sh").args(["-c", script]).spawn().expect("a shell");
        let mut updates = 0_u32;
        while other.try_wait().expect("the other program").is_none() || updates < 100 {
            let address = Ipv4Addr::from_bits(0x0af4_0100 + updates).to_string();
            table
                .update(&config.pod_cidrs, &open(&[&address], &[]), GENERATION, &Affected::All)
                .expect("update");
            updates += 1;
        }
        assert_eq!(list_set("open-ingress4"), [Ipv4Addr::from_bits(0x0af4_0100 + updates - 1).to_string()]);
    });
}

#[test]
fn remove_returns_whether_there_was_a_table() {
    in_namespace(|| {
        assert_eq!(Table::remove(), Ok(false));
        install(node_a(), RANGE_A);
        assert_eq!(Table::remove(), Ok(true));
        assert_eq!(run("nft", &["list", "ruleset"]), "");
        assert_eq!(Table::remove(), Ok(false));
    });
}

#[test]
fn a_table_that_another_program_holds_is_left_alone() {
    in_namespace(|| {
        let _socket = hold_table();
        for error in [Table::install(node_a(), RANGE_A).map(drop), Table::remove().map(drop)] {
            assert_eq!(error, Err(TableError::Held));
        }
    });
}

/// Makes the table the property of a socket, as a firewall daemon does. The table ends with the socket.
fn hold_table() -> OwnedFd {
    // An explicit port. The kernel deletes tables by the owner's port, and would take this table for that of
    // an earlier socket of this process that is just being closed.
    const PORT: u32 = 0x7000_0001;
    let socket =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)
            .expect("a socket");
    bind(socket.as_raw_fd(), &NetlinkAddr::new(PORT, 0)).expect("a free port");
    let mut batch = rustables::Batch::new();
    let table = rustables::Table::new(rustables::ProtocolFamily::Inet)
        .with_name("kube-verdict")
        .with_flags(rustables::sys::NFT_TABLE_F_OWNER);
    batch.add(&table, rustables::MsgType::Add);
    send(socket.as_raw_fd(), &batch.finalize(), MsgFlags::empty()).expect("the kernel takes the batch");
    socket
}

#[test]
fn without_the_capability_the_error_names_it() {
    in_namespace(|| {
        drop_privileges();
        let error = Table::install(node_a(), RANGE_A).expect_err("an unprivileged user may change nothing");
        assert_eq!(error, TableError::NotPermitted);
        assert!(error.to_string().contains("NET_ADMIN"), "{error}");
        assert_eq!(Table::queues_in_use(), Err(TableError::NotPermitted));
    });
}
