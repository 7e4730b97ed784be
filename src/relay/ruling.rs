//! What a site says its relay may do, as one value that a reload replaces whole: the routes that it declares, and what
//! each peer may do. Decides nothing.

use std::sync::Arc;

use tokio::sync::watch;

use super::context::RouteSpec;
use crate::policy::Policies;

/// What holds at one time.
#[derive(Clone, Debug)]
pub struct Ruling {
    /// The routes that this site declares.
    pub declared: Vec<RouteSpec>,
    /// What each peer may do here.
    pub policies: Policies,
}

/// What holds now. Cheap to clone; all clones hold the same.
#[derive(Clone, Debug)]
pub struct Rulings(watch::Sender<Arc<Ruling>>);

impl Rulings {
    /// Begins with this one.
    pub fn new(first: Ruling) -> Self {
        Self(watch::Sender::new(Arc::new(first)))
    }

    /// Puts another one in its place; what runs is judged by it at once.
    pub fn replace(&self, next: Ruling) {
        self.0.send_replace(Arc::new(next));
    }

    /// What holds.
    pub(super) fn now(&self) -> Arc<Ruling> {
        self.0.borrow().clone()
    }

    /// Hears of every replacement from now on.
    pub(super) fn watch(&self) -> watch::Receiver<Arc<Ruling>> {
        self.0.subscribe()
    }
}
