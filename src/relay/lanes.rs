//! Which relay lanes are up, by the site they lead to. Sources pick theirs here; nobody waits in here.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::lane::LaneHandle;
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
    pub fn pick(&self, site: &str, topic: &str) -> Option<LaneHandle> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let serves = |lane: &&LaneHandle| !lane.ended().is_cancelled() && !lane.link().retiring.is_begun();
        let living = table.get(site)?.iter().rev().filter(serves);
        let mut hasher = DefaultHasher::new();
        topic.hash(&mut hasher);
        let hash = hasher.finish();
        living
            .filter(|lane| u64::from(lane.index()) == hash % u64::from(lane.link().relay_lanes.max(1)))
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

impl Default for Lanes {
    fn default() -> Self {
        Self::new()
    }
}
