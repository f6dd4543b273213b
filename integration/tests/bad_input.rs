//! Invalid input: manifests that become invalid, and malformed packets.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the failure")]

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use integration::command::{nft, nft_output};
use integration::{Direction, Family, Links, Scenario, Testbed, allowed, denied, smoke};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, sendto, socket,
};

/// Waits until `fits` is true for the status of node-a's agent.
fn wait_status(
    scenario: &mut Scenario,
    what: &str,
    fits: impl Fn(&serde_json::Value) -> bool,
) -> serde_json::Value {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let status = scenario.agent("node-a").status().unwrap();
        if fits(&status) {
            return status;
        }
        assert!(Instant::now() < end, "{what}: {status:#}");
        sleep(Duration::from_millis(20));
    }
}

fn problems(status: &serde_json::Value) -> usize {
    status["problems"].as_array().map_or(0, Vec::len)
}

#[test]
fn the_last_valid_objects_of_a_file_stay_in_force_when_it_becomes_invalid() {
    let mut scenario = Scenario::new(smoke::cluster(Links::Routes));
    smoke::write_policies(&mut scenario);
    scenario.start_agents(&[]);
    assert_eq!(problems(&scenario.agent("node-a").status().unwrap()), 0);

    scenario
        .testbed
        .manifests()
        .write("policy-db.allow-front.yaml", "kind: NetworkPolicy\nspec: [\n")
        .unwrap();
    let status = wait_status(&mut scenario, "a problem is reported", |status| problems(status) > 0);
    assert!(status["problems"].to_string().contains("policy-db.allow-front.yaml"), "{status:#}");
    scenario.expect("web/front", "db/store", "5432", &allowed(Direction::Ingress, "db/allow-front", 0));
    scenario.expect("other/client", "db/store", "5432", &denied(Direction::Ingress, "db/allow-dns"));
    assert_eq!(scenario.agent("node-a").readiness().unwrap().status, 200);

    // When it is repaired, with another spec, it is applied again.
    scenario.policy("db/allow-front", "podSelector: {}\npolicyTypes: [Ingress]");
    wait_status(&mut scenario, "no problem is left", |status| problems(status) == 0);
    scenario.expect("web/front", "db/store", "5432", &denied(Direction::Ingress, "db/allow-dns"));
}

#[test]
fn invalid_parts_of_a_policy_allow_nothing() {
    let mut scenario = Scenario::new(smoke::cluster(Links::Routes));
    scenario.start_agents(&[]);
    scenario.policy(
        "db/wrong",
        "
        podSelector: {}
        ingress:
        - from: [{namespaceSelector: {matchExpressions: [{key: team, operator: Near, values: [front]}]}}]
        - from: [{ipBlock: {cidr: 10.244.1.0/99}}]
        - ports: [{port: 8080, endPort: 80}]
        - from: [{podSelector: {}}]
        ",
    );
    let status = wait_status(&mut scenario, "three problems are reported", |status| problems(status) >= 3);
    assert!(status["problems"].to_string().contains("db/wrong"), "{status:#}");
    scenario.expect("web/front", "db/store", "5432", &denied(Direction::Ingress, "db/wrong"));
    scenario.expect("web/front", "db/store", "8080", &denied(Direction::Ingress, "db/wrong"));
    // The valid rule is still applied.
    scenario.expect("db/backup", "db/store", "5432", &allowed(Direction::Ingress, "db/wrong", 3));
}

/// Sends IP packets with a valid header and invalid content. Returns how many were sent.
fn send_garbage(testbed: &Testbed, from: &str, to: &str, family: Family) -> usize {
    let (source, destination) =
        (family.of(testbed.addresses(from).unwrap()), family.of(testbed.addresses(to).unwrap()));
    let protocols = [6u8, 17, 132, 1, 58, 0, 43, 44, 51, 60, 253, 255];
    let contents: [&[u8]; 6] = [&[], &[0], &[0xff; 7], &[0; 19], &[0xff; 40], &[60; 200]];
    let sends = || {
        let family = if destination.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let fd = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw).unwrap();
        let mut sent = 0;
        for (protocol, content) in protocols.iter().flat_map(|p| contents.iter().map(move |c| (*p, *c))) {
            let packet = packet(source, destination, protocol, content);
            let to = SockaddrStorage::from(SocketAddr::new(destination, 0));
            // The sender's kernel refuses some of them.
            sent += usize::from(sendto(fd.as_raw_fd(), &packet, &to, MsgFlags::empty()).is_ok());
        }
        sent
    };
    testbed.namespace(from).unwrap().run(sends).unwrap()
}

fn packet(source: IpAddr, destination: IpAddr, protocol: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            // Version and length, service, total length and identifier (set by the kernel), fragment, hops,
            // protocol, checksum.
            bytes.extend_from_slice(&[0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0]);
            bytes.extend_from_slice(&source.octets());
            bytes.extend_from_slice(&destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            bytes.extend_from_slice(&[0x60, 0, 0, 0]);
            bytes.extend_from_slice(&u16::try_from(content.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(&[protocol, 64]);
            bytes.extend_from_slice(&source.octets());
            bytes.extend_from_slice(&destination.octets());
        }
        _ => panic!("two families"),
    }
    bytes.extend_from_slice(content);
    bytes
}

#[test]
fn garbage_is_denied_and_counted_and_the_agent_lives() {
    let mut scenario = Scenario::new(smoke::cluster(Links::Routes));
    scenario.policy(
        "db/allow-tcp",
        "
        podSelector: {}
        ingress:
        - ports: [{port: 5432}]
        ",
    );
    scenario.start_agents(&[]);
    let store = scenario.testbed.namespace("db/store").unwrap();
    let counter = "table inet seen {\ncounter garbage {}\nchain c {\n\
                   type filter hook prerouting priority -400\n\
                   ip saddr 10.244.1.4 counter name garbage\n\
                   ip6 saddr fd00:10:244:1::4 meta l4proto != icmpv6 counter name garbage\n}\n}";
    nft(store, counter).unwrap();
    let before = scenario.agent("node-a").status().unwrap();
    for family in Family::BOTH {
        assert!(send_garbage(&scenario.testbed, "other/client", "db/store", family) > 40);
    }
    let count = |status: &serde_json::Value, what: &str| status["packets"][what].as_u64().unwrap();
    let after = wait_status(&mut scenario, "unparsable packets are counted", |status| {
        count(status, "unparsable") > count(&before, "unparsable") && count(status, "denied") >= 60
    });
    eprintln!("{:#}", after["packets"]);
    let seen = nft_output(
        scenario.testbed.namespace("db/store").unwrap(),
        &["list", "counter", "inet", "seen", "garbage"],
    );
    let seen = seen.unwrap();
    assert!(seen.contains("packets 0 "), "garbage reached a pod that only allows TCP to port 5432: {seen}");
    assert_eq!(scenario.agent("node-a").get("/livez").unwrap().status, 200);
    scenario.expect("web/front", "db/store", "5432", &allowed(Direction::Ingress, "db/allow-tcp", 0));
}
