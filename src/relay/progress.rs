//! One partition's row on the board, kept by the task that owns the partition: counts, state, and the log line
//! of each change of state, said once.

use std::time::Duration;

use tokio::time::Instant;

use super::owed::Owed;
use super::reason::Reason;
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
    advanced_at: Instant,
}

impl Progress {
    /// A row that waits to start.
    pub fn new(board: Board, end: End, route: &str, topic: &str, from: &str, to: &str) -> Self {
        let fresh = PartitionStatus {
            route: route.into(),
            topic: topic.into(),
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
        let (now, owed) = (Instant::now(), Owed::default());
        let progress = Self { row, owed, board, shown_at: now, shown: true, advanced_at: now };
        progress.board.put(progress.row.clone());
        progress
    }

    /// Entries may flow.
    pub fn running(&mut self, promise: &str) {
        let changed = self.row.state != State::Running;
        self.row.state = State::Running;
        self.row.promise = Some(promise.into());
        (self.row.reason, self.row.remedy) = (None, None);
        self.advanced_at = Instant::now();
        let row = &self.row;
        tracing::event!(
            tracing::Level::INFO,
            route = %row.route, topic = %row.topic, end = ?row.end, session = %format!("{:016x}", row.session),
            link = row.link.as_deref(), lane = row.lane, promise, resumed = !changed, "route runs"
        );
        self.show();
    }

    /// It waits or has stopped, and why. `detail` goes to our own log only.
    pub fn halted(&mut self, reason: Reason, detail: &str) {
        use super::reason::Verdict;
        let state = if reason.verdict() == Verdict::Stop { State::Stopped } else { State::Waiting };
        let news = self.row.state != state || self.row.reason.as_deref() != Some(reason.code());
        self.row.state = state;
        self.row.reason = Some(reason.code().into());
        self.row.remedy = Some(reason.remedy().into());
        if self.row.end == End::Sink {
            // What a source has sent stays owed, whatever became of the session.
            self.row.in_flight = 0;
        }
        if news {
            let row = &self.row;
            let session = format!("{:016x}", row.session);
            let (route, topic, end, code, remedy) =
                (&row.route, &row.topic, row.end, reason.code(), reason.remedy());
            // A macro, because a level cannot be a value.
            macro_rules! say {
                ($level:ident, $event:literal) => {
                    tracing::$level!(route, topic, ?end, session, reason = code, detail, remedy, $event)
                };
            }
            if state == State::Stopped {
                say!(error, "route stopped");
            } else if matches!(
                reason,
                Reason::Starting | Reason::Standby | Reason::SourceMissing | Reason::NotOpened
            ) {
                say!(info, "route waits");
            } else {
                say!(warn, "route waits");
            }
        }
        self.show();
    }

    /// The acknowledged position moved, or there is nothing to acknowledge.
    pub fn advanced(&mut self) {
        self.advanced_at = Instant::now();
    }

    /// Shows the row when the last showing is old enough.
    pub fn show_when_due(&mut self) {
        self.shown = false;
        if Instant::now() >= self.next_show() {
            self.show();
        }
    }

    /// When the row is to be shown again though nothing happens: soon after a change, else at a slow beat, so
    /// that the time since the last advance is told.
    pub fn next_show(&self) -> Instant {
        self.shown_at + if self.shown { IDLE_BEAT } else { SHOW_BEAT }
    }

    /// Shows the row.
    pub fn show(&mut self) {
        if self.row.end == End::Source {
            self.row.in_flight = self.owed.count();
        }
        self.row.stalled_ms = self.advanced_at.elapsed().as_millis() as u64;
        (self.shown_at, self.shown) = (Instant::now(), true);
        self.board.put(self.row.clone());
    }

    /// Takes the row off the board.
    pub fn remove(&self) {
        self.board.remove(&self.row.key());
    }
}

/// As often as a row is worth writing while entries flow.
const SHOW_BEAT: Duration = Duration::from_millis(250);
/// And while none do.
const IDLE_BEAT: Duration = Duration::from_secs(5);
