//! Says of a route that stops which of its topics may no longer go out: those send nothing more, the others finish what
//! is on its way. Stops nothing itself.

use std::sync::Arc;

use tokio::sync::watch;

use super::context::RouteSpec;
use super::ruling::Ruling;
use crate::pulsar::topic::TopicName;

/// The rules by which a route was stopped, or those that came after it. Cheap to clone; all clones hold the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Revoked(watch::Sender<Option<Arc<Ruling>>>);

impl Revoked {
    /// The route stops, or does so already: these rules hold now.
    pub(super) fn judge(&self, ruling: &Arc<Ruling>) {
        self.0.send_replace(Some(ruling.clone()));
    }

    /// Whether the topic may no longer go out where the route brought it.
    pub(super) fn forbids(&self, route: &RouteSpec, topic: &TopicName) -> bool {
        is_forbidden(self.0.borrow().as_deref(), route, topic)
    }

    /// Waits until it may not.
    pub(super) async fn begun(&self, route: &RouteSpec, topic: &TopicName) {
        // The sender lives in what we hold.
        _ = self.0.subscribe().wait_for(|ruling| is_forbidden(ruling.as_deref(), route, topic)).await;
    }
}

fn is_forbidden(ruling: Option<&Ruling>, route: &RouteSpec, topic: &TopicName) -> bool {
    ruling.is_some_and(|ruling| !ruling.lets_out(topic, &route.from, &route.to))
}
