use dataplane::sweep::{SweepReport, SweepScope, sweep};
use policy::{Change, PolicyName, Protocol};

use super::*;
use crate::testing::entries::{NewEntry, delete, make};
use crate::testing::namespace::in_namespace;
use crate::testing::shop::{self, DB, WEB};
use crate::testing::{ACCEPTED, REVOKED, entries, marks, overwrite_marks};

fn registry(snapshot: &Arc<Snapshot>) -> RevokedRegistry {
    RevokedRegistry::new(Conntrack::open().unwrap(), Marks::default(), Arc::clone(snapshot))
}

/// A sweep of all connections, under the snapshot in force.
fn sweep_all(registry: &mut RevokedRegistry) -> (SweepReport, Vec<SweptConnection>) {
    let (local, overlay, mut all) = (LocalAddresses::default(), OverlayFlows::default(), Vec::new());
    let snapshot = Arc::clone(&registry.snapshot);
    let evaluator = Evaluator { snapshot: &snapshot, local: &local, overlay: &overlay };
    let mut apply_marks = |found: &mut [SweptConnection]| {
        let counts = registry.apply_marks(found, &local)?;
        all.extend(found.iter().cloned());
        Ok(counts)
    };
    let mut conntrack = Conntrack::open().unwrap();
    let scope = SweepScope::default();
    let report = sweep(&mut conntrack, &Marks::default(), evaluator, &scope, &mut apply_marks).unwrap();
    (report, all)
}

fn connection() -> Packet {
    let mut connection = Packet::new([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), Protocol::TCP);
    (connection.source_port, connection.destination_port) = (Some(4000), Some(80));
    connection
}

#[test]
fn a_connection_that_an_earlier_agent_revoked_is_known_until_it_times_out_in_the_kernels_set() {
    let connection = connection();
    let mut registry = registry(&shop::open(&[]).1);
    registry.read(&[connection, connection.reversed()]).unwrap();
    assert_eq!(registry.known.len(), 1);
    assert!(registry.known.of_tuple(&connection).all(|known| !known.is_oriented));
    assert!(registry.has_due(), "policy may have changed since");
    assert_eq!(registry.missing(), []);

    registry.save_all();
    assert_eq!(registry.missing().len(), 1);
    registry.read(&[]).unwrap();
    assert_eq!(registry.known.len(), 1, "it has not been added to the set yet");
    let missing = registry.missing();
    registry.added(&missing, &[]);
    registry.read(&[]).unwrap();
    assert_eq!((registry.known.len(), registry.surplus()), (0, vec![]));
}

/// A mark that a rule had overwritten was set again only on connections in the registry. Found in review.
#[test]
fn a_lost_mark_is_set_again_even_if_the_registry_is_full() {
    in_namespace(&[], || {
        make([NewEntry::udp((WEB, 1), (DB, 6000)).tcp().marked(ACCEPTED)]);
        let mut registry = registry(&shop::open(&[5000]).1);
        let tuple = |number: usize| {
            let mut tuple = connection();
            (tuple.source_port, tuple.destination_port) =
                (Some((number >> 10) as u16), Some((number & 0x3ff) as u16));
            tuple
        };
        registry.read(&(0..MOST).map(tuple).collect::<Vec<_>>()).unwrap();
        let (report, found) = sweep_all(&mut registry);
        assert_eq!((report.revoked, registry.known.len()), (1, MOST));
        overwrite_marks(ACCEPTED);
        let again = registry.revoke_again(found, &LocalAddresses::default()).unwrap();
        assert_eq!((again.len(), marks()), (1, vec![ACCEPTED | REVOKED]));
    });
}

#[test]
fn a_lost_mark_is_not_set_again_on_a_connection_that_is_allowed_again() {
    in_namespace(&[], || {
        make([NewEntry::udp((WEB, 1), (DB, 6000)).tcp().marked(ACCEPTED)]);
        let (mut compiler, snapshot) = shop::open(&[5000]);
        let mut registry = registry(&snapshot);
        let (_, found) = sweep_all(&mut registry);
        let allows = compiler.apply([shop::policy(&[6000])]).snapshot;
        registry.follow(&allows, &Arc::default(), &Affected::All);
        registry.restore_due(&LocalAddresses::default()).unwrap();
        let again = registry.revoke_again(found, &LocalAddresses::default()).unwrap();
        assert_eq!((again, marks()), (vec![], vec![ACCEPTED]));
    });
}

/// The registry had only the last of several connections with the same packet. Found in review.
#[test]
fn all_connections_with_one_tuple_are_revoked_again_and_restored() {
    in_namespace(&[], || {
        let ping = |identifier| NewEntry { protocol: 1, ..NewEntry::udp((WEB, identifier), (DB, 0)) };
        let by_service = |service| NewEntry::udp((WEB, 9), (service, 80)).tcp().with_dnat_to((DB, 6000));
        let mut second = by_service("10.96.0.11");
        // The kernel gives its replies another port on the node.
        second.reply_to = (second.from.0, 10);
        make([ping(1), ping(2), by_service("10.96.0.10"), second].map(|made| made.marked(ACCEPTED)));
        let (mut compiler, snapshot) = shop::open(&[5000]);
        let mut registry = registry(&snapshot);
        let (report, found) = sweep_all(&mut registry);
        assert_eq!((report.revoked, registry.known.len()), (4, 4));
        overwrite_marks(ACCEPTED);
        registry.revoke_again(found, &LocalAddresses::default()).unwrap();
        assert_eq!(marks(), [ACCEPTED | REVOKED; 4]);
        assert_eq!(registry.missing().len(), 1, "one tuple for both Services, and none for pings");

        let open = compiler.apply([Change::PolicyGone(PolicyName::network_policy("shop", "db"))]).snapshot;
        registry.follow(&open, &Arc::default(), &Affected::All);
        assert!(!registry.restore_due(&LocalAddresses::default()).unwrap());
        assert_eq!(marks(), [ACCEPTED; 4]);
        assert_eq!((registry.known.len(), registry.take_restored()), (0, 4));
    });
}

#[test]
fn one_pods_pings_do_not_fill_the_registry() {
    in_namespace(&[], || {
        make(
            (1..1_000)
                .map(|identifier| NewEntry { protocol: 1, ..NewEntry::udp((WEB, identifier), (DB, 0)) }),
        );
        let mut registry = registry(&shop::open(&[5000]).1);
        let (report, _) = sweep_all(&mut registry);
        assert_eq!((report.revoked, registry.known.len()), (999, MOST_OF_TUPLE));
    });
}

/// Semantics 35.
#[test]
fn a_timed_out_tuple_is_added_again_while_its_entry_is_marked_revoked() {
    in_namespace(&[], || {
        let made = NewEntry::udp((WEB, 1), (DB, 6000)).tcp();
        make([made]);
        let mut registry = registry(&shop::open(&[5000]).1);
        sweep_all(&mut registry);
        let missing = registry.missing();
        registry.added(&missing, &[]);
        registry.read(&[]).unwrap();
        assert_eq!((registry.known.len(), registry.missing().len()), (1, 1));

        registry.added(&missing, &[]);
        delete(made);
        registry.read(&[]).unwrap();
        assert_eq!((registry.known.len(), registry.missing(), entries().len()), (0, vec![], 0));
    });
}
