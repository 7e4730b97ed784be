//! A link's byte budget as a token bucket with classes: who may send now, and when to ask again. Holds no clock and
//! wakes nobody.

use std::time::Duration;

/// What is sent, the most urgent first. What keeps a link alive is counted and never waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Routes that answer no other.
    #[default]
    Requests,
    /// Routes that do.
    Results,
    /// Forwarded connections.
    Forwards,
}

/// All of them.
pub const CLASSES: [Class; 3] = [Class::Requests, Class::Results, Class::Forwards];

/// Bytes that may be sent: as many as the rate has brought, and never more than a short burst of them. What was sent
/// beyond is owed, and waited for by whoever comes next.
#[derive(Debug)]
pub struct Bucket {
    bytes_per_second: f64,
    /// Negative: owed.
    available: f64,
    at: Duration,
    /// Since when each class waits.
    waiting: [Option<Duration>; CLASSES.len()],
}

impl Bucket {
    /// One that is full at time zero.
    pub fn new(bytes_per_second: u64) -> Self {
        // Exact up to 2^53.
        let bytes_per_second = bytes_per_second.max(1) as f64;
        Self {
            bytes_per_second,
            available: bytes_per_second * BURST.as_secs_f64(),
            at: Duration::ZERO,
            waiting: [None; CLASSES.len()],
        }
    }

    /// Another rate from now on.
    pub fn set_rate(&mut self, bytes_per_second: u64, now: Duration) {
        self.refill(now);
        self.bytes_per_second = bytes_per_second.max(1) as f64;
        self.available = self.available.min(self.burst());
    }

    /// Whether a class may send now; else when to ask again. One that asks waits until it may, or until
    /// [`Self::gives_up`].
    pub fn ask(&mut self, class: Class, now: Duration) -> Result<(), Duration> {
        self.refill(now);
        let since = *self.waiting[class as usize].get_or_insert(now);
        if self.available <= 0.0 {
            let until = Duration::from_secs_f64(-self.available / self.bytes_per_second);
            return Err(until.clamp(ASK_AGAIN_MIN, ASK_AGAIN_MAX));
        }
        if self.is_behind_another(class, since, now) {
            return Err(ASK_AGAIN_MIN);
        }
        self.waiting[class as usize] = None;
        Ok(())
    }

    /// The class has nothing to send any more.
    pub fn gives_up(&mut self, class: Class) {
        self.waiting[class as usize] = None;
    }

    /// These were sent.
    pub fn sent(&mut self, bytes: usize, now: Duration) {
        self.refill(now);
        self.available -= bytes as f64;
    }

    /// The more urgent goes first, and whoever has waited for [`PATIENCE`] before that.
    fn is_behind_another(&self, class: Class, since: Duration, now: Duration) -> bool {
        let is_overdue = |since: Duration| now.saturating_sub(since) >= PATIENCE;
        CLASSES.into_iter().filter(|other| *other != class).any(|other| {
            let Some(theirs) = self.waiting[other as usize] else {
                return false;
            };
            match (is_overdue(theirs), is_overdue(since)) {
                (true, true) => (theirs, other) < (since, class),
                (theirs, ours) if theirs != ours => theirs,
                (_, _) => other < class,
            }
        })
    }

    fn refill(&mut self, now: Duration) {
        let brought = self.bytes_per_second * now.saturating_sub(self.at).as_secs_f64();
        self.available = (self.available + brought).min(self.burst());
        self.at = self.at.max(now);
    }

    fn burst(&self) -> f64 {
        self.bytes_per_second * BURST.as_secs_f64()
    }
}

/// What may be sent at once after a rest.
const BURST: Duration = Duration::from_millis(50);
/// After this a less urgent class has its turn too: a shell in a forward lives on beside a backlog.
const PATIENCE: Duration = Duration::from_millis(500);
/// Timers have no finer grain.
const ASK_AGAIN_MIN: Duration = Duration::from_millis(1);
/// A rate may be raised meanwhile.
const ASK_AGAIN_MAX: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u64 = 1_000_000;

    /// Lets each class send chunks for as long as it can, and says how many bytes each sent.
    fn run(bucket: &mut Bucket, seconds: u64, chunks: [usize; 3]) -> [usize; 3] {
        let mut sent = [0; 3];
        for ms in 0..seconds * 1000 {
            let now = Duration::from_millis(ms);
            for class in CLASSES {
                let chunk = chunks[class as usize];
                while chunk > 0 && bucket.ask(class, now).is_ok() {
                    bucket.sent(chunk, now);
                    sent[class as usize] += chunk;
                }
            }
        }
        sent
    }

    #[test]
    fn ten_seconds_bring_what_was_promised_within_five_per_cent_whatever_the_chunks() {
        for chunk in [100, 10_000, 1 << 20] {
            let sent = run(&mut Bucket::new(RATE), 10, [0, chunk, 0])[1];
            let due = 10 * RATE as usize;
            assert!(sent <= due * 105 / 100 + chunk && sent >= due * 95 / 100, "{chunk}: {sent}");
        }
    }

    #[test]
    fn the_more_urgent_has_nearly_all_and_nobody_starves() {
        let [requests, results, forwards] = run(&mut Bucket::new(RATE), 10, [10_000; 3]);
        assert!(requests > 9_000_000, "{requests} {results} {forwards}");
        assert!(results >= 150_000 && forwards >= 150_000, "{requests} {results} {forwards}");
    }

    #[test]
    fn a_class_that_gave_up_holds_nobody() {
        let mut bucket = Bucket::new(RATE);
        bucket.sent(RATE as usize, Duration::ZERO);
        assert!(bucket.ask(Class::Requests, Duration::ZERO).is_err());
        bucket.gives_up(Class::Requests);
        assert_eq!(bucket.ask(Class::Forwards, Duration::from_secs(1)), Ok(()));
    }

    #[test]
    fn a_rest_saves_no_more_than_a_burst() {
        let mut bucket = Bucket::new(RATE);
        let late = Duration::from_secs(3600);
        let mut sent = 0;
        while bucket.ask(Class::Results, late).is_ok() {
            bucket.sent(1000, late);
            sent += 1000;
        }
        assert!(sent <= 51_000, "{sent}");
    }

    #[test]
    fn a_new_rate_holds_from_its_moment_on() {
        let mut bucket = Bucket::new(RATE);
        bucket.set_rate(10 * RATE, Duration::ZERO);
        let sent = run(&mut bucket, 1, [0, 0, 1000])[2];
        assert!((9_500_000..10_600_000).contains(&sent), "{sent}");
    }
}
