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
    times: Mutex<Times>,
}

#[derive(Debug)]
struct Times {
    /// Latencies since the last look.
    interval: Histogram<u64>,
    /// The first message's time, and the last one's.
    span: Option<(Instant, Instant)>,
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
            times: Mutex::new(Times { interval: latencies(), span: None }),
        }
    }

    /// The present state; latencies begin anew.
    pub fn read(&self) -> Reading {
        let mut times = self.times();
        Reading {
            messages: self.messages.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            latency: std::mem::replace(&mut times.interval, latencies()),
            elapsed: times.elapsed(),
        }
    }

    /// Forgets what was seen.
    pub fn reset(&self) {
        for counter in [&self.messages, &self.bytes, &self.failures] {
            counter.store(0, Ordering::Relaxed);
        }
        *self.times() = Times { interval: latencies(), span: None };
    }

    /// Messages so far.
    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    /// From the first message to the last so far.
    pub fn elapsed_to_last(&self) -> Duration {
        self.times().elapsed()
    }

    /// Its time begins, if it has not.
    pub fn begin(&self) {
        let now = Instant::now();
        self.times().span.get_or_insert((now, now));
    }

    pub(super) fn saw(&self, messages: u32, bytes: usize, latency: Duration) {
        self.messages.fetch_add(messages.into(), Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let mut times = self.times();
        if let Some((_, last)) = &mut times.span {
            *last = Instant::now();
        }
        // An entry's messages have one latency.
        times.interval.saturating_record_n(micros, messages.into());
    }

    pub(super) fn failed(&self, messages: u32) {
        self.failures.fetch_add(messages.into(), Ordering::Relaxed);
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        // A histogram is usable after any panic: counts are single words.
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Times {
    fn elapsed(&self) -> Duration {
        self.span.map(|(first, last)| last - first).unwrap_or_default()
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
