//! Long-lived connections: steady ones, which policy always allows, and conditional ones, which it allows in
//! some worlds.
//!
//! From: the world in force. To: streams of numbered messages. Invariant: no message of a steady stream is
//! missing. Nothing of a conditional stream arrives once a world that denies it is in force.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use jiff::{SignedDuration, Timestamp};

use super::model::Model;
use crate::probe::{Family, ProbeTarget};
use crate::scheduling_delays::{Sampling, SchedulingDelays};
use crate::server::Arrivals;
use crate::stream::{Stream, StreamReport};
use crate::testbed::Testbed;

/// The time between two messages of a stream.
const MESSAGE_INTERVAL: Duration = Duration::from_millis(10);
/// The longest time without a message on a steady stream, unless an agent was killed or suspended during a
/// change. TCP retransmits a lost packet after 0.2 seconds, and the machine may be busy.
const MAX_GAP: Duration = Duration::from_secs(4);
/// The longest time without a message if an agent was killed or suspended during a change: until TCP's next
/// retransmission.
const MAX_GAP_AFTER_STALL: Duration = Duration::from_secs(25);
/// How much later a busy machine may read a byte that has arrived.
const READ_DELAY: Duration = Duration::from_secs(1);
/// How long a conditional stream is observed after a change denies it.
const OBSERVATION_TIME: Duration = Duration::from_secs(3);

/// The ends of a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamRoute {
    /// The pod that opens it.
    pub from: String,
    /// The pod that answers.
    pub to: String,
    /// The server's port and protocol.
    pub target: ProbeTarget,
    /// The address family.
    pub family: Family,
    /// The nodes of both pods.
    pub nodes: [String; 2],
}

/// Totals of the streams that have ended.
#[derive(Clone, Default, Debug)]
pub struct StreamTotals {
    /// Steady streams that have ended.
    pub steady: u64,
    /// Messages sent on steady streams. Those without an echo are in `lost`.
    pub messages: u64,
    /// Datagrams that were lost while an agent was killed or suspended during a change.
    pub lost: u64,
    /// The longest time without a message on a steady stream.
    pub longest_gap: Duration,
    /// Conditional streams that were opened.
    pub conditionals: u64,
    /// Conditional streams that a change has cut.
    pub cut: u64,
}

/// A time in which established connections may stall, because an agent was killed or suspended during a
/// change.
#[derive(Clone, Debug)]
pub struct Stall {
    /// The node.
    pub node: String,
    /// Since when.
    pub from: Instant,
    /// Until when, if it is over.
    pub to: Option<Instant>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Streams {
    delays: SchedulingDelays,
    steady: Vec<(StreamRoute, Option<Stream>)>,
    conditionals: Vec<(StreamRoute, Option<ConditionalStream>)>,
    stalls: Vec<Stall>,
    /// Totals of the streams that have ended.
    pub totals: StreamTotals,
}

/// A conditional stream.
#[derive(Debug)]
struct ConditionalStream {
    stream: Stream,
    arrivals: Arrivals,
    /// The time since which a world that denies it is in force.
    denied: Option<Instant>,
}

impl Streams {
    /// Opens no stream yet.
    pub fn new(steady: Vec<StreamRoute>, conditionals: Vec<StreamRoute>) -> Self {
        Self {
            steady: steady.into_iter().map(|route| (route, None)).collect(),
            conditionals: conditionals.into_iter().map(|route| (route, None)).collect(),
            delays: SchedulingDelays::watch(Sampling::COARSE),
            stalls: Vec::new(),
            totals: StreamTotals::default(),
        }
    }

    /// Records that connections of a node may stall from now on.
    pub fn stall(&mut self, node: &str, now: Instant) {
        self.stalls.push(Stall { node: node.to_owned(), from: now, to: None });
    }

    /// Records that connections of a node may no longer stall.
    pub fn recover(&mut self, node: &str, now: Instant) {
        for stall in self.stalls.iter_mut().filter(|stall| stall.node == node) {
            // TCP retransmits what was lost shortly before.
            stall.to.get_or_insert(now + Duration::from_secs(1));
        }
    }

    /// Opens missing streams on nodes that give verdicts, closes conditional streams that were cut, and
    /// checks all streams. Skips conditional streams of `damaged` nodes, whose bypass is not recorded yet.
    /// Fails if a steady stream was disturbed, or if a conditional stream carried data after it was cut.
    pub fn maintain(&mut self, testbed: &Testbed, model: &Model, damaged: &[String]) -> Result<()> {
        for (route, stream) in &mut self.steady {
            let Some(open) = stream else {
                if route.nodes.iter().all(|node| !model.is_paused(node)) {
                    *stream = open(testbed, model, route)?;
                }
                continue;
            };
            if open.has_ended() {
                let error = stream.take().map(Stream::end).and_then(Result::err);
                bail!(
                    "{route:?} was disturbed: {}",
                    error.map(|error| format!("{error:#}")).unwrap_or_default()
                );
            }
            let (last, now) = (open.last_echo(), Instant::now());
            let may_stall = is_stalled(&self.stalls, route, last, now);
            let most = if may_stall { MAX_GAP_AFTER_STALL } else { MAX_GAP };
            let quiet = now.duration_since(last).saturating_sub(self.delays.within(last, now));
            if quiet > most {
                bail!("{route:?} ({}) has received nothing for {quiet:?}", open.client());
            }
        }
        for (route, conditional) in &mut self.conditionals {
            if route.nodes.iter().any(|node| damaged.contains(node)) {
                continue;
            }
            maintain_conditional(testbed, model, &self.delays, (route, conditional), &mut self.totals)?;
        }
        Ok(())
    }

    /// Ends the streams from and to pods of a node, or all of them, after the echoes of the messages in
    /// flight.
    pub fn close(&mut self, node: Option<&str>) -> Result<()> {
        let concerns =
            |route: &StreamRoute| node.is_none_or(|node| route.nodes.iter().any(|end| end == node));
        for (_, conditional) in self.conditionals.iter_mut().filter(|(route, _)| concerns(route)) {
            *conditional = None;
        }
        for (route, stream) in self.steady.iter_mut().filter(|(route, _)| concerns(route)) {
            let Some(stream) = stream.take() else { continue };
            let client = stream.client();
            let report = stream.end().with_context(|| format!("{route:?}"))?;
            check(&report, route, &self.stalls).with_context(|| format!("{route:?} ({client})"))?;
            self.totals.steady += 1;
            self.totals.messages += report.sent;
            self.totals.lost += report.lost.len() as u64;
            self.totals.longest_gap = self.totals.longest_gap.max(report.longest_gap);
        }
        Ok(())
    }
}

/// Opens a steady stream; `None` if it could not be opened because a node gave no verdicts meanwhile.
fn open(testbed: &Testbed, model: &Model, route: &StreamRoute) -> Result<Option<Stream>> {
    let begun = Instant::now();
    let opened = Stream::open_with_interval(
        testbed,
        &route.from,
        &route.to,
        route.target,
        route.family,
        MESSAGE_INTERVAL,
    );
    let nodes = route.nodes.each_ref().map(String::as_str);
    match opened {
        Ok(stream) => Ok(Some(stream)),
        Err(_) if model.had_pause(&nodes, begun, Instant::now()) => Ok(None),
        Err(error) => Err(error.context(format!("{route:?} is allowed"))),
    }
}

/// Whether connections of a route may have stalled at some time between these two.
fn is_stalled(stalls: &[Stall], route: &StreamRoute, from: Instant, to: Instant) -> bool {
    stalls.iter().any(|stall| {
        route.nodes.contains(&stall.node) && stall.from <= to && stall.to.is_none_or(|end| end >= from)
    })
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or_default()
}

fn check(report: &StreamReport, route: &StreamRoute, stalls: &[Stall]) -> Result<()> {
    let of_datagrams = matches!(route.target, ProbeTarget::Port(_, crate::port::Transport::Udp));
    let unexcused = report.lost.iter().filter(|sent| !is_stalled(stalls, route, **sent, **sent));
    let ages: Vec<Duration> = unexcused.map(Instant::elapsed).collect();
    if !ages.is_empty() {
        let (now, sent, lost) = (Timestamp::now(), report.sent, report.lost.len());
        let times: Vec<String> = ages.iter().take(10).map(|age| (now - signed(*age)).to_string()).collect();
        bail!(
            "{} datagrams are missing, sent at {times:?}; in total, {lost} of {sent} were lost",
            ages.len()
        );
    }
    if !of_datagrams && report.echoed != report.sent {
        bail!("{} messages were sent and {} were echoed", report.sent, report.echoed);
    }
    Ok(())
}

fn maintain_conditional(
    testbed: &Testbed,
    model: &Model,
    delays: &SchedulingDelays,
    (route, conditional): (&StreamRoute, &mut Option<ConditionalStream>),
    totals: &mut StreamTotals,
) -> Result<()> {
    let ProbeTarget::Port(port, transport) = route.target else { return Ok(()) };
    let is_allowed = model.newest().allows_named(&route.from, &route.to, (port, transport));
    let Some(open) = conditional else {
        let can_open =
            is_allowed && model.settled().is_some() && route.nodes.iter().all(|node| !model.is_paused(node));
        if can_open
            && let Ok(stream) = Stream::open_with_interval(
                testbed,
                &route.from,
                &route.to,
                route.target,
                route.family,
                MESSAGE_INTERVAL,
            )
        {
            let arrivals = testbed.server(&route.to)?.arrivals();
            *conditional = Some(ConditionalStream { stream, arrivals, denied: None });
            totals.conditionals += 1;
        }
        return Ok(());
    };
    if is_allowed {
        // It recovers if it was denied for a short while, or it has failed. Neither is checked.
        if open.denied.take().is_some() || open.stream.has_ended() {
            *conditional = None;
        }
        return Ok(());
    }
    let Some(settled) = model.settled() else { return Ok(()) };
    let since = *open.denied.get_or_insert(settled);
    if let Some(last) = open.arrivals.last_at((port, transport), open.stream.client())
        && last > since + READ_DELAY + delays.within(since, last)
        && model.newest_denied_since(since, &route.from, &route.to, (port, transport))
    {
        let read = Timestamp::now() - signed(last.elapsed());
        let sent = read - signed(READ_DELAY);
        if !route.nodes.iter().any(|node| model.is_bypassed(node, (sent, read))) {
            let (client, late) = (open.stream.client(), last.duration_since(since));
            return Err(anyhow::Error::new(LateByte { client, late, route: route.clone() }));
        }
    }
    if since.elapsed() > OBSERVATION_TIME {
        totals.cut += 1;
        *conditional = None;
    }
    Ok(())
}

/// A byte of a connection arrived after a change had cut it.
#[derive(Debug)]
struct LateByte {
    client: std::net::SocketAddr,
    late: Duration,
    route: StreamRoute,
}

impl std::fmt::Display for LateByte {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { client, late, route } = self;
        write!(f, "{client}: a byte arrived {late:?} after the change that denies {route:?} was in force")
    }
}

impl std::error::Error for LateByte {}
