use super::*;
use crate::netlink::PortId;
use crate::ports::BridgeNetfilter;
use crate::queues::QueueNumber;

/// A `/proc` with these files.
fn proc(files: &[(&str, &str)]) -> (tempfile::TempDir, Files) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (path, text) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, text).expect("a file");
    }
    let files = Files { proc: folder.path().to_owned() };
    (folder, files)
}

const IPTABLES: &str = "sys/net/bridge/bridge-nf-call-iptables";
const IP6TABLES: &str = "sys/net/bridge/bridge-nf-call-ip6tables";

/// A node without a bridge for pods.
fn no_bridges() -> Result<Vec<Bridge>, InterfacesError> {
    Ok(Vec::new())
}

fn bridge_named(name: &str, ipv4: bool, ipv6: bool) -> Bridge {
    Bridge { name: name.into(), netfilter: BridgeNetfilter { ipv4, ipv6 } }
}

fn wrong(state: CheckState) -> (String, String) {
    match state {
        CheckState::Wrong { what, todo, .. } => (what, todo),
        other => panic!("not wrong: {other:?}"),
    }
}

#[test]
fn a_bridge_requires_both_sysctls() {
    let config = PreflightConfig::default();
    let (_folder, both) = proc(&[(IPTABLES, "1\n"), (IP6TABLES, "1\n")]);
    assert!(matches!(bridge(&both, &config, no_bridges), CheckState::Fine { .. }));

    let (_folder, off) = proc(&[(IPTABLES, "1\n"), (IP6TABLES, "0\n")]);
    assert!(!bridge(&off, &config, no_bridges).prevents_enforcing(), "packets from other nodes are routed");
    let (what, todo) = wrong(bridge(&off, &config, no_bridges));
    assert!(what.contains("net.bridge.bridge-nf-call-ip6tables is 0"), "{what}");
    assert_eq!(todo, "`sysctl -w net.bridge.bridge-nf-call-ip6tables=1`");
    // Without IPv6 pods its sysctl is not required.
    let ipv4_only = PreflightConfig { ipv6: false, ..config.clone() };
    assert!(matches!(bridge(&off, &ipv4_only, no_bridges), CheckState::Fine { .. }));

    let (_folder, missing) = proc(&[]);
    let (what, todo) = wrong(bridge(&missing, &config, no_bridges));
    assert!(what.contains("br_netfilter is not loaded"), "{what}");
    assert!(todo.contains("modprobe br_netfilter"), "{todo}");
    let no_bridge = PreflightConfig { bridge: false, ..config };
    assert!(matches!(bridge(&missing, &no_bridge, no_bridges), CheckState::Fine { .. }));
}

#[test]
fn a_bridge_whose_own_settings_are_on_requires_no_sysctl() {
    let config = PreflightConfig::default();
    let with = |files: &Files, bridges: &[Bridge]| bridge(files, &config, || Ok(bridges.to_vec()));
    let (_folder, off) = proc(&[(IPTABLES, "0\n"), (IP6TABLES, "0\n")]);
    let CheckState::Fine { what } = with(&off, &[bridge_named("cni0", true, true)]) else {
        panic!("not fine")
    };
    assert!(what.contains("bridge cni0 has nf_call_iptables on"), "{what}");

    // For IPv6 neither the sysctl nor the bridge's setting is on.
    let (what, todo) = wrong(with(&off, &[bridge_named("cni0", true, false)]));
    assert!(what.contains("bridge-nf-call-ip6tables is 0, and bridge cni0's own setting is off"), "{what}");
    assert_eq!(todo, "`sysctl -w net.bridge.bridge-nf-call-ip6tables=1`");
    // For each family one of the two is sufficient.
    let (_folder, ipv6) = proc(&[(IPTABLES, "0\n"), (IP6TABLES, "1\n")]);
    assert!(matches!(with(&ipv6, &[bridge_named("cni0", true, false)]), CheckState::Fine { .. }));

    // ALL of the pods' bridges.
    let (what, _) = wrong(with(&off, &[bridge_named("cni0", true, true), bridge_named("cni1", false, true)]));
    assert!(what.contains("bridge cni1"), "{what}");
    // A bridge that does not exist yet will have its settings off.
    assert!(with(&off, &[]).is_wrong());

    // Without the module a bridge's settings have no effect.
    let (_folder, missing) = proc(&[]);
    let (what, _) = wrong(with(&missing, &[bridge_named("cni0", true, true)]));
    assert!(what.contains("br_netfilter is not loaded"), "{what}");
}

#[test]
fn a_node_that_does_not_forward_is_a_warning() {
    let config = PreflightConfig::default();
    let (_folder, files) =
        proc(&[("sys/net/ipv4/ip_forward", "1\n"), ("sys/net/ipv6/conf/all/forwarding", "0\n")]);
    let CheckState::Warning { what, todo } = forwarding(&files, &config) else { panic!("no warning") };
    assert!(what.contains("net.ipv6.conf.all.forwarding is 0"), "{what}");
    assert_eq!(todo, "`sysctl -w net.ipv6.conf.all.forwarding=1`");
    assert!(matches!(
        forwarding(&files, &PreflightConfig { ipv6: false, ..config }),
        CheckState::Fine { .. }
    ));
}

#[test]
fn an_old_kernel_is_fine_once_dns_is_evaluated_early() {
    assert!(matches!(kernel(Some("6.1.0-28-amd64"), false), CheckState::Warning { .. }));
    assert!(matches!(kernel(Some("6.1.0-28-amd64"), true), CheckState::Fine { .. }));
    assert!(matches!(kernel(Some("6.18.44"), false), CheckState::Fine { .. }));
    assert!(matches!(kernel(None, false), CheckState::Warning { .. }));
}

fn bound(number: u16, port_id: u32) -> QueueStatistics {
    let port_id = PortId(port_id);
    QueueStatistics {
        number: QueueNumber(number),
        port_id,
        waiting: 0,
        copy_mode: 2,
        copy_range: 128,
        dropped_full: 0,
        dropped_by_socket: 0,
        last_packet: 0,
    }
}

#[test]
fn a_queue_that_another_program_has_bound_is_named() {
    let ours = QueueRange::pair(QueueNumber(100), 2).expect("two ranges");
    let name = |pid| (pid == 77).then(|| "suricata".to_owned());

    let both = [bound(99, 1), bound(103, 77), bound(100, 4_000_000_000)];
    let (what, todo) = wrong(queues(&both, &ours, None, name));
    assert_eq!(
        what,
        "queue 103 is bound by another program (netlink port 77, possibly process 77, suricata)"
    );
    assert!(todo.contains("other queue numbers"), "{todo}");
    let (what, _) = wrong(queues(&both[2..], &ours[..1], None, name));
    assert_eq!(what, "queue 100 is bound by another program (netlink port 4000000000)");
    // The rules send packets to the first range, so the agent in force has bound it. The second range is
    // bound by another program.
    assert!(queues(&[bound(100, 5), bound(103, 6)], &ours, Some(ours[0]), name).is_wrong());
}

/// As with a suspended agent whose queue rule another program has deleted.
#[test]
fn one_free_range_is_sufficient() {
    let ours = QueueRange::pair(QueueNumber(100), 2).expect("two ranges");
    // In the second case the second agent has died since.
    for in_use in [None, Some(ours[1])] {
        match queues(&[bound(100, 5), bound(101, 5)], &ours, in_use, |_| None) {
            CheckState::Warning { what, .. } => {
                assert!(what.contains("queue 100 is bound by another program"), "{what}");
                assert!(what.contains("uses queues 103-104"), "{what}");
            }
            other => panic!("no warning: {other:?}"),
        }
    }
}

#[test]
fn queues_of_the_agent_in_force_and_unrelated_queues_are_fine() {
    let ours = QueueRange::pair(QueueNumber(100), 2).expect("two ranges");
    let what = |bound: &[QueueStatistics], in_use| match queues(bound, &ours, in_use, |_| None) {
        CheckState::Fine { what } => what,
        other => panic!("not fine: {other:?}"),
    };
    assert_eq!(what(&[bound(0, 1)], None), "the queues are free");
    assert_eq!(
        what(&[bound(103, 6), bound(104, 7)], Some(ours[1])),
        "queues 103-104 are served by the agent whose rules are in force"
    );
    assert!(what(&[], Some(ours[0])).contains("which no agent serves now"));
}
