//! What a source has sent and not yet acknowledged, over all its sessions: whoever goes on sends it again, so that
//! an end that leaves any of it has to say so. Holds no socket and no clock.

use std::collections::VecDeque;

use super::lane::WINDOW_ENTRIES;
use super::window::Position;

/// The entries of one partition that are owed an acknowledgement.
#[derive(Debug, Default)]
pub struct Owed {
    /// Ascending; what left together, by its last position.
    units: VecDeque<(Position, u64)>,
}

impl Owed {
    /// Entries up to `last` were sent. What was sent in an earlier session counts once; where it was joined
    /// otherwise then, rather too much than too little.
    pub fn sent(&mut self, last: Position, entries: u32) {
        let full = self.units.len() >= UNITS_MAX;
        match self.units.back_mut() {
            Some((back, _)) if *back >= last => {}
            Some((back, count)) if full => (*back, *count) = (last, *count + u64::from(entries)),
            Some(_) | None => self.units.push_back((last, entries.into())),
        }
    }

    /// What is `covered` is acknowledged, by whomever.
    pub fn settle(&mut self, covered: impl Fn(Position) -> bool) {
        while self.units.front().is_some_and(|(last, _)| covered(*last)) {
            self.units.pop_front();
        }
    }

    /// How many entries.
    pub fn count(&self) -> u64 {
        self.units.iter().map(|(_, entries)| entries).sum()
    }
}

/// A window, and another one that is confirmed and about to be acknowledged. Beyond it (long catching up, when
/// nothing may be acknowledged) the last ones are told apart no more.
const UNITS_MAX: usize = 2 * WINDOW_ENTRIES as usize;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(entry: u64) -> Position {
        Position { ledger: 5, entry }
    }

    fn owing(entries: std::ops::Range<u64>) -> Owed {
        let mut owed = Owed::default();
        entries.for_each(|entry| owed.sent(at(entry), 1));
        owed
    }

    #[test]
    fn what_a_session_left_stays_owed_until_it_is_acknowledged() {
        let mut owed = owing(0..10);
        owed.settle(|position| position <= at(3));
        assert_eq!(owed.count(), 6);
        // The next session has come as far as this, and all of it is acknowledged.
        owed.sent(at(4), 1);
        owed.settle(|position| position <= at(4));
        assert_eq!(owed.count(), 5);
        owed.sent(at(10), 1);
        owed.settle(|position| position <= at(10));
        assert_eq!(owed.count(), 0);
    }

    #[test]
    fn a_joined_batch_counts_its_entries() {
        let mut owed = owing(0..1);
        owed.sent(at(7), 7);
        assert_eq!(owed.count(), 8);
        owed.settle(|position| position <= at(6));
        assert_eq!(owed.count(), 7);
    }

    #[test]
    fn it_is_bounded_and_never_counts_too_little() {
        let many = 3 * UNITS_MAX as u64;
        let mut owed = owing(0..many);
        assert_eq!((owed.units.len(), owed.count()), (UNITS_MAX, many));
        owed.settle(|position| position < at(many - 1));
        assert!(owed.count() >= 1);
        owed.settle(|position| position <= at(many - 1));
        assert_eq!(owed.count(), 0);
    }
}
