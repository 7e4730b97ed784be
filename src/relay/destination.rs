//! The topic that a sink publishes to: made where it is missing and may be made, with the source's number of
//! partitions, and grown when the source has grown; and whether it deduplicates. Publishes nothing.

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

/// Finds or makes the destination of a session, of which the topic is `base`. A missing partitioned topic has to be
/// made first: publishing to `x-partition-0` would create an ordinary topic of that name
/// (`BrokerService.isTopicNsOwnedByBroker…`), which no consumer of `x` sees.
pub(super) async fn prepare(
    cluster: &Cluster,
    open: &Open,
    base: &TopicName,
) -> Result<Destination, Refusal> {
    let source = TopicName::parse(&open.topic)
        .map_err(|error| Refusal::of(Reason::RefusedByPolicy, &error.to_string()))?;
    let found = cluster.client.partitions(base).await.map_err(|error| refusal_of(&error))?;
    let partitions = match found {
        Some(here) if here == open.partitions || open.any_partitions => here,
        Some(here) if may_grow(here, open.partitions) => grow(cluster, base, here, open.partitions).await?,
        Some(here) => return Err(mismatch(base, here, open.partitions, "")),
        None => {
            create(cluster, base, open.partitions).await?;
            open.partitions
        }
    };
    Ok(Destination { topic: partition_here(base, source.partition_index(), partitions) })
}

/// Where a source's partition goes: to the one of its number, or where the counts differ, always to the same one, so
/// that its order holds.
fn partition_here(base: &TopicName, source: Option<u32>, partitions: u32) -> TopicName {
    match partitions {
        0 => base.clone(),
        partitions => base.partition(source.unwrap_or(0) % partitions),
    }
}

/// The source has more partitions, as it has when it has grown. A topic without partitions gets none: it stays beside.
fn may_grow(here: u32, source: u32) -> bool {
    here > 0 && here < source
}

/// Gives the topic the source's number of partitions, where that is permitted.
async fn grow(cluster: &Cluster, base: &TopicName, here: u32, source: u32) -> Result<u32, Refusal> {
    let Some(rest) = &cluster.rest else {
        return Err(mismatch(base, here, source, ", and no admin URL is configured to add the others"));
    };
    match rest.grow(base, source).await {
        Ok(()) => {
            tracing::info!(topic = %base, from = here, to = source, "partitions added, as the source has them")
        }
        Err(error) => {
            // Another partition's session may have been first.
            let found = cluster.client.partitions(base).await.map_err(|error| refusal_of(&error))?;
            if found != Some(source) {
                return Err(mismatch(base, here, source, &format!("; adding the others: {error}")));
            }
        }
    }
    Ok(source)
}

fn mismatch(base: &TopicName, here: u32, source: u32, more: &str) -> Refusal {
    let detail = format!("{base} has {source} partitions at the source and {here} here{more}");
    Refusal::of(Reason::PartitionMismatch, &detail)
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
    match created {
        // "There already" is as good: another partition's session was first.
        Ok(_) => Ok(()),
        // What a role may not make by the admin API its producer may, where the broker allows that.
        Err(error) if partitions == 0 && error.is_not_permitted() => Ok(()),
        Err(error) => Err(Refusal::of(Reason::DestinationMissing, &error.to_string())),
    }
}

/// Whether the destination deduplicates, as far as can be known: the binary protocol does not tell.
pub(super) async fn deduplicates(cluster: &Cluster, destination: &Destination) -> Result<bool, Refusal> {
    let Some(rest) = &cluster.rest else {
        return Ok(cluster.deduplication_asserted);
    };
    let unknown = |error: RestError| {
        let reason = match error.is_not_permitted() {
            true => Reason::DestinationNotPermitted,
            false => Reason::DestinationUnreachable,
        };
        Refusal::of(reason, &error.to_string())
    };
    let stats = rest.stats(&destination.topic).await.map_err(unknown)?.unwrap_or_default();
    match stats.deduplication() {
        Deduplication::Enabled => Ok(true),
        Deduplication::Disabled => Ok(false),
        Deduplication::Changing => {
            Err(Refusal::of(Reason::DestinationRetry, "deduplication is being switched at the destination"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_partition_goes_to_one_place_whatever_the_counts() {
        let base = TopicName::parse("a/b/c").unwrap();
        let there = |source, partitions| partition_here(&base, source, partitions).partition_index();
        assert_eq!([0, 1, 2, 3].map(|p| there(Some(p), 4)), [0, 1, 2, 3].map(Some));
        assert_eq!([0, 1, 2, 3].map(|p| there(Some(p), 3)), [0, 1, 2, 0].map(Some));
        assert_eq!([0, 3].map(|p| there(Some(p), 0)), [None, None]);
        assert_eq!([there(None, 0), there(None, 3)], [None, Some(0)]);
    }

    #[test]
    fn only_a_partitioned_topic_with_fewer_partitions_may_grow() {
        let cases = [(2, 4), (4, 2), (0, 4), (4, 0), (0, 0)];
        assert_eq!(cases.map(|(here, source)| may_grow(here, source)), [true, false, false, false, false]);
    }
}
