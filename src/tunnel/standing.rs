//! What holds now and a reload replaces whole: whoever looks sees the old or the new, never half of each.

use std::sync::Arc;

use tokio::sync::watch;

/// What a side trusts and presents. Cheap to clone; all clones hold the same.
#[derive(Debug)]
pub struct Standing<T>(watch::Sender<Arc<T>>);

impl<T> Clone for Standing<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Standing<T> {
    /// Begins with this.
    pub fn new(first: T) -> Self {
        Self(watch::Sender::new(Arc::new(first)))
    }

    /// Puts another in its place; what lives is held to it at once.
    pub fn replace(&self, next: T) {
        self.0.send_replace(Arc::new(next));
    }

    /// What holds.
    pub fn now(&self) -> Arc<T> {
        self.0.borrow().clone()
    }

    /// Hears of every replacement from now on.
    pub(super) fn watch(&self) -> watch::Receiver<Arc<T>> {
        self.0.subscribe()
    }
}
