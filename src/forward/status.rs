//! What the forwards publish; read by `admin`, written here. Plain counters; never a peer's words.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::reason::Reason;

/// Which end of a forward this agent holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// It listens here.
    Listen,
    /// Its target is reached from here.
    Target,
}

/// One end of a forward.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardStatus {
    /// Its name; at the target's end of one that the other site declares, the target.
    pub forward: String,
    /// The site that declares it; of one that only policy allows, the other one.
    pub declared_by: String,
    /// Which end this agent holds.
    pub end: End,
    /// The other site.
    pub peer: String,
    /// Where it listens; at the target's end of one that the other side declared, unknown.
    pub listen: Option<String>,
    /// What is reached.
    pub target: String,
    /// `listening` or `refusing` where it listens; at the target's end `allowed`, or `refusing` when the other side does
    /// not open what we declared, or this one lets nobody reach it any more and a connection is still to end.
    pub state: String,
    /// Why it refuses connections: a code of the catalogue.
    pub reason: Option<String>,
    /// What an operator can do about it.
    pub remedy: Option<String>,
    /// Connections that are open.
    pub open: u64,
    /// Of these, such whose client or target here has left waiting for half a minute what there is for it: 16 KiB at
    /// most.
    #[serde(default)]
    pub stuck: u64,
    /// Connections since the process started: where it listens those that were handed to the other side, also such that
    /// it then reset; at the target's end those that reached it.
    pub connections: u64,
    /// Connections that were reset, by reason.
    pub reset: BTreeMap<String, u64>,
    /// What to do about those of them about which somebody can do something.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reset_remedies: BTreeMap<String, String>,
    /// Bytes sent to the other site.
    pub bytes_out: u64,
    /// Bytes from the other site.
    pub bytes_in: u64,
}

/// One end's counters.
pub struct Row {
    key: Key,
    target: String,
    listen: Mutex<Option<String>>,
    reason: Mutex<Option<Reason>>,
    /// The rules do not have it any more: it goes with its last connection.
    is_leaving: AtomicBool,
    /// The last reason that the log has; forgotten when it is over.
    told: Mutex<Option<Reason>>,
    reset: Mutex<BTreeMap<Reason, Reset>>,
    open: AtomicU64,
    stuck: AtomicU64,
    connections: AtomicU64,
    /// Bytes sent to the other site.
    pub bytes_out: AtomicU64,
    /// Bytes from the other site.
    pub bytes_in: AtomicU64,
}

#[derive(Clone, Copy, Default)]
struct Reset {
    count: u64,
    told: Option<Instant>,
    untold: u64,
}

/// What tells rows apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The forward's name, or its target.
    pub forward: String,
    /// Who declares it.
    pub declared_by: String,
    /// The other site.
    pub peer: String,
    /// Which end this agent holds.
    pub end: End,
}

/// What the rules say of a target's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be reached.
    Allowed,
    /// It may be reached, and no rule names this row of it.
    Renamed,
    /// It may not.
    Refused,
}

/// A connection among the open ones, until it is dropped.
pub struct OpenOne(Arc<Row>);

/// A connection among the stuck ones, until it is dropped.
pub struct StuckOne<'a>(&'a Row);

impl Row {
    /// One that nothing happened to.
    pub fn new(key: Key, target: String, listen: Option<String>) -> Arc<Self> {
        let reason = (key.end == End::Listen).then_some(Reason::NoLink);
        Arc::new(Self {
            key,
            target,
            listen: Mutex::new(listen),
            reason: Mutex::new(reason),
            is_leaving: AtomicBool::new(false),
            told: Mutex::default(),
            reset: Mutex::default(),
            open: AtomicU64::new(0),
            stuck: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
        })
    }

    /// Where it listens, now that it is known.
    pub fn listens_at(&self, address: String) {
        *lock(&self.listen) = Some(address);
    }

    /// Why it refuses connections, if it does; whether that is news.
    pub fn refuses(&self, reason: Option<Reason>) -> bool {
        if reason.is_none() {
            *lock(&self.told) = None;
        }
        std::mem::replace(&mut *lock(&self.reason), reason) != reason
    }

    /// Whether it refuses for this reason, and the log does not have that yet.
    pub fn is_untold(&self, reason: Reason) -> bool {
        *lock(&self.reason) == Some(reason) && lock(&self.told).replace(reason) != Some(reason)
    }

    /// What this site's rules say of it.
    pub(super) fn judged(&self, verdict: Verdict) {
        let mut reason = lock(&self.reason);
        match verdict {
            Verdict::Refused => *reason = Some(Reason::TargetNotAllowed),
            Verdict::Allowed | Verdict::Renamed if *reason == Some(Reason::TargetNotAllowed) => {
                *reason = None
            }
            Verdict::Allowed | Verdict::Renamed => {}
        }
        self.is_leaving.store(verdict != Verdict::Allowed, Ordering::Relaxed);
    }

    /// Whether the rules have it, or somebody still holds it: a connection, or who was admitted and is to open one.
    fn stays(self: &Arc<Self>) -> bool {
        // Only who has the board's lock, as we have, can begin to hold one that nobody holds.
        !self.is_leaving.load(Ordering::Relaxed) || Arc::strong_count(self) > 1
    }

    /// Counts a connection as long as the answer lives.
    pub fn opened(self: &Arc<Self>) -> OpenOne {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.connections.fetch_add(1, Ordering::Relaxed);
        OpenOne(self.clone())
    }

    /// Counts a connection as stuck as long as the answer lives.
    pub fn stuck(&self) -> StuckOne<'_> {
        self.stuck.fetch_add(1, Ordering::Relaxed);
        StuckOne(self)
    }

    /// Counts a reset; how many of its kind were not told yet, when it is time to tell.
    pub fn count_reset(&self, reason: Reason) -> Option<u64> {
        let mut resets = lock(&self.reset);
        let reset = resets.entry(reason).or_default();
        reset.count += 1;
        reset.untold += 1;
        let now = Instant::now();
        if reset.told.is_some_and(|told| now - told < TELL_EVERY) {
            return None;
        }
        reset.told = Some(now);
        Some(std::mem::take(&mut reset.untold))
    }

    /// As it is now.
    pub fn status(&self) -> ForwardStatus {
        let reason = *lock(&self.reason);
        let state = match (self.key.end, reason) {
            (End::Target, None) => "allowed",
            (End::Listen, None) => "listening",
            (End::Target | End::Listen, Some(_)) => "refusing",
        };
        let counted = lock(&self.reset).clone();
        let asks = counted.keys().filter(|reason| reason.asks_somebody());
        let reset_remedies =
            asks.map(|reason| (reason.code().to_owned(), reason.remedy().to_owned())).collect();
        let reset = counted.into_iter().map(|(reason, reset)| (reason.code().to_owned(), reset.count));
        ForwardStatus {
            forward: self.key.forward.clone(),
            declared_by: self.key.declared_by.clone(),
            end: self.key.end,
            peer: self.key.peer.clone(),
            listen: lock(&self.listen).clone(),
            target: self.target.clone(),
            state: state.into(),
            reason: reason.map(|reason| reason.code().into()),
            remedy: reason.map(|reason| reason.remedy().into()),
            open: self.open.load(Ordering::Relaxed),
            stuck: self.stuck.load(Ordering::Relaxed),
            connections: self.connections.load(Ordering::Relaxed),
            reset: reset.collect(),
            reset_remedies,
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
        }
    }
}

impl Drop for StuckOne<'_> {
    fn drop(&mut self) {
        self.0.stuck.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for OpenOne {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The forwards' board. Bounded by the forwards and policies of the configurations.
#[derive(Clone, Default)]
pub struct Board {
    rows: Arc<Mutex<BTreeMap<Key, Arc<Row>>>>,
}

impl Board {
    /// The row of a key; made anew where there is none, or where its target is another.
    pub fn row(&self, key: Key, target: &str, listen: Option<String>) -> Arc<Row> {
        let mut rows = lock(&self.rows);
        if let Some(row) = rows.get(&key).filter(|row| row.target == target) {
            return row.clone();
        }
        let row = Row::new(key.clone(), target.to_owned(), listen);
        rows.insert(key, row.clone());
        row
    }

    /// Judges every target's end anew, by its key and target. What the rules do not have any more is kept, and shown,
    /// as long as it has connections.
    pub fn judge(&self, judge: impl Fn(&Key, &str) -> Verdict) {
        lock(&self.rows).retain(|key, row| {
            if key.end == End::Target {
                row.judged(judge(key, &row.target));
            }
            row.stays()
        });
    }

    /// Keeps only the rows of these keys.
    pub fn retain(&self, wanted: impl Fn(&Key) -> bool) {
        lock(&self.rows).retain(|key, _| wanted(key));
    }

    /// All rows, in order.
    pub fn rows(&self) -> Vec<ForwardStatus> {
        let mut rows = lock(&self.rows);
        rows.retain(|_, row| row.stays());
        rows.values().map(|row| row.status()).collect()
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whole values: a panicking writer cannot leave half of one.
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A flood of resets is one line in this time.
const TELL_EVERY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_resets_is_counted_one_by_one_and_told_once() {
        let key = Key {
            forward: "kube".into(),
            declared_by: "riskfuel".into(),
            peer: "bank".into(),
            end: End::Listen,
        };
        let board = Board::default();
        let row = board.row(key.clone(), "kube:443", None);
        assert_eq!(row.count_reset(Reason::RateLimited), Some(1));
        assert!((0..100).all(|_| row.count_reset(Reason::RateLimited).is_none()));
        assert_eq!(row.count_reset(Reason::LinkLost), Some(1));
        let one = row.opened();
        let status = board.rows().remove(0);
        assert_eq!((status.open, status.connections, status.reset["rate_limited"]), (1, 1, 101));
        assert_eq!(status.reset_remedies.keys().collect::<Vec<_>>(), ["rate_limited"]);
        assert_eq!((status.state.as_str(), status.reason.as_deref()), ("refusing", Some("no_link")));
        drop(one);
        assert!(row.refuses(None) && !row.refuses(None));
        let refused = Reason::AddressInUse;
        assert!(!row.is_untold(refused), "it is over");
        // A link that comes and goes says the same again.
        for (reason, is_untold) in
            [(Some(refused), true), (Some(Reason::NoLink), false), (Some(refused), false)]
        {
            row.refuses(reason);
            assert_eq!(row.is_untold(refused), is_untold, "{reason:?}");
        }
        assert!(row.refuses(None) && row.refuses(Some(refused)) && row.is_untold(refused));
        row.refuses(None);
        let again = board.row(key, "kube:443", None).status();
        assert_eq!((again.open, again.connections, again.state.as_str()), (0, 1, "listening"));
    }

    #[test]
    fn targets_that_are_no_longer_in_the_rules_go_when_nobody_uses_them() {
        let key = |target: &str| Key {
            forward: target.into(),
            declared_by: "bank".into(),
            peer: "bank".into(),
            end: End::Target,
        };
        let board = Board::default();
        let targets: Vec<String> = (0..9).map(|nth| format!("kube:{nth}")).collect();
        for target in &targets {
            board.row(key(target), target, None);
        }
        let one = board.row(key("kube:7"), "kube:7", None).opened();
        let judged = |allowed: &str, renamed: &str| {
            board.judge(|_, target| match target {
                _ if target == allowed => Verdict::Allowed,
                _ if target == renamed => Verdict::Renamed,
                _ => Verdict::Refused,
            });
            let rows = board.rows().into_iter();
            rows.map(|row| format!("{} {}", row.target, row.state)).collect::<Vec<_>>()
        };
        assert_eq!(judged("kube:0", "kube:1"), ["kube:0 allowed", "kube:7 refusing"]);
        assert_eq!(judged("kube:0", "kube:7"), ["kube:0 allowed", "kube:7 allowed"]);
        assert_eq!(judged("kube:7", ""), ["kube:7 allowed"]);
        assert_eq!(judged("", ""), ["kube:7 refusing"]);
        drop(one);
        assert_eq!(board.rows(), []);
    }

    #[test]
    fn a_row_that_leaves_is_shown_by_the_connection_that_was_admitted_before() {
        let key =
            Key { forward: "git".into(), declared_by: "bank".into(), peer: "bank".into(), end: End::Target };
        let board = Board::default();
        let admitted = board.row(key, "git:22", None);
        board.judge(|_, _| Verdict::Renamed);
        assert_eq!(board.rows().len(), 1, "its target is being reached");
        let one = admitted.opened();
        drop(admitted);
        assert_eq!(board.rows()[0].open, 1);
        drop(one);
        assert_eq!(board.rows(), []);
    }
}
