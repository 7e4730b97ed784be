//! Exclusive and Failover: one consumer at a time is given everything, in order
//! (`PersistentDispatcherSingleActiveConsumer`). Holds no entry.

use super::cursor::Cursor;
use super::delivery::{Haul, Key};
use super::log::Log;

/// Who may be given entries, and from where on.
#[derive(Debug)]
pub struct Single {
    read: u64,
    active: Option<Key>,
    seats: Vec<Seat>,
    /// Which of equals is active, where the topic is a partition: so its consumers share the partitions.
    partition: Option<u32>,
}

/// One consumer.
#[derive(Debug)]
pub struct Seat {
    pub key: Key,
    pub name: String,
    /// The lowest is preferred.
    pub priority: i32,
    /// Counts its demands for redelivery; it drops what it is told with a lower one.
    pub epoch: Option<u64>,
    permits: i64,
}

impl Seat {
    /// A consumer that nothing is permitted to yet.
    pub fn new(key: Key, name: String, priority: i32, epoch: Option<u64>) -> Self {
        Self { key, name, priority, epoch, permits: 0 }
    }
}

impl Single {
    /// Nobody yet; reading begins at `read`.
    pub fn new(read: u64, partition: Option<u32>) -> Self {
        Self { read, active: None, seats: Vec::new(), partition }
    }

    /// Whom entries go to.
    pub fn active(&self) -> Option<Key> {
        self.active
    }

    /// Everybody, in the order of their coming.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        self.seats.iter().map(|seat| seat.key)
    }

    /// A consumer comes; whether another is active now.
    pub fn join(&mut self, seat: Seat, cursor: &Cursor) -> bool {
        self.seats.push(seat);
        self.choose(cursor)
    }

    /// A consumer goes; whether another is active now.
    pub fn leave(&mut self, key: Key, cursor: &Cursor) -> bool {
        self.seats.retain(|seat| seat.key != key);
        self.choose(cursor)
    }

    /// A consumer may be given more messages.
    pub fn permit(&mut self, key: Key, messages: u32) {
        if let Some(seat) = self.seat(key) {
            seat.permits = seat.permits.saturating_add(messages.into());
        }
    }

    /// Everything that is not acknowledged is given again.
    pub fn rewind(&mut self, key: Key, epoch: Option<u64>, cursor: &Cursor) {
        if self.active != Some(key) {
            return;
        }
        if let Some(seat) = self.seat(key) {
            seat.epoch = seat.epoch.max(epoch);
        }
        self.read = cursor.mark();
    }

    /// Who would be given something.
    pub fn hungry(&self, cursor: &Cursor, log: &Log) -> Option<Key> {
        let seat = self.seats.iter().find(|seat| Some(seat.key) == self.active)?;
        (seat.permits > 0 && cursor.next_unacked(self.read) < log.end()).then_some(seat.key)
    }

    /// Gives a consumer what it may have. An entry goes whole, so permits may end below zero, as a broker's do.
    pub fn take(&mut self, key: Key, cursor: &Cursor, log: &Log, haul: &mut Haul) {
        if self.active != Some(key) {
            return;
        }
        let Some(seat) = self.seats.iter_mut().find(|seat| seat.key == key) else {
            return;
        };
        while seat.permits > 0 && haul.has_room() {
            let offset = cursor.next_unacked(self.read).max(log.first());
            let Some(stored) = log.get(offset) else { return };
            seat.permits -= i64::from(stored.messages());
            self.read = offset + 1;
            haul.push(log.position(offset), stored, 0, cursor.ack_set(offset), seat.epoch);
        }
    }

    fn seat(&mut self, key: Key) -> Option<&mut Seat> {
        self.seats.iter_mut().find(|seat| seat.key == key)
    }

    /// By priority, then by partition; where there is none, whoever is active stays it. A real broker takes a hash
    /// ring of names there, so that a newcomer of the same priority may or may not take over.
    fn choose(&mut self, cursor: &Cursor) -> bool {
        let best = self.seats.iter().map(|seat| seat.priority).min();
        let mut equals: Vec<&Seat> = self.seats.iter().filter(|seat| Some(seat.priority) == best).collect();
        equals.sort_by(|a, b| a.name.cmp(&b.name));
        let chosen = match self.partition {
            Some(partition) if !equals.is_empty() => Some(equals[partition as usize % equals.len()].key),
            Some(_) => None,
            None => equals
                .iter()
                .find(|seat| Some(seat.key) == self.active)
                .or_else(|| equals.first())
                .map(|seat| seat.key),
        };
        if chosen == self.active {
            return false;
        }
        self.active = chosen;
        self.read = cursor.mark();
        true
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::embedded::log::Stored;

    fn log(batches: &[Option<u32>]) -> Log {
        let mut log = Log::new(1);
        for batch in batches {
            let bytes = Bytes::from_static(b"entry");
            log.append(Stored { bytes, publish_time: 0, batch: *batch, sliced: false });
        }
        log
    }

    fn taken(single: &mut Single, key: u64, cursor: &Cursor, log: &Log) -> Vec<u64> {
        let mut haul = Haul::new(usize::MAX);
        single.take(Key(key), cursor, log, &mut haul);
        haul.deliveries.iter().map(|delivery| delivery.position.entry).collect()
    }

    fn seat(key: u64, name: &str, priority: i32) -> Seat {
        Seat::new(Key(key), name.into(), priority, None)
    }

    #[test]
    fn permits_are_messages_and_entries_go_whole() {
        let (log, cursor) = (log(&[Some(10), Some(10), None, None]), Cursor::at(0));
        let mut single = Single::new(0, None);
        single.join(seat(1, "a", 0), &cursor);
        assert_eq!(single.hungry(&cursor, &log), None);
        single.permit(Key(1), 11);
        assert_eq!(single.hungry(&cursor, &log), Some(Key(1)));
        assert_eq!(taken(&mut single, 1, &cursor, &log), [0, 1]);
        single.permit(Key(1), 9);
        assert_eq!(taken(&mut single, 1, &cursor, &log), [] as [u64; 0]);
        single.permit(Key(1), 1);
        assert_eq!(taken(&mut single, 1, &cursor, &log), [2]);
    }

    #[test]
    fn whoever_takes_over_is_given_all_that_is_not_acknowledged() {
        let (log, mut cursor) = (log(&[None; 5]), Cursor::at(0));
        let mut single = Single::new(0, None);
        assert!(single.join(seat(1, "m", 1), &cursor));
        assert!(!single.join(seat(2, "a", 1), &cursor), "an equal does not take over");
        single.permit(Key(1), 10);
        single.permit(Key(2), 10);
        assert_eq!(taken(&mut single, 1, &cursor, &log), [0, 1, 2, 3, 4]);
        cursor.ack_before(2);
        cursor.ack(3);
        assert!(single.join(seat(3, "z", 0), &cursor), "a better one does");
        single.permit(Key(3), 10);
        assert_eq!(taken(&mut single, 1, &cursor, &log), [] as [u64; 0]);
        assert_eq!(taken(&mut single, 3, &cursor, &log), [2, 4]);
        assert!(single.leave(Key(3), &cursor));
        assert_eq!(single.active(), Some(Key(2)), "the first by name");
    }

    #[test]
    fn partitions_are_shared_out_by_number() {
        let cursor = Cursor::at(0);
        let active = |partition| {
            let mut single = Single::new(0, Some(partition));
            single.join(seat(1, "b", 0), &cursor);
            single.join(seat(2, "a", 0), &cursor);
            single.join(seat(3, "c", 1), &cursor);
            single.active()
        };
        assert_eq!([0, 1, 2].map(active), [Some(Key(2)), Some(Key(1)), Some(Key(2))]);
    }

    #[test]
    fn a_redelivery_rewinds_and_raises_the_epoch() {
        let (log, cursor) = (log(&[None; 3]), Cursor::at(0));
        let mut single = Single::new(0, None);
        single.join(seat(1, "a", 0), &cursor);
        single.permit(Key(1), 100);
        assert_eq!(taken(&mut single, 1, &cursor, &log), [0, 1, 2]);
        single.rewind(Key(1), Some(4), &cursor);
        let mut haul = Haul::new(usize::MAX);
        single.take(Key(1), &cursor, &log, &mut haul);
        assert!(haul.deliveries.len() == 3 && haul.deliveries.iter().all(|each| each.epoch == Some(4)));
    }
}
