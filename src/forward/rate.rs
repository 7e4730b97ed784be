//! How many new connections a second may have: a bucket of tokens. Holds no clock.

use std::time::Duration;

/// A bucket that fills with `rate` tokens a second and holds one second's worth.
#[derive(Debug)]
pub struct Rate {
    per_second: u32,
    /// In billionths of a token: what one nanosecond brings is whole.
    filled: u64,
    at: Duration,
}

impl Rate {
    /// A full one.
    pub fn new(per_second: u32) -> Self {
        Self { per_second, filled: full(per_second), at: Duration::ZERO }
    }

    /// Takes a token, if there is one. `now` never goes back.
    pub fn take(&mut self, now: Duration) -> bool {
        let nanos = u64::try_from((now - self.at.min(now)).as_nanos()).unwrap_or(u64::MAX);
        self.at = now;
        let brought = nanos.saturating_mul(self.per_second.into());
        self.filled = self.filled.saturating_add(brought).min(full(self.per_second));
        match self.filled.checked_sub(TOKEN) {
            Some(left) => {
                self.filled = left;
                true
            }
            None => false,
        }
    }
}

fn full(per_second: u32) -> u64 {
    u64::from(per_second) * TOKEN
}

const TOKEN: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lets_through_as_many_as_were_said_however_they_come() {
        let mut rate = Rate::new(10);
        let at = Duration::from_millis;
        assert_eq!((0..25).filter(|_| rate.take(at(5000))).count(), 10);
        assert!(!rate.take(at(5099)) && rate.take(at(5100)) && !rate.take(at(5101)));
        let evenly = (0..1000).filter(|n| rate.take(at(6000 + n * 10))).count();
        assert!((100..=110).contains(&evenly), "{evenly}");
    }

    #[test]
    fn an_idle_bucket_saves_no_more_than_one_second() {
        let mut rate = Rate::new(3);
        assert_eq!((0..9).filter(|_| rate.take(Duration::from_secs(3600))).count(), 3);
        assert_eq!((0..9).filter(|_| rate.take(Duration::MAX)).count(), 3);
    }
}
