//! Connections that last: some that policy allows at all times, and some that live only while it allows them.
//!
//! From: the world in force. To: streams of numbered messages. Invariant: of a steady stream no message is missing; from a leased one
//! nothing arrives once a world that denies it is in force.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use jiff::{SignedDuration, Timestamp};

use super::model::Model;
use crate::probe::{Family, Way};
use crate::server::Arrivals;
use crate::standstill::Standstills;
use crate::stream::{Stream, StreamReport};
use crate::testbed::Testbed;

/// A message of each stream is sent in this time.
const PACE: Duration = Duration::from_millis(10);
/// A steady stream stands still for no longer than this, unless its agents died or stopped in the middle of a change: a lost packet is sent
/// again after 0.2 seconds, and the machine may be busy.
const STILL: Duration = Duration::from_secs(4);
/// After such a time TCP waits at most this long until it tries again.
const STILL_AFTER_STALL: Duration = Duration::from_secs(25);
/// How much later a busy machine may read a byte that has arrived.
const READ_WITHIN: Duration = Duration::from_secs(1);
/// How long a denied lease is looked at.
const LOOKED_AT: Duration = Duration::from_secs(3);

/// Who talks to whom in a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamRoute {
    /// The pod that opens it.
    pub from: String,
    /// The pod that answers.
    pub to: String,
    /// Port and protocol.
    pub way: Way,
    /// Its family.
    pub family: Family,
    /// The nodes of both.
    pub nodes: [String; 2],
}

/// Totals of the streams that have ended.
#[derive(Clone, Default, Debug)]
pub struct StreamTotals {
    /// Steady streams.
    pub steady: u64,
    /// Messages sent on steady streams; those that did not come back are in `lost`.
    pub messages: u64,
    /// Datagrams that were lost while agents had died or stopped in the middle of a change.
    pub lost: u64,
    /// The longest time without a message on a steady stream.
    pub longest_gap: Duration,
    /// Leased streams that were opened.
    pub leases: u64,
    /// Leased streams that were seen cut by a change.
    pub cut: u64,
}

/// A time in which established connections may stall: agents had died or stopped in the middle of a change.
#[derive(Clone, Debug)]
pub struct Stall {
    /// The node.
    pub node: String,
    /// Since when.
    pub from: Instant,
    /// Until when, if it is over.
    pub to: Option<Instant>,
}

/// See the module.
#[derive(Debug)]
pub struct Streams {
    standstills: Standstills,
    steady: Vec<(StreamRoute, Option<Stream>)>,
    leases: Vec<(StreamRoute, Option<Lease>)>,
    stalls: Vec<Stall>,
    /// What has ended.
    pub totals: StreamTotals,
}

/// A leased stream.
#[derive(Debug)]
struct Lease {
    stream: Stream,
    arrivals: Arrivals,
    /// Since when it is denied.
    denied: Option<Instant>,
}

impl Streams {
    /// None is open yet.
    pub fn new(steady: Vec<StreamRoute>, leases: Vec<StreamRoute>) -> Self {
        Self {
            steady: steady.into_iter().map(|line| (line, None)).collect(),
            leases: leases.into_iter().map(|line| (line, None)).collect(),
            standstills: Standstills::watch(),
            stalls: Vec::new(),
            totals: StreamTotals::default(),
        }
    }

    /// Connections of a node may stall from now on.
    pub fn stall(&mut self, node: &str, now: Instant) {
        self.stalls.push(Stall { node: node.to_owned(), from: now, to: None });
    }

    /// They may no longer.
    pub fn recover(&mut self, node: &str, now: Instant) {
        for stall in self.stalls.iter_mut().filter(|stall| stall.node == node) {
            // What was lost shortly before is sent again.
            stall.to.get_or_insert(now + Duration::from_secs(1));
        }
    }

    /// Opens missing streams on nodes that give verdicts, closes leases that have ended, and checks all streams.
    /// Skips leases of `damaged` nodes, whose bypass is not recorded yet. Fails if a steady stream was disturbed,
    /// or a lease carried data after it was cut.
    pub fn tend(&mut self, testbed: &Testbed, model: &Model, damaged: &[String]) -> Result<()> {
        for (line, stream) in &mut self.steady {
            let Some(open) = stream else {
                if line.nodes.iter().all(|node| !model.is_paused(node)) {
                    *stream = open(testbed, model, line)?;
                }
                continue;
            };
            if open.has_ended() {
                let error = stream.take().map(Stream::end).and_then(Result::err);
                bail!(
                    "{line:?} was disturbed: {}",
                    error.map(|error| format!("{error:#}")).unwrap_or_default()
                );
            }
            let (last, now) = (open.last_echo(), Instant::now());
            let may_stall = is_stalled(&self.stalls, line, last, now);
            let most = if may_stall { STILL_AFTER_STALL } else { STILL };
            let quiet = now.duration_since(last).saturating_sub(self.standstills.within(last, now));
            if quiet > most {
                bail!("{line:?} ({}) has received nothing for {quiet:?}", open.client());
            }
        }
        for (line, lease) in &mut self.leases {
            if line.nodes.iter().any(|node| damaged.contains(node)) {
                continue;
            }
            tend_lease(testbed, model, &self.standstills, (line, lease), &mut self.totals)?;
        }
        Ok(())
    }

    /// Ends the streams from and to pods of a node, or all, once the messages in flight have come back.
    pub fn close(&mut self, node: Option<&str>) -> Result<()> {
        let concerns = |line: &StreamRoute| node.is_none_or(|node| line.nodes.iter().any(|end| end == node));
        for (_, lease) in self.leases.iter_mut().filter(|(line, _)| concerns(line)) {
            *lease = None;
        }
        for (line, stream) in self.steady.iter_mut().filter(|(line, _)| concerns(line)) {
            let Some(stream) = stream.take() else { continue };
            let client = stream.client();
            let report = stream.end().with_context(|| format!("{line:?}"))?;
            check(&report, line, &self.stalls).with_context(|| format!("{line:?} ({client})"))?;
            self.totals.steady += 1;
            self.totals.messages += report.sent;
            self.totals.lost += report.lost.len() as u64;
            self.totals.longest_gap = self.totals.longest_gap.max(report.longest_gap);
        }
        Ok(())
    }
}

/// Opens a steady stream; `None` if it did not come about because a node stopped giving verdicts meanwhile.
fn open(testbed: &Testbed, model: &Model, line: &StreamRoute) -> Result<Option<Stream>> {
    let begun = Instant::now();
    let opened = Stream::open_every(testbed, &line.from, &line.to, line.way, line.family, PACE);
    let nodes = line.nodes.each_ref().map(String::as_str);
    match opened {
        Ok(stream) => Ok(Some(stream)),
        Err(_) if model.had_pause(&nodes, begun, Instant::now()) => Ok(None),
        Err(error) => Err(error.context(format!("{line:?} is allowed"))),
    }
}

/// Whether connections of the line may have stalled at some time between these two.
fn is_stalled(stalls: &[Stall], line: &StreamRoute, from: Instant, to: Instant) -> bool {
    stalls.iter().any(|stall| {
        line.nodes.contains(&stall.node) && stall.from <= to && stall.to.is_none_or(|end| end >= from)
    })
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or_default()
}

fn check(report: &StreamReport, line: &StreamRoute, stalls: &[Stall]) -> Result<()> {
    let of_datagrams = matches!(line.way, Way::Port(_, crate::port::Transport::Udp));
    let unexcused = report.lost.iter().filter(|sent| !is_stalled(stalls, line, **sent, **sent));
    let ages: Vec<Duration> = unexcused.map(Instant::elapsed).collect();
    if !ages.is_empty() {
        let (now, sent, lost) = (Timestamp::now(), report.sent, report.lost.len());
        let times: Vec<String> = ages.iter().take(10).map(|age| (now - signed(*age)).to_string()).collect();
        bail!("{} datagrams are missing, sent at {times:?}; {lost} of {sent} were lost in all", ages.len());
    }
    if !of_datagrams && report.echoed != report.sent {
        bail!("{} messages were sent and {} came back", report.sent, report.echoed);
    }
    Ok(())
}

fn tend_lease(
    testbed: &Testbed,
    model: &Model,
    standstills: &Standstills,
    (line, lease): (&StreamRoute, &mut Option<Lease>),
    totals: &mut StreamTotals,
) -> Result<()> {
    let Way::Port(port, transport) = line.way else { return Ok(()) };
    let is_allowed = model.newest().allows_named(&line.from, &line.to, (port, transport));
    let Some(open) = lease else {
        let can_open =
            is_allowed && model.settled().is_some() && line.nodes.iter().all(|node| !model.is_paused(node));
        if can_open
            && let Ok(stream) = Stream::open_every(testbed, &line.from, &line.to, line.way, line.family, PACE)
        {
            let arrivals = testbed.server(&line.to)?.arrivals();
            *lease = Some(Lease { stream, arrivals, denied: None });
            totals.leases += 1;
        }
        return Ok(());
    };
    if is_allowed {
        // It heals if it was denied for a short while, or it was given up: not looked at.
        if open.denied.take().is_some() || open.stream.has_ended() {
            *lease = None;
        }
        return Ok(());
    }
    let Some(settled) = model.settled() else { return Ok(()) };
    let since = *open.denied.get_or_insert(settled);
    if let Some(last) = open.arrivals.last_at((port, transport), open.stream.client())
        && last > since + READ_WITHIN + standstills.within(since, last)
        && model.newest_denied_since(since, &line.from, &line.to, (port, transport))
    {
        let read = Timestamp::now() - signed(last.elapsed());
        let sent = read - signed(READ_WITHIN);
        if !line.nodes.iter().any(|node| model.is_bypassed(node, (sent, read))) {
            let (client, late) = (open.stream.client(), last.duration_since(since));
            return Err(anyhow::Error::new(LateByte { client, late, line: line.clone() }));
        }
    }
    if since.elapsed() > LOOKED_AT {
        totals.cut += 1;
        *lease = None;
    }
    Ok(())
}

/// A byte arrived of a connection that a change had cut.
#[derive(Debug)]
struct LateByte {
    client: std::net::SocketAddr,
    late: Duration,
    line: StreamRoute,
}

impl std::fmt::Display for LateByte {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { client, late, line } = self;
        write!(f, "{client}: a byte arrived {late:?} after the change that denies {line:?} was in force")
    }
}

impl std::error::Error for LateByte {}
