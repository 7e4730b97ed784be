//! What each acknowledgement leaves at the source's cursor beside a hole marker: its own position, and the highest id
//! that the destination confirmed. Whoever else moves the cursor keeps these properties (expiry) or drops them (`skip`,
//! eviction, `reset-cursor`), and writes none. Reads and writes them; judges nothing.

use std::collections::BTreeMap;

use super::window::Position;
use crate::pulsar::proto::KeyLongValue;

/// What a bridge's last acknowledgement left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// Up to here a bridge acknowledged, of whatever generation.
    pub at: Option<Position>,
    /// The highest id that the destination had confirmed under this generation's name.
    pub confirmed: Option<u64>,
}

impl Trace {
    /// As the cursor's properties have it.
    pub fn understood(properties: &BTreeMap<String, u64>, generation: u32) -> Self {
        let is_position = |(ledger, entry): &(&u64, &u64)| (**ledger).max(**entry) < 1 << 63;
        let at = properties.get(LEDGER).zip(properties.get(ENTRY)).filter(is_position);
        Self {
            at: at.map(|(ledger, entry)| Position { ledger: *ledger, entry: *entry }),
            confirmed: properties.get(&confirmed_key(generation)).copied(),
        }
    }

    /// As properties of an acknowledgement, which replace those of the one before.
    pub fn properties(&self, generation: u32) -> Vec<KeyLongValue> {
        let pair = |key: &str, value| KeyLongValue { key: key.into(), value };
        let mut properties = Vec::new();
        if let Some(Position { ledger, entry }) = self.at {
            properties.extend([pair(LEDGER, ledger), pair(ENTRY, entry)]);
        }
        properties.extend(self.confirmed.map(|id| pair(&confirmed_key(generation), id)));
        properties
    }
}

fn confirmed_key(generation: u32) -> String {
    format!("{CONFIRMED}{generation}")
}

// None of them begins like a hole marker's (`bridge.hole.`), so that a version that does not know them reads past them.
const LEDGER: &str = "bridge.at.ledger";
const ENTRY: &str = "bridge.at.entry";
/// Before the generation.
const CONFIRMED: &str = "bridge.confirmed.";

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(trace: Trace, generation: u32) -> BTreeMap<String, u64> {
        trace.properties(generation).into_iter().map(|pair| (pair.key, pair.value)).collect()
    }

    #[test]
    fn a_trace_reads_back_and_what_was_confirmed_belongs_to_its_generation() {
        let trace = Trace { at: Some(Position { ledger: 5, entry: 9 }), confirmed: Some(77) };
        let stored = stored(trace, 3);
        assert_eq!(Trace::understood(&stored, 3), trace);
        assert_eq!(Trace::understood(&stored, 4), Trace { confirmed: None, ..trace });
    }

    #[test]
    fn properties_that_somebody_dropped_are_no_trace() {
        assert_eq!(Trace::understood(&BTreeMap::new(), 1), Trace::default());
        assert_eq!(stored(Trace::default(), 1), BTreeMap::new());
    }
}
