//! The hole marker's copy in the subscription's properties, where the admin API can be asked. An acknowledgement's own
//! properties are written to disk once a second at most, so that a crash of the broker takes the last ones along
//! (`ManagedCursorImpl.asyncMarkDelete`), and `skip`, eviction and `reset-cursor` drop them; these are written at once
//! and stay. They end by being passed: by acknowledgement, `skip`, or a higher generation.
//!
//! `bridge.hole.<generation>` = `first-last,…`, or `?first` where it is not known how far. Knows no cursor.

use super::hole::Hole;
use super::refused::{Range, Refused};
use crate::pulsar::rest::{AdminRest, RestError};
use crate::pulsar::topic::TopicName;

/// What a subscription's properties say of this generation's refused entries that lie behind `passed`.
pub async fn read(
    rest: &AdminRest,
    topic: &TopicName,
    subscription: &str,
    generation: u32,
    passed: Option<u64>,
) -> Result<Hole, RestError> {
    let properties = rest.subscription_properties(topic, subscription).await?.unwrap_or_default();
    Ok(properties.get(&key(generation)).map_or(Hole::None, |text| understood(text, passed)))
}

/// Writes it beside whatever else stands there, and beside what stood there of this generation and was not `passed`;
/// `false` where the broker has no such properties. Markers of other generations end.
pub async fn write(
    rest: &AdminRest,
    topic: &TopicName,
    subscription: &str,
    generation: u32,
    hole: &Hole,
    passed: Option<u64>,
) -> Result<bool, RestError> {
    let Some(mut properties) = rest.subscription_properties(topic, subscription).await? else {
        return Ok(false);
    };
    let before = properties.get(&key(generation)).map_or(Hole::None, |text| understood(text, passed));
    properties.retain(|key, _| !key.starts_with(PREFIX));
    properties.insert(key(generation), text(&before.and(hole.clone())));
    rest.set_subscription_properties(topic, subscription, &properties).await?;
    Ok(true)
}

fn key(generation: u32) -> String {
    format!("{PREFIX}{generation}")
}

fn text(hole: &Hole) -> String {
    match hole {
        Hole::None => String::new(),
        Hole::Unnamed => EVERYTHING.into(),
        Hole::Named(refused) => {
            let ranges = refused.ranges().iter().map(|range| format!("{}-{}", range.first, range.last));
            ranges.collect::<Vec<_>>().join(",")
        }
    }
}

/// What cannot be read holds everything: somebody changed it.
fn understood(text: &str, passed: Option<u64>) -> Hole {
    let mut refused = Refused::default();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let ids = part.split_once('-').and_then(|(first, last)| first.parse().ok().zip(last.parse().ok()));
        match ids.filter(|(first, last)| first <= last) {
            Some((first, last)) => refused.insert(Range { first, last }),
            None => return Hole::Unnamed,
        }
    }
    if refused.is_full() {
        return Hole::Unnamed;
    }
    if let Some(passed) = passed {
        refused.forget_through(passed);
    }
    if refused.is_empty() { Hole::None } else { Hole::Named(refused) }
}

/// What somebody wrote into a subscription's properties: what is understood reads back as itself.
#[cfg(feature = "fuzzed")]
pub(super) fn fuzzed(bytes: &[u8]) {
    let hole = understood(&String::from_utf8_lossy(bytes), None);
    assert!(understood(&text(&hole), None) == hole);
}

const PREFIX: &str = "bridge.hole.";
const EVERYTHING: &str = "?";

#[cfg(test)]
mod tests {
    use super::*;

    fn named(pairs: &[u64]) -> Hole {
        Hole::Named(Refused::of_pairs(pairs).unwrap())
    }

    #[test]
    fn a_marker_reads_back_without_what_was_passed() {
        let hole = named(&[7, 7, 1 << 40, (1 << 40) + 5]);
        let written = text(&hole);
        assert_eq!(understood(&written, None), hole);
        assert_eq!(understood(&written, Some(7)), named(&[1 << 40, (1 << 40) + 5]));
        assert_eq!(understood(&written, Some((1 << 40) + 4)), named(&[1 << 40, (1 << 40) + 5]));
        assert_eq!(understood(&written, Some(1 << 41)), Hole::None);
    }

    #[test]
    fn what_cannot_be_named_or_read_holds_everything_and_nothing_passes_it() {
        for written in [text(&Hole::Unnamed).as_str(), "1", "5-4", "x", "1-1,?"] {
            assert_eq!(understood(written, Some(u64::MAX)), Hole::Unnamed, "{written}");
        }
        let most: Vec<u64> = (0..2 * super::super::refused::REFUSED_MAX as u64).collect();
        assert_eq!(understood(&text(&named(&most)), None), Hole::Unnamed);
    }

    #[test]
    fn two_markers_hold_what_either_holds() {
        assert_eq!(named(&[1, 1]).and(named(&[5, 6])), named(&[1, 1, 5, 6]));
        assert_eq!(Hole::None.and(named(&[5, 6])), named(&[5, 6]));
        assert_eq!(named(&[1, 1]).and(Hole::Unnamed), Hole::Unnamed);
    }
}
