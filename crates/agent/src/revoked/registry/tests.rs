use dataplane::sweep::{Scope, SweepReport, sweep};
use policy::{Change, PolicyName, Protocol};

use super::*;
use crate::testing::entries::{Made, delete, make};
use crate::testing::namespace::in_namespace;
use crate::testing::shop::{self, DB, WEB};
use crate::testing::{ACCEPTED, REVOKED, entries, marks, overwrite_marks};

fn register(snapshot: &Arc<Snapshot>) -> Register {
    Register::new(Conntrack::open().unwrap(), Marks::default(), Arc::clone(snapshot))
}

/// A sweep of all connections, under the snapshot in force.
fn sweep_all(register: &mut Register) -> (SweepReport, Vec<SweptConnection>) {
    let (local, overlay, mut cut) = (LocalAddresses::default(), OverlayFlows::default(), Vec::new());
    let snapshot = Arc::clone(&register.snapshot);
    let evaluator = Evaluator { snapshot: &snapshot, local: &local, overlay: &overlay };
    let mut apply_marks = |found: &mut [SweptConnection]| {
        let counts = register.apply_marks(found, &local)?;
        cut.extend(found.iter().cloned());
        Ok(counts)
    };
    let mut conntrack = Conntrack::open().unwrap();
    let scope = Scope::default();
    let report = sweep(&mut conntrack, &Marks::default(), evaluator, &scope, &mut apply_marks).unwrap();
    (report, cut)
}

fn connection() -> Packet {
    let mut connection = Packet::new([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), Protocol::TCP);
    (connection.source_port, connection.destination_port) = (Some(4000), Some(80));
    connection
}

#[test]
fn a_connection_of_an_earlier_agent_is_known_once_until_it_times_out_in_the_kernels_set() {
    let connection = connection();
    let mut register = register(&shop::open(&[]).1);
    register.read(&[connection, connection.reversed()]).unwrap();
    assert_eq!(register.known.len(), 1);
    assert!(register.known.of_tuple(&connection).all(|known| !known.is_oriented));
    assert!(register.has_due(), "policy may have changed since");
    assert_eq!(register.missing(), []);

    register.save_all();
    assert_eq!(register.missing().len(), 1);
    register.read(&[]).unwrap();
    assert_eq!(register.known.len(), 1, "it is still to be added to the set");
    let missing = register.missing();
    register.added(&missing, &[]);
    register.read(&[]).unwrap();
    assert_eq!((register.known.len(), register.surplus()), (0, vec![]));
}

/// Found by reading: a mark that a rule had overwritten was set again only on connections that the register held.
#[test]
fn a_lost_mark_is_set_again_though_the_register_has_no_room() {
    in_namespace(&[], || {
        make([Made::udp((WEB, 1), (DB, 6000)).tcp().marked(ACCEPTED)]);
        let mut register = register(&shop::open(&[5000]).1);
        let tuple = |number: usize| {
            let mut tuple = connection();
            (tuple.source_port, tuple.destination_port) =
                (Some((number >> 10) as u16), Some((number & 0x3ff) as u16));
            tuple
        };
        register.read(&(0..MOST).map(tuple).collect::<Vec<_>>()).unwrap();
        let (report, cut) = sweep_all(&mut register);
        assert_eq!((report.revoked, register.known.len()), (1, MOST));
        overwrite_marks(ACCEPTED);
        let again = register.cut_again(cut, &LocalAddresses::default()).unwrap();
        assert_eq!((again.len(), marks()), (1, vec![ACCEPTED | REVOKED]));
    });
}

#[test]
fn a_lost_mark_is_not_set_again_on_a_connection_that_is_allowed_meanwhile() {
    in_namespace(&[], || {
        make([Made::udp((WEB, 1), (DB, 6000)).tcp().marked(ACCEPTED)]);
        let (mut compiler, snapshot) = shop::open(&[5000]);
        let mut register = register(&snapshot);
        let (_, cut) = sweep_all(&mut register);
        let allows = compiler.apply([shop::policy(&[6000])]).snapshot;
        register.follow(&allows, &Arc::default(), &Affected::All);
        register.restore_due(&LocalAddresses::default()).unwrap();
        let again = register.cut_again(cut, &LocalAddresses::default()).unwrap();
        assert_eq!((again, marks()), (vec![], vec![ACCEPTED]));
    });
}

/// Found by reading: of connections that a packet does not tell apart, only the last was held.
#[test]
fn connections_with_one_tuple_are_all_cut_again_and_restored() {
    in_namespace(&[], || {
        let ping = |identifier| Made { protocol: 1, ..Made::udp((WEB, identifier), (DB, 0)) };
        let by_service = |service| Made::udp((WEB, 9), (service, 80)).tcp().sent_on_to((DB, 6000));
        let mut second = by_service("10.96.0.11");
        // The kernel gives its replies another port on the node.
        second.answered_to = (second.from.0, 10);
        make([ping(1), ping(2), by_service("10.96.0.10"), second].map(|made| made.marked(ACCEPTED)));
        let (mut compiler, snapshot) = shop::open(&[5000]);
        let mut register = register(&snapshot);
        let (report, cut) = sweep_all(&mut register);
        assert_eq!((report.revoked, register.known.len()), (4, 4));
        overwrite_marks(ACCEPTED);
        register.cut_again(cut, &LocalAddresses::default()).unwrap();
        assert_eq!(marks(), [ACCEPTED | REVOKED; 4]);
        assert_eq!(register.missing().len(), 1, "of both Services, and none of pings");

        let open = compiler.apply([Change::PolicyGone(PolicyName::network_policy("shop", "db"))]).snapshot;
        register.follow(&open, &Arc::default(), &Affected::All);
        assert!(!register.restore_due(&LocalAddresses::default()).unwrap());
        assert_eq!(marks(), [ACCEPTED; 4]);
        assert_eq!((register.known.len(), register.take_count()), (0, 4));
    });
}

#[test]
fn one_pods_pings_take_no_others_place() {
    in_namespace(&[], || {
        make((1..1_000).map(|identifier| Made { protocol: 1, ..Made::udp((WEB, identifier), (DB, 0)) }));
        let mut register = register(&shop::open(&[5000]).1);
        let (report, _) = sweep_all(&mut register);
        assert_eq!((report.revoked, register.known.len()), (999, MOST_OF_TUPLE));
    });
}

/// Semantics 35.
#[test]
fn a_tuple_that_has_timed_out_is_added_again_while_conntrack_shows_it_as_cut() {
    in_namespace(&[], || {
        let made = Made::udp((WEB, 1), (DB, 6000)).tcp();
        make([made]);
        let mut register = register(&shop::open(&[5000]).1);
        sweep_all(&mut register);
        let missing = register.missing();
        register.added(&missing, &[]);
        register.read(&[]).unwrap();
        assert_eq!((register.known.len(), register.missing().len()), (1, 1));

        register.added(&missing, &[]);
        delete(made);
        register.read(&[]).unwrap();
        assert_eq!((register.known.len(), register.missing(), entries().len()), (0, vec![], 0));
    });
}
