//! Whom this process should be linked with, and by which names its server may be asked; a reload replaces both.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Both lists. Cheap to clone; all clones hold the same.
#[derive(Clone, Debug, Default)]
pub struct Names(Arc<Mutex<Lists>>);

#[derive(Debug, Default)]
struct Lists {
    peers: Vec<String>,
    hosts: Vec<String>,
}

impl Names {
    /// Puts others in their place: a hub's edges, and host names besides `localhost` and addresses.
    pub fn replace(&self, peers: Vec<String>, hosts: Vec<String>) {
        *self.lock() = Lists { peers, hosts };
    }

    pub(super) fn peers(&self) -> Vec<String> {
        self.lock().peers.clone()
    }

    pub(super) fn hosts(&self) -> Vec<String> {
        self.lock().hosts.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Lists> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
