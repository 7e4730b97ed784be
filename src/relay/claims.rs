//! Which route reads a topic by which subscription. Two routes on one subscription would each get half of the topic
//! and acknowledge what the other has to send, so the second waits until the first lets go. Plain bookkeeping.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::pulsar::topic::TopicName;

/// The topics that are read, with their readers. Bounded by the topics that run.
#[derive(Default)]
pub(super) struct Claims {
    taken: Mutex<BTreeMap<(TopicName, String), String>>,
    released: watch::Sender<()>,
}

/// A topic and a subscription that belong to one route; let go when dropped.
pub(super) struct Claim {
    claims: Arc<Claims>,
    key: (TopicName, String),
}

impl Claims {
    /// Takes a topic's subscription for `route`, or names the route that has it.
    pub(super) fn claim(
        self: &Arc<Self>,
        topic: &TopicName,
        subscription: &str,
        route: &str,
    ) -> Result<Claim, String> {
        let key = (topic.clone(), subscription.to_owned());
        let mut taken = self.lock();
        if let Some(holder) = taken.get(&key) {
            return Err(holder.clone());
        }
        taken.insert(key.clone(), route.to_owned());
        Ok(Claim { claims: self.clone(), key })
    }

    /// Hears of everything that is let go from now on.
    pub(super) fn watch(&self) -> watch::Receiver<()> {
        self.released.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(TopicName, String), String>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.lock().remove(&self.key);
        self.claims.released.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_has_one_reader_by_a_subscription_until_that_lets_go() {
        let claims = Arc::new(Claims::default());
        let (x, y) = (TopicName::parse("a/b/x").unwrap(), TopicName::parse("a/b/y").unwrap());
        let first = claims.claim(&x, "bridge.a.b", "first").ok().unwrap();
        assert_eq!(claims.claim(&x, "bridge.a.b", "second").err().as_deref(), Some("first"));
        let others = [claims.claim(&y, "bridge.a.b", "second"), claims.claim(&x, "own", "second")];
        assert!(others.iter().all(Result::is_ok));
        let released = claims.watch();
        drop(first);
        assert!(released.has_changed().unwrap());
        assert!(claims.claim(&x, "bridge.a.b", "second").is_ok());
    }
}
