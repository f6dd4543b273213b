//! Golden files: the bytes of each kind of batch (`tests/golden/*.batch`). With `UPDATE_GOLDEN=1` they are written anew,
//! for a person to read the difference.

use std::path::Path;
use std::time::Duration;

use super::*;

const QUEUES: QueueRange = QueueRange { first: 100, count: 2 };

fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

fn node_a() -> TableConfig {
    TableConfig {
        marks: Marks::default(),
        when_down: WhenDown::Open,
        judge_dns: true,
        holder: "node-a pid 123".to_owned(),
        pod_cidrs: vec![
            "10.244.1.0/24".parse().expect("a CIDR"),
            "fd00:10:244:1::/64".parse().expect("a CIDR"),
        ],
        open: OpenAddresses {
            ingress: addresses(&["10.244.1.2", "fd00:10:244:1::2"]),
            egress: addresses(&["10.244.1.2", "10.244.1.3"]),
        },
        remember: Some(Remember { time: Duration::from_secs(5), log_group: Some(100) }),
        generation: Generation(7),
    }
}

/// At a moment whose microseconds are 0x02030405 in 32 bits.
fn memory(config: &TableConfig) -> Option<Memory> {
    Memory::new(config, SystemTime::UNIX_EPOCH + Duration::from_micros(0x01_0203_0405))
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
    assert!(golden == text, "{name} differs from the batch; UPDATE_GOLDEN=1 writes it anew:\n{text}");
}

fn install(config: &TableConfig, form: QueueForm) -> Batch {
    install_batch(
        config,
        &Contents::new(&config.pod_cidrs, &config.open),
        memory(config).as_ref(),
        QUEUES,
        form,
    )
}

#[cfg(target_endian = "little")]
#[test]
fn install_with_the_native_queue() {
    check_golden("install-native.batch", &install(&node_a(), QueueForm::Native));
}

#[cfg(target_endian = "little")]
#[test]
fn install_with_the_target() {
    let config = TableConfig { when_down: WhenDown::Closed, judge_dns: false, remember: None, ..node_a() };
    check_golden("install-target.batch", &install(&config, QueueForm::Target));
}

#[cfg(target_endian = "little")]
#[test]
fn update_sends_the_difference_alone() {
    let old = Contents::new(&node_a().pod_cidrs, &node_a().open);
    let open = OpenAddresses {
        ingress: addresses(&["10.244.1.2"]),
        egress: addresses(&["10.244.1.3", "10.244.1.4", "fd00:10:244:1::4"]),
    };
    let new = Contents::new(&["10.244.0.0/23".parse().expect("a CIDR"), node_a().pod_cidrs[1]], &open);
    let mut batch = Batch::default();
    new.change_from(&old, &mut batch);
    if let Some(memory) = memory(&node_a()) {
        memory.next(Generation(8)).replace(&mut batch);
    }
    check_golden("update.batch", &batch);
}

#[cfg(target_endian = "little")]
#[test]
fn the_trial_of_both_forms() {
    check_golden("trial-native.batch", &form_trial(QueueForm::Native));
    check_golden("trial-target.batch", &form_trial(QueueForm::Target));
}

#[test]
fn takeover_differs_from_the_first_install_in_the_queue_rules_alone() {
    let config = node_a();
    let contents = Contents::new(&config.pod_cidrs, &config.open);
    let install = |queues| {
        install_batch(&config, &contents, memory(&config).as_ref(), queues, QueueForm::Native).to_text()
    };
    let (first, second) = (install(QUEUES), install(QueueRange { first: 102, count: 2 }));
    let part = |text: &str| text.split("# ").map(str::to_owned).collect::<Vec<_>>();
    let (first, second) = (part(&first), part(&second));
    assert_eq!(first.len(), second.len());
    let differing: Vec<&str> =
        first.iter().zip(&second).filter(|(a, b)| a != b).filter_map(|(a, _)| a.lines().next()).collect();
    assert_eq!(differing.len(), 8, "{differing:?}");
    assert!(differing.iter().all(|object| object.contains(": judge what local pods ")), "{differing:?}");
}

#[test]
fn refusals_become_sentences() {
    let part = || Part { object: "rule of chain judge: x".to_owned(), modules: "nft_fib_inet".to_owned() };
    let sentence = |refusal: Refusal| TableError::from(refusal).to_string();
    assert!(sentence(Refusal::Whole(Errno::EPERM)).contains("CAP_NET_ADMIN"));
    assert!(sentence(Refusal::Whole(Errno::EOPNOTSUPP)).contains("no nf_tables"));
    assert!(sentence(Refusal::Part(part(), Errno::EPERM)).contains("held by another program"));
    assert!(sentence(Refusal::Part(part(), Errno::ENOENT)).contains("nft_fib_inet"));
    assert!(sentence(Refusal::Part(part(), Errno::EEXIST)).contains("kube-verdict cleanup"));
    assert!(
        sentence(Refusal::Part(Part::plain("chain judge"), Errno::EOPNOTSUPP))
            .contains("kube-verdict cleanup")
    );
    assert!(sentence(Refusal::Part(part(), Errno::ENOMEM)).contains("rule of chain judge: x"));
    assert!(sentence(Refusal::Outdated).contains("try again"));
}

#[test]
fn a_batch_for_another_generation_is_refused_and_changes_nothing() {
    let in_namespace = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .expect("this test needs root, to make a network namespace of its own: run the tests as root");
        let table = Table::install(TableConfig { judge_dns: false, ..node_a() }, QUEUES)
            .expect("the table can be installed");
        let read = InForce::read().expect("the rules can be read");
        let emptied = || {
            let mut batch = Batch::default();
            Contents::new(&[], &OpenAddresses::default()).change_from(&table.contents, &mut batch);
            batch
        };
        assert_eq!(emptied().commit(Some(read.generation.wrapping_sub(1))), Err(Refusal::Outdated));
        assert_eq!(InForce::read().map(|now| now.generation), Ok(read.generation));
        assert_eq!(emptied().commit(Some(read.generation)), Ok(()));
        // The batch that was committed made a new generation.
        assert_eq!(emptied().commit(Some(read.generation)), Err(Refusal::Outdated));
    };
    if let Err(panic) = std::thread::spawn(in_namespace).join() {
        std::panic::resume_unwind(panic);
    }
}
