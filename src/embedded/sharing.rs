//! Shared: entries are dealt out to all consumers in turn, and dealt again when one goes or gives them back
//! (`PersistentDispatcherMultipleConsumers`). Holds no entry. Unlike a broker it does not block a consumer at 50,000
//! unacknowledged messages, and delays nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::cursor::Cursor;
use super::delivery::{Haul, Key};
use super::log::Log;

/// Who has what.
#[derive(Debug)]
pub struct Shared {
    read: u64,
    turn: usize,
    /// To be dealt before anything new.
    again: BTreeSet<u64>,
    /// How often what is not acknowledged was dealt again.
    counts: BTreeMap<u64, u32>,
    hands: Vec<Hand>,
}

/// One consumer.
#[derive(Debug)]
pub struct Hand {
    key: Key,
    priority: i32,
    /// Without what it was dealt.
    permits: i64,
    /// Dealt, not yet taken.
    dealt: VecDeque<Dealt>,
    /// Taken, not yet acknowledged.
    pending: BTreeSet<u64>,
}

/// An entry that was dealt, and the permits that it took: they come back when it is not taken after all.
#[derive(Clone, Copy, Debug)]
struct Dealt {
    offset: u64,
    messages: i64,
}

impl Hand {
    /// A consumer that nothing is permitted to yet.
    pub fn new(key: Key, priority: i32) -> Self {
        Self { key, priority, permits: 0, dealt: VecDeque::new(), pending: BTreeSet::new() }
    }
}

impl Shared {
    /// Nobody yet; reading begins at `read`.
    pub fn new(read: u64) -> Self {
        Self { read, turn: 0, again: BTreeSet::new(), counts: BTreeMap::new(), hands: Vec::new() }
    }

    /// Everybody, in the order of their coming.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        self.hands.iter().map(|hand| hand.key)
    }

    /// A consumer comes.
    pub fn join(&mut self, hand: Hand) {
        self.hands.push(hand);
    }

    /// A consumer goes; what it had is dealt again.
    pub fn leave(&mut self, key: Key) {
        self.give_back(key, None);
        self.hands.retain(|hand| hand.key != key);
    }

    /// A consumer may be given more messages.
    pub fn permit(&mut self, key: Key, messages: u32) {
        if let Some(hand) = self.hands.iter_mut().find(|hand| hand.key == key) {
            hand.permits = hand.permits.saturating_add(messages.into());
        }
    }

    /// A consumer gives back these of what was sent to it, or all that it has.
    pub fn give_back(&mut self, key: Key, offsets: Option<&[u64]>) {
        let Some(hand) = self.hands.iter_mut().find(|hand| hand.key == key) else {
            return;
        };
        let back: Vec<u64> = match offsets {
            Some(offsets) => offsets.iter().copied().filter(|offset| hand.pending.remove(offset)).collect(),
            None => std::mem::take(&mut hand.pending).into_iter().collect(),
        };
        if offsets.is_none() {
            for Dealt { offset, messages } in hand.dealt.drain(..) {
                hand.permits += messages;
                self.again.insert(offset);
            }
        }
        for offset in back {
            *self.counts.entry(offset).or_default() += 1;
            self.again.insert(offset);
        }
    }

    /// An entry was acknowledged, by whomever.
    pub fn acked(&mut self, offset: u64) {
        self.counts.remove(&offset);
        self.again.remove(&offset);
        for hand in &mut self.hands {
            if hand.pending.remove(&offset) {
                return;
            }
        }
    }

    /// Deals what there is to those who may have it, twenty entries at a time, the lowest priority first
    /// (`dispatcherMaxRoundRobinBatchSize`).
    pub fn deal(&mut self, cursor: &Cursor, log: &Log) {
        while let Some(index) = self.next_hand() {
            for _ in 0..DEALT_AT_ONCE {
                let Some(offset) = self.next_offset(cursor, log) else { return };
                let Some(stored) = log.get(offset) else { continue };
                let hand = &mut self.hands[index];
                let messages = i64::from(stored.messages());
                hand.permits -= messages;
                hand.dealt.push_back(Dealt { offset, messages });
                if hand.permits <= 0 {
                    break;
                }
            }
        }
    }

    /// Who has something to take.
    pub fn hungry(&self) -> impl Iterator<Item = Key> {
        self.hands.iter().filter(|hand| !hand.dealt.is_empty()).map(|hand| hand.key)
    }

    /// Gives a consumer what it was dealt; whether it has permits back, so that more can be dealt.
    pub fn take(&mut self, key: Key, cursor: &Cursor, log: &Log, haul: &mut Haul) -> bool {
        let Some(hand) = self.hands.iter_mut().find(|hand| hand.key == key) else {
            return false;
        };
        let mut has_back = false;
        while haul.has_room() {
            let Some(Dealt { offset, messages }) = hand.dealt.pop_front() else { break };
            // Acknowledged since it was dealt: what is not sent takes no permits (`Consumer.sendMessages`).
            let Some(stored) = log.get(offset).filter(|_| !cursor.is_acked(offset)) else {
                hand.permits += messages;
                has_back = true;
                continue;
            };
            hand.pending.insert(offset);
            let count = self.counts.get(&offset).copied().unwrap_or(0);
            haul.push(log.position(offset), stored, count, cursor.ack_set(offset), None);
        }
        has_back
    }

    fn next_hand(&mut self) -> Option<usize> {
        let open = |hand: &&Hand| hand.permits > 0;
        let best = self.hands.iter().filter(open).map(|hand| hand.priority).min()?;
        let count = self.hands.len();
        let from = self.turn;
        let index = (0..count).map(|step| (from + step) % count).find(|index| {
            let hand = &self.hands[*index];
            hand.permits > 0 && hand.priority == best
        })?;
        self.turn = (index + 1) % count;
        Some(index)
    }

    fn next_offset(&mut self, cursor: &Cursor, log: &Log) -> Option<u64> {
        while let Some(offset) = self.again.pop_first() {
            if !cursor.is_acked(offset) {
                return Some(offset);
            }
        }
        let offset = cursor.next_unacked(self.read).max(log.first());
        if offset >= log.end() {
            return None;
        }
        self.read = offset + 1;
        Some(offset)
    }
}

const DEALT_AT_ONCE: usize = 20;

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::embedded::log::Stored;

    fn log(entries: usize) -> Log {
        let mut log = Log::new(1);
        for _ in 0..entries {
            let bytes = Bytes::from_static(b"entry");
            log.append(Stored { bytes, publish_time: 0, batch: None, sliced: false });
        }
        log
    }

    fn shared(consumers: u64, permits: u32) -> Shared {
        let mut shared = Shared::new(0);
        for key in 0..consumers {
            shared.join(Hand::new(Key(key), 0));
            shared.permit(Key(key), permits);
        }
        shared
    }

    fn taken(shared: &mut Shared, key: u64, cursor: &Cursor, log: &Log) -> Vec<(u64, u32)> {
        let mut haul = Haul::new(usize::MAX);
        shared.take(Key(key), cursor, log, &mut haul);
        haul.deliveries.iter().map(|delivery| (delivery.position.entry, delivery.redeliveries)).collect()
    }

    #[test]
    fn everybody_has_a_share_and_nothing_goes_to_two() {
        let (log, cursor) = (log(100), Cursor::at(0));
        let mut shared = shared(3, 1000);
        shared.deal(&cursor, &log);
        let mut all = Vec::new();
        for key in 0..3 {
            let share = taken(&mut shared, key, &cursor, &log);
            assert!(share.len() >= 20, "{share:?}");
            all.extend(share);
        }
        all.sort_unstable();
        assert_eq!(all, (0..100).map(|offset| (offset, 0)).collect::<Vec<_>>());
    }

    #[test]
    fn single_entries_go_round() {
        let cursor = Cursor::at(0);
        let mut shared = shared(2, 1000);
        for entries in 1..=4 {
            shared.deal(&cursor, &log(entries));
        }
        assert_eq!(taken(&mut shared, 0, &cursor, &log(4)), [(0, 0), (2, 0)]);
        assert_eq!(taken(&mut shared, 1, &cursor, &log(4)), [(1, 0), (3, 0)]);
    }

    #[test]
    fn what_a_consumer_leaves_is_dealt_again_and_counted_where_it_was_sent() {
        let (log, mut cursor) = (log(4), Cursor::at(0));
        let mut shared = shared(1, 4);
        shared.deal(&cursor, &log);
        let mut haul = Haul::new(1);
        shared.take(Key(0), &cursor, &log, &mut haul);
        assert_eq!(haul.deliveries.len(), 1);
        cursor.ack(2);
        shared.acked(2);
        shared.join(Hand::new(Key(9), 0));
        shared.permit(Key(9), 100);
        shared.leave(Key(0));
        shared.deal(&cursor, &log);
        assert_eq!(taken(&mut shared, 9, &cursor, &log), [(0, 1), (1, 0), (3, 0)]);
    }

    fn permits(shared: &Shared) -> Vec<i64> {
        shared.hands.iter().map(|hand| hand.permits).collect()
    }

    #[test]
    fn only_what_is_sent_takes_permits() {
        let (log, mut cursor) = (log(10), Cursor::at(0));
        let mut shared = shared(2, 3);
        shared.deal(&cursor, &log);
        assert_eq!(permits(&shared), [0, 0]);
        // Nothing was sent: everything comes back with its permits, and is no redelivery.
        shared.give_back(Key(0), None);
        assert_eq!(permits(&shared), [3, 0]);
        shared.deal(&cursor, &log);
        // Acknowledged before it is sent.
        cursor.ack(1);
        shared.acked(1);
        let mut haul = Haul::new(usize::MAX);
        assert!(shared.take(Key(0), &cursor, &log, &mut haul));
        assert_eq!((haul.deliveries.len(), permits(&shared)), (2, vec![1, 0]));
        shared.deal(&cursor, &log);
        assert_eq!(taken(&mut shared, 0, &cursor, &log), [(6, 0)]);
        // What was sent has had its permits, however often it is asked for again.
        shared.give_back(Key(0), Some(&[0, 0]));
        shared.give_back(Key(0), Some(&[0]));
        assert_eq!(permits(&shared), [0, 0]);
        shared.permit(Key(0), 5);
        shared.deal(&cursor, &log);
        assert_eq!(taken(&mut shared, 0, &cursor, &log), [(0, 1), (7, 0), (8, 0), (9, 0)]);
        assert_eq!(permits(&shared), [1, 0]);
    }

    #[test]
    fn what_is_dealt_and_not_sent_cannot_be_given_back_singly() {
        let (log, cursor) = (log(2), Cursor::at(0));
        let mut shared = shared(1, 2);
        shared.deal(&cursor, &log);
        shared.give_back(Key(0), Some(&[0, 1]));
        shared.deal(&cursor, &log);
        assert_eq!(taken(&mut shared, 0, &cursor, &log), [(0, 0), (1, 0)]);
    }

    #[test]
    fn what_is_given_back_comes_again_and_the_rest_stays() {
        let (log, cursor) = (log(3), Cursor::at(0));
        let mut shared = shared(1, 100);
        shared.deal(&cursor, &log);
        assert_eq!(taken(&mut shared, 0, &cursor, &log).len(), 3);
        shared.give_back(Key(0), Some(&[1, 77]));
        shared.deal(&cursor, &log);
        assert_eq!(taken(&mut shared, 0, &cursor, &log), [(1, 1)]);
        shared.give_back(Key(0), None);
        shared.deal(&cursor, &log);
        assert_eq!(taken(&mut shared, 0, &cursor, &log), [(0, 1), (1, 2), (2, 1)]);
    }
}
