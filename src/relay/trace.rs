//! What each acknowledgement leaves at the source's cursor beside a hole marker: its own position, and the highest id
//! that the destination confirmed. Whoever else moves the cursor keeps these properties (expiry) or drops them (`skip`,
//! eviction, `reset-cursor`), and writes none. Reads and writes them; judges nothing.

use std::collections::BTreeMap;

use super::window::Position;
use crate::pulsar::proto::KeyLongValue;
use crate::pulsar::topic::TopicName;

/// A destination's topic-partition, in short: the producer name does not have it, and it is what knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct There(u32);

impl There {
    /// Of this one.
    pub fn of(topic: &TopicName) -> Self {
        Self(crc32c::crc32c(topic.to_string().as_bytes()))
    }
}

/// What was confirmed, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// By this one.
    pub there: There,
    /// The highest id.
    pub id: u64,
}

/// What a bridge's last acknowledgement left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// Up to here a bridge acknowledged, of whatever generation.
    pub at: Option<Position>,
    /// The highest id that a destination had confirmed under this generation's name.
    pub confirmed: Option<Kept>,
}

impl Trace {
    /// As the cursor's properties have it.
    pub fn understood(properties: &BTreeMap<String, u64>, generation: u32) -> Self {
        let is_position = |(ledger, entry): &(&u64, &u64)| (**ledger).max(**entry) < 1 << 63;
        let at = properties.get(LEDGER).zip(properties.get(ENTRY)).filter(is_position);
        let before = format!("{CONFIRMED}{generation}.");
        let kept = |(key, id): (&String, &u64)| {
            let there = u32::from_str_radix(key.strip_prefix(&before)?, 16).ok()?;
            Some(Kept { there: There(there), id: *id })
        };
        Self {
            at: at.map(|(ledger, entry)| Position { ledger: *ledger, entry: *entry }),
            confirmed: properties.iter().find_map(kept),
        }
    }

    /// As properties of an acknowledgement, which replace those of the one before.
    pub fn properties(&self, generation: u32) -> Vec<KeyLongValue> {
        let pair = |key: &str, value| KeyLongValue { key: key.into(), value };
        let mut properties = Vec::new();
        if let Some(Position { ledger, entry }) = self.at {
            properties.extend([pair(LEDGER, ledger), pair(ENTRY, entry)]);
        }
        let named = |Kept { there, id }| pair(&format!("{CONFIRMED}{generation}.{:08x}", there.0), id);
        properties.extend(self.confirmed.map(named));
        properties
    }
}

// None of them begins like a hole marker's (`bridge.hole.`), so that a version that does not know them reads past them.
const LEDGER: &str = "bridge.at.ledger";
const ENTRY: &str = "bridge.at.entry";
/// Before the generation and the destination.
const CONFIRMED: &str = "bridge.confirmed.";

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(trace: Trace, generation: u32) -> BTreeMap<String, u64> {
        trace.properties(generation).into_iter().map(|pair| (pair.key, pair.value)).collect()
    }

    #[test]
    fn a_trace_reads_back_and_what_was_confirmed_belongs_to_its_generation() {
        let there = There::of(&TopicName::parse("a/b/c").unwrap());
        let kept = Kept { there, id: 77 };
        let trace = Trace { at: Some(Position { ledger: 5, entry: 9 }), confirmed: Some(kept) };
        let stored = stored(trace, 3);
        assert_eq!(Trace::understood(&stored, 3), trace);
        assert_eq!(Trace::understood(&stored, 4), Trace { confirmed: None, ..trace });
        assert_ne!(there, There::of(&TopicName::parse("a/b/c-partition-0").unwrap()));
    }

    #[test]
    fn properties_that_somebody_dropped_and_a_confirmation_of_nobody_are_no_trace() {
        assert_eq!(Trace::understood(&BTreeMap::new(), 1), Trace::default());
        assert_eq!(stored(Trace::default(), 1), BTreeMap::new());
        let of_nobody = BTreeMap::from([("bridge.confirmed.1".to_owned(), 7)]);
        assert_eq!(Trace::understood(&of_nobody, 1), Trace::default());
    }
}
