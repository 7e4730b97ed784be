//! The durable hole marker: what a stop on a refused entry leaves at the source's cursor, so that a restart stays
//! stopped. Its successors may be stored, and then a later re-send under the same producer name would be
//! answered "duplicate" and lost.
//!
//! Stored as properties of a cumulative acknowledgement (`PersistentSubscription.acknowledgeMessage`); only the
//! admin API reads them back.

use super::context::{Cluster, RouteSpec};
use super::reason::Reason;
use super::session::Halt;
use super::window::Position;
use crate::pulsar::connection::ConnectionError;
use crate::pulsar::proto::{KeyLongValue, MessageId};
use crate::pulsar::subscription::Subscription;
use crate::pulsar::topic::TopicName;

/// Whether the subscription carries a marker of this generation. Without an admin URL it cannot be known, and
/// the refused entry itself has to be refused again.
pub async fn is_marked(cluster: &Cluster, topic: &TopicName, route: &RouteSpec) -> Result<bool, Halt> {
    let Some(rest) = &cluster.rest else {
        return Ok(false);
    };
    let properties = rest
        .cursor_properties(topic, &route.subscription)
        .await
        .map_err(|error| Halt::new(Reason::SourceAdminUnreachable, &error.to_string()))?;
    let marked = properties.and_then(|properties| properties.get(GENERATION).copied());
    Ok(marked == Some(u64::from(route.generation)))
}

/// Writes the marker at `last` (the last confirmed position) or, where nothing was confirmed in this session, at
/// the subscription's own mark-delete position. Returns when the broker has taken it.
pub async fn mark(
    subscription: &mut Subscription,
    generation: u32,
    refused: Position,
    last: Option<Position>,
) -> Result<(), String> {
    let at = match last {
        Some(last) => MessageId { ledger: last.ledger, entry: last.entry },
        None => mark_delete_position(subscription).await?,
    };
    let pair = |key: &str, value| KeyLongValue { key: key.into(), value };
    let properties =
        vec![pair(GENERATION, generation.into()), pair(LEDGER, refused.ledger), pair(ENTRY, refused.entry)];
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
