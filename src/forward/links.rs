//! The links that live, by the site they lead to: each new connection takes the next one in turn, never one that ended.
//! Holds no socket.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::reason::Reason;
use crate::tunnel::link::Link;
use crate::tunnel::streams::Opener;

/// The links of this process.
pub struct Links {
    peers: Mutex<BTreeMap<String, Peer>>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct Peer {
    links: Vec<Way>,
    next: usize,
}

/// A link and how to open streams on it.
#[derive(Clone)]
pub struct Way {
    /// The link.
    pub link: Arc<Link>,
    /// Opens its streams.
    pub opener: Opener,
    /// What it carries.
    pub carried: Arc<Carried>,
}

impl Way {
    /// Counts a connection that a reload cut among those that the link's end cut, when it ends by the same reload: whose
    /// key is taken away loses both.
    pub async fn count_if_gone(&self, reason: Reason) {
        if reason == Reason::NoLongerAllowed && is_lost(&self.link).await {
            self.carried.count_cut();
        }
    }
}

/// The connections that one link carries, and how many its end cut.
#[derive(Debug, Default)]
pub struct Carried {
    open: TaskTracker,
    cut: AtomicU64,
}

impl Carried {
    /// A connection is carried as long as this is held.
    pub fn one(&self) -> TaskTrackerToken {
        self.open.token()
    }

    /// One that is still held is cut by the link's end.
    pub fn count_cut(&self) {
        self.cut.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until none is carried any more; how many were cut.
    pub async fn ended(&self) -> u64 {
        self.open.close();
        self.open.wait().await;
        self.cut.load(Ordering::Relaxed)
    }
}

/// Whether what ended a stream was the end of its link: the streams are told a moment before.
pub async fn is_lost(link: &Link) -> bool {
    timeout(KNOWN_WITHIN, link.ended.cancelled()).await.is_ok()
}

impl Default for Links {
    fn default() -> Self {
        Self { peers: Mutex::default(), changes: watch::channel(0).0 }
    }
}

impl Links {
    /// Enters a link.
    pub fn enter(&self, way: Way) {
        self.lock().entry(way.link.peer.clone()).or_default().links.push(way);
        self.changes.send_modify(|count| *count += 1);
    }

    /// Forgets links that ended.
    pub fn sweep(&self) {
        let mut peers = self.lock();
        for peer in peers.values_mut() {
            peer.links.retain(|way| !way.link.ended.is_cancelled());
        }
        peers.retain(|_, peer| !peer.links.is_empty());
        drop(peers);
        self.changes.send_modify(|count| *count += 1);
    }

    /// The next live link to a site, in turn.
    pub fn next(&self, peer: &str) -> Option<Way> {
        let mut peers = self.lock();
        let peer = peers.get_mut(peer)?;
        peer.links.retain(|way| !way.link.ended.is_cancelled());
        // One that is about to end, or cannot carry streams, only when there is no other.
        let understands = |way: &&Way| way.opener.is_understood();
        let usable = |way: &&Way| understands(way) && !way.link.retiring.is_begun();
        let count = peer.links.iter().filter(usable).count();
        if count == 0 {
            return peer.links.iter().find(understands).or(peer.links.first()).cloned();
        }
        peer.next = (peer.next + 1) % count;
        peer.links.iter().filter(usable).nth(peer.next).cloned()
    }

    /// Why there is no way to a site, if there is none.
    pub fn obstacle(&self, peer: &str) -> Option<Reason> {
        match self.next(peer) {
            None => Some(Reason::NoLink),
            Some(way) if !way.opener.is_understood() => Some(Reason::PeerTooOld),
            Some(_) => None,
        }
    }

    /// Tells when links come and go.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Long for a task that has nothing to wait for.
const KNOWN_WITHIN: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::streams::LinkStreams;

    #[tokio::test(start_paused = true)]
    async fn what_a_reload_cuts_counts_for_its_link_when_that_ends_by_the_same() {
        for (reason, ends, cut) in [
            (Reason::NoLongerAllowed, true, 1),
            (Reason::NoLongerAllowed, false, 0),
            (Reason::RateLimited, true, 0),
        ] {
            let LinkStreams { link, opener, .. } = LinkStreams::of_ending("bank");
            let way = Way { link: link.clone(), opener, carried: Arc::default() };
            let ending = async {
                tokio::time::sleep(KNOWN_WITHIN / 2).await;
                if ends {
                    link.ended.cancel();
                }
            };
            tokio::join!(way.count_if_gone(reason), ending);
            assert_eq!(way.carried.ended().await, cut, "{reason:?} {ends}");
        }
    }
}
