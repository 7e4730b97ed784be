//! Tells what waits for somebody to act that somebody did: another site's rules changed. Bounded: one number for each
//! configured site, and so many changes a minute; whoever is told waits a moment all the same, so that a peer cannot
//! have its refusals tried for ever.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// How often each site's rules changed. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Nudges(watch::Sender<BTreeMap<String, Told>>);

/// What a site told.
#[derive(Clone, Copy, Debug)]
struct Told {
    count: u64,
    /// Its minute, and how often it told in that.
    since: Instant,
    within: u32,
}

impl Nudges {
    /// A site's rules changed. Beyond [`NUDGES_MAX`] it is passed over: what waits tries again by itself.
    pub(super) fn tell(&self, site: &str) {
        let now = Instant::now();
        self.0.send_if_modified(|sites| {
            let told = sites.entry(site.to_owned()).or_insert(Told { count: 0, since: now, within: 0 });
            if now - told.since >= NUDGES_WITHIN {
                (told.since, told.within) = (now, 0);
            }
            let is_heard = told.within < NUDGES_MAX;
            if is_heard {
                (told.count, told.within) = (told.count + 1, told.within + 1);
            }
            is_heard
        });
    }

    /// Waits for the next change of a site's rules, and a moment more.
    pub(super) async fn next_of(&self, site: &str) {
        let mut changes = self.0.subscribe();
        let count = |sites: &BTreeMap<String, Told>| sites.get(site).map(|told| told.count);
        let before = count(&changes.borrow());
        if changes.wait_for(|sites| count(sites) != before).await.is_err() {
            std::future::pending::<()>().await;
        }
        sleep(NUDGED_AFTER).await;
    }
}

/// As often as anything is tried again soon.
const NUDGED_AFTER: Duration = Duration::from_millis(500);
/// As often as what need not wait for anybody is tried in that time; more often nobody changes rules by hand.
const NUDGES_MAX: u32 = 30;
const NUDGES_WITHIN: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_site_that_changes_its_rules_without_end_is_heard_so_often_a_minute() {
        let nudges = Nudges::default();
        let tries = |site: &'static str| {
            let nudges = nudges.clone();
            let count = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
            let counted = count.clone();
            tokio::spawn(async move {
                loop {
                    nudges.next_of(site).await;
                    counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
            });
            move || count.load(std::sync::atomic::Ordering::Relaxed)
        };
        let (noisy, quiet) = (tries("noisy"), tries("quiet"));
        for _ in 0..100 {
            sleep(NUDGED_AFTER + Duration::from_millis(1)).await;
            nudges.tell("noisy");
        }
        nudges.tell("quiet");
        sleep(Duration::from_secs(1)).await;
        assert_eq!((noisy(), quiet()), (NUDGES_MAX, 1));
        sleep(NUDGES_WITHIN).await;
        nudges.tell("noisy");
        sleep(Duration::from_secs(1)).await;
        assert_eq!((noisy(), quiet()), (NUDGES_MAX + 1, 1));
    }
}
