//! What a broker tells about itself to whoever runs it in the same process. Changes nothing.

use std::sync::Arc;

use super::cluster::Cluster;
use super::topic::Counts;
use crate::pulsar::topic::TopicName;

/// A view of a broker; cheap to clone, and valid after the broker has ended.
#[derive(Clone, Debug)]
pub struct Stats {
    pub(super) cluster: Arc<Cluster>,
}

impl Stats {
    /// Bytes held: stored entries with what keeping them costs, and sends that wait for room.
    pub fn memory_held(&self) -> usize {
        self.cluster.rules.memory.held()
    }

    /// Bytes of sends that wait for room.
    pub fn memory_parked(&self) -> usize {
        self.cluster.rules.memory.parked()
    }

    /// How many topics there are, counting each partition.
    pub fn topics(&self) -> usize {
        self.cluster.count()
    }

    /// What went through a topic.
    pub fn counts(&self, topic: &TopicName) -> Option<Counts> {
        Some(self.cluster.find(topic)?.lock().counts)
    }

    /// How many entries of a topic a subscription has not acknowledged; `None` when there is no such subscription.
    pub fn backlog(&self, topic: &TopicName, subscription: &str) -> Option<u64> {
        let topic = self.cluster.find(topic)?;
        let state = topic.lock();
        let end = state.log.end();
        Some(state.subscriptions.get(subscription)?.cursor().backlog(end))
    }
}
