//! One partition's row on the board, kept by the task that owns the partition: counts, state, and the log line
//! of each change of state, said once.

use std::time::Duration;

use tokio::time::Instant;
use tracing::field::{DisplayValue, display};

use super::owed::Owed;
use super::reason::{Reason, Verdict};
use super::status::{Board, End, PartitionStatus, State};

/// The row and its owner's hand on it.
pub struct Progress {
    /// The row; counters are added to in place.
    pub row: PartitionStatus,
    /// At a source: what is counted as in flight.
    pub owed: Owed,
    board: Board,
    shown_at: Instant,
    /// Nothing changed since it was shown.
    shown: bool,
    stalled_since: Option<std::time::Instant>,
}

impl Progress {
    /// A row that waits to start.
    pub fn new(board: Board, end: End, route: &str, topic: &str, from: &str, to: &str) -> Self {
        let fresh = PartitionStatus {
            route: route.into(),
            topic: topic.into(),
            destination: None,
            from: from.into(),
            to: to.into(),
            end,
            state: State::Waiting,
            reason: Some(Reason::Starting.code().into()),
            remedy: None,
            promise: None,
            session: 0,
            link: None,
            lane: None,
            entries: 0,
            messages: 0,
            bytes: 0,
            confirmed: 0,
            duplicates: 0,
            skipped: 0,
            quarantined: 0,
            quarantine: None,
            source_skipped: 0,
            destination_forgotten: 0,
            noticed: None,
            in_flight: 0,
            acknowledged: None,
            stalled_ms: 0,
        };
        // Counters go on from an earlier session's, and what was said of it is not said again.
        let row = match board.row(&fresh.key()) {
            None => fresh,
            Some(before) if before.state == State::Waiting => PartitionStatus { in_flight: 0, ..before },
            Some(before) => PartitionStatus {
                state: State::Waiting,
                reason: fresh.reason,
                remedy: None,
                in_flight: 0,
                ..before
            },
        };
        let row = PartitionStatus { stalled_ms: 0, ..row };
        let stalled_since = board.stalled_since(&row.key());
        let (shown_at, shown) = (Instant::now(), true);
        let mut progress = Self { row, owed: Owed::default(), board, shown_at, shown, stalled_since };
        progress.show();
        progress
    }

    /// Entries may flow.
    pub fn running(&mut self, promise: &str) {
        let changed = self.row.state != State::Running;
        self.row.state = State::Running;
        self.row.promise = Some(promise.into());
        (self.row.reason, self.row.remedy) = (None, None);
        let row = &self.row;
        tracing::event!(
            tracing::Level::INFO,
            route = %row.route, topic = %row.topic, end = ?row.end, session = shown_session(row.session),
            link = row.link.as_deref().map(display), lane = row.lane, promise, resumed = !changed, "route runs"
        );
        self.show();
    }

    /// It waits or has stopped, and why. `detail` goes to our own log only.
    pub fn halted(&mut self, reason: Reason, detail: &str) {
        let remedy = self.remedy(reason);
        self.halted_until(reason, detail, &remedy);
    }

    /// The same where more is known of the remedy.
    pub fn halted_until(&mut self, reason: Reason, detail: &str, remedy: &str) {
        let state = if reason.verdict() == Verdict::Stop { State::Stopped } else { State::Waiting };
        let news = self.row.state != state || self.row.reason.as_deref() != Some(reason.code());
        self.row.state = state;
        self.row.reason = Some(reason.code().into());
        self.row.remedy = Some(remedy.into());
        if self.row.end == End::Sink {
            // What a source has sent stays owed, whatever became of the session.
            self.row.in_flight = 0;
        }
        let now = std::time::Instant::now();
        self.stalled_since = (!is_healthy(self.row.end, reason)).then(|| self.stalled_since.unwrap_or(now));
        if news {
            let row = &self.row;
            let session = shown_session(row.session);
            let (route, topic, end, code, remedy) =
                (&row.route, &row.topic, row.end, reason.code(), row.remedy.as_deref());
            // A macro, because a level cannot be a value.
            macro_rules! say {
                ($level:ident, $event:literal) => {
                    tracing::$level!(%route, %topic, ?end, session, reason = code, detail, remedy, $event)
                };
            }
            if state == State::Stopped {
                say!(error, "route stopped");
            } else if matches!(
                reason,
                Reason::Starting
                    | Reason::Standby
                    | Reason::SourceMissing
                    | Reason::NotOpened
                    | Reason::Draining
            ) {
                say!(info, "route waits");
            } else {
                say!(warn, "route waits");
            }
        }
        self.show();
    }

    /// What an operator can do, and where.
    fn remedy(&self, reason: Reason) -> String {
        let PartitionStatus { from, to, topic, destination, end, .. } = &self.row;
        match (reason, end) {
            (Reason::RefusedByPolicy, End::Source) => {
                let topic = destination.as_ref().unwrap_or(topic);
                format!("have {topic} added to the policy (`receive`) of {to}, whose log says more")
            }
            (Reason::RefusedByPolicy, End::Sink) => {
                format!("have {topic} added to the policy (`send`) of {from}, whose log says more")
            }
            (_, _) => reason.remedy().into(),
        }
    }

    /// Something moved: what still waits, waits from now on.
    pub fn advanced(&mut self) {
        self.stalled_since = None;
    }

    /// Whether something waits for its confirmation.
    pub fn waits(&mut self, waits: bool) {
        if waits != self.stalled_since.is_some() {
            self.stalled_since = waits.then(std::time::Instant::now);
            self.shown = false;
        }
    }

    /// Shows the row when the last showing is old enough.
    pub fn show_when_due(&mut self) {
        self.shown = false;
        if Instant::now() >= self.next_show() {
            self.show();
        }
    }

    /// When the row is to be shown again though nothing happens: soon after a change, else at a slow beat.
    pub fn next_show(&self) -> Instant {
        self.shown_at + if self.shown { IDLE_BEAT } else { SHOW_BEAT }
    }

    /// Shows the row.
    pub fn show(&mut self) {
        if self.row.end == End::Source {
            self.row.in_flight = self.owed.count();
        }
        (self.shown_at, self.shown) = (Instant::now(), true);
        self.board.put_stalled(self.row.clone(), self.stalled_since);
    }

    /// Takes the row off the board.
    pub fn remove(&self) {
        self.board.remove(&self.row.key());
    }
}

/// A session as both ends log it; none before the first.
fn shown_session(session: u64) -> Option<DisplayValue<String>> {
    (session != 0).then(|| display(format!("{session:016x}")))
}

/// As often as a row is worth writing while entries flow.
const SHOW_BEAT: Duration = Duration::from_millis(250);
/// And while none do.
const IDLE_BEAT: Duration = Duration::from_secs(5);

/// Whether a wait is as it should be. A sink holds nothing once its session is over: what passes by itself is told
/// at the source, perhaps of a session with another process of this site.
fn is_healthy(end: End, reason: Reason) -> bool {
    matches!(reason, Reason::SourceMissing | Reason::Standby | Reason::NotOpened)
        || end == End::Sink && reason.verdict() == Verdict::Soon
}
