//! The numbers that measured producers write into their messages: which of them came, came twice, came late or never
//! came. What others wrote is passed over.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// At a message's beginning: who wrote it, and its number there; both u64, big-endian. A producer's name would not
/// do: a bridge publishes under its own.
pub const HEAD_LEN: usize = 16;

/// The numbers of some writers, as they arrive. Shared by the consumers of a topic's partitions.
#[derive(Debug)]
pub struct Numbers {
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    writers: BTreeMap<u64, Writer>,
    tally: Tally,
}

/// What the numbers say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages of these writers.
    pub counted: u64,
    /// Numbers that came again.
    pub repeated: u64,
    /// Numbers that came behind a higher one for the first time.
    pub disordered: u64,
    /// Numbers that never came, up to the highest.
    pub missing: u64,
}

impl Numbers {
    /// Those that these write.
    pub fn of(writers: impl IntoIterator<Item = u64>) -> Self {
        let writers = writers.into_iter().map(|writer| (writer, Writer::default())).collect();
        Self { seen: Mutex::new(Seen { writers, tally: Tally::default() }) }
    }

    /// So many different ones have come.
    pub fn distinct(&self) -> u64 {
        let Tally { counted, repeated, .. } = self.seen().tally;
        counted - repeated
    }

    /// What they say so far.
    pub fn tally(&self) -> Tally {
        let seen = self.seen();
        Tally { missing: seen.writers.values().map(Writer::missing).sum(), ..seen.tally }
    }

    pub(super) fn take<'a>(&self, payloads: impl IntoIterator<Item = &'a [u8]>) {
        let mut seen = self.seen();
        let Seen { writers, tally } = &mut *seen;
        for payload in payloads {
            let Some(head) = payload.first_chunk::<HEAD_LEN>() else { continue };
            let head = u128::from_be_bytes(*head);
            // The upper half is the writer, the lower one its number.
            let (writer, number) = ((head >> 64) as u64, head as u64);
            if let Some(writer) = writers.get_mut(&writer)
                && number < u64::MAX
            {
                tally.counted += 1;
                writer.take(number, tally);
            }
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who has never written before.
pub fn new_writer() -> u64 {
    RandomState::new().hash_one("writer")
}

/// The nth who writes in a run of this seed.
pub fn writer_of(seed: u64, nth: u64) -> u64 {
    seeded((seed, nth))
}

/// A number that looks random, and is always the same for the same.
pub(super) fn seeded(what: (u64, u64)) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(what)
}

/// The head of a message.
pub(super) fn head(writer: u64, number: u64) -> [u8; HEAD_LEN] {
    (u128::from(writer) << 64 | u128::from(number)).to_be_bytes()
}

/// Of one writer: those below `next` have all come, those above it lie in `ahead`.
#[derive(Debug, Default)]
struct Writer {
    next: u64,
    /// Ranges above `next`: first, and one past the last.
    ahead: BTreeMap<u64, u64>,
}

impl Writer {
    fn missing(&self) -> u64 {
        let mut from = self.next;
        self.ahead.iter().fold(0, |sum, (first, past)| {
            let gap = first - from;
            from = *past;
            sum + gap
        })
    }

    fn take(&mut self, number: u64, tally: &mut Tally) {
        if number == self.next && self.ahead.is_empty() {
            self.next += 1;
            return;
        }
        let below = self.ahead.range(..=number).next_back().map(|(first, past)| (*first, *past));
        if number < self.next || below.is_some_and(|(_, past)| number < past) {
            tally.repeated += 1;
            return;
        }
        let highest = self.ahead.last_key_value().map_or(self.next, |(_, past)| *past);
        tally.disordered += u64::from(number < highest);
        let (mut first, mut past) = (number, number + 1);
        if let Some((before, end)) = below.filter(|(_, end)| *end == number) {
            self.ahead.remove(&before);
            first = before;
            debug_assert_eq!(end, number);
        }
        if let Some(end) = self.ahead.remove(&past) {
            past = end;
        }
        if first == self.next {
            self.next = past;
        } else {
            self.ahead.insert(first, past);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITER: u64 = 7;

    fn message(writer: u64, number: u64) -> [u8; HEAD_LEN] {
        head(writer, number)
    }

    fn tally(numbers: &[u64]) -> Tally {
        let all = Numbers::of([WRITER]);
        numbers.iter().for_each(|number| all.take([&message(WRITER, *number)[..]]));
        all.tally()
    }

    #[test]
    fn what_is_missing_repeated_or_out_of_order_is_counted() {
        let counts =
            |counted, missing, repeated, disordered| Tally { counted, repeated, disordered, missing };
        assert_eq!(tally(&[0, 1, 2, 3]), counts(4, 0, 0, 0));
        assert_eq!(tally(&[0, 1, 3]), counts(3, 1, 0, 0));
        assert_eq!(tally(&[2, 3]), counts(2, 2, 0, 0));
        assert_eq!(tally(&[0, 2, 1, 3]), counts(4, 0, 0, 1));
        assert_eq!(tally(&[0, 1, 1, 2, 0]), counts(5, 0, 2, 0));
        assert_eq!(tally(&[0, 5, 5, 7, 6, 3]), counts(6, 3, 1, 2));
    }

    #[test]
    fn what_others_wrote_neither_counts_nor_fills_a_gap() {
        let all = Numbers::of([WRITER]);
        let ours = [0, 2].map(|number| message(WRITER, number));
        let others = [message(8, 1), message(u64::MAX, u64::MAX), message(WRITER, u64::MAX)];
        all.take(ours.iter().chain(&others).map(|message| &message[..]));
        assert_eq!(all.tally(), Tally { counted: 2, missing: 1, ..Tally::default() });
        assert_eq!(all.distinct(), 2);
    }
}
