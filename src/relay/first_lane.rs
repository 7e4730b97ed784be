//! When a source says that no lane leads to its destination: after a moment where it begins, for a link's relay lanes
//! come up after its control lane; at once otherwise. It begins anew when its broker closed the consumer, too. Decides;
//! logs nothing.

use std::time::Duration;

use tokio::time::Instant;

use super::reason::Reason;
use super::status::{PartitionStatus, State};

/// The moment that a lane has to come up in before its absence is news.
#[derive(Clone, Copy, Debug)]
pub struct FirstLane {
    waits_until: Instant,
}

impl FirstLane {
    /// Of a source whose row stands so, from now on.
    pub fn of(row: &PartitionStatus, now: Instant) -> Self {
        let begins = row.state == State::Waiting && row.reason.as_deref() == Some(Reason::Starting.code());
        Self { waits_until: if begins { now + MOMENT } else { now } }
    }

    /// Whether its absence is news now.
    pub fn is_news(self, now: Instant) -> bool {
        now >= self.waits_until
    }

    /// When it will be.
    pub fn news_at(self) -> Instant {
        self.waits_until
    }
}

const MOMENT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::super::progress::Progress;
    use super::super::status::{Board, End};
    use super::*;

    #[test]
    fn a_lane_that_is_not_there_yet_is_no_news_for_a_moment_and_one_that_went_is_at_once() {
        let mut progress = Progress::new(Board::default(), End::Source, "orders", "t", "bank", "riskfuel");
        let now = Instant::now();
        let first = FirstLane::of(&progress.row, now);
        assert!(!first.is_news(now) && !first.is_news(now + MOMENT / 2));
        assert!(first.is_news(first.news_at()) && first.news_at() == now + MOMENT);
        for halted in [Reason::LinkDown, Reason::NotReady] {
            progress.halted(halted, "");
            assert!(FirstLane::of(&progress.row, now).is_news(now), "{halted:?}");
        }
        progress.running("at-least-once");
        assert!(FirstLane::of(&progress.row, now).is_news(now));
    }
}
