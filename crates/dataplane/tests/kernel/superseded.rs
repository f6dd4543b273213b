//! An agent, perhaps suspended meanwhile, tries to change conntrack entries after another agent has taken
//! over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dataplane::conntrack::{Conntrack, ConntrackError, EntryName, MarkChange};
use dataplane::marks::{Mark, Marks};
use dataplane::queues::{QueueNumber, QueueRange};
use dataplane::table::{FailMode, OpenAddresses, Table, TableConfig, VerdictCacheConfig};
use policy::Generation;

use crate::entries::{NewEntry, make};
use crate::namespace::in_namespace;
use crate::shop::{DB, WEB};

const REVOKED: Mark = Mark(0x2000_0000);
const RESTORE: MarkChange = MarkChange { value: Mark::NONE, mask: REVOKED };
/// More entries than one message of changes contains.
const MANY: u16 = 3_000;
const OURS: QueueRange = QueueRange { first: QueueNumber(100), count: 2 };
const THEIRS: QueueRange = QueueRange { first: QueueNumber(103), count: 2 };

fn install(queues: QueueRange) -> Table {
    let config = TableConfig {
        marks: Marks::default(),
        fail_mode: FailMode::Open,
        prerouting_dns: false,
        holder: "node-a pid 123".to_owned(),
        pod_cidrs: vec!["10.9.0.0/24".parse().unwrap()],
        open: OpenAddresses::default(),
        verdict_cache: Some(VerdictCacheConfig { ttl: Duration::from_secs(5), log_group: None }),
        queue_quota: None,
        generation: Generation(7),
        origin: None,
        trust_replies: false,
    };
    Table::install(config, queues).unwrap()
}

/// All entries that are marked REVOKED, by source port.
fn revoked() -> BTreeMap<u16, EntryName> {
    let mut revoked = BTreeMap::new();
    let each = |entry: &dataplane::conntrack::Entry<'_>| {
        if entry.mark.has_any(REVOKED) {
            revoked.insert(entry.original.source_port.unwrap(), entry.name());
        }
        None::<MarkChange>
    };
    Conntrack::open().unwrap().visit(each).unwrap();
    revoked
}

#[test]
fn a_superseded_agent_changes_and_deletes_no_connection() {
    in_namespace(&[], || {
        make((1..=MANY).map(|port| NewEntry::udp((WEB, port), (DB, 5000)).marked(REVOKED)));
        let _table = install(OURS);
        let mut conntrack = Conntrack::open_for(OURS).unwrap();
        let entries = revoked();
        let [first, second] = [1, 2].map(|port| (&entries[&port], RESTORE));
        conntrack.change_marks([first]).unwrap();
        assert_eq!(revoked().len(), usize::from(MANY) - 1, "the rules are still its own");

        let _other = install(THEIRS);
        assert_eq!(conntrack.change_marks([second]), Err(ConntrackError::Superseded(THEIRS)));
        let web = BTreeSet::from([WEB.parse().unwrap()]);
        assert_eq!(conntrack.delete_of(&web), Err(ConntrackError::Superseded(THEIRS)));
        assert_eq!(revoked().len(), usize::from(MANY) - 1);

        let mut of_the_other = Conntrack::open_for(THEIRS).unwrap();
        of_the_other.change_marks([second]).unwrap();
        assert_eq!(revoked().len(), usize::from(MANY) - 2);
    });
}

#[test]
fn a_sweep_during_a_takeover_ends_before_its_next_change() {
    in_namespace(&[], || {
        make((1..=MANY).map(|port| NewEntry::udp((WEB, port), (DB, 5000)).marked(REVOKED)));
        let _table = install(OURS);
        let mut conntrack = Conntrack::open_for(OURS).unwrap();
        let mut other = None;
        let mut visited = 0;
        let swept = conntrack.visit(|_| {
            visited += 1;
            if visited == MANY / 2 {
                // The takeover happens here.
                other = Some((install(THEIRS), revoked().len()));
            }
            Some(RESTORE)
        });
        assert_eq!(swept, Err(ConntrackError::Superseded(THEIRS)));
        let (_, before) = other.unwrap();
        assert!(before > 0);
        assert_eq!(revoked().len(), before);
    });
}

#[test]
fn an_agent_whose_rules_were_deleted_may_still_change_connections() {
    in_namespace(&[], || {
        make([NewEntry::udp((WEB, 1), (DB, 5000)).marked(REVOKED)]);
        let _table = install(OURS);
        let mut conntrack = Conntrack::open_for(OURS).unwrap();
        assert_eq!(Table::remove(), Ok(true));
        let visited = conntrack.visit(|_| Some(RESTORE)).unwrap();
        assert_eq!((visited.changed, revoked().len()), (1, 0));
    });
}
