//! What a peer says of the forwards that it is to open, until it has stayed so for long enough to be told: a reload of
//! one side is ahead of the other's for a moment. Decides; reads no clock.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::reason::Reason;

/// Reasons by forward. Bounded by the forwards that are declared.
#[derive(Debug, Default)]
pub struct Waiting {
    reasons: BTreeMap<String, (Reason, Instant)>,
}

impl Waiting {
    /// Takes the place of all that was heard: one that is as before goes on waiting.
    pub fn hear<'a>(&mut self, said: impl Iterator<Item = (&'a str, Option<Reason>)>, now: Instant) {
        let mut before = std::mem::take(&mut self.reasons);
        for (forward, reason) in said {
            let Some(reason) = reason else { continue };
            let since = before.remove(forward).filter(|(other, _)| *other == reason);
            self.reasons.insert(forward.to_owned(), since.unwrap_or((reason, now)));
        }
    }

    /// When the next one is to be told, if any waits.
    pub fn next(&self) -> Option<Instant> {
        self.reasons.values().map(|(_, since)| *since + TOLD_AFTER).min()
    }

    /// Takes out those that have stayed.
    pub fn due(&mut self, now: Instant) -> Vec<(String, Reason)> {
        let due = self.reasons.extract_if(.., |_, (_, since)| *since + TOLD_AFTER <= now);
        due.map(|(forward, (reason, _))| (forward, reason)).collect()
    }
}

/// Longer than a declaration waits for its turn, so that a later one has been answered.
const TOLD_AFTER: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_later_word_takes_back_is_not_told_and_what_stays_is() {
        let (mut waiting, start) = (Waiting::default(), Instant::now());
        let (taken, refused) = (Some(Reason::AddressInUse), Some(Reason::ListenNotAllowed));
        waiting.hear([("a", taken), ("b", refused), ("c", None), ("d", taken)].into_iter(), start);
        assert_eq!(waiting.next(), Some(start + TOLD_AFTER));
        let later = start + TOLD_AFTER / 2;
        assert_eq!(waiting.due(later), []);
        // One stays, one is well, one is otherwise, and one was taken out.
        waiting.hear([("a", None), ("b", refused), ("d", refused)].into_iter(), later);
        assert_eq!(waiting.due(start + TOLD_AFTER), [("b".to_owned(), Reason::ListenNotAllowed)]);
        assert_eq!(waiting.next(), Some(later + TOLD_AFTER));
        waiting.hear(std::iter::empty(), later);
        assert_eq!((waiting.next(), waiting.due(later + TOLD_AFTER)), (None, Vec::new()));
    }
}
