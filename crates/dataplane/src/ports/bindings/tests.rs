//! Interfaces and the cluster's pods, and the expected bindings.

use std::collections::BTreeMap;

use ipnet::IpNet;
use policy::PodName;

use super::*;
use crate::link::Mac;
use crate::ports::interfaces::InterfaceKind;

/// The pod CIDRs `10.244.1.0/24` and `fd00:1::/64`, pods with their addresses, and the CNI cache by
/// interface.
#[derive(Default)]
struct Cluster {
    pods: Vec<(&'static str, Vec<&'static str>)>,
    cni: BTreeMap<&'static str, Vec<&'static str>>,
    exempt: Vec<&'static str>,
    cidrs: Vec<IpNet>,
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| address(text)).collect()
}

fn cluster(pods: &[(&'static str, &[&'static str])]) -> Cluster {
    let cidrs = ["10.244.1.0/24", "fd00:1::/64"].map(|cidr| cidr.parse().expect("a CIDR")).into();
    Cluster { pods: pods.iter().map(|(pod, at)| (*pod, at.to_vec())).collect(), cidrs, ..Cluster::default() }
}

impl Owners for Cluster {
    fn pod_at(&self, wanted: IpAddr) -> Option<PodName> {
        let found = self.pods.iter().find(|(_, at)| at.iter().any(|at| address(at) == wanted));
        found.map(|(pod, _)| PodName::new("web", *pod))
    }

    fn addresses_of(&self, pod: &PodName, _: IpAddr) -> Vec<IpAddr> {
        let found = self.pods.iter().find(|(name, _)| *pod == PodName::new("web", *name));
        found.map(|(_, at)| addresses(at)).unwrap_or_default()
    }

    fn in_cni_cache(&self, interface: &str) -> Option<Vec<IpAddr>> {
        self.cni.get(interface).map(|at| addresses(at))
    }

    fn pod_cidrs(&self) -> &[IpNet] {
        &self.cidrs
    }

    fn is_exempt(&self, pod: &PodName, _: IpAddr) -> bool {
        self.exempt.iter().any(|exempt| *pod == PodName::new("web", *exempt))
    }
}

fn cni0() -> Interface {
    let mut bridge = Interface::for_tests(1, "cni0", InterfaceKind::Bridge);
    bridge.addresses = addresses(&["10.244.1.1", "fd00:1::1"]);
    bridge
}

/// A port of `cni0` with these addresses inside.
fn plugged(index: u32, inside: &[&str]) -> Interface {
    let mut veth = Interface::for_tests(index, &format!("veth{index}"), InterfaceKind::Veth);
    veth.master = Some(InterfaceIndex(1));
    veth.addresses_inside = addresses(inside);
    veth.mac_inside = Mac([2, 0, 0, 0, 0, index as u8]);
    veth
}

fn settled(mut interface: Interface) -> Interface {
    interface.is_settled = true;
    interface
}

fn derive(before: &Bindings, interfaces: impl IntoIterator<Item = Interface>, cluster: &Cluster) -> Bindings {
    let all = std::iter::once(cni0()).chain(interfaces).collect();
    before.derive(&all, cluster)
}

#[track_caller]
fn assert_bound(bindings: &Bindings, index: u32, expected: &[&str]) {
    let port = &bindings.ports[&InterfaceIndex(index)];
    assert_eq!(port.addresses, addresses(expected).into_iter().collect(), "{port:?}");
}

#[test]
fn a_port_gets_the_addresses_of_its_namespace_within_the_pod_cidrs() {
    let cluster = cluster(&[]);
    let inside = ["10.244.1.5", "fd00:1::5", "fe80::5", "192.0.2.9", "10.244.2.5", "10.244.1.1"];
    let bindings = derive(&Bindings::default(), [plugged(7, &inside)], &cluster);
    assert_bound(&bindings, 7, &["10.244.1.5", "fd00:1::5", "fe80::5"]);
    assert!(!bindings.ports[&InterfaceIndex(7)].is_settled, "more addresses may follow");
}

#[test]
fn a_settled_port_gets_no_address_that_its_pod_gives_itself_later() {
    let cluster = cluster(&[("a", &["10.244.1.5"])]);
    let first = derive(&Bindings::default(), [settled(plugged(7, &["10.244.1.5"]))], &cluster);
    let later = derive(&first, [settled(plugged(7, &["10.244.1.5", "10.244.1.77", "fe80::7"]))], &cluster);
    assert_bound(&later, 7, &["10.244.1.5", "fe80::7"]);
}

#[test]
fn a_port_loses_an_address_taken_before_it_was_settled_once_the_cluster_lists_its_pods_addresses() {
    let unknown = cluster(&[]);
    let squats = plugged(7, &["10.244.1.5", "10.244.1.77"]);
    let first = derive(&Bindings::default(), [squats.clone()], &unknown);
    assert_bound(&first, 7, &["10.244.1.5", "10.244.1.77"]);
    let known = cluster(&[("a", &["10.244.1.5"])]);
    let later = derive(&first, [squats], &known);
    assert_bound(&later, 7, &["10.244.1.5"]);
    assert_eq!(later.left_since(&first), [address("10.244.1.77")].into());
}

#[test]
fn a_port_whose_pod_is_known_keeps_a_claimed_address_until_the_cluster_assigns_it_to_another_pod() {
    let known = cluster(&[("a", &["10.244.1.5", "10.244.1.6"])]);
    let (first, second) = (plugged(9, &["10.244.1.5", "10.244.1.6"]), plugged(8, &["10.244.1.6"]));
    let before = derive(&Bindings::default(), [first.clone()], &known);
    let both = derive(&before, [first.clone(), second.clone()], &known);
    assert_bound(&both, 9, &["10.244.1.5", "10.244.1.6"]);
    assert_bound(&both, 8, &[]);
    let conflict = Conflict {
        address: PortAddress::Ip(address("10.244.1.6")),
        bound_to: Some("veth9".into()),
        claimed_by: "veth8".into(),
    };
    assert_eq!(both.conflicts, [conflict].into());
    let reassigned = cluster(&[("a", &["10.244.1.5"]), ("b", &["10.244.1.6"])]);
    let settled = derive(&both, [first, second], &reassigned);
    assert_bound(&settled, 9, &["10.244.1.5"]);
    assert_bound(&settled, 8, &["10.244.1.6"]);
    assert!(settled.conflicts.is_empty());
}

#[test]
fn a_new_port_takes_its_first_address_from_a_port_whose_pod_is_unknown() {
    let unknown = cluster(&[]);
    let (squatter, owner) = (settled(plugged(7, &["10.244.1.6"])), plugged(8, &["10.244.1.6"]));
    let before = derive(&Bindings::default(), [squatter.clone()], &unknown);
    assert_bound(&before, 7, &["10.244.1.6"]);
    let both = derive(&before, [squatter.clone(), owner.clone()], &unknown);
    assert_bound(&both, 7, &[]);
    assert_bound(&both, 8, &["10.244.1.6"]);
    // The squatter does not get it back by continuing to claim it, nor once the cluster knows the address's
    // pod.
    let known = cluster(&[("b", &["10.244.1.6"])]);
    let later = derive(&both, [squatter, settled(owner)], &known);
    assert_bound(&later, 7, &[]);
    assert_bound(&later, 8, &["10.244.1.6"]);
    assert!(later.ports[&InterfaceIndex(8)].is_confirmed);
}

#[test]
fn an_address_of_two_ports_older_than_the_agent_is_bound_to_neither_unless_the_cache_lists_it() {
    let known = cluster(&[("b", &["10.244.1.6"])]);
    let both = [plugged(7, &["10.244.1.6"]), plugged(8, &["10.244.1.6"])].map(settled);
    let doubtful = derive(&Bindings::default(), both.clone(), &known);
    assert_bound(&doubtful, 7, &[]);
    assert_bound(&doubtful, 8, &[]);
    assert_eq!(doubtful.conflicts.len(), 2);
    let mut listed = cluster(&[("b", &["10.244.1.6"])]);
    listed.cni.insert("veth8", vec!["10.244.1.6"]);
    let decided = derive(&doubtful, both, &listed);
    assert_bound(&decided, 7, &[]);
    assert_bound(&decided, 8, &["10.244.1.6"]);
}

#[test]
fn a_hardware_address_is_bound_to_one_port() {
    let known = cluster(&[("a", &["10.244.1.5"]), ("b", &["10.244.1.6"])]);
    let (first, mut second) = (plugged(7, &["10.244.1.5"]), plugged(8, &["10.244.1.6"]));
    second.mac_inside = first.mac_inside;
    let before = derive(&Bindings::default(), [first.clone()], &known);
    let both = derive(&before, [first.clone(), second.clone()], &known);
    assert_bound(&both, 7, &["10.244.1.5"]);
    assert_bound(&both, 8, &[]);
    let at_once = derive(&Bindings::default(), [first, second], &known);
    assert_bound(&at_once, 7, &[]);
    assert_bound(&at_once, 8, &[]);
}

#[test]
fn a_removed_port_loses_its_addresses_and_a_new_one_of_the_same_name_inherits_none() {
    let cluster = cluster(&[("a", &["10.244.1.5"])]);
    let before = derive(&Bindings::default(), [settled(plugged(7, &["10.244.1.5"]))], &cluster);
    let gone = derive(&before, [], &cluster);
    assert_eq!(gone.left_since(&before), [address("10.244.1.5")].into());
    let mut again = plugged(8, &[]);
    again.name = "veth7".into();
    let next = derive(&before, [again], &cluster);
    assert_bound(&next, 8, &[]);
}

#[test]
fn the_cni_cache_lists_the_addresses_and_settles_the_port() {
    let mut cluster = cluster(&[]);
    cluster.cni.insert("veth7", vec!["10.244.1.5", "fd00:1::5"]);
    let half = derive(&Bindings::default(), [plugged(7, &["10.244.1.5", "10.244.1.9"])], &cluster);
    assert_bound(&half, 7, &["10.244.1.5"]);
    assert!(!half.ports[&InterfaceIndex(7)].is_settled, "fd00:1::5 is not there yet");
    let whole = derive(&half, [plugged(7, &["10.244.1.5", "fd00:1::5"])], &cluster);
    assert_bound(&whole, 7, &["10.244.1.5", "fd00:1::5"]);
    assert!(whole.ports[&InterfaceIndex(7)].is_settled);
}

#[test]
fn a_port_keeps_its_first_hardware_address() {
    let cluster = cluster(&[]);
    let before = derive(&Bindings::default(), [plugged(7, &["10.244.1.5"])], &cluster);
    let mut changed = plugged(7, &["10.244.1.5"]);
    changed.mac_inside = Mac([6; 6]);
    let after = derive(&before, [changed], &cluster);
    assert_eq!(after.ports[&InterfaceIndex(7)].mac, before.ports[&InterfaceIndex(7)].mac);
}

#[test]
fn veth_devices_are_ports_by_their_bridge_and_addresses() {
    let cluster = cluster(&[]);
    let docker0 = Interface::for_tests(2, "docker0", InterfaceKind::Bridge);
    let mut of_docker = plugged(10, &["172.17.0.2"]);
    of_docker.master = Some(InterfaceIndex(2));
    let alone = |index, inside: &[&str]| {
        let mut veth = plugged(index, inside);
        veth.master = None;
        veth
    };
    let routed = alone(11, &["10.244.1.5"]);
    let mut uplink = alone(12, &[]);
    uplink.addresses = addresses(&["192.0.2.1", "fe80::1"]);
    let of_a_vpn = alone(13, &["198.51.100.2"]);
    let new = alone(14, &[]);
    let mut within = alone(15, &[]);
    within.peer_namespace = None;
    let all = [docker0, of_docker, routed, uplink, of_a_vpn, new, within];
    let bindings = derive(&Bindings::default(), all, &cluster);
    assert_eq!(bindings.ports.keys().copied().collect::<Vec<_>>(), [InterfaceIndex(11)]);
    assert_eq!(bindings.ports[&InterfaceIndex(11)].attachment, Attachment::Routed);
    assert_eq!(bindings.other_ports, [10, 12, 13, 15].map(InterfaceIndex).into());
    assert_eq!(bindings.other_bridges, ["docker0".into()].into());
    assert_eq!(bindings.pod_bridges, [InterfaceIndex(1)].into());
}

#[test]
fn a_routed_port_stays_one_when_its_namespace_has_another_address() {
    let cluster = cluster(&[]);
    let routed = |inside: &[&str]| {
        let mut veth = settled(plugged(7, inside));
        veth.master = None;
        veth
    };
    let before = derive(&Bindings::default(), [routed(&["10.244.1.5"])], &cluster);
    let after = derive(&before, [routed(&["198.51.100.2"])], &cluster);
    assert_bound(&after, 7, &["10.244.1.5"]);
}

#[test]
fn a_port_gets_an_address_that_another_port_held_once_that_one_is_removed() {
    let cluster = cluster(&[("a", &["10.244.1.5"])]);
    let (old, new) = (settled(plugged(7, &["10.244.1.5"])), settled(plugged(8, &["10.244.1.5"])));
    let before = derive(&Bindings::default(), [old.clone()], &cluster);
    let both = derive(&before, [old, new.clone()], &cluster);
    assert_bound(&both, 8, &[]);
    assert!(!both.ports[&InterfaceIndex(8)].is_settled, "its packets are held");
    assert_bound(&derive(&both, [new], &cluster), 8, &["10.244.1.5"]);
}

#[test]
fn the_cni_cache_identifies_a_ports_pod_although_its_namespace_has_another_pods_address() {
    let mut cluster = cluster(&[("a", &["10.244.1.5"]), ("b", &["10.244.1.3"])]);
    cluster.cni.insert("veth7", vec!["10.244.1.5"]);
    let bindings = derive(&Bindings::default(), [plugged(7, &["10.244.1.3", "10.244.1.5"])], &cluster);
    assert_bound(&bindings, 7, &["10.244.1.5"]);
}

#[test]
fn a_settled_port_gets_an_address_that_the_cni_cache_lists_later() {
    let mut cluster = cluster(&[]);
    let port = settled(plugged(7, &["10.244.1.5"]));
    let first = derive(&Bindings::default(), [port.clone()], &cluster);
    cluster.cni.insert("veth7", vec!["10.244.1.5", "fd00:1::5"]);
    assert_bound(&derive(&first, [port], &cluster), 7, &["10.244.1.5", "fd00:1::5"]);
}

#[test]
fn a_cni_result_without_addresses_is_ignored() {
    let mut cluster = cluster(&[]);
    cluster.cni.insert("veth7", Vec::new());
    assert_bound(&derive(&Bindings::default(), [plugged(7, &["10.244.1.5"])], &cluster), 7, &["10.244.1.5"]);
}

#[test]
fn an_exempt_pod_is_identified_by_its_own_address() {
    let mut cluster = cluster(&[("vpn", &["10.244.1.5"]), ("a", &["10.244.1.6"])]);
    cluster.exempt.push("vpn");
    let bindings =
        derive(&Bindings::default(), [plugged(7, &["10.244.1.5"]), plugged(8, &["10.244.1.6"])], &cluster);
    assert!(bindings.ports[&InterfaceIndex(7)].is_exempt);
    assert!(!bindings.ports[&InterfaceIndex(8)].is_exempt);
}
