//! Stretches of the source topic that lie behind the subscription though no bridge was handed them: expired, evicted,
//! skipped or cleared, or only what a broker never delivers (markers, aborted transactions, the end of a ledger).
//! Decides what is to be looked at, and what may be said of it; looks itself at nothing.

use super::trace::Trace;
use super::window::Position;
use crate::pulsar::proto::{LastMessageId, MessageId};
use crate::pulsar::rest::Ledger;

/// Positions from `from` on, before `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The first.
    pub from: Position,
    /// The first behind it.
    pub to: Position,
}

impl Stretch {
    /// Whether a position lies in it.
    pub fn holds(&self, position: Position) -> bool {
        self.from <= position && position < self.to
    }

    /// How many positions; `None` across ledgers, whose ends positions do not tell.
    pub(super) fn len(&self) -> Option<u64> {
        (self.from.ledger == self.to.ledger).then(|| self.to.entry.saturating_sub(self.from.entry))
    }

    /// What is left of it without another one.
    fn without(self, other: &Stretch) -> impl Iterator<Item = Stretch> {
        let front = Stretch { to: self.to.min(other.from), ..self };
        let back = Stretch { from: self.from.max(other.to), ..self };
        [front, back].into_iter().filter(|rest| rest.from < rest.to)
    }

    /// How many entries, by the ledgers that are left.
    pub(super) fn entries_in(&self, ledgers: &[Ledger]) -> u64 {
        let within = |ledger: &Ledger| {
            let first = if ledger.ledger_id == self.from.ledger { self.from.entry } else { 0 };
            let end = if ledger.ledger_id == self.to.ledger { self.to.entry } else { ledger.entries };
            end.saturating_sub(first)
        };
        let between = |ledger: &&Ledger| (self.from.ledger..=self.to.ledger).contains(&ledger.ledger_id);
        ledgers.iter().filter(between).map(within).sum()
    }
}

/// What one source knows of its subscription's way through the topic.
#[derive(Debug, Default)]
pub struct Passed {
    /// Everything before it was acknowledged by a bridge, or reached the destination, or was looked at.
    accounted: Option<Position>,
    /// The first that this session was not handed yet.
    next: Option<Position>,
    /// The cursor stood beyond `next` when it was last looked at, and this was `next`.
    ahead: Option<Position>,
    suspects: Vec<Stretch>,
    /// Looked at, and not acknowledged yet: what lies before them may still have to be read again.
    looked_at: Vec<Stretch>,
    /// What the destination had last when the session began.
    reached: Option<Position>,
    /// This process acknowledged something itself.
    acknowledges: bool,
    /// Nothing before `accounted` is missing at the destination, and nothing behind it is there.
    sure: bool,
}

impl Passed {
    /// A session begins: what the cursor says, and what the destination had last. `alone`: no other process can have
    /// acknowledged anything since.
    pub fn begin(&mut self, trace: &Trace, last_sequence_id: i64, effectively_once: bool, alone: bool) {
        if !effectively_once && !alone {
            // What another replica relayed meanwhile only the cursor can tell.
            self.accounted = None;
        }
        // Another process went on, and what lies before that is its to tell.
        if let Some(at) = trace.at.map(behind).filter(|at| self.accounted.is_some_and(|ours| *at > ours)) {
            self.suspects.retain(|suspect| suspect.to > at);
        }
        // Only a destination that drops repeats knows what it has.
        let last = u64::try_from(last_sequence_id).ok().filter(|_| effectively_once);
        self.reached = last.map(Position::of_sequence_id);
        self.account(trace.at.max(self.reached));
        (self.next, self.ahead) = (self.accounted, None);
        // Under a name that it does not know, or of which the cursor says nothing, some may have arrived under another.
        let knows = self.reached.is_some() && (trace.confirmed.is_some() || self.acknowledges);
        self.sure = knows && (self.sure || self.suspects.is_empty());
    }

    /// Some of what the destination's producer does not know may be there all the same.
    pub fn doubt(&mut self) {
        self.sure = false;
    }

    /// An entry was handed on.
    pub fn read(&mut self, position: Position) {
        let is_back = self.accounted.is_some_and(|accounted| position < accounted);
        if is_back && self.reached.is_none_or(|reached| position > reached) {
            // The subscription went back, and for this generation that counts.
            (self.accounted, self.next) = (Some(position), Some(position));
            self.looked_at.clear();
        }
        if let Some(next) = self.next.filter(|next| position > *next) {
            self.suspect(Stretch { from: next, to: position });
        }
        // What was given up comes after all.
        for suspect in self.suspects.iter_mut().filter(|suspect| suspect.holds(position)) {
            suspect.from = behind(position);
        }
        self.suspects.retain(|suspect| suspect.from < suspect.to);
        self.next = self.next.max(Some(behind(position)));
    }

    /// We acknowledged everything up to here.
    pub fn acknowledged(&mut self, position: Position) {
        self.acknowledges = true;
        self.account(Some(position));
    }

    /// The last position that is accounted for.
    pub fn accounted(&self) -> Option<Position> {
        let behind = self.accounted?;
        // Behind an entry there is one before.
        Some(Position { entry: behind.entry.checked_sub(1)?, ..behind })
    }

    /// What the broker says of cursor and topic while nothing waits to be read. Whether to ask again soon: what it
    /// was about to deliver may still come.
    pub fn look(&mut self, answer: &LastMessageId) -> bool {
        let marked = answer.consumer_mark_delete_position.as_ref().and_then(behind_id);
        let Some(marked) = marked else {
            return false;
        };
        let Some(next) = self.next.filter(|next| *next < marked) else {
            self.next = self.next.or(Some(marked));
            self.accounted = self.accounted.or(Some(marked));
            self.ahead = None;
            return false;
        };
        // Nothing that a client would be given lies there.
        let is_end = behind_id(&answer.last_message_id).is_none_or(|end| end <= next);
        if !is_end && self.ahead.replace(next) != Some(next) {
            return true;
        }
        if !is_end {
            self.suspect(Stretch { from: next, to: marked });
        }
        (self.ahead, self.next) = (None, Some(marked));
        false
    }

    /// Where the cursor's properties are behind the cursor, or `stale`, and nothing is left to look at: it is to be
    /// acknowledged once more, or the next process would look again.
    pub fn restates(&self, marked: &MessageId, stale: bool) -> Option<Position> {
        let at = Position { ledger: marked.ledger, entry: marked.entry };
        let to = behind_id(marked).filter(|_| marked.entry <= i64::MAX as u64)?;
        let is_news = stale || self.accounted.is_none_or(|accounted| accounted < to);
        (is_news && self.suspects.is_empty() && self.next == Some(to)).then_some(at)
    }

    /// What is to be looked at.
    pub fn suspects(&self) -> &[Stretch] {
        &self.suspects
    }

    /// A stretch was looked at; `false` when some of it was handed on meanwhile.
    pub fn settle(&mut self, stretch: &Stretch) -> bool {
        let before = self.suspects.len();
        self.suspects.retain(|suspect| suspect != stretch);
        let is_whole = self.suspects.len() < before;
        if is_whole {
            self.looked_at.push(*stretch);
            let surplus = self.looked_at.len().saturating_sub(SUSPECTS_MAX);
            self.looked_at.drain(..surplus);
        }
        is_whole
    }

    /// They cannot be looked at.
    pub fn give_up(&mut self) {
        for stretch in self.suspects.clone() {
            self.settle(&stretch);
        }
    }

    /// Whether what lies behind the accounted positions is certainly not at the destination.
    pub fn is_sure(&self) -> bool {
        self.sure
    }

    fn account(&mut self, through: Option<Position>) {
        self.accounted = self.accounted.max(through.map(behind));
        self.looked_at.retain(|stretch| self.accounted.is_none_or(|accounted| stretch.to > accounted));
    }

    /// Nothing twice; and rather the larger ones, where there are too many.
    fn suspect(&mut self, stretch: Stretch) {
        let mut rest = vec![stretch];
        for seen in self.looked_at.iter().chain(&self.suspects) {
            rest = rest.into_iter().flat_map(|stretch| stretch.without(seen)).collect();
        }
        self.suspects.extend(rest);
        while self.suspects.len() > SUSPECTS_MAX {
            let size = |at: &usize| self.suspects[*at].len().unwrap_or(u64::MAX);
            let smallest = (0..self.suspects.len()).min_by_key(size).unwrap_or(0);
            self.suspects.remove(smallest);
        }
    }
}

fn behind(position: Position) -> Position {
    Position { entry: position.entry + 1, ..position }
}

/// The first position behind an id of the broker's; none behind its −1:−1. In front of a ledger it says −1.
fn behind_id(id: &MessageId) -> Option<Position> {
    (id.ledger <= i64::MAX as u64).then(|| Position { ledger: id.ledger, entry: id.entry.wrapping_add(1) })
}

/// Of each of these a reader is asked for; transactions make many, of a marker each.
const SUSPECTS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::super::trace::{Kept, There};
    use super::*;

    fn at(ledger: u64, entry: u64) -> Position {
        Position { ledger, entry }
    }

    fn stretch(from: (u64, u64), to: (u64, u64)) -> Stretch {
        Stretch { from: at(from.0, from.1), to: at(to.0, to.1) }
    }

    fn says(marked: (u64, u64), last: (u64, u64)) -> LastMessageId {
        let id = |(ledger, entry)| MessageId { ledger, entry };
        LastMessageId {
            last_message_id: id(last),
            request_id: 0,
            consumer_mark_delete_position: Some(id(marked)),
        }
    }

    fn begun(through: Position) -> Passed {
        let mut passed = Passed::default();
        passed.begin(&Trace { at: Some(through), confirmed: None }, -1, true, true);
        passed
    }

    #[test]
    fn what_comes_in_turn_raises_no_suspicion() {
        let mut passed = begun(at(5, 3));
        for entry in 4..9 {
            passed.read(at(5, entry));
            passed.acknowledged(at(5, entry));
        }
        assert!(!passed.look(&says((5, 8), (5, 8))));
        assert_eq!((passed.suspects(), passed.accounted()), (&[][..], Some(at(5, 8))));
        assert_eq!(passed.restates(&MessageId { ledger: 5, entry: 8 }, false), None);
        // What was not acknowledged comes again.
        passed.begin(&Trace::default(), -1, true, true);
        passed.read(at(5, 6));
        passed.read(at(5, 7));
        assert_eq!(passed.suspects(), []);
    }

    #[test]
    fn a_gap_in_what_is_handed_on_is_looked_at() {
        let mut passed = begun(at(5, 3));
        passed.read(at(5, 10));
        passed.read(at(6, 2));
        assert_eq!(passed.suspects(), [stretch((5, 4), (5, 10)), stretch((5, 11), (6, 2))]);
        assert!(passed.settle(&stretch((5, 4), (5, 10))));
        assert!(!passed.settle(&stretch((5, 4), (5, 10))));
        // The broker skipped it and delivers it all the same.
        passed.read(at(5, 11));
        assert_eq!(passed.suspects(), [stretch((5, 12), (6, 2))]);
    }

    #[test]
    fn entries_that_were_read_and_not_confirmed_count_as_passed_when_they_are_gone() {
        let mut passed = begun(at(5, 3));
        (4..9).for_each(|entry| passed.read(at(5, entry)));
        passed.acknowledged(at(5, 5));
        passed.begin(&Trace::default(), -1, false, true);
        passed.read(at(5, 9));
        assert_eq!(passed.suspects(), [stretch((5, 6), (5, 9))]);
        assert!(!passed.is_sure());
    }

    #[test]
    fn what_the_destination_has_is_not_missing() {
        let mut passed = begun(at(5, 3));
        let last = at(5, 7).sequence_id().unwrap() as i64;
        passed.begin(&Trace::default(), last, true, true);
        passed.read(at(5, 9));
        assert_eq!(passed.suspects(), [stretch((5, 8), (5, 9))]);
    }

    #[test]
    fn a_count_is_sure_where_the_past_under_this_name_is_known() {
        let last = at(5, 7).sequence_id().unwrap() as i64;
        let kept =
            Trace { at: Some(at(5, 7)), confirmed: Some(Kept { there: There::default(), id: last as u64 }) };
        let of_another_name = Trace { confirmed: None, ..kept };
        let sure = |trace: &Trace, last, effectively_once| {
            let mut passed = Passed::default();
            passed.begin(trace, last, effectively_once, true);
            passed.is_sure()
        };
        assert!(sure(&kept, last, true));
        assert!(!sure(&kept, -1, true));
        assert!(!sure(&kept, last, false));
        assert!(!sure(&of_another_name, last, true));
        // What this process acknowledged it knows itself, but not what it suspected before.
        let mut passed = Passed::default();
        passed.begin(&Trace::default(), last, true, true);
        passed.read(at(5, 9));
        passed.acknowledged(at(5, 9));
        passed.begin(&Trace::default(), last, true, true);
        assert!(!passed.is_sure());
        passed.give_up();
        passed.begin(&Trace::default(), last, true, true);
        assert!(passed.is_sure());
    }

    #[test]
    fn a_destination_that_never_knew_is_not_believed() {
        let mut passed = begun(at(5, 3));
        passed.begin(&Trace::default(), i64::MAX, false, true);
        passed.read(at(5, 6));
        assert_eq!(passed.suspects(), [stretch((5, 4), (5, 6))]);
    }

    #[test]
    fn a_cursor_that_is_twice_seen_beyond_what_was_read_was_moved() {
        let mut passed = begun(at(5, 3));
        assert!(passed.look(&says((5, 9), (5, 12))));
        assert_eq!(passed.suspects(), []);
        assert!(!passed.look(&says((5, 9), (5, 12))));
        assert_eq!(passed.suspects(), [stretch((5, 4), (5, 10))]);
        // Said again at the cursor only when it was looked at.
        let marked = MessageId { ledger: 5, entry: 9 };
        assert_eq!(passed.restates(&marked, false), None);
        passed.settle(&stretch((5, 4), (5, 10)));
        assert_eq!(passed.restates(&marked, false), Some(at(5, 9)));
        passed.acknowledged(at(5, 9));
        assert_eq!(passed.restates(&marked, false), None);
        assert_eq!(passed.restates(&marked, true), Some(at(5, 9)));
    }

    #[test]
    fn what_was_told_is_not_looked_at_again_by_the_next_session() {
        let mut passed = begun(at(5, 3));
        (4..6).for_each(|entry| passed.read(at(5, entry)));
        passed.read(at(5, 9));
        assert!(passed.settle(&stretch((5, 6), (5, 9))));
        // Nothing of it is acknowledged, and everything that waited is skipped.
        passed.begin(&Trace::default(), -1, true, true);
        passed.read(at(5, 20));
        assert_eq!(passed.suspects(), [stretch((5, 4), (5, 6)), stretch((5, 9), (5, 20))]);
        passed.acknowledged(at(5, 20));
        assert_eq!(passed.looked_at, []);
    }

    #[test]
    fn what_still_comes_after_the_first_look_was_not_passed() {
        let mut passed = begun(at(5, 3));
        assert!(passed.look(&says((5, 9), (5, 12))));
        (4..10).for_each(|entry| passed.read(at(5, entry)));
        assert!(!passed.look(&says((5, 9), (5, 12))));
        assert_eq!(passed.suspects(), []);
    }

    #[test]
    fn markers_behind_the_last_message_and_the_front_of_a_new_ledger_are_nothing() {
        let mut passed = begun(at(5, 3));
        // The broker acknowledged a marker, and names the last message that a client would be given.
        assert!(!passed.look(&says((5, 4), (5, 3))));
        // The old ledger was deleted, the cursor stands before the new one, and the topic holds nothing.
        assert!(!passed.look(&says((6, u64::MAX), (u64::MAX, u64::MAX))));
        assert_eq!(passed.suspects(), []);
        passed.read(at(6, 0));
        assert_eq!(passed.suspects(), []);
    }

    #[test]
    fn a_subscription_of_which_nothing_is_known_begins_where_it_stands() {
        let mut passed = Passed::default();
        passed.begin(&Trace::default(), -1, false, true);
        assert!(!passed.look(&says((5, 9), (5, 12))));
        passed.read(at(5, 10));
        assert_eq!(passed.suspects(), []);
    }

    #[test]
    fn what_another_replica_may_have_relayed_is_no_loss() {
        let mut passed = begun(at(5, 3));
        passed.begin(&Trace::default(), -1, false, false);
        passed.read(at(5, 200));
        assert_eq!(passed.suspects(), []);
        // Where the cursor tells, it is known.
        passed.begin(&Trace { at: Some(at(5, 200)), confirmed: None }, -1, false, false);
        passed.read(at(5, 202));
        assert_eq!(passed.suspects(), [stretch((5, 201), (5, 202))]);
    }

    #[test]
    fn behind_a_rewind_a_new_generation_misses_what_goes_again() {
        let mut passed = begun(at(5, 30));
        passed.read(at(5, 10));
        passed.read(at(5, 15));
        assert_eq!(passed.suspects(), [stretch((5, 11), (5, 15))]);
        assert_eq!(passed.accounted(), Some(at(5, 9)));
    }

    #[test]
    fn the_largest_of_many_are_looked_at() {
        let mut passed = begun(at(5, 0));
        // Every second one is a marker, and once there were eight of them.
        for nth in 1..100 {
            passed.read(at(5, 2 * nth + if nth > 50 { 6 } else { 0 }));
        }
        passed.read(at(7, 0));
        assert_eq!(passed.suspects().len(), SUSPECTS_MAX);
        assert!(passed.suspects().contains(&stretch((5, 101), (5, 108))));
        assert!(passed.suspects().contains(&stretch((5, 205), (7, 0))));
    }
}
