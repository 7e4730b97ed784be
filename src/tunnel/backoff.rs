//! How long to wait before dialling again: exponential with jitter. Holds no clock and no randomness.

use std::time::Duration;

/// Delays between attempts that keep failing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    ceiling: Duration,
}

impl Backoff {
    /// Begins with the shortest delay.
    pub fn new() -> Self {
        Self { ceiling: DELAY_MIN }
    }

    /// The next delay: between half of the ceiling and the ceiling, by a random byte.
    pub fn next_delay(&mut self, random: u8) -> Duration {
        let half = self.ceiling / 2;
        let delay = half + half * u32::from(random) / 255;
        self.ceiling = (self.ceiling * 2).min(DELAY_MAX);
        delay
    }

    /// What was dialled lasted: the next failure begins anew.
    pub fn reset(&mut self) {
        *self = Self::new();
    }
}

/// Shortest delay's ceiling.
pub const DELAY_MIN: Duration = Duration::from_millis(100);
/// Longest delay: an edge is back within this after a hub returns.
pub const DELAY_MAX: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_never_pass_it() {
        let mut backoff = Backoff::new();
        let delays: Vec<_> = (0..9).map(|_| backoff.next_delay(255).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        backoff.reset();
        assert_eq!(backoff.next_delay(255), DELAY_MIN);
    }

    #[test]
    fn many_edges_do_not_come_back_at_once() {
        let mut backoff = Backoff::new();
        assert_eq!(backoff.next_delay(0), Duration::from_millis(50));
        assert!(backoff.next_delay(128) > Duration::from_millis(149));
    }
}
