use policy::{Packet, Protocol};

use super::*;
use crate::policy_versions::PolicyVersions;
use crate::record::tests::{evaluation, from_to, snapshot};

const INTERVAL: Duration = Duration::from_secs(10);

struct Scenario {
    fold: Fold,
    start: Instant,
    /// What is written: `DESTINATION_PORT xCOUNT BY`.
    written: Vec<String>,
    recorded: u64,
}

impl Scenario {
    fn new() -> Self {
        Self { fold: Fold::new(INTERVAL), start: Instant::now(), written: Vec::new(), recorded: 0 }
    }

    /// Offers a denial after this many milliseconds. Returns whether it is recorded at once.
    fn deny(&mut self, after: u64, packet: Packet) -> bool {
        let denial = denial(packet);
        let Offered { is_recorded, evicted } = self.fold.offer(time(after), self.at(after), &denial);
        evicted.into_iter().for_each(|record| self.write(&record));
        self.recorded += u64::from(is_recorded);
        is_recorded
    }

    fn at(&self, after: u64) -> Instant {
        self.start + Duration::from_millis(after)
    }

    /// Writes what is due after this many milliseconds.
    fn write_due(&mut self, after: u64) {
        while let Some(record) = self.fold.take_due(self.at(after)) {
            self.write(&record);
        }
    }

    fn write(&mut self, record: &Connection) {
        self.recorded += record.evaluations();
        let port = record.destination.as_ref().and_then(|end| end.port);
        let (count, by) = (record.count.expect("a count"), record.folded_by.expect("folded"));
        self.written.push(format!("{} x{count} {}", port.unwrap_or_default(), by.name()));
    }
}

fn time(after: u64) -> Timestamp {
    Timestamp::from_millisecond(1_000_000 + i64::try_from(after).expect("fits")).expect("a time")
}

/// A packet from web/b or from outside, which db denies.
fn denial(packet: Packet) -> Connection {
    let denial = Connection::new(&evaluation(&snapshot(), Some(packet)), &PolicyVersions::default());
    assert_eq!(denial.verdict, policy::Verdict::Deny);
    denial
}

fn packet(source: &str, source_port: u16, destination_port: u16) -> Packet {
    let mut packet = from_to(source, "10.0.1.2", destination_port);
    packet.source_port = Some(source_port);
    packet
}

const WEB_B: &str = "10.0.0.3";

#[test]
fn the_first_denial_is_recorded_at_once_and_the_others_once_per_interval() {
    let mut scenario = Scenario::new();
    assert!(scenario.deny(0, packet(WEB_B, 1, 5432)));
    for after in [1_000, 3_000, 7_000] {
        assert!(!scenario.deny(after, packet(WEB_B, 1, 5432)), "a retransmitted SYN");
    }
    scenario.write_due(9_999);
    assert!(scenario.written.is_empty());
    let record = scenario.fold.take_due(scenario.at(10_000)).expect("due");
    assert_eq!((record.count, record.first, record.last), (Some(3), Some(time(1_000)), Some(time(7_000))));
    assert_eq!(
        record.packet().map(|packet| (packet.source_port, packet.tcp_flags)),
        Some((Some(1), Some(2)))
    );
    assert_eq!((record.nanoseconds, record.folded_by), (None, Some(FoldedBy::Flow)));
    assert!(!scenario.deny(15_000, packet(WEB_B, 1, 5432)));
    scenario.write_due(20_000);
    assert_eq!(scenario.written, ["5432 x1 flow"]);
    scenario.write_due(30_000);
    assert!(
        scenario.fold.flows.is_empty() && scenario.fold.due.is_empty(),
        "nothing is kept of a quiet flow"
    );
    assert!(scenario.deny(31_000, packet(WEB_B, 1, 5432)), "recorded at once again");
}

#[test]
fn denials_that_differ_in_what_decided_do_not_fold() {
    let mut scenario = Scenario::new();
    let denial = denial(packet(WEB_B, 1, 5432));
    let mut other = denial.clone();
    other.isolated_by.pop();
    let start = scenario.start;
    assert!(scenario.fold.offer(time(0), start, &denial).is_recorded);
    assert!(scenario.fold.offer(time(1), start, &other).is_recorded);
    assert!(!scenario.fold.offer(time(2), start, &denial).is_recorded);
}

#[test]
fn without_an_interval_nothing_folds() {
    let mut fold = Fold::new(Duration::ZERO);
    let denial = denial(packet(WEB_B, 1, 5432));
    for _ in 0..3 {
        assert!(fold.offer(time(0), Instant::now(), &denial).is_recorded);
    }
    assert!(fold.take_any().is_none());
}

#[test]
fn a_pod_over_its_budget_folds_by_port_and_then_as_a_whole_and_others_do_not() {
    let mut scenario = Scenario::new();
    // 3,000 flows to one port, then 3,000 ports, within a second.
    for number in 0..3_000 {
        scenario.deny(0, packet(WEB_B, number, 5432));
    }
    assert_eq!(scenario.recorded, 1_000 + 1, "the budget, and the first one that is folded by port");
    for port in 0..3_000 {
        scenario.deny(1, packet(WEB_B, 1, 10_000 + port));
    }
    assert_eq!(scenario.recorded, 1_000 + 1_000 + 1);
    assert!(scenario.deny(2, packet("192.0.2.9", 1, 5432)), "another source");
    scenario.write_due(10_001);
    assert_eq!(scenario.written, ["5432 x1999 port", "0 x2000 origin"]);
    assert_eq!(scenario.recorded, 6_001, "each denial");
    // 50 flows a second.
    assert_eq!(
        (0..100).filter(|number| scenario.deny(11_000, packet(WEB_B, 60_000 + number, 5432))).count(),
        100
    );
}

#[test]
fn a_flood_with_forged_sources_from_outside_folds_by_its_destination() {
    let mut scenario = Scenario::new();
    for number in 0..5_000_u32 {
        let [_, _, high, low] = number.to_be_bytes();
        scenario.deny(0, packet(&format!("198.51.{high}.{low}"), 1, 5432));
    }
    assert_eq!(scenario.recorded, 1_001);
    assert!(scenario.deny(1, packet(WEB_B, 1, 5432)), "a pod is not affected");
    let mut folded = Vec::new();
    while let Some(record) = scenario.fold.take_due(scenario.at(10_000)) {
        folded.push(record);
    }
    let [record] = folded.as_slice() else { panic!("{folded:?}") };
    assert_eq!((record.count, record.folded_by), (Some(3_999), Some(FoldedBy::Port)));
    assert_eq!((record.source.as_ref(), record.community_id), (None, None), "they differ");
    assert_eq!(record.destination.as_ref().and_then(|end| end.port), Some(5432));
}

#[test]
fn memory_is_bounded_and_what_is_evicted_is_recorded() {
    let mut scenario = Scenario::new();
    let mut offered = 0;
    // 40 pods with 300 flows each, twice.
    for _ in 0..2 {
        for number in 0..12_000_u16 {
            let mut denial = denial(packet(WEB_B, number, 5432));
            denial.source.as_mut().expect("a source").address = [10, 9, 0, (number / 300) as u8].into();
            let Offered { is_recorded, evicted } = scenario.fold.offer(time(0), scenario.start, &denial);
            evicted.into_iter().for_each(|record| scenario.write(&record));
            scenario.recorded += u64::from(is_recorded);
            offered += 1;
            assert!(scenario.fold.flows.len() <= MOST_FLOWS && scenario.fold.due.len() <= MOST_FLOWS);
        }
    }
    while let Some(record) = scenario.fold.take_any() {
        scenario.write(&record);
    }
    assert_eq!(scenario.recorded, offered);
    assert!(scenario.fold.flows.is_empty());
}

#[test]
fn origins_beyond_the_limit_share_a_budget() {
    let mut scenario = Scenario::new();
    let base = denial(packet(WEB_B, 1, 5432));
    for number in 0..MOST_ORIGINS + 1_500 {
        let mut denial = base.clone();
        let number = u32::try_from(number).expect("fits");
        denial.source.as_mut().expect("a source").address =
            std::net::Ipv4Addr::from(0x0a09_0000 + number).into();
        scenario.fold.offer(time(0), scenario.start, &denial);
    }
    assert!(scenario.fold.budgets.len() <= MOST_ORIGINS + 1);
    let others = scenario.fold.budgets[&Origin::Others];
    assert_eq!(others[0].left_at(scenario.start), 0);
}

#[test]
fn a_packet_that_could_not_be_parsed_folds_by_its_decision() {
    let mut scenario = Scenario::new();
    let unparsable = Connection::new(&evaluation(&snapshot(), None), &PolicyVersions::default());
    let start = scenario.start;
    assert!(scenario.fold.offer(time(0), start, &unparsable).is_recorded);
    assert!(!scenario.fold.offer(time(1), start, &unparsable).is_recorded);
    let mut other = packet(WEB_B, 1, 5432);
    other.protocol = Protocol::UDP;
    assert!(scenario.deny(2, other));
    let record = scenario.fold.take_due(scenario.at(10_000)).expect("due");
    assert_eq!((record.count, record.protocol), (Some(1), None));
}
