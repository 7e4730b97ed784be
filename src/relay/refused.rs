//! Which entries a destination broker refused, and what becomes of each when they are sent again. Holds no socket.
//!
//! A range is a single entry, or a joined batch from its first entry to its last. What lies above a refused range may
//! be stored, and then nothing of the range can go under the main name any more: the broker would call it a duplicate.
//! So it goes to the quarantine. A batch that was sent alone is never here (`Reason::BatchRefused`).

/// A refused entry, or a refused joined batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Its first sequence id.
    pub first: u64,
    /// Its last; the same for an entry on its own.
    pub last: u64,
}

/// Refused ranges of one topic-partition and generation: in order, apart, few.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    ranges: Vec<Range>,
}

impl Refused {
    /// First and last ids in turn, as they travel; `None` for what no honest side sends.
    pub fn of_pairs(pairs: &[u64]) -> Option<Self> {
        let (pairs, rest) = pairs.as_chunks::<2>();
        if !rest.is_empty() || pairs.len() > REFUSED_MAX {
            return None;
        }
        let ranges: Vec<Range> = pairs.iter().map(|&[first, last]| Range { first, last }).collect();
        let upwards = ranges.iter().all(|range| range.first <= range.last && range.last < 1 << 63);
        let apart = ranges.windows(2).all(|two| two[0].last < two[1].first);
        (upwards && apart).then_some(Self { ranges })
    }

    /// The same back.
    pub fn pairs(&self) -> Vec<u64> {
        self.ranges.iter().flat_map(|range| [range.first, range.last]).collect()
    }

    /// In order.
    pub fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// None.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// There may be more than can be named: no single bad entry, but something that people have to judge.
    pub fn is_full(&self) -> bool {
        self.ranges.len() >= REFUSED_MAX
    }

    /// The first id of all.
    pub fn lowest(&self) -> Option<u64> {
        self.ranges.first().map(|range| range.first)
    }

    /// Whether this entry was refused, by itself or in a batch.
    pub fn holds(&self, id: u64) -> bool {
        self.ranges.iter().any(|range| (range.first..=range.last).contains(&id))
    }

    /// Whether everything in `others` was known here.
    pub fn covers(&self, others: &Self) -> bool {
        let known =
            |other: &Range| self.ranges.iter().any(|r| r.first <= other.first && other.last <= r.last);
        others.ranges.iter().all(known)
    }

    /// Adds one. What overlaps becomes one; neighbours stay apart. Of too many the highest are not kept.
    pub fn insert(&mut self, mut range: Range) {
        self.ranges.retain(|other| {
            let apart = other.last < range.first || range.last < other.first;
            if !apart {
                range = Range { first: range.first.min(other.first), last: range.last.max(other.last) };
            }
            apart
        });
        let place = self.ranges.partition_point(|other| other.first < range.first);
        self.ranges.insert(place, range);
        self.ranges.truncate(REFUSED_MAX);
    }

    /// Adds all.
    pub fn merge(&mut self, others: &Self) {
        others.ranges.iter().for_each(|range| self.insert(*range));
    }

    /// Drops what ends at this id or before it.
    pub fn forget_through(&mut self, id: u64) {
        self.ranges.retain(|range| range.last > id);
    }
}

/// Refused ranges of one partition that are remembered. A window holds up to 2000 entries; where more of them than
/// this are refused at once, the route stops.
pub const REFUSED_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(pairs: &[u64]) -> Refused {
        Refused::of_pairs(pairs).unwrap()
    }

    #[test]
    fn what_no_honest_side_sends_is_no_list() {
        let many: Vec<u64> = (0..=2 * REFUSED_MAX as u64 + 1).collect();
        for pairs in [&[1][..], &[2, 1], &[1, 5, 5, 6], &[5, 6, 1, 2], &[1, 1 << 63], &many] {
            assert_eq!(Refused::of_pairs(pairs), None, "{pairs:?}");
        }
        let most = &many[..2 * REFUSED_MAX];
        assert_eq!(refused(most).pairs(), most);
        assert!(refused(most).is_full());
    }

    #[test]
    fn ranges_stay_in_order_and_apart_and_the_lowest_are_kept() {
        let mut some = Refused::default();
        for (first, last) in [(7, 7), (1, 1), (8, 8), (3, 5), (4, 6)] {
            some.insert(Range { first, last });
        }
        assert_eq!(some.pairs(), [1, 1, 3, 6, 7, 7, 8, 8]);
        assert!(some.holds(5) && !some.holds(2));
        assert_eq!(some.lowest(), Some(1));
        for id in (100..100 + REFUSED_MAX as u64).rev() {
            some.insert(Range { first: id, last: id });
        }
        assert!(some.is_full());
        assert_eq!(some.pairs()[..4], [1, 1, 3, 6]);
        assert!(some.holds(100) && !some.holds(99 + REFUSED_MAX as u64));
    }

    #[test]
    fn what_is_known_covers_the_parts_of_a_batch() {
        let known = refused(&[1, 1, 4, 8]);
        for pairs in [&[][..], &[1, 1], &[4, 8], &[5, 5, 8, 8]] {
            assert!(known.covers(&refused(pairs)), "{pairs:?}");
        }
        for pairs in [&[2, 2][..], &[8, 9], &[1, 1, 9, 9]] {
            assert!(!known.covers(&refused(pairs)), "{pairs:?}");
        }
    }

    #[test]
    fn what_was_passed_is_forgotten_but_a_batch_only_as_a_whole() {
        let mut some = refused(&[1, 1, 4, 8, 10, 10]);
        some.forget_through(6);
        assert_eq!(some.pairs(), [4, 8, 10, 10]);
        some.forget_through(8);
        assert_eq!(some.pairs(), [10, 10]);
    }
}
