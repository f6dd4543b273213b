//! Connections that exist, evaluated again when policy changes.

use std::collections::BTreeMap;
use std::time::Duration;

use dataplane::conntrack::{Conntrack, MarkChange};
use dataplane::marks::Marks;
use dataplane::sweep::{
    Evaluator, LocalAddresses, OverlayFlows, Scope, SweepReport, SweptConnection, apply_marks, clear_marks,
};
use nix::time::{ClockId, clock_gettime};
use policy::{Affected, Snapshot};

use crate::entries::{Made, make};
use crate::namespace::in_namespace;
use crate::shop::{self, BRIDGE, DB, NOBODY, OTHER, WEB};

const ACCEPTED: u32 = 0x1000_0000;
const REVOKED: u32 = 0x2000_0000;
/// kube-proxy's.
const FOREIGN: u32 = 0x4000;

/// The mark of each connection, by its source port: the scenarios give each its own.
fn marks_by_port() -> BTreeMap<u16, u32> {
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

/// A sweep whose verdicts are carried out as they are.
fn sweep(
    conntrack: &mut Conntrack,
    snapshot: &Snapshot,
    marks: &Marks,
    local: &LocalAddresses,
    scope: &Scope,
) -> SweepReport {
    let mut writer = Conntrack::open().unwrap();
    let evaluator = Evaluator { snapshot, local, overlay: &OverlayFlows::default() };
    let mut apply_marks = |found: &mut [SweptConnection]| apply_marks(&mut writer, marks, found);
    dataplane::sweep::sweep(conntrack, marks, evaluator, scope, &mut apply_marks).unwrap()
}

/// Times differ, and are not what these tests are about.
fn untimed(report: SweepReport) -> SweepReport {
    SweepReport { elapsed: Default::default(), ..report }
}

#[test]
fn what_is_no_longer_allowed_is_revoked_and_what_is_allowed_again_restored() {
    in_namespace(&[], || {
        make([
            Made::udp((WEB, 1), (DB, 5000)).tcp().marked(ACCEPTED | FOREIGN),
            Made::udp((WEB, 2), (DB, 6000)).tcp().marked(ACCEPTED | FOREIGN),
            Made::udp((OTHER, 3), (DB, 5000)).marked(ACCEPTED),
            Made::udp((WEB, 4), (OTHER, 7000)),
            Made::udp(("fd09::3", 5), ("fd09::2", 5000)).tcp(),
        ]);
        let (mut compiler, snapshot) = shop::open(&[5000]);
        let (marks, local) = (Marks::default(), LocalAddresses::default());
        let mut conntrack = Conntrack::open().unwrap();

        let report = sweep(&mut conntrack, &snapshot, &marks, &local, &Scope::default());
        assert_eq!(
            untimed(report),
            SweepReport { entries: 5, evaluated: 5, revoked: 3, ..Default::default() }
        );
        let expected = [
            (1, ACCEPTED | FOREIGN),
            (2, ACCEPTED | REVOKED | FOREIGN),
            (3, ACCEPTED | REVOKED),
            // Allowed and not yet evaluated by a worker: that is its next packet's business.
            (4, 0),
            (5, REVOKED),
        ];
        assert_eq!(marks_by_port(), BTreeMap::from(expected));

        let again = sweep(&mut conntrack, &snapshot, &marks, &local, &Scope::default());
        assert_eq!(untimed(again), SweepReport { entries: 5, evaluated: 5, ..Default::default() });

        let snapshot = compiler.apply([shop::policy(&[5000, 6000])]).snapshot;
        let report = sweep(&mut conntrack, &snapshot, &marks, &local, &Scope::default());
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
            Made::udp((WEB, 1), ("10.96.0.10", 80)).tcp().sent_on_to((DB, 5000)),
            Made::udp((WEB, 2), ("10.96.0.10", 80)).tcp().sent_on_to((DB, 6000)),
            Made::udp((OTHER, 3), ("10.96.0.10", 80)).tcp().sent_on_to((DB, 5000)).hidden_as((WEB, 9)),
        ]);
        let (_, snapshot) = shop::open(&[5000]);
        let mut conntrack = Conntrack::open().unwrap();
        sweep(&mut conntrack, &snapshot, &Marks::default(), &LocalAddresses::default(), &Scope::default());
        assert_eq!(marks_by_port(), BTreeMap::from([(1, 0), (2, REVOKED), (3, REVOKED)]));
    });
}

#[test]
fn the_nodes_own_connections_are_never_revoked() {
    in_namespace(&["10.9.0.254/24", "192.0.2.1/24"], || {
        make([
            // A kubelet's probe, from the node's end of the bridge and from the node's own address.
            Made::udp((BRIDGE, 1), (DB, 8080)).tcp(),
            Made::udp(("192.0.2.1", 2), (DB, 8080)).tcp(),
            // A pod to the bridge's address: inside the pod CIDR, and no pod.
            Made::udp((WEB, 3), (BRIDGE, 53)),
            // Marked by an agent that did not know better.
            Made::udp((BRIDGE, 4), (DB, 8080)).tcp().marked(REVOKED),
            Made::udp(("192.0.2.9", 5), (DB, 8080)).tcp(),
        ]);
        let (_, snapshot) = shop::open(&[5000]);
        let local = LocalAddresses::read().unwrap();
        let mut conntrack = Conntrack::open().unwrap();
        let report = sweep(&mut conntrack, &snapshot, &Marks::default(), &local, &Scope::default());
        assert_eq!((report.revoked, report.restored, report.unknown), (1, 1, 0));
        assert_eq!(marks_by_port(), BTreeMap::from([(1, 0), (2, 0), (3, 0), (4, 0), (5, REVOKED)]));
    });
}

#[test]
fn connections_of_pods_not_known_any_more_are_a_question_again() {
    in_namespace(&[], || {
        make([
            Made::udp((NOBODY, 1), ("192.0.2.9", 80)).tcp().marked(ACCEPTED | FOREIGN),
            Made::udp((WEB, 2), (NOBODY, 80)).tcp(),
            Made::udp((NOBODY, 3), (OTHER, 80)).tcp().marked(REVOKED),
            // The known pod denies whoever that is.
            Made::udp((NOBODY, 4), (DB, 80)).tcp(),
        ]);
        let (_, snapshot) = shop::open(&[5000]);
        let mut conntrack = Conntrack::open().unwrap();
        let report = sweep(
            &mut conntrack,
            &snapshot,
            &Marks::default(),
            &LocalAddresses::default(),
            &Scope::default(),
        );
        assert_eq!((report.evaluated, report.unknown, report.revoked), (4, 3, 1));
        assert_eq!(marks_by_port(), BTreeMap::from([(1, FOREIGN), (2, 0), (3, REVOKED), (4, REVOKED)]));
    });
}

#[test]
fn connections_between_others_are_not_touched() {
    in_namespace(&[], || {
        make([Made::udp(("192.0.2.9", 1), ("198.51.100.7", 80)).tcp().marked(FOREIGN)]);
        let (_, snapshot) = shop::open(&[5000]);
        let mut conntrack = Conntrack::open().unwrap();
        let report = sweep(
            &mut conntrack,
            &snapshot,
            &Marks::default(),
            &LocalAddresses::default(),
            &Scope::default(),
        );
        assert_eq!(untimed(report), SweepReport { entries: 1, ..Default::default() });
        assert_eq!(marks_by_port(), BTreeMap::from([(1, FOREIGN)]));
    });
}

#[test]
fn in_a_large_table_the_connections_of_changed_pods_alone_are_read_and_none_of_them_is_missed() {
    in_namespace(&[], || {
        make((1..=40_000).map(|port| Made::udp(("203.0.113.7", port), (OTHER, 53)).marked(ACCEPTED)));
        let service = ("10.96.0.10", 80);
        let of_db = [
            Made::udp((WEB, 60_001), (DB, 6000)).tcp(),
            Made::udp((WEB, 60_002), service).sent_on_to((DB, 6000)),
            Made::udp((OTHER, 60_003), service).tcp().sent_on_to((DB, 5000)).hidden_as((BRIDGE, 9)),
            Made::udp((OTHER, 60_004), (DB, 5000)).in_zone(7),
            Made::udp(("fd09::3", 60_005), ("fd09::2", 5000)).tcp(),
            Made::udp((WEB, 60_006), (DB, 5000)).tcp(),
            Made::udp((DB, 60_007), (OTHER, 7000)).marked(REVOKED),
        ];
        make(of_db);
        make([Made::udp((OTHER, 60_008), (WEB, 80)).marked(REVOKED)]);
        let (_, snapshot) = shop::open(&[5000]);
        let mut conntrack = Conntrack::open().unwrap();
        let db = Affected::any_peer([DB, "fd09::2"].map(|address| address.parse().unwrap()));
        let mut sweep = |of: Affected| {
            let scope = Scope { of, ..Scope::default() };
            sweep(&mut conntrack, &snapshot, &Marks::default(), &LocalAddresses::default(), &scope)
        };

        let report = sweep(db);
        let expected =
            SweepReport { entries: 7, evaluated: 7, revoked: 5, restored: 1, ..Default::default() };
        assert_eq!(untimed(report), expected);
        let marks = marks_by_port();
        let of = |port: u16| marks[&port];
        assert_eq!([60_001, 60_002, 60_003, 60_004, 60_005].map(of), [REVOKED; 5]);
        assert_eq!([60_006, 60_007].map(of), [0; 2]);
        assert_eq!(of(60_008), REVOKED, "nobody asked about it");

        let all = sweep(Affected::All);
        let expected = SweepReport { entries: 40_008, evaluated: 40_008, restored: 1, ..Default::default() };
        assert_eq!(untimed(all), expected);
        eprintln!("of one pod {:?}, all {:?}", report.elapsed, all.elapsed);
    });
}

#[test]
fn clean_up_leaves_only_the_marks_of_others() {
    in_namespace(&[], || {
        let from = |port, mark| Made::udp((WEB, port), (DB, 5000)).marked(mark);
        make([from(1, ACCEPTED), from(2, REVOKED | FOREIGN), from(3, FOREIGN), from(4, 0)]);
        let mut conntrack = Conntrack::open().unwrap();
        assert_eq!(clear_marks(&mut conntrack, &Marks::default()), Ok(2));
        assert_eq!(marks_by_port(), BTreeMap::from([(1, 0), (2, FOREIGN), (3, FOREIGN), (4, 0)]));
    });
}

/// Run it optimised and with `--nocapture` for the figures.
#[test]
fn a_hundred_thousand_connections_are_all_evaluated() {
    const MANY: u32 = 100_000;
    in_namespace(&[], || {
        let address = |i: u32| format!("203.0.{}.{}", i / 50_000, i % 250);
        make((0..MANY).map(|i| {
            let (from, port) = (address(i), (i % 50_000) as u16 + 1);
            // Every tenth goes where the policy allows nobody.
            let to = if i % 10 == 0 { 6000 } else { 5000 };
            Made { from: (from.parse().unwrap(), port), ..Made::udp((WEB, 1), (DB, to)) }
                .tcp()
                .hidden_as((&from, port))
                .marked(ACCEPTED)
        }));
        let (mut compiler, snapshot) = shop::open(&[5000]);
        let (marks, local) = (Marks::default(), LocalAddresses::default());
        let mut conntrack = Conntrack::open().unwrap();
        let all = u64::from(MANY);
        let mut timed = |what: &str, snapshot: &Snapshot| {
            let before = cpu_time();
            let report = sweep(&mut conntrack, snapshot, &marks, &local, &Scope::default());
            eprintln!("{what}: {:?}, {:?} of it at work", report.elapsed, cpu_time() - before);
            untimed(report)
        };

        let report = timed("all revoked", &snapshot);
        assert_eq!(report, SweepReport { entries: all, evaluated: all, revoked: all, ..Default::default() });
        let snapshot = compiler.apply([shop::everybody_may_reach(&[5000])]).snapshot;
        let report = timed("nine of ten restored", &snapshot);
        assert_eq!(
            report,
            SweepReport { entries: all, evaluated: all, restored: all / 10 * 9, ..Default::default() }
        );
        let report = timed("nothing to change", &snapshot);
        assert_eq!(report, SweepReport { entries: all, evaluated: all, ..Default::default() });
        let before = cpu_time();
        conntrack.visit(|_| None::<MarkChange>).unwrap();
        eprintln!("read alone: {:?} at work", cpu_time() - before);
    });
}

/// What this thread has worked, in the kernel too: other load on the machine does not show in it.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}
