//! An edge's link, and the one that takes its place before its time: because it is old, or because the edge's key, its
//! trust or its hub's addresses changed. Made before broken: the old one retires when all lanes of the new one are up.

use std::mem::replace;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::backoff::{Backoff, spread};
use super::dial::{Dialled, is_of_key};
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
            // The hub takes what this one was dialled by; said before its row stands beside the other's.
            now.shown.warn(None);
            let since = Instant::now();
            let (next, mut next_over) = self.carry(dialled, &url, Some(&now.link));
            let lanes = usize::from(next.link.relay_lanes) + 1;
            tokio::select! {
                biased;
                _ = &mut over => (now, over) = (next, next_over),
                // The old one goes on, and is due as before: its hub may have let it retire already.
                reason = &mut next_over => {
                    let reason = reason.unwrap_or(Reason::Ended);
                    self.note_unrenewed(&now, (&url, &next.trust), &reason, since.elapsed());
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
            if !Arc::ptr_eq(&trust, &self.trust.now()) {
                // What a reload put in its place meanwhile is tried at once, and is all that is worth a word.
                self.metrics.count_end(&reason);
                continue;
            }
            self.note_unrenewed(now, (&url, &trust), &reason, since.elapsed());
            nth += 1;
            self.pause(spread(backoff.next_delay(), jitter()), &url, &now.link.ended).await;
        }
    }

    /// A link is not renewed yet by what was dialled; it is as good as before, where its hub is still believed.
    fn note_unrenewed(
        &self,
        now: &Carried,
        (url, dialled_by): (&LinkUrl, &EdgeTrust),
        reason: &Reason,
        tried: Duration,
    ) {
        self.metrics.count_end(reason);
        let Carried { link, shown, .. } = now;
        if is_routine(reason, tried) {
            // What was in the way before is not any more: a hub that says so takes our key.
            return shown.warn(None);
        }
        let id = link_id(link.id);
        let own_key = is_of_key(reason).then_some(&*dialled_by.listed_as);
        let other_key = own_key.filter(|_| dialled_by.presents_another_than(&now.trust));
        // A reload that takes the belief in its hub away ends the link, whether or not another is up.
        let fate = if self.trust.now().believes(&now.proof).is_ok() { Fate::GoesOn } else { Fate::Ends };
        let of = format!("link {id} to {}", link.peer);
        shown.warn(Some(warning(&of, url, fate, reason, other_key)));
        if self.said().is_news(&id, reason.code()) {
            let fate = fate.words();
            tracing::warn!(
                peer = %link.peer, link = %id, %url, reason = reason.code(), own_key,
                remedy = reason.remedy(), "the link is to be renewed, and {fate}: {reason}"
            );
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

/// What becomes of a link that is not renewed yet.
#[derive(Clone, Copy)]
enum Fate {
    GoesOn,
    /// Its hub is not believed any more.
    Ends,
}

impl Fate {
    fn words(self) -> &'static str {
        match self {
            Self::GoesOn => "goes on as it is until it can be",
            Self::Ends => "ends within 2 s, for what is configured now does not believe its hub",
        }
    }
}

/// What the status says of a link as long as it is not renewed; with the key that the hub does not take, if that is why
/// and the link has another.
fn warning(link: &str, url: &LinkUrl, fate: Fate, reason: &Reason, other_key: Option<&str>) -> String {
    let remedy = reason.remedy();
    match (other_key, fate) {
        (Some(key), Fate::GoesOn) => format!(
            "{link} goes on by the key from before, the hub at {url} does not take the one that is configured, {key} ({}): a \
             restart of this process would keep it out; {remedy}",
            reason.code()
        ),
        _ => format!("{link} is to be renewed at {url}, and {}: {reason}; {remedy}", fate.words()),
    }
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

    fn told(fate: Fate, reason: &Reason, other_key: Option<&str>) -> String {
        let url = LinkUrl::parse("tls://hub:1").unwrap();
        warning("link 7 to riskfuel", &url, fate, reason, other_key)
    }

    #[test]
    fn a_key_that_the_hub_does_not_take_is_told_with_what_a_restart_would_do() {
        let of_key = told(Fate::GoesOn, &Reason::RefusedUnknownKey, Some("bk1.bank.x"));
        assert!(
            of_key.starts_with("link 7 to riskfuel goes on by the key from before, the hub at tls://hub:1 ")
        );
        assert!(of_key.contains("bk1.bank.x (refused_unknown_key): a restart of this process"), "{of_key}");
        let other = told(Fate::GoesOn, &Reason::Timeout, None);
        assert!(
            other.starts_with("link 7 to riskfuel is to be renewed at tls://hub:1, and goes on"),
            "{other}"
        );
        assert!(other.contains("until it can be: connecting took too long; check"), "{other}");
        assert!(!other.contains("restart"));
    }

    #[test]
    fn a_link_whose_hub_is_believed_no_longer_is_not_said_to_go_on() {
        for (reason, own_key) in [(Reason::IssuerDistrusted, None), (Reason::RefusedUnknownKey, Some("bk1"))]
        {
            let told = told(Fate::Ends, &reason, own_key);
            assert!(told.contains("ends within 2 s") && !told.contains("goes on"), "{told}");
        }
    }

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
