//! Ledger ids: higher with each one, also than those of a broker that ran here before, which has left nothing behind
//! but what its clients remember. So they begin at the clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Hands out ledger ids.
#[derive(Debug)]
pub struct Ledgers {
    next: AtomicU64,
}

impl Ledgers {
    /// Ids from this time on.
    pub fn begin(now: SystemTime) -> Self {
        let since = now.duration_since(SystemTime::UNIX_EPOCH + EPOCH).unwrap_or_default();
        let ticks = since.as_millis() * TICKS_PER_SECOND / 1000;
        Self { next: AtomicU64::new((ticks as u64).clamp(1, ID_MAX)) }
    }

    /// A new one.
    pub fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

/// 2026-01-01.
const EPOCH: Duration = Duration::from_secs(1_767_225_600);
/// A broker that makes more ledgers in a second than this, over its whole life, must not be restarted in the time
/// that it is ahead of the clock: 10,000 topics at once are 78 s.
const TICKS_PER_SECOND: u128 = 128;
/// `ledger << 28 | entry` is a sequence id in use, and has 63 bits. Reached in 2034.
const ID_MAX: u64 = 1 << 35;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_broker_has_higher_ids_below_the_bound() {
        let at = |seconds| SystemTime::UNIX_EPOCH + EPOCH + Duration::from_secs(seconds);
        let first = Ledgers::begin(at(1000));
        let ids: Vec<u64> = (0..100).map(|_| first.next()).collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
        assert!(Ledgers::begin(at(1001)).next() > ids[99]);
        assert!(Ledgers::begin(at(8 * 365 * 86_400)).next() < ID_MAX);
        assert_eq!(Ledgers::begin(SystemTime::UNIX_EPOCH).next(), 1);
    }
}
