//! A topic's entries in their order, and the ids that clients know them by. Inside the broker an entry has an offset
//! that counts up for the topic's whole life; ledgers come and go over it. Knows no subscription.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;

/// An entry as it came.
#[derive(Clone, Debug)]
pub struct Stored {
    /// From its checksum on.
    pub bytes: Bytes,
    /// Its producer's clock.
    pub publish_time: u64,
    /// How many messages it says it holds; `None` when it is no batch.
    pub batch: Option<u32>,
    /// The bytes are a slice of a larger read.
    pub sliced: bool,
}

impl Stored {
    /// What it takes off a consumer's permits.
    pub fn messages(&self) -> u32 {
        self.batch.unwrap_or(1).max(1)
    }

    /// What it holds of the broker's memory.
    pub fn cost(&self) -> usize {
        cost(self.bytes.len())
    }
}

/// What an entry of this length holds of the broker's memory.
pub fn cost(len: usize) -> usize {
    len + ENTRY_EXTRA
}

/// What clients know an entry by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub ledger: u64,
    pub entry: u64,
}

/// The entries that are kept.
#[derive(Debug)]
pub struct Log {
    /// Offset of the first entry that is kept; that of the next one when there is none.
    first: u64,
    entries: VecDeque<Stored>,
    /// Of entries that brokers write for each other: nobody is given them.
    markers: BTreeSet<u64>,
    /// Oldest first; never empty.
    ledgers: VecDeque<Ledger>,
}

#[derive(Clone, Copy, Debug)]
struct Ledger {
    id: u64,
    first: u64,
}

impl Log {
    /// An empty one.
    pub fn new(ledger: u64) -> Self {
        let ledgers = [Ledger { id: ledger, first: 0 }].into();
        Self { first: 0, entries: VecDeque::new(), markers: BTreeSet::new(), ledgers }
    }

    /// The offset of the first entry that is kept.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The offset that the next entry gets.
    pub fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// An entry that is kept.
    pub fn get(&self, offset: u64) -> Option<&Stored> {
        let index = offset.checked_sub(self.first)?;
        self.entries.get(usize::try_from(index).ok()?)
    }

    /// Appends an entry.
    pub fn append(&mut self, stored: Stored) -> Position {
        let offset = self.end();
        self.entries.push_back(stored);
        self.position(offset)
    }

    /// The entry is a marker.
    pub fn note_marker(&mut self, offset: u64) {
        self.markers.insert(offset);
    }

    /// The markers from an offset on.
    pub fn markers(&self, from: u64) -> impl Iterator<Item = u64> {
        self.markers.range(from..).copied()
    }

    /// Gives an entry its position without keeping it. Only where nothing is kept.
    pub fn pass(&mut self) -> Position {
        assert!(self.entries.is_empty(), "an entry would be missing among those that are kept");
        self.first += 1;
        self.position(self.first - 1)
    }

    /// The ledger has as many entries as a sequence id of 28 bits for them can tell apart, with room to spare.
    pub fn wants_ledger(&self) -> bool {
        self.end() - self.newest().first >= LEDGER_ENTRIES_MAX
    }

    /// The next entries are in this ledger.
    pub fn open_ledger(&mut self, id: u64) {
        let first = self.end();
        self.ledgers.push_back(Ledger { id, first });
    }

    /// Drops the first entry.
    pub fn pop(&mut self) -> Option<Stored> {
        let stored = self.entries.pop_front()?;
        if !self.markers.is_empty() {
            self.markers.remove(&self.first);
        }
        self.first += 1;
        while self.ledgers.get(1).is_some_and(|second| second.first <= self.first) {
            self.ledgers.pop_front();
        }
        if self.entries.capacity() > CAPACITY_KEPT && self.entries.len() < self.entries.capacity() / 8 {
            self.entries.shrink_to(self.entries.capacity() / 4);
        }
        Some(stored)
    }

    /// What clients know this offset by.
    pub fn position(&self, offset: u64) -> Position {
        let ledger = self.ledgers.iter().rev().find(|ledger| ledger.first <= offset);
        let ledger = ledger.copied().unwrap_or_else(|| self.oldest());
        Position { ledger: ledger.id, entry: offset.wrapping_sub(ledger.first) }
    }

    /// The position before this offset: entry −1 where its ledger begins, as a broker writes it.
    pub fn position_before(&self, offset: u64) -> Position {
        let Position { ledger, entry } = self.position(offset);
        Position { ledger, entry: entry.wrapping_sub(1) }
    }

    /// The offset of a position, or where it would have been: never below `first`, never above `end`.
    /// −1:−1 is the beginning (`PositionFactory.EARLIEST`), and i64::MAX the end (`LATEST`).
    pub fn offset(&self, position: Position) -> u64 {
        if position.ledger == u64::MAX {
            return self.first;
        }
        let index = self.ledgers.partition_point(|ledger| ledger.id <= position.ledger);
        let Some(ledger) = index.checked_sub(1).and_then(|index| self.ledgers.get(index)) else {
            return self.first;
        };
        let ledger_end = self.ledgers.get(index).map_or(self.end(), |next| next.first);
        if ledger.id != position.ledger {
            return ledger_end.max(self.first);
        }
        // An entry of −1 lies before the ledger's first.
        let entry = if position.entry == u64::MAX { 0 } else { position.entry };
        ledger.first.saturating_add(entry).min(ledger_end).max(self.first)
    }

    /// The offset of an entry that is kept.
    pub fn find(&self, position: Position) -> Option<u64> {
        let index = self.ledgers.iter().rposition(|ledger| ledger.id == position.ledger)?;
        let ledger_end = self.ledgers.get(index + 1).map_or(self.end(), |next| next.first);
        let offset = self.ledgers.get(index)?.first.checked_add(position.entry)?;
        (self.first..ledger_end).contains(&offset).then_some(offset)
    }

    /// The first entry that was published at this time or later (`PersistentMessageFinder`); like a broker, it
    /// takes publish times to be in order.
    pub fn first_since(&self, publish_time: u64) -> u64 {
        self.first + self.entries.partition_point(|stored| stored.publish_time < publish_time) as u64
    }

    fn oldest(&self) -> Ledger {
        self.ledgers.front().copied().unwrap_or(Ledger { id: 0, first: 0 })
    }

    fn newest(&self) -> Ledger {
        self.ledgers.back().copied().unwrap_or(Ledger { id: 0, first: 0 })
    }
}

/// What keeping an entry costs besides its bytes: its record, its allocation, a consumer's note of it.
const ENTRY_EXTRA: usize = 128;
/// A quarter of 2^28: `ledger << 28 | entry` is a sequence id in use (Pulsar's own `FunctionCommon.getSequenceId`).
const LEDGER_ENTRIES_MAX: u64 = 1 << 26;
/// Room for entries that is not given back.
const CAPACITY_KEPT: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(publish_time: u64) -> Stored {
        Stored { bytes: Bytes::from_static(b"entry"), publish_time, batch: None, sliced: false }
    }

    fn two_ledgers() -> Log {
        let mut log = Log::new(7);
        for time in 0..3 {
            log.append(stored(time * 10));
        }
        log.open_ledger(9);
        for time in 3..5 {
            log.append(stored(time * 10));
        }
        log
    }

    #[test]
    fn offsets_and_positions_are_two_names_of_one_thing() {
        let mut log = two_ledgers();
        for dropped in 0..5 {
            for offset in dropped..5 {
                assert_eq!(log.offset(log.position(offset)), offset);
                assert_eq!(log.find(log.position(offset)), Some(offset));
            }
            log.pop();
        }
        assert_eq!(log.position(4), Position { ledger: 9, entry: 1 });
        assert_eq!((log.first(), log.end()), (5, 5));
    }

    #[test]
    fn positions_that_are_not_there_lead_to_the_next_that_is() {
        let mut log = two_ledgers();
        let offset = |log: &Log, ledger, entry| log.offset(Position { ledger, entry });
        assert_eq!(offset(&log, u64::MAX, u64::MAX), 0);
        assert_eq!(offset(&log, i64::MAX as u64, i64::MAX as u64), 5);
        assert_eq!((offset(&log, 3, 0), offset(&log, 8, 0), offset(&log, 10, 0)), (0, 3, 5));
        assert_eq!((offset(&log, 7, u64::MAX), offset(&log, 7, 99), offset(&log, 9, u64::MAX)), (0, 3, 3));
        log.pop();
        assert_eq!((offset(&log, 7, 0), offset(&log, 7, u64::MAX)), (1, 1));
        for (ledger, entry) in [(7, 0), (7, 3), (7, u64::MAX), (8, 0), (9, 2), (u64::MAX, u64::MAX)] {
            assert_eq!(log.find(Position { ledger, entry }), None, "{ledger}:{entry}");
        }
        assert_eq!(log.position_before(3), Position { ledger: 9, entry: u64::MAX });
    }

    #[test]
    fn time_finds_the_first_entry_that_is_not_older() {
        let log = two_ledgers();
        assert_eq!([0, 1, 10, 40, 41].map(|time| log.first_since(time)), [0, 1, 1, 4, 5]);
    }

    #[test]
    fn what_nobody_keeps_has_a_position_all_the_same() {
        let mut log = Log::new(7);
        assert_eq!(log.pass(), Position { ledger: 7, entry: 0 });
        assert_eq!(log.append(stored(0)), Position { ledger: 7, entry: 1 });
        assert_eq!((log.first(), log.end()), (1, 2));
    }
}
