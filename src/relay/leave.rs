//! Ends a sink's session before its time, and says why: a newer one came, or the site's rules no longer allow it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::reason::Reason;
use super::refusal::{Refusal, superseded_unready};

/// The hand of whoever may end a session. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Leave {
    told: CancellationToken,
    disallowed: Arc<OnceLock<Disallowed>>,
}

/// Why a session that was allowed is so no longer.
#[derive(Debug)]
struct Disallowed {
    reason: Reason,
    detail: String,
    remedy: String,
}

impl Leave {
    /// A newer session takes over.
    pub(super) fn supersede(&self) {
        self.told.cancel();
    }

    /// It is not allowed any more; `remedy` says what would allow it.
    pub(super) fn disallow(&self, refusal: &Refusal, remedy: String) {
        let Refusal { halt, .. } = refusal;
        _ = self.disallowed.set(Disallowed { reason: halt.reason, detail: halt.detail.clone(), remedy });
        self.told.cancel();
    }

    /// Waits until it has to go.
    pub(super) async fn told(&self) {
        self.told.cancelled().await;
    }

    /// Why it has to go.
    pub(super) fn refusal(&self) -> Refusal {
        match self.disallowed.get() {
            Some(Disallowed { reason, detail, .. }) => Refusal::of(*reason, detail),
            None => Refusal::of(Reason::Superseded, "a newer session came"),
        }
    }

    /// The same of one that has waited so long for its destination.
    pub(super) fn refusal_unready(&self, waited: Duration) -> Refusal {
        match self.disallowed.get() {
            Some(_) => self.refusal(),
            None => superseded_unready(waited),
        }
    }

    /// What would allow it again, where it is not allowed any more.
    pub(super) fn remedy(&self) -> Option<&str> {
        self.disallowed.get().map(|disallowed| disallowed.remedy.as_str())
    }
}
