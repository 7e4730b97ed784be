//! What a running session holds: its window, what waits to be joined, and where it stands. Decides what is read,
//! sent and acknowledged next; holds no socket.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc::Permit;
use tokio::time::Instant;

use super::batching::{Batching, Boundary, Limits, Unit};
use super::frames::{self, EntryHead, Ready};
use super::lane::{LaneHandle, Outgoing, SourceRegistration, WINDOW_ENTRIES};
use super::onward::Fed;
use super::progress::Progress;
use super::reason::Reason;
use super::refused::Refused;
use super::session::{Halt, SessionEnd};
use super::window::{Position, Window};
use crate::pulsar::connection::ConnectionError;
use crate::pulsar::proto;
use crate::tunnel::budget::Class;

/// A session that runs.
pub(super) struct Flow {
    pub(super) registration: SourceRegistration,
    pub(super) session: u64,
    pub(super) window: Window,
    pub(super) batching: Batching,
    /// Read, but not to be sent; waits until everything before it is sent.
    pub(super) skip: Option<Position>,
    /// Why nothing is read any more: what was read before is confirmed and acknowledged first, so that the subscription
    /// stands at the entry that it is about.
    pub(super) ends_with: Option<Halt>,
    pub(super) ack_at: Option<Instant>,
    pub(super) last_acknowledged: Option<Position>,
    /// The last entry that this session read.
    pub(super) read_to: Option<Position>,
    /// What goes to the quarantine in this session, and stays marked until it is acknowledged.
    pub(super) refused: Refused,
    pub(super) heard_at: Instant,
    /// When the last unit was sent.
    left_at: Instant,
    pub(super) fed: Fed,
    /// The topic may no longer go out; what waits in the lane hears it too.
    withheld: Arc<AtomicBool>,
}

impl Flow {
    pub(super) fn new(
        registration: SourceRegistration,
        session: u64,
        ready: &Ready,
        joining: Option<Limits>,
        fed: Fed,
        refused: Refused,
    ) -> Self {
        let mut batching = Batching::new(joining);
        batching.begin(Boundary::new(ready.last_sequence_id));
        batching.keep_apart(&refused);
        let bytes_max = usize::try_from(ready.window_bytes).unwrap_or(usize::MAX);
        let entries_max = ready.window_entries.min(WINDOW_ENTRIES) as usize;
        Self {
            registration,
            session,
            window: Window::new(bytes_max, entries_max, Boundary::new(ready.last_sequence_id)),
            batching,
            skip: None,
            ends_with: None,
            ack_at: None,
            last_acknowledged: None,
            read_to: None,
            refused,
            heard_at: Instant::now(),
            left_at: Instant::now(),
            fed,
            withheld: Arc::default(),
        }
    }

    pub(super) fn wants_more(&self) -> bool {
        self.skip.is_none()
            && self.ends_with.is_none()
            && self.window.has_room()
            && self.batching.waiting_len() < WAITING_LEN_MAX
    }

    /// What has come already is taken before anything else is done.
    pub(super) fn gathers(&self) -> bool {
        self.wants_more() && self.batching.waiting_len() < GATHERED_LEN_MAX
    }

    /// Something waits that the window has room for.
    pub(super) fn has_to_send(&self) -> bool {
        self.batching.waiting_len() > 0 && self.window.has_room()
    }

    /// When a unit leaves that still waits for company. Only behind another one that is on its way: so nothing waits
    /// on an idle route, and no more than a unit for each such time leaves a busy one that is not complete.
    pub(super) fn held_until(&self) -> Option<Instant> {
        let delay = self.batching.may_grow()?;
        let until = self.left_at + delay;
        let is_busy = !self.window.is_empty() && self.skip.is_none() && self.wants_more();
        (is_busy && until > Instant::now()).then_some(until)
    }

    /// Sends nothing more, and so acknowledges nothing more than what was sent: the rest stays at the source.
    pub(super) fn withhold(&mut self) {
        self.withheld.store(true, Ordering::Relaxed);
        self.batching.forget_waiting();
        (self.skip, self.ends_with) = (None, None);
    }

    pub(super) fn is_withheld(&self) -> bool {
        self.withheld.load(Ordering::Relaxed)
    }

    /// The lowest position that was read and not confirmed; reading has to go on there at the latest.
    pub(super) fn lowest_unconfirmed(&self) -> Option<Position> {
        let waiting = self.batching.first_waiting().map(Position::of_sequence_id);
        self.window.lowest_unconfirmed().or(waiting).or(self.skip)
    }

    /// Nothing is on its way.
    pub(super) fn is_settled(&self) -> bool {
        self.window.is_empty() && self.batching.waiting_len() == 0 && self.skip.is_none()
    }

    /// How a session ends that has nothing left to confirm; `moves` to another lane, or for good.
    pub(super) fn settled(&mut self, moves: bool) -> SessionEnd {
        let otherwise = if moves { SessionEnd::Moved } else { SessionEnd::Drained };
        self.ends_with.take().map_or(otherwise, SessionEnd::Halted)
    }

    /// And one that has waited for it long enough: what it is about is met again.
    pub(super) fn unsettled(&mut self, moves: bool) -> SessionEnd {
        match self.ends_with.take() {
            Some(Halt { detail, .. }) => {
                let detail = format!("{detail}; not all before it is confirmed");
                SessionEnd::Halted(Halt::new(Reason::DestinationRetry, &detail))
            }
            None if moves => {
                let detail = "the link retires, and not everything is confirmed";
                SessionEnd::Halted(Halt::new(Reason::Starting, detail))
            }
            None => SessionEnd::Drained,
        }
    }

    /// A skipped entry takes its turn behind everything that was read before it.
    pub(super) fn settle_skip(&mut self) {
        if self.batching.waiting_len() == 0
            && let Some(position) = self.skip.take()
        {
            self.window.skipped(position);
        }
    }

    /// Sends what waits, as far as there are places for it.
    pub(super) fn send_waiting(
        &mut self,
        lane: &LaneHandle,
        place: Permit<'_, Outgoing>,
        class: Class,
        progress: &mut Progress,
    ) -> Result<(), SessionEnd> {
        self.send_next(place, class, progress)?;
        while self.has_to_send() && self.held_until().is_none() {
            let Some(place) = lane.try_entry_place() else { break };
            self.send_next(place, class, progress)?;
        }
        Ok(())
    }

    fn send_next(
        &mut self,
        place: Permit<'_, Outgoing>,
        class: Class,
        progress: &mut Progress,
    ) -> Result<(), SessionEnd> {
        let Some(unit) = self.batching.take() else {
            return Ok(());
        };
        let Unit { first, last, messages, entries, .. } = unit;
        let highest_sequence_id = unit.is_joined().then_some(last);
        let sent = self.window.sent(first, Position::of_sequence_id(last), unit.source_len);
        sent.map_err(|reason| {
            let detail = format!("at {}", Position::of_sequence_id(first));
            SessionEnd::Halted(Halt::new(reason, &detail))
        })?;
        self.left_at = Instant::now();
        progress.owed.sent(Position::of_sequence_id(last), entries);
        progress.row.entries += u64::from(entries);
        progress.row.messages += u64::from(messages);
        progress.row.bytes += unit.stored.len() as u64;
        let number = self.registration.number;
        let head = EntryHead { number, session: self.session, sequence_id: first, highest_sequence_id };
        let slices = [frames::encode_entry_head(head, unit.stored.len()), unit.stored];
        place.send(Outgoing { class, slices, withheld: self.withheld.clone() });
        self.settle_skip();
        Ok(())
    }

    pub(super) fn on_last_position(
        &mut self,
        answer: Result<proto::LastMessageId, ConnectionError>,
    ) -> Result<(), SessionEnd> {
        let last = answer.map_err(|_| SessionEnd::ConsumerLost)?.last_message_id;
        if last.ledger > i64::MAX as u64 {
            // −1:−1: the broker has no message left to name, which says nothing about its ids.
            return Ok(());
        }
        let last = Position { ledger: last.ledger, entry: last.entry };
        self.window.judge_last_position(last).map_err(|reason| {
            let detail = format!("the source topic ends at {last}, before what the destination has");
            SessionEnd::Halted(Halt::new(reason, &detail))
        })
    }
}

/// Entries that wait for company or for the lane.
const WAITING_LEN_MAX: usize = 1 << 20;
/// Entries that are taken in one go: some fractions of a millisecond, after which answers are seen to.
const GATHERED_LEN_MAX: usize = 256 * 1024;
/// The same, also of those that stay here.
pub(super) const GATHERED_MAX: usize = 2048;
