//! Deduplication as `MessageDeduplication.isDuplicateNormal` does it: by producer name and sequence id. What is
//! pushed is persisted here at once, so that nothing is in doubt. Keeps nothing but the highest ids.

use std::collections::HashMap;

/// What is known of a topic's producers.
#[derive(Debug, Default)]
pub struct Dedup {
    names: HashMap<String, Record>,
    uses: u64,
}

/// One producer name's highest sequence ids.
#[derive(Clone, Copy, Debug, Default)]
pub struct Record {
    pushed: Option<u64>,
    used: u64,
}

/// What an id is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To be stored.
    New,
    /// Stored already: answered with a receipt of −1:−1.
    Duplicate,
}

/// The ids of one send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// The first message's.
    pub first: u64,
    /// The last one's in a batch that names it; else the first.
    pub highest: u64,
    /// It is a chunk, and not its message's last: judged with the last one.
    pub part: bool,
}

impl Dedup {
    /// The record of this name; forgets the names unused for longest, where nobody is connected, when there are too
    /// many.
    pub fn record(&mut self, name: &str, is_connected: impl Fn(&str) -> bool) -> &mut Record {
        self.uses += 1;
        if !self.names.contains_key(name) && self.names.len() >= NAMES_MAX {
            self.forget_half(is_connected);
        }
        let used = self.uses;
        let record = self.names.entry(name.to_owned()).or_default();
        record.used = used;
        record
    }

    /// The highest id pushed under this name, as PRODUCER_SUCCESS tells it
    /// (`MessageDeduplication.getLastPublishedSequenceId`).
    pub fn last_pushed(&self, name: &str) -> Option<u64> {
        self.names.get(name)?.pushed
    }

    fn forget_half(&mut self, is_connected: impl Fn(&str) -> bool) {
        let mut uses: Vec<u64> = self.names.values().map(|record| record.used).collect();
        let middle = uses.len() / 2;
        let (_, median, _) = uses.select_nth_unstable(middle);
        let median = *median;
        self.names.retain(|name, record| record.used >= median || is_connected(name));
    }
}

impl Record {
    /// Whether this was sent before. A batch is judged by its first id alone.
    pub fn judge(&self, ids: Ids) -> Verdict {
        match self.pushed {
            Some(highest) if !ids.part && ids.first <= highest => Verdict::Duplicate,
            Some(_) | None => Verdict::New,
        }
    }

    /// It is in the store.
    pub fn pushed(&mut self, ids: Ids) {
        if !ids.part {
            self.pushed = self.pushed.max(Some(ids.highest));
        }
    }
}

/// Producer names remembered by a topic: as many as a real broker's snapshot holds
/// (`brokerDeduplicationMaxNumberOfProducers`).
const NAMES_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(first: u64, highest: u64) -> Ids {
        Ids { first, highest, part: false }
    }

    #[test]
    fn what_was_pushed_is_a_duplicate() {
        let mut record = Record::default();
        assert_eq!(record.judge(ids(0, 0)), Verdict::New);
        record.pushed(ids(0, 0));
        assert_eq!(record.judge(ids(0, 0)), Verdict::Duplicate);
        assert_eq!(record.judge(ids(1, 1)), Verdict::New);
    }

    #[test]
    fn a_batch_that_straddles_the_last_id_is_dropped_whole() {
        let mut record = Record::default();
        record.pushed(ids(5, 8));
        assert_eq!(record.judge(ids(8, 12)), Verdict::Duplicate);
        assert_eq!(record.judge(ids(9, 12)), Verdict::New);
        assert_eq!(record.judge(ids(6, 6)), Verdict::Duplicate);
    }

    #[test]
    fn the_chunks_of_a_message_share_an_id_and_the_last_one_counts() {
        let mut record = Record::default();
        let part = Ids { part: true, ..ids(3, 3) };
        for _ in 0..3 {
            assert_eq!(record.judge(part), Verdict::New);
            record.pushed(part);
        }
        assert_eq!(record.judge(ids(3, 3)), Verdict::New);
        record.pushed(ids(3, 3));
        assert_eq!(record.judge(ids(3, 3)), Verdict::Duplicate);
    }

    #[test]
    fn names_are_bounded_and_the_connected_ones_stay() {
        let mut dedup = Dedup::default();
        dedup.record("kept", |_| false).pushed(ids(7, 7));
        for number in 0..3 * NAMES_MAX {
            dedup.record(&format!("passing {number}"), |name| name == "kept");
        }
        assert!(dedup.names.len() <= NAMES_MAX);
        assert_eq!(dedup.last_pushed("kept"), Some(7));
    }
}
