//! A link whose successor is up: nothing new begins on it, and it ends once nobody uses it any more. Ends nothing itself.

use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// The retiring of one link. Cheap to clone; all clones are of the same.
#[derive(Clone, Debug, Default)]
pub struct Retiring {
    begun: watch::Sender<bool>,
    users: TaskTracker,
}

impl Retiring {
    /// Its successor is up: whoever uses it goes over when nothing of his is on its way.
    pub fn begin(&self) {
        self.begun.send_replace(true);
    }

    /// Its successor is gone before it: it is as good as before.
    pub(super) fn take_back(&self) {
        self.begun.send_replace(false);
    }

    /// Whether it has begun.
    pub fn is_begun(&self) -> bool {
        *self.begun.borrow()
    }

    /// Waits until it begins. Cancel-safe.
    pub async fn begun(&self) {
        // The sender lives in us.
        _ = self.begun.subscribe().wait_for(|begun| *begun).await;
    }

    /// Somebody uses the link as long as this is held.
    pub fn user(&self) -> TaskTrackerToken {
        self.users.token()
    }

    /// Waits until nobody uses it.
    pub(super) async fn unused(&self) {
        self.users.close();
        self.users.wait().await;
    }
}
