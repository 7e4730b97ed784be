//! Which relay lanes are up, by the site they lead to. Sources pick theirs here; nobody waits in here.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::lane::LaneHandle;
use crate::pulsar::topic::TopicName;
use crate::tunnel::link::Link;

/// The directory. Cheap to clone.
#[derive(Clone)]
pub struct Lanes {
    table: Arc<Mutex<BTreeMap<String, Vec<LaneHandle>>>>,
    /// Links that will have none: their site has no cluster.
    bare: Arc<Mutex<Vec<Arc<Link>>>>,
    changed: watch::Sender<()>,
}

impl Lanes {
    /// No lane yet.
    pub fn new() -> Self {
        Self { table: Arc::default(), bare: Arc::default(), changed: watch::Sender::new(()) }
    }

    /// A lane came up.
    pub fn add(&self, lane: LaneHandle) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.entry(lane.link().peer.clone()).or_default().push(lane);
        drop(table);
        self.changed.send_replace(());
    }

    /// A link came up; one that will have no lanes is remembered until it ends.
    pub fn link_up(&self, link: &Arc<Link>) {
        if link.relay_lanes == 0 {
            self.bare().push(link.clone());
            self.changed.send_replace(());
        }
    }

    /// Whether a site is linked, and no entry can go there: it has no cluster.
    pub fn lead_nowhere(&self, site: &str) -> bool {
        self.bare().iter().any(|link| link.peer == site && !link.ended.is_cancelled())
    }

    fn bare(&self) -> MutexGuard<'_, Vec<Arc<Link>>> {
        self.bare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets lanes and links that have ended.
    pub fn sweep(&self) {
        self.bare().retain(|link| !link.ended.is_cancelled());
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        for lanes in table.values_mut() {
            lanes.retain(|lane| !lane.ended().is_cancelled());
        }
        drop(table);
        self.changed.send_replace(());
    }

    /// The lane of `topic` to `site`: the newest link's, the same one each time while that link lives, so that
    /// order holds. `None` while it is not up.
    pub fn pick(&self, site: &str, topic: &TopicName) -> Option<LaneHandle> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let serves = |lane: &&LaneHandle| !lane.ended().is_cancelled() && !lane.link().retiring.is_begun();
        let living = table.get(site)?.iter().rev().filter(serves);
        living
            .filter(|lane| lane.index() == index_for(topic, lane.link().relay_lanes))
            .find(|lane| !lane.link().ended.is_cancelled())
            .cloned()
    }

    /// Hears of every change from now on.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// How many are up.
    pub fn count(&self) -> usize {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.values().flatten().filter(|lane| !lane.ended().is_cancelled()).count()
    }
}

/// The lane's index for a topic among so many: a topic's partitions on neighbouring ones, so that they share them evenly.
fn index_for(topic: &TopicName, lanes: u16) -> u16 {
    let mut hasher = DefaultHasher::new();
    topic.base().to_string().hash(&mut hasher);
    let place = hasher.finish().wrapping_add(topic.partition_index().unwrap_or(0).into());
    // Below a u16's bound.
    (place % u64::from(lanes.max(1))) as u16
}

impl Default for Lanes {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(topic: &str, index: u32) -> TopicName {
        TopicName::parse(&format!("persistent://public/default/{topic}-partition-{index}")).unwrap()
    }

    #[test]
    fn partitions_share_the_lanes_evenly_whatever_their_topic_is_called() {
        for topic in ["orders", "results", "a", "datagen-requests"] {
            for lanes in [1, 2, 3, 4, 16] {
                let mut taken = vec![0; usize::from(lanes)];
                for index in 0..48 {
                    taken[usize::from(index_for(&partition(topic, index), lanes))] += 1;
                }
                assert!(taken.iter().all(|count| *count == 48 / lanes), "{topic}: {taken:?}");
            }
        }
    }

    #[test]
    fn topics_without_partitions_do_not_all_share_one_lane() {
        let topics: Vec<_> = (0..64)
            .map(|n| TopicName::parse(&format!("persistent://public/default/topic-{n}")).unwrap())
            .collect();
        let lanes: std::collections::BTreeSet<_> = topics.iter().map(|topic| index_for(topic, 4)).collect();
        assert_eq!(lanes.len(), 4);
        assert_eq!(index_for(&topics[0], 0), 0, "a link without lanes");
    }
}
