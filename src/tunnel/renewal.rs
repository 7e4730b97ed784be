//! An edge's link, and the one that takes its place before its time: because it is old, or because the edge's key, its
//! trust or its hub's addresses changed. Made before broken: the old one retires when all lanes of the new one are up.

use std::mem::replace;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::backoff::{Backoff, spread};
use super::dial::Dialled;
use super::edge::{DIAL_DELAY_FIRST, DIAL_DELAY_MAX, Edge, jitter};
use super::edge_trust::EdgeTrust;
use super::features::RENEWALS;
use super::hub_proof::HubProof;
use super::link::Link;
use super::reason::Reason;
use super::shown::{ShownLink, link_id};
use crate::config::LinkUrl;

/// A link that is carried by a task of its own, whose handle gives why it ended.
#[derive(Clone)]
pub(super) struct Carried {
    pub(super) link: Arc<Link>,
    pub(super) shown: Arc<ShownLink>,
    pub(super) url: LinkUrl,
    /// What it was dialled by.
    pub(super) trust: Arc<EdgeTrust>,
    /// What its hub proved itself by.
    pub(super) proof: Arc<HubProof>,
    /// When it is to be renewed; a renewal that fails does not make it younger.
    pub(super) due: Instant,
}

/// When a link that comes up now is old. Those that came at once do not go at once.
pub(super) fn due_after(age: Duration, jitter: u8) -> Instant {
    Instant::now() + age - age / 16 * u32::from(jitter) / 255
}

impl Edge {
    /// A link from its Welcome on, and each that takes its place, until the last one ends.
    pub(super) async fn run_link(self: &Arc<Self>, dialled: Dialled, url: &LinkUrl) -> Reason {
        let (mut now, mut over) = self.carry(dialled, url, None);
        let mut backoff = Backoff::new(DIAL_DELAY_FIRST, DIAL_DELAY_MAX);
        loop {
            // Losing the race loses at most a connection that was being made.
            let (dialled, url) = tokio::select! {
                biased;
                reason = &mut over => return reason.unwrap_or(Reason::Ended),
                successor = self.successor(&now) => successor,
            };
            let (next, mut next_over) = self.carry(dialled, &url, Some(&now.link));
            let lanes = usize::from(next.link.relay_lanes) + 1;
            tokio::select! {
                biased;
                _ = &mut over => (now, over) = (next, next_over),
                // The old one goes on, and is due as before: its hub may have let it retire already.
                _ = &mut next_over => {
                    self.pause(spread(backoff.next_delay(), jitter()), &url, &now.link.ended).await;
                }
                () = next.shown.has_lanes(lanes) => {
                    let (old, _) = (replace(&mut now, next), replace(&mut over, next_over));
                    self.settle(&now.link);
                    backoff.reset();
                    self.metrics.renewed.inc();
                    tracing::info!(
                        peer = %now.link.peer, link = %link_id(now.link.id), renews = %link_id(old.link.id), "link renewed"
                    );
                    self.spawn(see_off(old));
                }
            }
        }
    }

    /// Waits until a link is to be renewed, and dials the same hub process until it has made a new one.
    async fn successor(&self, now: &Carried) -> (Dialled, LinkUrl) {
        self.until_due(now).await;
        if now.link.features & RENEWALS == 0 {
            // A hub of an earlier version takes a second link for a sign that the first is dead.
            now.link.ended.cancel();
            std::future::pending::<()>().await;
        }
        let mut backoff = Backoff::new(DIAL_DELAY_FIRST, DIAL_DELAY_MAX);
        let (mut nth, since) = (0, Instant::now());
        loop {
            let trust = self.trust.now();
            let urls = &trust.cfg.connect;
            // The address that led there first.
            let first = urls.iter().position(|url| *url == now.url).unwrap_or(0);
            let url = urls.get((first + nth) % urls.len().max(1)).unwrap_or(&now.url).clone();
            let lane = self.control_lane(&trust, Some(now.link.id));
            let reason = match self.dial(&url, &lane, trust.clone()).await {
                Ok(dialled) if dialled.agreed.instance == now.link.instance => return (dialled, url),
                Ok(_) => Reason::Malformed,
                Err(failed) => failed.declined.reason,
            };
            self.note_unrenewed(&now.link, &url, &reason, since.elapsed());
            nth += 1;
            self.pause(spread(backoff.next_delay(), jitter()), &url, &now.link.ended).await;
        }
    }

    /// Waits until a link is old, or no longer what the configuration asks for.
    async fn until_due(&self, now: &Carried) {
        let mut replaced = self.trust.watch();
        loop {
            let trust = replaced.borrow_and_update().clone();
            now.link.budget.set(trust.cfg.budget_mbit_s);
            if !now.trust.asks_the_same(&trust) {
                return;
            }
            tokio::select! {
                () = sleep_until(now.due) => return,
                // The sender lives in us.
                _ = replaced.changed() => {}
            }
        }
    }
}

/// Whether a renewal that fails so needs no word: a load balancer leads to the right process sooner or later.
pub(super) fn is_routine(reason: &Reason, tried: Duration) -> bool {
    matches!(reason, Reason::NoSuchLink | Reason::Ended) && tried < ROUTINE_MAX
}

/// Ends a link once nobody uses it, at the latest after a while.
async fn see_off(old: Carried) {
    old.link.retiring.begin();
    // The other side's users go over as well.
    sleep(LINGERS).await;
    let unused = timeout(USED_MAX, old.link.retiring.unused()).await;
    if unused.is_err() {
        tracing::warn!(link = %link_id(old.link.id), "a link that was renewed is ended though it is still used");
    }
    old.link.ended.cancel();
}

const LINGERS: Duration = Duration::from_secs(2);
/// How long what is forwarded may go on over a link that was renewed; then it is cut with it.
const USED_MAX: Duration = Duration::from_secs(3600);
/// What is routine in a renewal is told when it goes on for this long.
const ROUTINE_MAX: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_that_finds_no_hub_process_is_told_of_once_it_takes_long() {
        let (soon, late) = (Duration::from_secs(299), Duration::from_secs(300));
        for (reason, tried, routine) in [
            (Reason::NoSuchLink, soon, true),
            (Reason::Ended, soon, true),
            (Reason::NoSuchLink, late, false),
            (Reason::Ended, late, false),
            (Reason::RefusedUnknownKey, Duration::ZERO, false),
        ] {
            assert_eq!(is_routine(&reason, tried), routine, "{reason} after {tried:?}");
        }
    }
}
