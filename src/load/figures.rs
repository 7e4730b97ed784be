//! What requester and worker have done so far, for whoever shows it. Plain counters and one histogram.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

use super::meter::latencies;

/// Counters since the start, written by requester and worker.
#[derive(Debug)]
pub struct Figures {
    pub(super) requests: AtomicU64,
    pub(super) request_bytes: AtomicU64,
    pub(super) served: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) answered: AtomicU64,
    pub(super) repeated: AtomicU64,
    pub(super) strays: AtomicU64,
    pub(super) wrong: AtomicU64,
    pub(super) points: AtomicU64,
    pub(super) result_bytes: AtomicU64,
    latency: Mutex<Histogram<u64>>,
}

/// A look at them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Requests sent.
    pub requests: u64,
    /// Their bytes.
    pub request_bytes: u64,
    /// Requests that the worker has priced.
    pub served: u64,
    /// Messages among the requests that the worker could not read.
    pub refused: u64,
    /// Requests whose result came back, with the right number of points and the right values.
    pub answered: u64,
    /// Results that came more than once.
    pub repeated: u64,
    /// Results to nothing that this run asked for.
    pub strays: u64,
    /// Results that failed their check.
    pub wrong: u64,
    /// Points in what was answered.
    pub points: u64,
    /// Bytes of what was answered.
    pub result_bytes: u64,
    /// From a request's sending to its checked result: median.
    pub p50: Duration,
    /// The 99th percentile.
    pub p99: Duration,
}

impl Figures {
    /// All zero.
    pub fn new() -> Self {
        let zero = AtomicU64::default;
        Self {
            requests: zero(),
            request_bytes: zero(),
            served: zero(),
            refused: zero(),
            answered: zero(),
            repeated: zero(),
            strays: zero(),
            wrong: zero(),
            points: zero(),
            result_bytes: zero(),
            latency: Mutex::new(latencies()),
        }
    }

    /// As they are now. The percentiles are those since the last look, so that they follow what happens.
    pub fn look(&self) -> Snapshot {
        let latency = std::mem::replace(&mut *self.lock(), latencies());
        self.snapshot(&latency)
    }

    /// As they are now, the percentiles of everything since the last look.
    fn snapshot(&self, latency: &Histogram<u64>) -> Snapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let at = |quantile| Duration::from_micros(latency.value_at_quantile(quantile));
        Snapshot {
            requests: read(&self.requests),
            request_bytes: read(&self.request_bytes),
            served: read(&self.served),
            refused: read(&self.refused),
            answered: read(&self.answered),
            repeated: read(&self.repeated),
            strays: read(&self.strays),
            wrong: read(&self.wrong),
            points: read(&self.points),
            result_bytes: read(&self.result_bytes),
            p50: at(0.5),
            p99: at(0.99),
        }
    }

    pub(super) fn took(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.lock().saturating_record(micros);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Histogram<u64>> {
        // A histogram is usable after any panic: counts are single words.
        self.latency.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Figures {
    fn default() -> Self {
        Self::new()
    }
}

/// Adds to a counter that only one task writes.
pub(super) fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}
