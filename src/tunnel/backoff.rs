//! How long to wait before the next attempt: doubling, bounded. Holds no clock and no randomness.

use std::time::Duration;

/// Delays between attempts that keep failing.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    /// From `first` up to `max`.
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, next: first }
    }

    /// The next delay.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (delay * 2).min(self.max);
        delay
    }

    /// An attempt went well: the next failure begins anew.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// Between half of a delay and all of it, by a random byte: so that many who failed at once do not come back
/// at once.
pub fn spread(delay: Duration, random: u8) -> Duration {
    let half = delay / 2;
    half + half * u32::from(random) / 255
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_their_bound_and_begin_anew() {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(300));
        let delays: Vec<u128> = (0..5).map(|_| backoff.next_delay().as_millis()).collect();
        assert_eq!(delays, [50, 100, 200, 300, 300]);
        backoff.reset();
        assert_eq!(backoff.next_delay().as_millis(), 50);
    }

    #[test]
    fn many_that_failed_at_once_do_not_come_back_at_once() {
        let delay = Duration::from_millis(200);
        assert_eq!(spread(delay, 0), Duration::from_millis(100));
        assert!(spread(delay, 128) > Duration::from_millis(149));
        assert_eq!(spread(delay, 255), delay);
    }
}
