//! Golden files with the bytes of each kind of batch (`tests/golden/*.batch`). With `UPDATE_GOLDEN=1` they
//! are written again, so that a person can review the difference.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use policy::{Affected, Generation};
use rustables::sys;

use super::bridge::{BridgeContents, BridgeRules};
use super::config::{FailMode, QueueQuota, TableConfig, VerdictCacheConfig};
use super::error::TableError;
use super::handle::Table;
use super::install::{Installation, install_batch};
use super::installed_rules::InstalledRules;
use super::open_addresses::OpenAddresses;
use super::origins::Origins;
use super::pod_cidrs::PodCidrs;
use super::queue_form::form_trial;
use super::revalidation;
use super::sets::Contents;
use super::socket::open;
use super::verdict_cache::{self, VerdictCache};
use crate::marks::Marks;
use crate::netlink::AttributeReader;
use crate::nft::batch::{Batch, Refusal, Subject};
use crate::nft::queue::QueueForm;
use crate::queues::{QueueNumber, QueueRange};

const QUEUES: QueueRange = QueueRange { first: QueueNumber(100), count: 2 };

fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
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
        open: OpenAddresses {
            ingress: addresses(&["10.244.1.2", "fd00:10:244:1::2"]),
            egress: addresses(&["10.244.1.2", "10.244.1.3"]),
        },
        verdict_cache: Some(VerdictCacheConfig { ttl: Duration::from_secs(5), log_group: Some(100) }),
        queue_quota: Some(QueueQuota { rate: 10_000, burst: 1_024 }),
        generation: Generation(7),
        origin: None,
        trust_replies: false,
    }
}

/// Starts at a time whose microseconds are 0x02030405 in 32 bits.
fn new_cache(config: &TableConfig) -> VerdictCache {
    VerdictCache::new(config, SystemTime::UNIX_EPOCH + Duration::from_micros(0x01_0203_0405))
}

/// Compares with the golden file of this name. The bytes are those of a little-endian machine.
#[cfg(target_endian = "little")]
fn check_golden(name: &str, batch: &Batch) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let text = batch.to_text();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).expect("the golden file can be written");
    }
    let golden = std::fs::read_to_string(&path).expect("the golden file is there");
    assert!(golden == text, "{name} differs from the batch; UPDATE_GOLDEN=1 writes it again:\n{text}");
}

fn install(config: &TableConfig, form: QueueForm) -> Batch {
    let contents = Contents::new(&config.open, []);
    install_batch(
        config,
        &contents,
        &new_cache(config),
        &written(QUEUES, form, &BTreeSet::new()),
        &BTreeSet::new(),
    )
}

fn written(queues: QueueRange, form: QueueForm, revalidated: &BTreeSet<IpAddr>) -> Installation<'_> {
    Installation { queues, form, bridge: None, revalidated }
}

#[cfg(target_endian = "little")]
#[test]
fn install_with_the_native_queue() {
    check_golden("install-native.batch", &install(&node_a(), QueueForm::Native));
}

#[cfg(target_endian = "little")]
#[test]
fn pod_cidrs_come_before_the_rules() {
    let mut batch = Batch::default();
    PodCidrs::new(&node_a().pod_cidrs).create(&mut batch);
    check_golden("pod-cidrs.batch", &batch);
}

#[cfg(target_endian = "little")]
#[test]
fn install_with_the_target() {
    let config =
        TableConfig { fail_mode: FailMode::Closed, prerouting_dns: false, verdict_cache: None, ..node_a() };
    check_golden("install-target.batch", &install(&config, QueueForm::Target));
}

#[cfg(target_endian = "little")]
#[test]
fn update_sends_only_the_differences() {
    let old = Contents::new(&node_a().open, []);
    let open = OpenAddresses {
        ingress: addresses(&["10.244.1.2"]),
        egress: addresses(&["10.244.1.3", "10.244.1.4", "fd00:10:244:1::4"]),
    };
    let affected = Affected::any_peer(addresses(&["10.244.1.4"]));
    let cache = new_cache(&node_a()).next(Generation(8), &affected, Instant::now());
    let mut batch = Batch::default();
    Contents::new(&open, cache.changed()).change_from(&old, &mut batch);
    verdict_cache::replace(&cache, &mut batch);
    check_golden("update.batch", &batch);
}

#[test]
fn no_two_sets_have_one_number() {
    let mut batch = install(&node_a(), QueueForm::Native);
    let bridge = BridgeRules { marks: Marks::default(), log_group: None, knows_bridges: true };
    bridge.install(&BridgeContents::new(&Origins::default()), &mut batch);
    let mut ids = BTreeSet::new();
    for attributes in batch.attributes_of(sys::NFT_MSG_NEWSET) {
        let (_, id) = AttributeReader::new(attributes)
            .find(|(kind, _)| *kind == sys::NFTA_SET_ID)
            .expect("a set has a number");
        assert!(ids.insert(id), "{id:?}");
    }
    assert!(ids.len() > 50, "{}", ids.len());
}

#[test]
fn a_pod_counts_as_recently_changed_for_longer_than_its_flows_are_cached() {
    let pods = |texts: &[&str]| Affected::any_peer(addresses(texts));
    let changed =
        |cache: &VerdictCache| cache.changed().map(|address| address.to_string()).collect::<Vec<_>>();
    let second = |number| Duration::from_secs(number);
    let (first, start) = (new_cache(&node_a()), Instant::now());
    let mut one = first.next(Generation(8), &pods(&["10.244.1.4", "::ffff:10.244.1.5"]), start);
    // The batch took a while.
    one.mark_changed(&addresses(&["10.244.1.4"]), start + second(3));
    let two = one.next(Generation(9), &pods(&[]), start + second(6));
    assert_eq!(changed(&two), ["10.244.1.4", "10.244.1.5"]);
    let three = two.next(Generation(10), &pods(&["10.244.1.6"]), start + second(7));
    assert_eq!(changed(&three), ["10.244.1.4", "10.244.1.6"], "a pair is cached for five seconds");
    let four = three.next(Generation(11), &Affected::All, start + second(7));
    assert!(changed(&four).is_empty());
    let five = four.next(Generation(12), &pods(&["10.244.1.7"]), start + second(7));
    // Which cache generations are equal.
    let cache_generations = [&first, &one, &two, &three, &four, &five].map(VerdictCache::cache_generations);
    assert!(
        cache_generations.is_sorted_by_key(|(latest, _)| *latest)
            && cache_generations[0].0 < cache_generations[1].0,
        "{cache_generations:?}"
    );
    assert!(
        cache_generations[..4].iter().all(|(_, stable)| *stable == cache_generations[0].1),
        "{cache_generations:?}"
    );
    assert_eq!(cache_generations[4].0, cache_generations[4].1, "all flows are invalidated");
    assert_eq!(cache_generations[5].1, cache_generations[4].1);
}

#[test]
fn if_very_many_pods_changed_recently_all_flows_are_invalidated() {
    let of = |range: std::ops::Range<u32>| {
        Affected::any_peer(range.map(|i| IpAddr::V4(Ipv4Addr::from_bits(0x0af4_0000 + i))))
    };
    let (mut last, now) = (new_cache(&node_a()), Instant::now());
    for number in 0..4 {
        last = last.next(Generation(8), &of(number * 1000..(number + 1) * 1000), now);
    }
    let before = last.cache_generations();
    let next = last.next(Generation(9), &of(4_000..5_000), now);
    assert_eq!((last.changed().count(), next.changed().count()), (4_000, 1_000));
    let (latest, stable) = next.cache_generations();
    assert!(latest == stable && stable != before.1, "{before:?} {:?}", next.cache_generations());
}

#[test]
fn without_a_verdict_cache_a_pod_counts_as_changed_until_the_next_change() {
    let config = TableConfig { verdict_cache: None, ..node_a() };
    let affected = Affected::any_peer(addresses(&["10.244.1.4"]));
    let one = new_cache(&config).next(Generation(8), &affected, Instant::now());
    assert_eq!(one.changed().count(), 1);
    let later = Instant::now() + Duration::from_millis(1);
    assert_eq!(one.next(Generation(9), &Affected::NONE, later).changed().count(), 0);
}

#[cfg(target_endian = "little")]
#[test]
fn the_trial_of_both_forms() {
    check_golden("trial-native.batch", &form_trial(QueueForm::Native));
    check_golden("trial-target.batch", &form_trial(QueueForm::Target));
}

#[test]
fn takeover_differs_from_the_first_install_only_in_the_queue_rule() {
    let config = node_a();
    let contents = Contents::new(&config.open, []);
    let install = |queues| {
        let none = BTreeSet::new();
        let written = written(queues, QueueForm::Native, &none);
        install_batch(&config, &contents, &new_cache(&config), &written, &BTreeSet::new()).to_text()
    };
    let (first, second) = (install(QUEUES), install(QueueRange { first: QueueNumber(102), count: 2 }));
    let part = |text: &str| text.split("# ").map(str::to_owned).collect::<Vec<_>>();
    let (first, second) = (part(&first), part(&second));
    assert_eq!(first.len(), second.len());
    let differing: Vec<&str> =
        first.iter().zip(&second).filter(|(a, b)| a != b).filter_map(|(a, _)| a.lines().next()).collect();
    assert_eq!(differing, ["rule of chain nfqueue: send to a worker"]);
}

#[test]
fn refusals_become_errors_with_a_remedy() {
    let part =
        || Subject { object: "rule of chain postrouting: x".to_owned(), modules: "nft_fib_inet".to_owned() };
    let text = |refusal: Refusal| TableError::from(refusal).to_string();
    assert!(text(Refusal::Whole(Errno::EPERM)).contains("CAP_NET_ADMIN"));
    assert!(text(Refusal::Whole(Errno::EOPNOTSUPP)).contains("no nf_tables"));
    assert!(text(Refusal::Message(part(), Errno::EPERM)).contains("held by another program"));
    assert!(text(Refusal::Message(part(), Errno::ENOENT)).contains("nft_fib_inet"));
    assert!(text(Refusal::Message(part(), Errno::EEXIST)).contains("kube-verdict cleanup"));
    assert!(
        text(Refusal::Message(Subject::plain("chain postrouting"), Errno::EOPNOTSUPP))
            .contains("kube-verdict cleanup")
    );
    assert!(text(Refusal::Message(part(), Errno::ENOMEM)).contains("rule of chain postrouting: x"));
    assert!(text(Refusal::Outdated).contains("try again"));
}

#[test]
fn a_new_agent_keeps_its_predecessors_pods_under_revalidation() {
    let in_namespace = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .expect("this test needs root, to create a network namespace: run the tests as root");
        let config = || TableConfig { prerouting_dns: false, ..node_a() };
        let mut first = Table::install(config(), QUEUES).expect("the table can be installed");
        assert!(!first.is_revalidating());
        let pods = addresses(&["10.244.1.4", "fd00:10:244:1::4"]);
        let TableConfig { pod_cidrs, open, .. } = config();
        let mut update = |generation, affected: &Affected| {
            first.update(&pod_cidrs, &open, Generation(generation), affected).expect("it can be updated");
            first.revalidated.clone()
        };
        assert_eq!(update(8, &Affected::any_peer(pods.clone())), pods);
        assert_eq!(update(9, &Affected::All), pods, "until the sweep");
        let next = QueueRange { first: QueueNumber(102), ..QUEUES };
        let mut second = Table::install(config(), next).expect("it can be taken over");
        assert_eq!(second.revalidated, pods);
        second.restore(config()).expect("it can be written again");
        let read =
            |table: &mut Table| revalidation::read_pods(&mut table.socket).expect("the sets can be read");
        assert_eq!(read(&mut second), pods);
        second.end_revalidation().expect("the sweep is over");
        assert!(!second.is_revalidating() && read(&mut second).is_empty());
    };
    if let Err(panic) = std::thread::spawn(in_namespace).join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn a_batch_for_another_generation_is_refused_and_changes_nothing() {
    let in_namespace = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .expect("this test needs root, to create a network namespace: run the tests as root");
        let table = Table::install(TableConfig { prerouting_dns: false, ..node_a() }, QUEUES)
            .expect("the table can be installed");
        let mut socket = open().expect("root may open it");
        let read = InstalledRules::read(&mut socket).expect("the rules can be read");
        let emptied = || {
            let mut batch = Batch::default();
            Contents::new(&OpenAddresses::default(), []).change_from(&table.contents, &mut batch);
            batch
        };
        let before = Some(read.generation.wrapping_sub(1));
        assert_eq!(emptied().commit(&mut socket, before), Err(Refusal::Outdated));
        assert_eq!(InstalledRules::read(&mut socket).map(|now| now.generation), Ok(read.generation));
        assert_eq!(emptied().commit(&mut socket, Some(read.generation)), Ok(()));
        // The committed batch began a new generation.
        assert_eq!(emptied().commit(&mut socket, Some(read.generation)), Err(Refusal::Outdated));
    };
    if let Err(panic) = std::thread::spawn(in_namespace).join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn revoked_connections_are_removed_from_a_kernel_that_refuses_to_remove_missing_elements() {
    let in_namespace = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .expect("this test needs root, to create a network namespace: run the tests as root");
        let mut table = Table::install(TableConfig { prerouting_dns: false, ..node_a() }, QUEUES)
            .expect("the table can be installed");
        table.destroys = false;
        let connection = |source_port| {
            let [from, to] = [[10, 244, 1, 2], [10, 244, 1, 3]].map(IpAddr::from);
            let mut connection = policy::Packet::new(from, to, policy::Protocol::TCP).to_port(80);
            connection.source_port = Some(source_port);
            connection
        };
        assert_eq!(table.add_revoked(&[connection(1), connection(2)]), Ok(Vec::new()));
        table.remove_revoked(&[connection(2), connection(3)]).expect("removed");
        let kept = table.revoked().expect("read");
        assert_eq!(kept.len(), 2);
        assert!(kept.contains(&connection(1)));
    };
    if let Err(panic) = std::thread::spawn(in_namespace).join() {
        std::panic::resume_unwind(panic);
    }
}
