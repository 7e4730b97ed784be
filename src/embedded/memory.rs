//! What the broker may hold of its clients' bytes: stored entries, and sends that wait for room. Decides who is
//! admitted; drops nothing, and never waits.
//!
//! A topic may hold twice what is free, and so two thirds at most when it is alone in holding anything: the dynamic
//! thresholds of shared-memory switches (Choudhury and Hahne, 1998). Whoever floods, or never acknowledges, leaves
//! room for the others.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::Notify;

/// The broker's account.
#[derive(Debug)]
pub struct Memory {
    stored_max: usize,
    parked_max: usize,
    stored: AtomicUsize,
    parked: AtomicUsize,
    sliced: AtomicUsize,
    waiting: AtomicUsize,
    freed: Notify,
}

impl Memory {
    /// An account of at most `max` bytes: an eighth for sends that wait, the rest for entries.
    pub fn new(max: usize) -> Self {
        let parked_max = max / PARKED_SHARE;
        Self {
            stored_max: max - parked_max,
            parked_max,
            stored: AtomicUsize::new(0),
            parked: AtomicUsize::new(0),
            sliced: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            freed: Notify::new(),
        }
    }

    /// Everything that is held.
    pub fn held(&self) -> usize {
        self.stored.load(Ordering::Relaxed) + self.parked.load(Ordering::Relaxed)
    }

    /// What sends that wait hold.
    pub fn parked(&self) -> usize {
        self.parked.load(Ordering::Relaxed)
    }

    /// Takes room for an entry of a topic that holds `of_topic` already.
    pub fn admit(&self, cost: usize, of_topic: usize) -> bool {
        let admit = |stored| is_admitted(self.stored_max, stored, of_topic, cost).then_some(stored + cost);
        self.stored.fetch_update(Ordering::SeqCst, Ordering::SeqCst, admit).is_ok()
    }

    /// Whether room would be given.
    pub fn would_admit(&self, cost: usize, of_topic: usize) -> bool {
        is_admitted(self.stored_max, self.stored.load(Ordering::SeqCst), of_topic, cost)
    }

    /// Gives room back, and lets those who wait for it try again.
    pub fn release(&self, cost: usize) {
        self.stored.fetch_sub(cost, Ordering::SeqCst);
        self.wake();
    }

    /// Somebody waits for room.
    pub fn is_awaited(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// How much has to go before there is room again: enough that this is not asked for each entry.
    pub fn to_evict(&self) -> usize {
        self.stored_max / PARKED_SHARE
    }

    /// Takes room for a send that waits; `before` is what its connection has waiting.
    pub fn park(&self, cost: usize, before: usize) -> bool {
        let park = |parked| (parked + cost <= self.parked_max || before == 0).then_some(parked + cost);
        before + cost <= PARKED_MAX.max(cost)
            && self.parked.fetch_update(Ordering::Relaxed, Ordering::Relaxed, park).is_ok()
    }

    /// Sends wait no longer; others that were not even let wait try again.
    pub fn unpark(&self, cost: usize) {
        self.parked.fetch_sub(cost, Ordering::SeqCst);
        self.wake();
    }

    /// Lets those who wait for room try again.
    pub fn wake(&self) {
        if self.is_awaited() {
            self.freed.notify_waiters();
        }
    }

    /// The bytes as they are to be kept, and whether they are still a slice of what was read. A slice keeps the
    /// whole read alive, so only large entries stay one, and only as long as those are few; the others are copied.
    pub fn keep(&self, bytes: Bytes) -> (Bytes, bool) {
        let len = bytes.len();
        let slice = |sliced| (sliced + len <= SLICED_MAX).then_some(sliced + len);
        if len >= SLICE_LEN_MIN
            && self.sliced.fetch_update(Ordering::Relaxed, Ordering::Relaxed, slice).is_ok()
        {
            return (bytes, true);
        }
        (Bytes::copy_from_slice(&bytes), false)
    }

    /// A slice was dropped.
    pub fn unslice(&self, len: usize) {
        self.sliced.fetch_sub(len, Ordering::Relaxed);
    }

    /// Somebody begins to wait for room. Between this and the wait, try once more.
    pub fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        Waiting { memory: self }
    }
}

/// Somebody who waits for room.
#[derive(Debug)]
pub struct Waiting<'a> {
    memory: &'a Memory,
}

impl Waiting<'_> {
    /// Completes when room was given back after it was enabled.
    pub fn freed(&self) -> tokio::sync::futures::Notified<'_> {
        self.memory.freed.notified()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.memory.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Whether a topic that holds `of_topic` may take `cost` more of a broker that holds `stored` of `max`. The first
/// entry of a topic only has to fit.
fn is_admitted(max: usize, stored: usize, of_topic: usize, cost: usize) -> bool {
    let free = max.saturating_sub(stored);
    cost <= free && (of_topic == 0 || of_topic + cost <= free.saturating_mul(TOPIC_FACTOR))
}

const PARKED_SHARE: usize = 8;
/// A topic alone holds 2/3 of everything, two hold 2/5 each.
const TOPIC_FACTOR: usize = 2;
/// What may wait on one connection: three messages of the largest size.
const PARKED_MAX: usize = 16 << 20;
/// A read is 256 KiB, so a slice holds at most eight times its own length.
const SLICE_LEN_MIN: usize = 32 * 1024;
/// What is on its way between producers and consumers that keep up with them.
const SLICED_MAX: usize = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    /// Fills a topic until it is refused.
    fn flood(memory: &Memory, mut held: usize) -> usize {
        while memory.admit(1000, held) {
            held += 1000;
        }
        held
    }

    #[test]
    fn one_that_floods_leaves_a_third_to_the_others() {
        let memory = Memory::new(8_000_000);
        let hog = flood(&memory, 0);
        assert!((4_600_000..4_700_000).contains(&hog), "{hog}");
        let second = flood(&memory, 0);
        assert!(second > 1_500_000, "{second}");
        assert!((0..100).all(|_| memory.admit(1000, 0)), "others are served");
        assert!(memory.held() <= 7_000_000);
    }

    #[test]
    fn everything_stays_within_the_bound_whoever_comes() {
        let memory = Memory::new(8_000_000);
        let topics = (0..100_000).filter(|_| memory.admit(1000, 0)).count();
        assert_eq!(topics, 7000);
        assert!(!memory.admit(1, 0));
        memory.release(1000);
        assert!(memory.admit(1000, 0));
    }

    #[test]
    fn what_waits_is_bounded_by_connection_and_in_all() {
        let memory = Memory::new(1 << 30);
        let parked = |step: usize| (0..).take_while(|count| memory.park(step, count * step)).count() * step;
        assert_eq!(parked(1 << 20), PARKED_MAX);
        for _ in 1..8 {
            parked(1 << 20);
        }
        assert_eq!(memory.parked(), 128 << 20);
        assert!(!memory.park(1, 1));
        assert!(memory.park(1, 0), "a connection that stops reading keeps the send it has read");
    }

    #[test]
    fn small_entries_and_those_of_a_backlog_are_copied() {
        let memory = Memory::new(1 << 30);
        let read = Bytes::from(vec![0; SLICE_LEN_MIN]);
        assert!(!memory.keep(read.slice(1..)).1);
        let sliced = (0..1000).filter(|_| memory.keep(read.clone()).1).count();
        assert_eq!(sliced * SLICE_LEN_MIN, SLICED_MAX);
        memory.unslice(read.len());
        assert!(memory.keep(read).1);
    }
}
