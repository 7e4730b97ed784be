//! The durable hole marker: what a stop on a refused entry leaves at the source's cursor, so that a restart stays
//! stopped, or goes on with these entries in quarantine. Their successors may be stored, and then a later re-send
//! under the same producer name would be answered "duplicate" and lost.
//!
//! Stored as properties of a cumulative acknowledgement (`PersistentSubscription.acknowledgeMessage`), which replace
//! those of the one before; only the admin API reads them back. `bridge.hole.<first id>` = last id, for each range. Where
//! there is an admin API, `kept.rs` keeps a copy that survives more.

use std::collections::BTreeMap;

use super::context::{Cluster, RouteSpec};
use super::kept;
use super::reason::Reason;
use super::refused::{Range, Refused};
use super::session::Halt;
use super::trace::Trace;
use super::window::Position;
use crate::pulsar::connection::ConnectionError;
use crate::pulsar::proto::{KeyLongValue, MessageId};
use crate::pulsar::rest::RestError;
use crate::pulsar::subscription::Subscription;
use crate::pulsar::topic::TopicName;

/// What the cursor says of a route's generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hole {
    /// Nothing was refused, as far as can be known.
    None,
    /// Something was, and what exactly was refused cannot be told: nothing of it may be sent again.
    Unnamed,
    /// These were refused, and nothing else.
    Named(Refused),
}

impl Hole {
    /// What either says.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, hole) | (hole, Self::None) => hole,
            (Self::Unnamed, _) | (_, Self::Unnamed) => Self::Unnamed,
            (Self::Named(mut one), Self::Named(other)) => {
                one.merge(&other);
                Self::named(one)
            }
        }
    }

    /// These, or without names where they may be more than can be named.
    pub fn named(refused: Refused) -> Self {
        if refused.is_full() { Self::Unnamed } else { Self::Named(refused) }
    }
}

/// What the subscription's cursor says of refused entries, and the trace of the last acknowledgement. Without an admin
/// URL neither can be known, and the refused entry itself has to be refused again.
pub async fn read(cluster: &Cluster, topic: &TopicName, route: &RouteSpec) -> Result<(Hole, Trace), Halt> {
    let Some(rest) = &cluster.rest else {
        return Ok((Hole::None, Trace::default()));
    };
    let (generation, subscription) = (route.generation, &route.subscription);
    let cursor = rest.cursor(topic, subscription).await.map_err(|error| unanswered(&error))?;
    let cursor = cursor.unwrap_or_default();
    let passed = cursor.mark_delete.and_then(last_passed);
    let kept = kept::read(rest, topic, subscription, generation, passed).await;
    let kept = kept.map_err(|error| unanswered(&error))?;
    let hole = understood(&cursor.properties, generation).and(kept);
    Ok((hole, Trace::understood(&cursor.properties, generation)))
}

/// The highest sequence id that a mark-delete position covers; its entry is −1 before a ledger's first.
fn last_passed((ledger, entry): (u64, i64)) -> Option<u64> {
    let at = Position { ledger, entry: u64::try_from(entry + 1).ok()? };
    at.sequence_id()?.checked_sub(1)
}

/// Why the source's admin API tells nothing.
pub(super) fn unanswered(error: &RestError) -> Halt {
    let reason = match error.is_not_permitted() {
        true => Reason::SourceNotPermitted,
        false => Reason::SourceAdminUnreachable,
    };
    Halt::new(reason, &error.to_string())
}

fn understood(properties: &BTreeMap<String, u64>, generation: u32) -> Hole {
    if properties.get(GENERATION).copied() != Some(u64::from(generation)) {
        return Hole::None;
    }
    let mut refused = Refused::default();
    for (key, last) in properties {
        let first = key.strip_prefix(PREFIX).and_then(|first| first.parse().ok());
        if let Some(first) = first.filter(|first| first <= last) {
            refused.insert(Range { first, last: *last });
        }
    }
    if refused.is_empty() || refused.is_full() { Hole::Unnamed } else { Hole::Named(refused) }
}

/// The marker as properties of an acknowledgement; none where nothing is refused. More than can be named is marked
/// without names.
pub fn properties(generation: u32, refused: &Refused) -> Vec<KeyLongValue> {
    let Some(lowest) = refused.lowest() else {
        return Vec::new();
    };
    let mut properties = unnamed(generation, Position::of_sequence_id(lowest));
    if !refused.is_full() {
        let named = |range: &Range| pair(&format!("{PREFIX}{}", range.first), range.last);
        properties.extend(refused.ranges().iter().map(named));
    }
    properties
}

/// The marker at this entry, for a refusal whose extent is not known.
pub fn unnamed(generation: u32, refused: Position) -> Vec<KeyLongValue> {
    vec![pair(GENERATION, generation.into()), pair(LEDGER, refused.ledger), pair(ENTRY, refused.entry)]
}

fn pair(key: &str, value: u64) -> KeyLongValue {
    KeyLongValue { key: key.into(), value }
}

/// Writes a marker at `last` (the last confirmed position) or, where nothing was confirmed in this session, at
/// the subscription's own mark-delete position. Returns when the broker has taken it.
pub async fn mark(
    subscription: &mut Subscription,
    properties: Vec<KeyLongValue>,
    last: Option<Position>,
) -> Result<(), String> {
    let at = match last {
        Some(last) => MessageId { ledger: last.ledger, entry: last.entry },
        None => mark_delete_position(subscription).await?,
    };
    let answer = subscription.acknowledge_surely(at, properties).await.map_err(|error| error.to_string())?;
    answered(subscription, answer).await
}

/// Where the subscription's mark-delete position is. Entries that come meanwhile are dropped: the session is over.
pub async fn mark_delete_position(subscription: &mut Subscription) -> Result<MessageId, String> {
    let answer = subscription.last_message_id().await.map_err(|error| error.to_string())?;
    let answer = answered(subscription, answer).await?;
    answer.consumer_mark_delete_position.ok_or_else(|| "the broker named no position".into())
}

/// Awaits an answer while entries still come. They are dropped: the session is over, they are read again in the
/// next one.
async fn answered<T>(
    subscription: &mut Subscription,
    answer: impl Future<Output = Result<T, ConnectionError>>,
) -> Result<T, String> {
    tokio::pin!(answer);
    loop {
        tokio::select! {
            answer = &mut answer => return answer.map_err(|error| error.to_string()),
            event = subscription.next() => if event.is_none() {
                return Err("the connection ended".into());
            },
        }
    }
}

const GENERATION: &str = "bridge.hole.generation";
const LEDGER: &str = "bridge.hole.ledger";
const ENTRY: &str = "bridge.hole.entry";
/// Before the first id of a range.
const PREFIX: &str = "bridge.hole.";

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(properties: Vec<KeyLongValue>) -> BTreeMap<String, u64> {
        properties.into_iter().map(|pair| (pair.key, pair.value)).collect()
    }

    #[test]
    fn a_marker_reads_back_for_its_generation_only() {
        let refused = Refused::of_pairs(&[7, 7, 1 << 40, (1 << 40) + 5]).unwrap();
        let marker = stored(properties(3, &refused));
        assert_eq!(understood(&marker, 3), Hole::Named(refused));
        assert_eq!(understood(&marker, 4), Hole::None);
        assert_eq!(understood(&BTreeMap::new(), 3), Hole::None);
        assert_eq!(properties(3, &Refused::default()), []);
    }

    #[test]
    fn a_marker_without_names_holds_everything() {
        let plain = stored(unnamed(3, Position { ledger: 1, entry: 2 }));
        assert_eq!(understood(&plain, 3), Hole::Unnamed);
        let pairs: Vec<u64> = (0..2 * super::super::refused::REFUSED_MAX as u64).collect();
        let many = stored(properties(3, &Refused::of_pairs(&pairs).unwrap()));
        assert_eq!(many.len(), 3);
        assert_eq!(understood(&many, 3), Hole::Unnamed);
    }
}
