//! What a measurement has seen: messages, bytes, latencies; by interval and in all. Prints nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// Counts of one side of a measurement. Shared by its partitions' tasks.
#[derive(Debug)]
pub struct Meter {
    messages: AtomicU64,
    bytes: AtomicU64,
    failures: AtomicU64,
    interval: Mutex<Histogram<u64>>,
    /// The first message's time, and the last one's.
    span: Mutex<Option<(Instant, Instant)>>,
}

/// Counts since the beginning, and latencies since the last look.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Messages.
    pub messages: u64,
    /// Bytes of their payloads as they travelled.
    pub bytes: u64,
    /// Messages that were refused.
    pub failures: u64,
    /// Microseconds.
    pub latency: Histogram<u64>,
    /// From the first message to the last.
    pub elapsed: Duration,
}

impl Meter {
    /// Nothing seen.
    pub fn new() -> Self {
        Self {
            messages: AtomicU64::default(),
            bytes: AtomicU64::default(),
            failures: AtomicU64::default(),
            interval: Mutex::new(latencies()),
            span: Mutex::new(None),
        }
    }

    /// The present state; latencies begin anew.
    pub fn read(&self) -> Reading {
        Reading {
            messages: self.messages.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            latency: std::mem::replace(&mut *self.latencies(), latencies()),
            elapsed: self.elapsed_to_last(),
        }
    }

    /// Forgets what was seen.
    pub fn reset(&self) {
        for counter in [&self.messages, &self.bytes, &self.failures] {
            counter.store(0, Ordering::Relaxed);
        }
        *self.span.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.latencies() = latencies();
    }

    /// Messages so far.
    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    /// From the first message to the last so far.
    pub fn elapsed_to_last(&self) -> Duration {
        let span = *self.span.lock().unwrap_or_else(PoisonError::into_inner);
        span.map(|(first, last)| last - first).unwrap_or_default()
    }

    pub(super) fn begin(&self) {
        let now = Instant::now();
        self.span.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert((now, now));
    }

    pub(super) fn saw(&self, messages: u32, bytes: usize, latency: Duration) {
        self.messages.fetch_add(messages.into(), Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        if let Some((_, last)) = self.span.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            *last = Instant::now();
        }
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        // An entry's messages have one latency.
        self.latencies().saturating_record_n(micros, messages.into());
    }

    pub(super) fn failed(&self, messages: u32) {
        self.failures.fetch_add(messages.into(), Ordering::Relaxed);
    }

    fn latencies(&self) -> MutexGuard<'_, Histogram<u64>> {
        // A histogram is usable after any panic: counts are single words.
        self.interval.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Meter {
    fn default() -> Self {
        Self::new()
    }
}

/// Microseconds up to ten minutes, three digits: about 200 KiB.
#[expect(clippy::expect_used, reason = "the bounds are constants that the crate takes")]
pub(super) fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("bounds")
}
