//! How far a subscription has acknowledged: everything below a mark, ranges above it, and the messages of batches
//! that are acknowledged in part. Positions are offsets in the topic's log. Knows no consumer.

use std::collections::BTreeMap;
use std::ops::Range;

/// A subscription's acknowledgements.
#[derive(Debug)]
pub struct Cursor {
    mark: u64,
    /// Acknowledged above the mark: start and end (exclusive), never touching each other or the mark.
    above: BTreeMap<u64, u64>,
    above_count: u64,
    /// Of batches: a bit is set for each message that is not acknowledged.
    partial: BTreeMap<u64, Vec<i64>>,
}

impl Cursor {
    /// Everything below `mark` counts as acknowledged.
    pub fn at(mark: u64) -> Self {
        Self { mark, above: BTreeMap::new(), above_count: 0, partial: BTreeMap::new() }
    }

    /// The first offset that is not acknowledged.
    pub fn mark(&self) -> u64 {
        self.mark
    }

    /// How many entries are not acknowledged in a log that ends at `end`.
    pub fn backlog(&self, end: u64) -> u64 {
        end.saturating_sub(self.mark).saturating_sub(self.above_count)
    }

    /// Whether this entry is acknowledged whole.
    pub fn is_acked(&self, offset: u64) -> bool {
        offset < self.mark || self.range_at(offset).is_some()
    }

    /// The first offset from `from` on that is not acknowledged.
    pub fn next_unacked(&self, from: u64) -> u64 {
        let from = from.max(self.mark);
        if self.above.is_empty() {
            return from;
        }
        self.range_at(from).map_or(from, |range| range.end)
    }

    /// Acknowledges one entry.
    pub fn ack(&mut self, offset: u64) {
        if self.is_acked(offset) {
            return;
        }
        if !self.partial.is_empty() {
            self.partial.remove(&offset);
        }
        if offset == self.mark {
            self.mark += 1;
        } else {
            let mut range = offset..offset + 1;
            if let Some(below) = self.range_at(offset.saturating_sub(1)) {
                self.above.remove(&below.start);
                range.start = below.start;
            }
            if let Some(end) = self.above.remove(&range.end) {
                range.end = end;
            }
            self.above.insert(range.start, range.end);
            self.above_count += 1;
        }
        self.swallow();
    }

    /// Acknowledges everything below `end`.
    pub fn ack_before(&mut self, end: u64) {
        if end <= self.mark {
            return;
        }
        self.mark = end;
        while let Some(first) = self.above.first_entry().filter(|first| *first.key() < end) {
            let range = *first.key()..first.remove();
            self.above_count -= range.end - range.start;
            self.mark = self.mark.max(range.end);
        }
        self.partial = self.partial.split_off(&self.mark);
        self.swallow();
    }

    /// Acknowledges the messages of a batch whose bit is not set; the whole entry once no bit is left. Not noted when
    /// too many batches are in parts already: then the whole batch comes again some day.
    pub fn ack_part(&mut self, offset: u64, ack_set: &[i64]) {
        if self.is_acked(offset) || ack_set.len() > ACK_SET_LEN_MAX {
            return;
        }
        if self.partial.len() >= PARTIAL_MAX && !self.partial.contains_key(&offset) {
            return;
        }
        let known = self.partial.entry(offset).or_insert_with(|| ack_set.to_vec());
        // A shorter set has no bits in the words it lacks.
        known.truncate(ack_set.len());
        for (word, given) in known.iter_mut().zip(ack_set) {
            *word &= given;
        }
        if known.iter().all(|word| *word == 0) {
            self.ack(offset);
        }
    }

    /// Which messages of a batch are not acknowledged, when only some are.
    pub fn ack_set(&self, offset: u64) -> &[i64] {
        if self.partial.is_empty() {
            return &[];
        }
        self.partial.get(&offset).map_or(&[], Vec::as_slice)
    }

    /// Takes back every acknowledgement from `mark` on, and acknowledges everything below.
    pub fn reset(&mut self, mark: u64) {
        *self = Self::at(mark);
    }

    /// Lets the mark grow over the range that touches it.
    fn swallow(&mut self) {
        if let Some(end) = self.above.remove(&self.mark) {
            self.above_count -= end - self.mark;
            self.mark = end;
        }
    }

    fn range_at(&self, offset: u64) -> Option<Range<u64>> {
        let (start, end) = self.above.range(..=offset).next_back()?;
        (offset < *end).then_some(*start..*end)
    }
}

/// Words of 64 messages: eight times what clients put into a batch.
const ACK_SET_LEN_MAX: usize = 128;
/// Batches of which some messages are acknowledged: ten times what a consumer has on its hands.
const PARTIAL_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_agrees_with_a_plain_set(acts in prop::collection::vec((0u64..40, 0u8..6), 0..80)) {
            let mut cursor = Cursor::at(0);
            let mut acked: BTreeSet<u64> = BTreeSet::new();
            for (offset, act) in acts {
                if act == 0 {
                    cursor.ack_before(offset);
                    acked.extend(0..offset);
                } else {
                    cursor.ack(offset);
                    acked.insert(offset);
                }
                let mark = (0..).find(|offset| !acked.contains(offset)).unwrap();
                prop_assert_eq!(cursor.mark(), mark);
                prop_assert_eq!(cursor.backlog(40), 40 - acked.len() as u64);
                for offset in 0..40 {
                    prop_assert_eq!(cursor.is_acked(offset), acked.contains(&offset));
                    let next = (offset..).find(|offset| !acked.contains(offset)).unwrap();
                    prop_assert_eq!(cursor.next_unacked(offset), next);
                }
            }
        }
    }

    #[test]
    fn a_batch_is_acknowledged_with_its_last_message() {
        let mut cursor = Cursor::at(4);
        cursor.ack_part(4, &[0b110]);
        assert_eq!((cursor.mark(), cursor.ack_set(4)), (4, &[0b110][..]));
        cursor.ack_part(4, &[0b011]);
        assert_eq!(cursor.ack_set(4), [0b010]);
        cursor.ack_part(4, &[0b101]);
        assert_eq!((cursor.mark(), cursor.ack_set(4)), (5, &[][..]));
    }

    #[test]
    fn parts_are_bounded_in_number_and_length_and_not_lost() {
        let mut cursor = Cursor::at(0);
        cursor.ack_part(0, &[1; ACK_SET_LEN_MAX + 1]);
        assert_eq!(cursor.ack_set(0), &[] as &[i64]);
        for offset in 0..PARTIAL_MAX as u64 + 10 {
            cursor.ack_part(offset, &[1]);
        }
        assert_eq!(cursor.partial.len(), PARTIAL_MAX);
        cursor.ack_part(3, &[0]);
        assert!(cursor.is_acked(3) && !cursor.is_acked(PARTIAL_MAX as u64));
    }

    #[test]
    fn a_reset_takes_acknowledgements_back() {
        let mut cursor = Cursor::at(0);
        cursor.ack_before(10);
        cursor.ack(12);
        cursor.ack_part(11, &[1]);
        cursor.reset(3);
        assert_eq!((cursor.mark(), cursor.backlog(20), cursor.is_acked(12)), (3, 17, false));
        assert_eq!(cursor.ack_set(11), &[] as &[i64]);
    }
}
