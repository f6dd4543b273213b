//! Existing connections, evaluated again when policy changes.

use std::collections::BTreeMap;
use std::time::Duration;

use dataplane::conntrack::{Conntrack, MarkChange};
use dataplane::marks::{Mark, Marks};
use dataplane::sweep::{
    Evaluator, LocalAddresses, OverlayFlows, SweepReport, SweepScope, SweptConnection, apply_marks,
    clear_marks,
};
use nix::time::{ClockId, clock_gettime};
use policy::{Affected, Snapshot};

use crate::entries::{NewEntry, make};
use crate::namespace::in_namespace;
use crate::shop::{self, BRIDGE, DB, OTHER, UNASSIGNED, WEB};

const ACCEPTED: Mark = Mark(0x1000_0000);
const REVOKED: Mark = Mark(0x2000_0000);
/// kube-proxy's mark.
const FOREIGN: Mark = Mark(0x4000);

/// The mark of each connection, by its source port, which is different for each connection of a scenario.
fn marks_by_port() -> BTreeMap<u16, Mark> {
    let mut marks = BTreeMap::new();
    let mut conntrack = Conntrack::open().unwrap();
    conntrack
        .visit(|entry| {
            marks.insert(entry.original.source_port.unwrap_or_default(), entry.mark);
            None::<MarkChange>
        })
        .unwrap();
    marks
}

/// Sweeps, and applies the marks at once.
fn sweep(
    conntrack: &mut Conntrack,
    snapshot: &Snapshot,
    marks: &Marks,
    local: &LocalAddresses,
    scope: &SweepScope,
) -> SweepReport {
    let mut writer = Conntrack::open().unwrap();
    let evaluator = Evaluator { snapshot, local, overlay: &OverlayFlows::default() };
    let mut apply_marks = |found: &mut [SweptConnection]| apply_marks(&mut writer, marks, found);
    dataplane::sweep::sweep(conntrack, marks, evaluator, scope, &mut apply_marks).unwrap()
}

/// The report without its duration.
fn untimed(report: SweepReport) -> SweepReport {
    SweepReport { elapsed: Default::default(), ..report }
}

#[test]
fn what_is_no_longer_allowed_is_revoked_and_what_is_allowed_again_restored() {
    in_namespace(&[], || {
        make([
            NewEntry::udp((WEB, 1), (DB, 5000)).tcp().marked(ACCEPTED | FOREIGN),
            NewEntry::udp((WEB, 2), (DB, 6000)).tcp().marked(ACCEPTED | FOREIGN),
            NewEntry::udp((OTHER, 3), (DB, 5000)).marked(ACCEPTED),
            NewEntry::udp((WEB, 4), (OTHER, 7000)),
            NewEntry::udp(("fd09::3", 5), ("fd09::2", 5000)).tcp(),
        ]);
        let (mut compiler, snapshot) = shop::open(&[5000]);
        let (marks, local) = (Marks::default(), LocalAddresses::default());
        let mut conntrack = Conntrack::open().unwrap();

        let report = sweep(&mut conntrack, &snapshot, &marks, &local, &SweepScope::default());
        assert_eq!(
            untimed(report),
            SweepReport { entries: 5, evaluated: 5, revoked: 3, ..Default::default() }
        );
        let expected = [
            (1, ACCEPTED | FOREIGN),
            (2, ACCEPTED | REVOKED | FOREIGN),
            (3, ACCEPTED | REVOKED),
            // Allowed but not yet evaluated by a worker: the worker accepts its next packet.
            (4, Mark::NONE),
            (5, REVOKED),
        ];
        assert_eq!(marks_by_port(), BTreeMap::from(expected));

        let again = sweep(&mut conntrack, &snapshot, &marks, &local, &SweepScope::default());
        assert_eq!(untimed(again), SweepReport { entries: 5, evaluated: 5, ..Default::default() });

        let snapshot = compiler.apply([shop::policy(&[5000, 6000])]).snapshot;
        let report = sweep(&mut conntrack, &snapshot, &marks, &local, &SweepScope::default());
        assert_eq!(
            untimed(report),
            SweepReport { entries: 5, evaluated: 5, restored: 1, ..Default::default() }
        );
        assert_eq!(marks_by_port()[&2], ACCEPTED | FOREIGN);
    });
}

#[test]
fn the_pod_behind_a_service_is_evaluated_and_not_the_service() {
    in_namespace(&[], || {
        make([
            NewEntry::udp((WEB, 1), ("10.96.0.10", 80)).tcp().with_dnat_to((DB, 5000)),
            NewEntry::udp((WEB, 2), ("10.96.0.10", 80)).tcp().with_dnat_to((DB, 6000)),
            NewEntry::udp((OTHER, 3), ("10.96.0.10", 80))
                .tcp()
                .with_dnat_to((DB, 5000))
                .with_snat_to((WEB, 9)),
        ]);
        let (_, snapshot) = shop::open(&[5000]);
        let mut conntrack = Conntrack::open().unwrap();
        sweep(
            &mut conntrack,
            &snapshot,
            &Marks::default(),
            &LocalAddresses::default(),
            &SweepScope::default(),
        );
        assert_eq!(marks_by_port(), BTreeMap::from([(1, Mark::NONE), (2, REVOKED), (3, REVOKED)]));
    });
}

#[test]
fn the_nodes_own_connections_are_never_revoked() {
    in_namespace(&["10.9.0.254/24", "192.0.2.1/24"], || {
        make([
            // A kubelet's probe, from the node's end of the bridge and from the node's own address.
            NewEntry::udp((BRIDGE, 1), (DB, 8080)).tcp(),
            NewEntry::udp(("192.0.2.1", 2), (DB, 8080)).tcp(),
            // From a pod to the bridge's address, which is in the pod CIDR and not a pod's.
            NewEntry::udp((WEB, 3), (BRIDGE, 53)),
            // Marked by an earlier agent that did not know the node's addresses.
            NewEntry::udp((BRIDGE, 4), (DB, 8080)).tcp().marked(REVOKED),
            NewEntry::udp(("192.0.2.9", 5), (DB, 8080)).tcp(),
        ]);
        let (_, snapshot) = shop::open(&[5000]);
        let local = LocalAddresses::read().unwrap();
        let mut conntrack = Conntrack::open().unwrap();
        let report = sweep(&mut conntrack, &snapshot, &Marks::default(), &local, &SweepScope::default());
        assert_eq!((report.revoked, report.restored, report.unknown), (1, 1, 0));
        assert_eq!(
            marks_by_port(),
            BTreeMap::from([
                (1, Mark::NONE),
                (2, Mark::NONE),
                (3, Mark::NONE),
                (4, Mark::NONE),
                (5, REVOKED)
            ])
        );
    });
}

#[test]
fn connections_of_pods_that_are_no_longer_known_are_queued_again() {
    in_namespace(&[], || {
        make([
            NewEntry::udp((UNASSIGNED, 1), ("192.0.2.9", 80)).tcp().marked(ACCEPTED | FOREIGN),
            NewEntry::udp((WEB, 2), (UNASSIGNED, 80)).tcp(),
            NewEntry::udp((UNASSIGNED, 3), (OTHER, 80)).tcp().marked(REVOKED),
            // The known pod denies any peer here.
            NewEntry::udp((UNASSIGNED, 4), (DB, 80)).tcp(),
        ]);
        let (_, snapshot) = shop::open(&[5000]);
        let mut conntrack = Conntrack::open().unwrap();
        let report = sweep(
            &mut conntrack,
            &snapshot,
            &Marks::default(),
            &LocalAddresses::default(),
            &SweepScope::default(),
        );
        assert_eq!((report.evaluated, report.unknown, report.revoked), (4, 3, 1));
        assert_eq!(
            marks_by_port(),
            BTreeMap::from([(1, FOREIGN), (2, Mark::NONE), (3, REVOKED), (4, REVOKED)])
        );
    });
}

#[test]
fn connections_that_involve_no_pod_of_this_node_are_not_changed() {
    in_namespace(&[], || {
        make([NewEntry::udp(("192.0.2.9", 1), ("198.51.100.7", 80)).tcp().marked(FOREIGN)]);
        let (_, snapshot) = shop::open(&[5000]);
        let mut conntrack = Conntrack::open().unwrap();
        let report = sweep(
            &mut conntrack,
            &snapshot,
            &Marks::default(),
            &LocalAddresses::default(),
            &SweepScope::default(),
        );
        assert_eq!(untimed(report), SweepReport { entries: 1, ..Default::default() });
        assert_eq!(marks_by_port(), BTreeMap::from([(1, FOREIGN)]));
    });
}

#[test]
fn in_a_large_table_all_connections_of_changed_pods_and_no_others_are_read() {
    in_namespace(&[], || {
        make((1..=40_000).map(|port| NewEntry::udp(("203.0.113.7", port), (OTHER, 53)).marked(ACCEPTED)));
        let service = ("10.96.0.10", 80);
        let of_db = [
            NewEntry::udp((WEB, 60_001), (DB, 6000)).tcp(),
            NewEntry::udp((WEB, 60_002), service).with_dnat_to((DB, 6000)),
            NewEntry::udp((OTHER, 60_003), service).tcp().with_dnat_to((DB, 5000)).with_snat_to((BRIDGE, 9)),
            NewEntry::udp((OTHER, 60_004), (DB, 5000)).in_zone(7),
            NewEntry::udp(("fd09::3", 60_005), ("fd09::2", 5000)).tcp(),
            NewEntry::udp((WEB, 60_006), (DB, 5000)).tcp(),
            NewEntry::udp((DB, 60_007), (OTHER, 7000)).marked(REVOKED),
        ];
        make(of_db);
        make([NewEntry::udp((OTHER, 60_008), (WEB, 80)).marked(REVOKED)]);
        let (_, snapshot) = shop::open(&[5000]);
        let mut conntrack = Conntrack::open().unwrap();
        let db = Affected::any_peer([DB, "fd09::2"].map(|address| address.parse().unwrap()));
        let mut sweep = |of: Affected| {
            let scope = SweepScope { of, ..SweepScope::default() };
            sweep(&mut conntrack, &snapshot, &Marks::default(), &LocalAddresses::default(), &scope)
        };

        let report = sweep(db);
        let expected =
            SweepReport { entries: 7, evaluated: 7, revoked: 5, restored: 1, ..Default::default() };
        assert_eq!(untimed(report), expected);
        let marks = marks_by_port();
        let of = |port: u16| marks[&port];
        assert_eq!([60_001, 60_002, 60_003, 60_004, 60_005].map(of), [REVOKED; 5]);
        assert_eq!([60_006, 60_007].map(of), [Mark::NONE; 2]);
        assert_eq!(of(60_008), REVOKED, "it is not in the scope");

        let all = sweep(Affected::All);
        let expected = SweepReport { entries: 40_008, evaluated: 40_008, restored: 1, ..Default::default() };
        assert_eq!(untimed(all), expected);
        eprintln!("connections of one pod: {:?}, all: {:?}", report.elapsed, all.elapsed);
    });
}

#[test]
fn clear_marks_leaves_only_the_marks_of_other_programs() {
    in_namespace(&[], || {
        let from = |port, mark| NewEntry::udp((WEB, port), (DB, 5000)).marked(mark);
        make([from(1, ACCEPTED), from(2, REVOKED | FOREIGN), from(3, FOREIGN), from(4, Mark::NONE)]);
        let mut conntrack = Conntrack::open().unwrap();
        assert_eq!(clear_marks(&mut conntrack, &Marks::default()), Ok(2));
        assert_eq!(
            marks_by_port(),
            BTreeMap::from([(1, Mark::NONE), (2, FOREIGN), (3, FOREIGN), (4, Mark::NONE)])
        );
    });
}

/// Run it optimised and with `--nocapture` to see the durations.
#[test]
fn a_hundred_thousand_connections_are_all_evaluated() {
    const MANY: u32 = 100_000;
    in_namespace(&[], || {
        let address = |i: u32| format!("203.0.{}.{}", i / 50_000, i % 250);
        make((0..MANY).map(|i| {
            let (from, port) = (address(i), (i % 50_000) as u16 + 1);
            // Every tenth goes to a port that the policy does not open.
            let to = if i % 10 == 0 { 6000 } else { 5000 };
            NewEntry { from: (from.parse().unwrap(), port), ..NewEntry::udp((WEB, 1), (DB, to)) }
                .tcp()
                .with_snat_to((&from, port))
                .marked(ACCEPTED)
        }));
        let (mut compiler, snapshot) = shop::open(&[5000]);
        let (marks, local) = (Marks::default(), LocalAddresses::default());
        let mut conntrack = Conntrack::open().unwrap();
        let all = u64::from(MANY);
        let mut timed = |what: &str, snapshot: &Snapshot| {
            let before = cpu_time();
            let report = sweep(&mut conntrack, snapshot, &marks, &local, &SweepScope::default());
            eprintln!("{what}: {:?}, CPU time {:?}", report.elapsed, cpu_time() - before);
            untimed(report)
        };

        let report = timed("all revoked", &snapshot);
        assert_eq!(report, SweepReport { entries: all, evaluated: all, revoked: all, ..Default::default() });
        let snapshot = compiler.apply([shop::allow_all_on(&[5000])]).snapshot;
        let report = timed("nine of ten restored", &snapshot);
        assert_eq!(
            report,
            SweepReport { entries: all, evaluated: all, restored: all / 10 * 9, ..Default::default() }
        );
        let report = timed("nothing to change", &snapshot);
        assert_eq!(report, SweepReport { entries: all, evaluated: all, ..Default::default() });
        let before = cpu_time();
        conntrack.visit(|_| None::<MarkChange>).unwrap();
        eprintln!("reading alone: CPU time {:?}", cpu_time() - before);
    });
}

/// The CPU time of this thread, including the kernel's: other load on the machine does not affect it.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}
