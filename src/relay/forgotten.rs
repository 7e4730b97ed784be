//! Whether the destination still knows what it confirmed: a topic that was deleted, deduplication state that was
//! collected, a restored backup. Decides; holds no socket and tells nobody.

use super::trace::{Kept, There};

/// The highest id that the destination confirmed under the route's present name.
#[derive(Debug, Default)]
pub struct Confirmed {
    /// Where the sessions lead.
    there: There,
    highest: Option<u64>,
    /// Forgotten up to here, and that was told.
    told: Option<u64>,
    /// The destination drops repeats, so that it has to know what it stored.
    counts: bool,
    /// The cursor still says what was forgotten.
    stale: bool,
}

/// The destination does not know what it confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forgotten {
    /// The highest id that it had confirmed.
    pub confirmed: u64,
    /// The highest that it knows.
    pub knows: Option<u64>,
}

impl Confirmed {
    /// A session to `there` begins, and the destination's producer knows `last_sequence_id`; `stored` is what the cursor
    /// says.
    pub fn begin(
        &mut self,
        there: There,
        stored: Option<Kept>,
        last_sequence_id: i64,
        effectively_once: bool,
    ) -> Option<Forgotten> {
        if self.there != there {
            // Another topic need not know what this one was told.
            *self = Self { there, ..Self::default() };
        }
        self.counts = effectively_once;
        if !effectively_once {
            // Without deduplication it never knew.
            self.highest = None;
            return None;
        }
        let stored = stored.filter(|stored| stored.there == there).map(|stored| stored.id);
        let stored = stored.filter(|stored| self.told.is_none_or(|told| *stored > told));
        self.highest = self.highest.max(stored);
        let knows = u64::try_from(last_sequence_id).ok();
        let confirmed = self.highest.filter(|highest| Some(*highest) > knows)?;
        (self.highest, self.told, self.stale) = (None, Some(confirmed), true);
        Some(Forgotten { confirmed, knows })
    }

    /// A receipt came for this id.
    pub fn confirm(&mut self, id: u64) {
        if self.counts {
            self.highest = self.highest.max(Some(id));
        }
    }

    /// Whether the cursor still says what was forgotten: the next process would tell of it again.
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// The cursor says what holds now.
    pub fn restated(&mut self) {
        self.stale = false;
    }

    /// What an acknowledgement is to leave at the cursor.
    pub fn highest(&self) -> Option<Kept> {
        self.highest.map(|id| Kept { there: self.there, id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pulsar::topic::TopicName;

    fn forgotten(confirmed: u64, knows: Option<u64>) -> Option<Forgotten> {
        Some(Forgotten { confirmed, knows })
    }

    /// At a destination that stays the same.
    fn begin(
        confirmed: &mut Confirmed,
        stored: Option<u64>,
        last: i64,
        effectively_once: bool,
    ) -> Option<Forgotten> {
        confirmed.begin(There::default(), stored.map(kept), last, effectively_once)
    }

    fn kept(id: u64) -> Kept {
        Kept { there: There::default(), id }
    }

    #[test]
    fn another_topic_or_partition_forgot_nothing_and_neither_did_the_first_when_it_is_gone_back_to() {
        let [here, there] = ["a/b/c", "a/b/d"].map(|name| There::of(&TopicName::parse(name).unwrap()));
        let mut confirmed = Confirmed::default();
        assert_eq!(confirmed.begin(here, None, -1, true), None);
        confirmed.confirm(7);
        assert_eq!(confirmed.begin(there, Some(Kept { there: here, id: 7 }), -1, true), None);
        assert_eq!(confirmed.highest(), None);
        confirmed.confirm(9);
        assert_eq!(confirmed.highest(), Some(Kept { there, id: 9 }));
        assert_eq!(confirmed.begin(here, Some(Kept { there, id: 9 }), 7, true), None);
        assert_eq!(confirmed.begin(here, Some(Kept { there: here, id: 8 }), 7, true), forgotten(8, Some(7)));
    }

    #[test]
    fn a_new_name_and_one_that_knows_at_least_as_much_forgot_nothing() {
        let mut confirmed = Confirmed::default();
        assert_eq!(begin(&mut confirmed, None, -1, true), None);
        confirmed.confirm(7);
        assert_eq!(begin(&mut confirmed, Some(5), 7, true), None);
        // More was sent than was confirmed when the session ended.
        assert_eq!(begin(&mut confirmed, None, 12, true), None);
        assert_eq!(confirmed.highest(), Some(kept(7)));
    }

    #[test]
    fn a_destination_that_knows_nothing_or_less_forgot_and_is_told_of_once() {
        for (last, knows) in [(-1, None), (4, Some(4))] {
            let mut confirmed = Confirmed::default();
            assert_eq!(begin(&mut confirmed, Some(7), last, true), forgotten(7, knows));
            // The cursor still says so until the next acknowledgement.
            assert!(confirmed.is_stale());
            assert_eq!(begin(&mut confirmed, Some(7), last, true), None);
            confirmed.restated();
            assert!(!confirmed.is_stale());
            confirmed.confirm(9);
            assert_eq!(begin(&mut confirmed, Some(7), 9, true), None);
            assert_eq!(begin(&mut confirmed, Some(9), -1, true), forgotten(9, None));
        }
    }

    #[test]
    fn this_process_knows_without_the_cursor() {
        let mut confirmed = Confirmed::default();
        assert_eq!(begin(&mut confirmed, None, -1, true), None);
        confirmed.confirm(3);
        assert_eq!(begin(&mut confirmed, None, -1, true), forgotten(3, None));
    }

    #[test]
    fn a_destination_without_deduplication_never_knew() {
        let mut confirmed = Confirmed::default();
        assert_eq!(begin(&mut confirmed, Some(7), -1, false), None);
        confirmed.confirm(9);
        assert_eq!(confirmed.highest(), None);
        assert_eq!(begin(&mut confirmed, None, -1, true), None);
    }
}
