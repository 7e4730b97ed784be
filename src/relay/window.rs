//! What a source has sent and not yet seen confirmed, and what of it may be acknowledged. Holds no socket and no
//! clock. Its one promise: nothing is acknowledged that the destination did not confirm, one by one, in this
//! session or (as a duplicate at or below the session's `last_sequence_id`) in an earlier one.

use std::collections::VecDeque;
use std::fmt;

use super::batching::{Boundary, Judgement};
use super::context::SINK_SHARE_MAX;
use super::reason::Reason;

/// Where an entry lies at the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// BookKeeper's ledger.
    pub ledger: u64,
    /// The entry in it.
    pub entry: u64,
}

impl Position {
    /// `ledger << 28 | entry`, as Pulsar's own `FunctionCommon.getSequenceId` has it; `None` beyond its bounds.
    pub fn sequence_id(self) -> Option<u64> {
        (self.ledger < 1 << (63 - ENTRY_BITS) && self.entry < 1 << ENTRY_BITS)
            .then_some(self.ledger << ENTRY_BITS | self.entry)
    }

    /// The position behind a sequence id.
    pub fn of_sequence_id(sequence_id: u64) -> Self {
        Self { ledger: sequence_id >> ENTRY_BITS, entry: sequence_id & ((1 << ENTRY_BITS) - 1) }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.ledger, self.entry)
    }
}

/// One thing on its way: an entry, a joined batch, or an entry that was skipped.
#[derive(Clone, Copy, Debug)]
struct Item {
    /// First id; what a receipt echoes.
    first: u64,
    /// Last position; what an acknowledgement names.
    last: Position,
    bytes: usize,
    confirmed: bool,
}

/// The window of one session.
#[derive(Debug)]
pub struct Window {
    items: VecDeque<Item>,
    bytes: usize,
    bytes_max: usize,
    entries_max: usize,
    /// What the destination's producer had pushed when the session began.
    boundary: Boundary,
    /// Acknowledgements wait until this very id was read again.
    to_meet: Option<u64>,
    highest_read: Option<u64>,
    acknowledgeable: Option<Position>,
    duplicates: u64,
    /// Entries that were sent at or below what the destination had, and their bytes.
    known: (usize, usize),
    known_told: bool,
}

impl Window {
    /// A session's window, as the sink granted it.
    pub fn new(bytes_max: usize, entries_max: usize, boundary: Boundary) -> Self {
        Self {
            items: VecDeque::new(),
            bytes: 0,
            bytes_max,
            entries_max: entries_max.max(1),
            boundary,
            to_meet: None,
            highest_read: None,
            acknowledgeable: None,
            duplicates: 0,
            known: (0, 0),
            known_told: false,
        }
    }

    /// Another entry may be sent. A single entry always fits, however large.
    pub fn has_room(&self) -> bool {
        self.items.is_empty() || (self.bytes < self.bytes_max && self.items.len() < self.entries_max)
    }

    /// The lowest position that was read and not confirmed.
    pub fn lowest_unconfirmed(&self) -> Option<Position> {
        let front = self.items.front()?;
        // Behind an unconfirmed item a skipped one may wait, never at the front.
        Some(Position::of_sequence_id(front.first))
    }

    /// Entries without a confirmation.
    pub fn in_flight(&self) -> usize {
        self.items.len()
    }

    /// Nothing is on its way.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The entries that were read lie at or below what the destination had when the session began: these go
    /// singly, and the source's ids are still to be trusted.
    pub fn is_catching_up(&self) -> bool {
        self.to_meet.is_some()
    }

    /// The id that has to be read again before anything is acknowledged.
    pub fn to_meet(&self) -> Option<u64> {
        self.to_meet
    }

    /// The destination had seen this id when the session began.
    pub fn has_seen(&self, id: u64) -> bool {
        !self.boundary.is_above(id)
    }

    /// Says once that more came again than can have been unconfirmed: somebody moved the cursor back.
    pub fn take_went_back(&mut self) -> bool {
        let (entries, bytes) = self.known;
        let went_back = entries > UNCONFIRMED_ENTRIES_MAX && bytes > UNCONFIRMED_BYTES_MAX;
        went_back && !std::mem::replace(&mut self.known_told, true)
    }

    /// The source topic's last position, asked for while catching up: when it lies below what the destination
    /// has, the source's ids went back.
    pub fn judge_last_position(&self, last: Position) -> Result<(), Reason> {
        let went_back = |meet| last.sequence_id().is_none_or(|id| id < meet);
        if self.to_meet.is_some_and(went_back) { Err(Reason::DuplicateRun) } else { Ok(()) }
    }

    /// An entry (or a joined batch from `first` to `last`) is sent.
    pub fn sent(&mut self, first: u64, last: Position, bytes: usize) -> Result<(), Reason> {
        let highest = last.sequence_id().ok_or(Reason::PositionOverflow)?;
        if self.highest_read.is_some_and(|read| first <= read) || highest < first {
            return Err(Reason::DuplicateRun);
        }
        if self.highest_read.is_none() && !self.boundary.is_above(first) {
            self.to_meet = self.boundary.last();
        }
        match self.to_meet {
            Some(meet) if highest == meet => self.to_meet = None,
            // Read past the id without meeting it: these are not the entries that it was given to.
            Some(meet) if highest > meet => return Err(Reason::DuplicateRun),
            Some(_) | None => {}
        }
        if self.has_seen(highest) {
            self.known = (self.known.0 + 1, self.known.1 + bytes);
        }
        self.highest_read = Some(highest);
        self.bytes += bytes;
        self.items.push_back(Item { first, last, bytes, confirmed: false });
        Ok(())
    }

    /// An entry was read that is not to be sent; it is acknowledged in its turn.
    pub fn skipped(&mut self, position: Position) {
        self.items.push_back(Item { first: SKIPPED, last: position, bytes: 0, confirmed: true });
        self.settle();
    }

    /// The destination answered for `first`. An answer for nothing of ours means that the two sides disagree.
    pub fn receipt(&mut self, first: u64, duplicate: bool) -> Result<(), Reason> {
        let item = self.items.iter_mut().find(|item| item.first == first && !item.confirmed);
        let item = item.ok_or(Reason::AnotherWriter)?;
        if duplicate {
            let highest = item.last.sequence_id().ok_or(Reason::PositionOverflow)?;
            if self.boundary.judge(highest, duplicate) == Judgement::OtherWriter {
                return Err(Reason::AnotherWriter);
            }
            self.duplicates += 1;
            if self.duplicates > DUPLICATES_MAX {
                return Err(Reason::DuplicateRun);
            }
        }
        item.confirmed = true;
        self.settle();
        Ok(())
    }

    /// Something new may be acknowledged.
    pub fn has_acknowledgeable(&self) -> bool {
        self.acknowledgeable.is_some()
    }

    /// The highest position of the confirmed prefix, once; `None` when nothing new may be acknowledged.
    pub fn take_acknowledgeable(&mut self) -> Option<Position> {
        if self.is_catching_up() {
            return None;
        }
        self.acknowledgeable.take()
    }

    fn settle(&mut self) {
        while let Some(front) = self.items.front().filter(|item| item.confirmed) {
            self.bytes -= front.bytes;
            self.acknowledgeable = Some(front.last);
            self.items.pop_front();
        }
    }
}

/// `FunctionCommon.getSequenceId` of pulsar-functions: 28 bits of entry.
const ENTRY_BITS: u32 = 28;
/// No sequence id of an entry: those are below 2^63.
const SKIPPED: u64 = u64::MAX;
/// Duplicates of one session beyond any window: what a source broker's crash brings back is about a second of
/// acknowledgements, which it persists once a second. More is a judgement for people.
const DUPLICATES_MAX: u64 = 1_000_000;

/// As much as a sink ever grants, of joined batches and of large entries.
const UNCONFIRMED_ENTRIES_MAX: usize = 2000;
const UNCONFIRMED_BYTES_MAX: usize = SINK_SHARE_MAX;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(entry: u64) -> Position {
        Position { ledger: 5, entry }
    }

    fn id(entry: u64) -> u64 {
        at(entry).sequence_id().unwrap()
    }

    fn last(entry: u64) -> i64 {
        id(entry) as i64
    }

    #[test]
    fn only_the_confirmed_prefix_is_acknowledged() {
        let mut window = Window::new(100, 10, Boundary::new(-1));
        for entry in 0..4 {
            window.sent(id(entry), at(entry), 10).unwrap();
        }
        window.receipt(id(1), false).unwrap();
        window.receipt(id(2), false).unwrap();
        assert_eq!(window.take_acknowledgeable(), None);
        window.receipt(id(0), false).unwrap();
        assert_eq!(window.take_acknowledgeable(), Some(at(2)));
        assert_eq!(window.take_acknowledgeable(), None);
        assert_eq!(window.in_flight(), 1);
    }

    #[test]
    fn a_window_bounds_bytes_and_entries_but_never_a_single_entry() {
        let mut window = Window::new(100, 2, Boundary::new(-1));
        assert!(window.has_room());
        window.sent(id(0), at(0), 5000).unwrap();
        assert!(!window.has_room());
        window.receipt(id(0), false).unwrap();
        assert!(window.has_room());
        window.sent(id(1), at(1), 1).unwrap();
        window.sent(id(2), at(2), 1).unwrap();
        assert!(!window.has_room());
    }

    #[test]
    fn nothing_is_acknowledged_before_the_last_known_id_was_met() {
        let mut window = Window::new(100, 10, Boundary::new(last(3)));
        for entry in 1..=2 {
            window.sent(id(entry), at(entry), 1).unwrap();
            window.receipt(id(entry), true).unwrap();
        }
        assert_eq!(window.take_acknowledgeable(), None);
        window.sent(id(3), at(3), 1).unwrap();
        assert_eq!(window.take_acknowledgeable(), Some(at(2)));
        window.receipt(id(3), true).unwrap();
        assert_eq!(window.take_acknowledgeable(), Some(at(3)));
    }

    #[test]
    fn a_source_whose_last_position_went_back_stops_before_any_acknowledgement() {
        let mut window = Window::new(100, 10, Boundary::new(last(3)));
        assert_eq!(window.judge_last_position(at(1)), Ok(()));
        window.sent(id(1), at(1), 1).unwrap();
        window.receipt(id(1), true).unwrap();
        assert_eq!(window.judge_last_position(at(2)), Err(Reason::DuplicateRun));
        assert_eq!(window.judge_last_position(at(3)), Ok(()));
        assert_eq!(window.take_acknowledgeable(), None);
    }

    #[test]
    fn reading_past_the_last_known_id_without_meeting_it_stops() {
        let mut window = Window::new(100, 10, Boundary::new(last(3)));
        window.sent(id(1), at(1), 1).unwrap();
        window.receipt(id(1), true).unwrap();
        assert_eq!(window.sent(id(4), at(4), 1), Err(Reason::DuplicateRun));
        assert_eq!(window.take_acknowledgeable(), None);
    }

    #[test]
    fn more_than_any_window_that_comes_again_is_told_once() {
        let entries = UNCONFIRMED_ENTRIES_MAX as u64 + 1;
        for (len, told) in [(UNCONFIRMED_BYTES_MAX / UNCONFIRMED_ENTRIES_MAX, 1), (10, 0)] {
            let mut window = Window::new(100, 10, Boundary::new(last(2 * entries)));
            let mut went_back = 0;
            for entry in 0..entries + 5 {
                window.sent(id(entry), at(entry), len).unwrap();
                window.receipt(id(entry), true).unwrap();
                went_back += u64::from(window.take_went_back());
            }
            assert_eq!(went_back, told, "entries of {len} bytes");
        }
    }

    #[test]
    fn a_duplicate_above_the_sessions_last_id_is_never_an_acknowledgement() {
        for session_last in [-1, last(3)] {
            let mut window = Window::new(100, 10, Boundary::new(session_last));
            window.sent(id(4), at(4), 1).unwrap();
            assert_eq!(window.receipt(id(4), true), Err(Reason::AnotherWriter));
            assert_eq!(window.take_acknowledgeable(), None);
        }
    }

    #[test]
    fn a_joined_batch_is_judged_by_its_highest_id() {
        let mut window = Window::new(100, 10, Boundary::new(last(3)));
        window.sent(id(4), at(6), 1).unwrap();
        assert_eq!(window.receipt(id(4), true), Err(Reason::AnotherWriter));
        window.receipt(id(4), false).unwrap();
        assert_eq!(window.take_acknowledgeable(), Some(at(6)));
    }

    #[test]
    fn a_skipped_entry_is_acknowledged_in_its_turn() {
        let mut window = Window::new(100, 10, Boundary::new(-1));
        window.sent(id(0), at(0), 1).unwrap();
        window.skipped(at(1));
        assert_eq!(window.take_acknowledgeable(), None);
        window.receipt(id(0), false).unwrap();
        assert_eq!(window.take_acknowledgeable(), Some(at(1)));
        window.skipped(at(2));
        assert_eq!(window.take_acknowledgeable(), Some(at(2)));
    }

    #[test]
    fn ids_that_repeat_or_overflow_are_refused() {
        let mut window = Window::new(100, 10, Boundary::new(-1));
        window.sent(id(1), at(1), 1).unwrap();
        assert_eq!(window.sent(id(1), at(1), 1), Err(Reason::DuplicateRun));
        let beyond = [Position { ledger: 1 << 35, entry: 0 }, Position { ledger: 1, entry: 1 << 28 }];
        for position in beyond {
            assert_eq!(position.sequence_id(), None);
            assert_eq!(window.sent(id(2), position, 1), Err(Reason::PositionOverflow));
        }
        let highest = Position { ledger: (1 << 35) - 1, entry: (1 << 28) - 1 };
        assert_eq!(highest.sequence_id(), Some((1 << 63) - 1));
        assert_eq!(Position::of_sequence_id((1 << 63) - 1), highest);
    }

    #[test]
    fn a_receipt_for_nothing_of_ours_ends_the_session() {
        let mut window = Window::new(100, 10, Boundary::new(-1));
        window.skipped(at(0));
        assert_eq!(window.receipt(SKIPPED, false), Err(Reason::AnotherWriter));
        window.sent(id(1), at(1), 1).unwrap();
        window.receipt(id(1), false).unwrap();
        assert_eq!(window.receipt(id(1), false), Err(Reason::AnotherWriter));
    }
}
