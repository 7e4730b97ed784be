//! What a site says its relay may do, as one value that a reload replaces whole: the routes that it declares, and what
//! each peer may do. Decides nothing.

use std::sync::Arc;

use tokio::sync::watch;

use super::context::RouteSpec;
use crate::policy::Policies;
use crate::pulsar::topic::TopicName;

/// What holds at one time.
#[derive(Clone, Debug)]
pub struct Ruling {
    /// The routes that this site declares.
    pub declared: Vec<RouteSpec>,
    /// What each peer may do here.
    pub policies: Policies,
}

impl Ruling {
    /// Whether a topic of this site may go to another: who declares it allows it for itself, and policy for others.
    pub(super) fn lets_out(&self, topic: &TopicName, site: &str, to: &str) -> bool {
        let carries = |route: &RouteSpec| route.from == site && route.to == to && route.carries(topic);
        self.declared.iter().any(carries)
            || self.policies.of(to).is_some_and(|policy| policy.send.allows(topic))
    }
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
