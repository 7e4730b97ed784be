//! One partition's row on the board, kept by the task that owns the partition: counts, state, and the log line
//! of each change of state, said once.

use std::time::{Duration, Instant};

use super::reason::Reason;
use super::status::{Board, End, PartitionStatus, State};

/// The row and its owner's hand on it.
pub struct Progress {
    /// The row; counters are added to in place.
    pub row: PartitionStatus,
    board: Board,
    shown_at: Option<Instant>,
    /// Something happened since.
    is_news: bool,
    advanced_at: Instant,
}

impl Progress {
    /// A row that waits to start.
    pub fn new(board: Board, end: End, route: &str, topic: &str, from: &str, to: &str) -> Self {
        let row = PartitionStatus {
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
        let progress = Self {
            row,
            board,
            shown_at: None,
            is_news: false,
            advanced_at: Instant::now(),
        };
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
            target: "bridge::relay", tracing::Level::INFO,
            route = %row.route, topic = %row.topic, end = ?row.end, session = %format!("{:016x}", row.session),
            link = row.link.as_deref(), lane = row.lane, promise, resumed = !changed, "route runs"
        );
        self.show();
    }

    /// It waits or has stopped, and why. `detail` goes to our own log only.
    pub fn halted(&mut self, reason: Reason, detail: &str) {
        use super::reason::Verdict;
        let state = if reason.verdict() == Verdict::Stop {
            State::Stopped
        } else {
            State::Waiting
        };
        let news = self.row.state != state || self.row.reason.as_deref() != Some(reason.code());
        self.row.state = state;
        self.row.reason = Some(reason.code().into());
        self.row.remedy = Some(reason.remedy().into());
        self.row.in_flight = 0;
        if news {
            let row = &self.row;
            let session = format!("{:016x}", row.session);
            let (route, topic, end, code, remedy) =
                (&row.route, &row.topic, row.end, reason.code(), reason.remedy());
            if state == State::Stopped {
                tracing::error!(
                    route,
                    topic,
                    ?end,
                    session,
                    reason = code,
                    detail,
                    remedy,
                    "route stopped"
                );
            } else if matches!(reason, Reason::Starting | Reason::Standby | Reason::SourceMissing) {
                tracing::info!(route, topic, ?end, session, reason = code, detail, "route waits");
            } else {
                tracing::warn!(
                    route,
                    topic,
                    ?end,
                    session,
                    reason = code,
                    detail,
                    remedy,
                    "route waits"
                );
            }
        }
        self.show();
    }

    /// The acknowledged position moved, or there is nothing to acknowledge.
    pub fn advanced(&mut self) {
        self.advanced_at = Instant::now();
    }

    /// Shows the row when the last showing is old enough; else it is due at [`Progress::show_at`].
    pub fn show_when_due(&mut self) {
        if self.shown_at.is_none_or(|shown| shown.elapsed() >= SHOW_BEAT) {
            self.show();
        } else {
            self.is_news = true;
        }
    }

    /// When the row is to be shown even if nothing more happens: news that was held back, or something on its
    /// way whose waiting is to be seen.
    pub fn show_at(&self) -> Option<tokio::time::Instant> {
        let shown = self.shown_at.filter(|_| self.is_news || self.row.in_flight > 0)?;
        Some((shown + SHOW_BEAT).into())
    }

    /// Shows the row.
    pub fn show(&mut self) {
        self.row.stalled_ms = self.advanced_at.elapsed().as_millis() as u64;
        self.shown_at = Some(Instant::now());
        self.is_news = false;
        self.board.put(self.row.clone());
    }

    /// Takes the row off the board.
    pub fn remove(&self) {
        self.board
            .remove(&(self.row.route.clone(), self.row.topic.clone(), self.row.end));
    }
}

/// As often as a row is worth writing while entries flow.
const SHOW_BEAT: Duration = Duration::from_millis(250);
