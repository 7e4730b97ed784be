//! The topic that a sink publishes to: made where it is missing and may be made, with the source's number of
//! partitions; and whether it deduplicates. Publishes nothing.

use super::context::Cluster;
use super::frames::Open;
use super::reason::Reason;
use super::refusal::{Refusal, refusal_of};
use crate::pulsar::rest::{Deduplication, RestError};
use crate::pulsar::topic::TopicName;

/// Where a session's entries go.
#[derive(Clone, Debug)]
pub struct Destination {
    /// The topic-partition.
    pub topic: TopicName,
}

/// Finds or makes the destination of a session. A missing partitioned topic has to be made first: publishing to
/// `x-partition-0` would create an ordinary topic of that name (`BrokerService.isTopicNsOwnedByBroker…`), which
/// no consumer of `x` sees.
pub(super) async fn prepare(cluster: &Cluster, open: &Open) -> Result<Destination, Refusal> {
    let topic = TopicName::parse(&open.topic)
        .map_err(|error| Refusal::of(Reason::RefusedByPolicy, &error.to_string()))?;
    let base = topic.base();
    let found = cluster.client.partitions(&base).await.map_err(|error| refusal_of(&error))?;
    match found {
        Some(partitions) if partitions == open.partitions => {}
        Some(partitions) => {
            let detail =
                format!("{base} has {} partitions at the source and {partitions} here", open.partitions);
            return Err(Refusal::of(Reason::PartitionMismatch, &detail));
        }
        None => create(cluster, &base, open.partitions).await?,
    }
    Ok(Destination { topic })
}

pub(super) async fn create(cluster: &Cluster, base: &TopicName, partitions: u32) -> Result<(), Refusal> {
    let Some(rest) = &cluster.rest else {
        if partitions == 0 {
            // Created by the producer, where the broker allows that.
            return Ok(());
        }
        let detail =
            format!("{base} with {partitions} partitions is missing, and no admin URL is configured");
        return Err(Refusal::of(Reason::DestinationMissing, &detail));
    };
    let created = match partitions {
        0 => rest.create_unpartitioned(base).await,
        partitions => rest.create_partitioned(base, partitions).await,
    };
    // "There already" is as good: another partition's session was first.
    created.map(|_| ()).map_err(|error| Refusal::of(Reason::DestinationMissing, &error.to_string()))
}

/// Whether the destination deduplicates, as far as can be known: the binary protocol does not tell.
pub(super) async fn deduplicates(cluster: &Cluster, destination: &Destination) -> Result<bool, Refusal> {
    let Some(rest) = &cluster.rest else {
        return Ok(cluster.deduplication_asserted);
    };
    let unreachable = |error: RestError| Refusal::of(Reason::DestinationUnreachable, &error.to_string());
    let stats = rest.stats(&destination.topic).await.map_err(unreachable)?.unwrap_or_default();
    match stats.deduplication() {
        Deduplication::Enabled => Ok(true),
        Deduplication::Disabled => Ok(false),
        Deduplication::Changing => {
            Err(Refusal::of(Reason::DestinationRetry, "deduplication is being switched at the destination"))
        }
    }
}
