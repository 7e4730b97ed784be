//! What may be said of a stretch of the source topic once a reader has looked at it: how many entries were lost, and how
//! sure that is. Reads nothing itself.

use super::passed::Stretch;
use super::window::Position;
use crate::pulsar::rest::Ledger;

/// How many entries were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// Just as many.
    Exactly(u64),
    /// Some of these are perhaps none that a client would see, or have arrived.
    AtMost(u64),
    /// What else there was is deleted.
    AtLeast(u64),
}

impl Amount {
    /// The number, for counting.
    pub fn number(self) -> u64 {
        match self {
            Self::Exactly(number) | Self::AtMost(number) | Self::AtLeast(number) => number,
        }
    }
}

/// What a reader was given of a stretch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Entries in the stretch that the route would have relayed.
    pub entries: u64,
    /// The first that came, wherever it lies.
    pub first: Option<Position>,
    /// It was read to its end.
    pub complete: bool,
}

impl Seen {
    /// What may be said of the stretch. `None`: of no loss. `sure`: the destination had nothing of it.
    pub fn amount(&self, stretch: &Stretch, ledgers: Option<&[Ledger]>, sure: bool) -> Option<Amount> {
        if self.entries == 0 {
            return None;
        }
        let begins = self.first.is_some_and(|first| first.ledger == stretch.from.ledger)
            || ledgers.is_some_and(|ledgers| ledgers.iter().any(|it| it.ledger_id == stretch.from.ledger));
        let all = stretch.len().or_else(|| ledgers.map(|ledgers| stretch.entries_in(ledgers)));
        Some(match (self.complete, begins, all) {
            (true, true, _) if sure => Amount::Exactly(self.entries),
            (true, true, _) => Amount::AtMost(self.entries),
            (false, true, Some(all)) => Amount::AtMost(all.max(self.entries)),
            (_, _, _) => Amount::AtLeast(self.entries),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ledger: u64, entry: u64) -> Position {
        Position { ledger, entry }
    }

    fn stretch(from: (u64, u64), to: (u64, u64)) -> Stretch {
        Stretch { from: at(from.0, from.1), to: at(to.0, to.1) }
    }

    fn ledgers(counts: &[(u64, u64)]) -> Vec<Ledger> {
        counts
            .iter()
            .map(|(ledger_id, entries)| Ledger { ledger_id: *ledger_id, entries: *entries })
            .collect()
    }

    fn seen(entries: u64, first: (u64, u64), complete: bool) -> Seen {
        Seen { entries, first: Some(at(first.0, first.1)), complete }
    }

    #[test]
    fn an_amount_claims_no_more_than_was_seen() {
        let within = stretch((5, 4), (5, 10));
        let of = |seen: Seen, sure| seen.amount(&within, None, sure);
        assert_eq!(of(seen(0, (5, 10), true), true), None);
        assert_eq!(of(seen(0, (5, 4), false), true), None);
        assert_eq!(of(seen(6, (5, 4), true), true), Some(Amount::Exactly(6)));
        assert_eq!(of(seen(6, (5, 4), true), false), Some(Amount::AtMost(6)));
        assert_eq!(of(seen(2, (5, 4), false), true), Some(Amount::AtMost(6)));
    }

    #[test]
    fn across_ledgers_the_broker_counts_and_what_it_deleted_is_not_known() {
        let across = stretch((5, 4), (8, 3));
        let whole = ledgers(&[(5, 10), (7, 20), (8, 9)]);
        let trimmed = ledgers(&[(8, 9)]);
        let of = |seen: Seen, ledgers| seen.amount(&across, ledgers, true);
        assert_eq!(of(seen(29, (5, 4), true), None), Some(Amount::Exactly(29)));
        assert_eq!(of(seen(9, (5, 4), false), Some(&whole[..])), Some(Amount::AtMost(29)));
        assert_eq!(of(seen(9, (5, 4), false), None), Some(Amount::AtLeast(9)));
        assert_eq!(of(seen(3, (8, 0), true), Some(&trimmed[..])), Some(Amount::AtLeast(3)));
        assert_eq!(of(seen(3, (8, 0), true), None), Some(Amount::AtLeast(3)));
        assert_eq!(of(seen(3, (8, 0), true), Some(&whole[..])), Some(Amount::Exactly(3)));
    }
}
