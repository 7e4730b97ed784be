//! Tells what waits for somebody to act that somebody did: another site's rules changed. Bounded: one number for each
//! configured site; whoever is told waits a moment all the same, so that a peer cannot have its refusals tried for ever.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

/// How often each site's rules changed. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Nudges(watch::Sender<BTreeMap<String, u64>>);

impl Nudges {
    /// A site's rules changed.
    pub(super) fn tell(&self, site: &str) {
        self.0.send_modify(|counts| *counts.entry(site.to_owned()).or_default() += 1);
    }

    /// Waits for the next change of a site's rules, and a moment more.
    pub(super) async fn next_of(&self, site: &str) {
        let mut changes = self.0.subscribe();
        let before = changes.borrow().get(site).copied();
        if changes.wait_for(|counts| counts.get(site).copied() != before).await.is_err() {
            std::future::pending::<()>().await;
        }
        sleep(NUDGED_AFTER).await;
    }
}

/// As often as anything is tried again soon.
const NUDGED_AFTER: Duration = Duration::from_millis(500);
