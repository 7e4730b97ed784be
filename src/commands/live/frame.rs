//! One look at a run: counts, and the rates of the last two seconds.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use pulsar_bridge::config::Load;
use pulsar_bridge::load::figures::Snapshot;
use pulsar_bridge::pulsar::topic::TopicName;
use pulsar_bridge::relay::status::{End, PartitionStatus, State};
use pulsar_bridge::stack::Watch;

/// What there is to see at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Frame {
    /// Since the start.
    pub elapsed: Duration,
    /// The load's own counts.
    pub load: Snapshot,
    /// Whether a site runs here, so that what it relays is known.
    pub relays: bool,
    /// Requests that were published at the other side.
    pub requests_relayed: u64,
    /// Results that were.
    pub results_relayed: u64,
    /// 10^6 bits a second, of entries as stored.
    pub requests_mbit_s: f64,
    /// Likewise.
    pub results_mbit_s: f64,
    /// The last of these rates, oldest first.
    pub past: Vec<u64>,
    /// Results a second.
    pub answers_s: f64,
    /// `site url`, of embedded brokers.
    pub brokers: Vec<String>,
    /// `site`, `route`, `reason` of what does not run.
    pub waiting: Vec<String>,
}

impl Frame {
    /// Requests without a result.
    pub fn unanswered(&self) -> u64 {
        self.load.requests.saturating_sub(self.load.answered)
    }

    /// Until all are answered, at the present rate.
    pub fn eta(&self) -> Option<Duration> {
        (self.answers_s > 0.0).then(|| Duration::from_secs_f64(self.unanswered() as f64 / self.answers_s))
    }
}

/// Looks at a run.
pub struct Camera {
    watch: Watch,
    load: Load,
    started: Instant,
    /// The looks that rates are taken over, oldest first.
    moments: VecDeque<Moment>,
    past: VecDeque<u64>,
}

/// The counts that rates are made of.
#[derive(Clone, Copy)]
struct Moment {
    at: Instant,
    request_bytes: u64,
    result_bytes: u64,
    answered: u64,
}

impl Camera {
    /// `None` where no load runs.
    pub fn new(watch: Watch) -> Option<Self> {
        let load = watch.load.as_ref()?.0.clone();
        let started = Instant::now();
        let first = Moment { at: started, request_bytes: 0, result_bytes: 0, answered: 0 };
        Some(Self { watch, load, started, moments: VecDeque::from([first]), past: VecDeque::new() })
    }

    /// The present state.
    pub fn look(&mut self) -> Frame {
        let load = self.watch.load.as_ref().map(|(_, figures)| figures.look()).unwrap_or_default();
        let rows: Vec<_> = self.watch.sites.iter().flat_map(|(_, boards)| boards.routes.rows()).collect();
        let (requests_relayed, request_bytes) = relayed(&rows, &self.load.requests);
        let (results_relayed, relayed_bytes) = relayed(&rows, &self.load.results);
        let relays = !self.watch.sites.is_empty();
        // Where no site runs here, the load's own count is what there is.
        let result_bytes = if relays { relayed_bytes } else { load.result_bytes };
        let now = Moment { at: Instant::now(), request_bytes, result_bytes, answered: load.answered };
        let before = self.since(now);
        let seconds = (now.at - before.at).as_secs_f64().max(1e-3);
        let mbit_s = |now: u64, before: u64| now.saturating_sub(before) as f64 * 8.0 / 1e6 / seconds;
        let results_mbit_s = mbit_s(now.result_bytes, before.result_bytes);
        self.past.push_back(results_mbit_s as u64);
        if self.past.len() > PAST_LEN {
            self.past.pop_front();
        }
        Frame {
            elapsed: self.started.elapsed(),
            load,
            relays,
            requests_relayed,
            results_relayed,
            requests_mbit_s: mbit_s(now.request_bytes, before.request_bytes),
            results_mbit_s,
            past: self.past.iter().copied().collect(),
            answers_s: (now.answered - before.answered) as f64 / seconds,
            brokers: self.watch.brokers.iter().map(|(site, url)| format!("{site} {url}")).collect(),
            waiting: rows.iter().filter(|row| row.state != State::Running).map(reason).collect(),
        }
    }

    /// What to compare this moment with; it is kept for the next ones. The counts of relays are written four times
    /// a second: rates over less would jump.
    fn since(&mut self, now: Moment) -> Moment {
        let old_enough = |moment: &Moment| now.at - moment.at >= RATES_OVER;
        while self.moments.get(1).is_some_and(old_enough) {
            self.moments.pop_front();
        }
        let before = self.moments.front().copied().unwrap_or(now);
        self.moments.push_back(now);
        before
    }
}

/// Messages and bytes that reached the other side.
fn relayed(rows: &[PartitionStatus], topic: &TopicName) -> (u64, u64) {
    let of_topic = |row: &&PartitionStatus| {
        row.end == End::Sink && TopicName::parse(&row.topic).is_ok_and(|name| name.base() == topic.base())
    };
    rows.iter()
        .filter(of_topic)
        .fold((0, 0), |(messages, bytes), row| (messages + row.messages, bytes + row.bytes))
}

fn reason(row: &PartitionStatus) -> String {
    let site = if row.end == End::Source { &row.from } else { &row.to };
    format!("{site} {} {}", row.route, row.reason.as_deref().unwrap_or("waiting"))
}

const RATES_OVER: Duration = Duration::from_millis(1900);
/// A minute of looks in the view.
const PAST_LEN: usize = 120;
