//! How far away the other side is: the shortest round trip that a link's pings have taken. Pings nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Of one link. Cheap to clone; all clones are of the same.
#[derive(Clone, Debug)]
pub struct RoundTrip(Arc<AtomicU64>);

impl RoundTrip {
    /// A ping was answered after so long. What waited in queues only makes it longer, so the shortest one counts.
    pub fn heard(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.0.fetch_min(micros, Ordering::Relaxed);
    }

    /// The shortest so far; zero while none was answered.
    pub fn shortest(&self) -> Duration {
        match self.0.load(Ordering::Relaxed) {
            NONE => Duration::ZERO,
            micros => Duration::from_micros(micros),
        }
    }
}

impl Default for RoundTrip {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(NONE)))
    }
}

const NONE: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_answer_counts_and_none_is_no_distance() {
        let round_trip = RoundTrip::default();
        assert_eq!(round_trip.shortest(), Duration::ZERO);
        let took = [300, 200, 900].map(Duration::from_millis);
        took.into_iter().for_each(|took| round_trip.clone().heard(took));
        assert_eq!(round_trip.shortest(), Duration::from_millis(200));
    }
}
