//! How much a sink lets come before the first of it is confirmed: a share for every partition, and more where the link is
//! so long that this share would not fill it. Both come out of budgets of their own. Measures nothing itself.

use std::time::Duration;

use super::budget::{Budget, Share};

/// What all sinks of an agent may hold unconfirmed.
#[derive(Clone, Debug)]
pub struct Grants {
    near: Budget,
    far: Budget,
}

impl Grants {
    /// Nothing is taken yet.
    pub fn new() -> Self {
        Self {
            near: Budget::new(NEAR_BYTES, NEAR_SHARE_MIN, NEAR_SHARE_MAX),
            far: Budget::new(FAR_BYTES, 0, FAR_SHARE_MAX),
        }
    }

    /// A partition's share, on a link of this round trip.
    pub fn take(&self, round_trip: Duration) -> Grant {
        let near = self.near.take();
        let fills = usize::try_from(BYTES_PER_MS * round_trip.as_millis()).unwrap_or(usize::MAX);
        let far = self.far.take_at_most(fills.saturating_sub(NEAR_SHARE_MAX));
        Grant { near, far }
    }

    /// The whole.
    pub fn total(&self) -> usize {
        self.near.total() + self.far.total()
    }

    /// What is taken.
    pub fn taken(&self) -> usize {
        self.near.taken() + self.far.taken()
    }
}

impl Default for Grants {
    fn default() -> Self {
        Self::new()
    }
}

/// A partition's share, given back when dropped.
#[derive(Debug)]
pub struct Grant {
    near: Share,
    far: Share,
}

impl Grant {
    /// How many bytes may be unconfirmed.
    pub fn bytes(&self) -> usize {
        self.near.bytes() + self.far.bytes()
    }
}

const MIB: usize = 1 << 20;
/// Of all partitions, on links of any length. The smallest share comes on top.
const NEAR_BYTES: usize = 32 * MIB;
const NEAR_SHARE_MIN: usize = MIB / 8;
/// More only adds latency: a broker takes 1000 entries at once from one connection.
const NEAR_SHARE_MAX: usize = 8 * MIB;
/// Of all partitions beyond that, on long links. It is on its way for most of its time; only where a destination broker
/// stands still is it memory here.
const FAR_BYTES: usize = 96 * MIB;
const FAR_SHARE_MAX: usize = FAR_BYTES / 4;
/// As much as the widest window, in a session that grants it: what can come again.
pub const WINDOW_BYTES_MAX: usize = NEAR_SHARE_MAX + FAR_SHARE_MAX;
/// 1 Gbit/s, and a quarter more for the broker's answer and the way back of its receipt.
const BYTES_PER_MS: u128 = 125_000 * 5 / 4;

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: Duration = Duration::from_millis(2);
    const FAR: Duration = Duration::from_millis(200);

    #[test]
    fn one_partition_gets_what_fills_the_link_that_it_is_on() {
        let mbit_s = |round_trip: Duration| {
            Grants::new().take(round_trip).bytes() as f64 * 8.0 / 1e6 / round_trip.as_secs_f64()
        };
        for millis in [10, 50, 67, 100, 150, 200] {
            let mbit_s = mbit_s(Duration::from_millis(millis));
            assert!(mbit_s > 1000.0, "{mbit_s} at {millis} ms");
        }
        assert_eq!(Grants::new().take(NEAR).bytes(), NEAR_SHARE_MAX);
        assert_eq!(Grants::new().take(Duration::ZERO).bytes(), NEAR_SHARE_MAX, "nothing is known yet");
        assert_eq!(Grants::new().take(Duration::MAX).bytes(), WINDOW_BYTES_MAX, "whoever answers late");
    }

    #[test]
    fn many_on_a_long_link_share_a_bound_and_leave_those_on_a_short_one_theirs() {
        let grants = Grants::new();
        let far: Vec<_> = (0..1000).map(|_| grants.take(FAR)).collect();
        let bytes: usize = far.iter().map(Grant::bytes).sum();
        assert!(bytes <= grants.total() + 1000 * NEAR_SHARE_MIN, "{bytes}");
        assert_eq!(grants.total(), NEAR_BYTES + FAR_BYTES);
        assert!(grants.taken() <= grants.total());
        drop(far);
        let near: Vec<_> = (0..1000).map(|_| grants.take(NEAR)).collect();
        let bytes: usize = near.iter().map(Grant::bytes).sum();
        assert!(bytes <= NEAR_BYTES + 1000 * NEAR_SHARE_MIN, "{bytes}");
        drop(near);
        assert_eq!(grants.taken(), 0);
    }
}
