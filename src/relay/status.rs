//! What the relay publishes about its routes; read by `admin`, written by `relay`. Plain data.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// Which end of a route this agent holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// This agent consumes from its cluster.
    Source,
    /// This agent publishes into its cluster.
    Sink,
}

/// What a route's partition is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not yet started or between two attempts; `reason` says what it waits for.
    Waiting,
    /// Entries may flow.
    Running,
    /// Will not go on by itself; `reason` and `remedy` say why and what to do.
    Stopped,
}

/// One partition of one topic of a route, seen from one end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionStatus {
    /// The route's name.
    pub route: String,
    /// The topic (with its `-partition-N` where it has one) at the source.
    pub topic: String,
    /// Its name at the destination, where that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// The site that consumes.
    pub from: String,
    /// The site that publishes.
    pub to: String,
    /// Which end this agent holds.
    pub end: End,
    /// What it is doing.
    pub state: State,
    /// Typed reason (a code of the relay's catalogue) when waiting or stopped.
    pub reason: Option<String>,
    /// What an operator can do about it.
    pub remedy: Option<String>,
    /// `effectively-once` or `at-least-once`, once known.
    pub promise: Option<String>,
    /// The route's session, equal at both ends.
    pub session: u64,
    /// The link that carries it.
    pub link: Option<String>,
    /// The lane of that link.
    pub lane: Option<u16>,
    /// Entries sent (source) or published (sink) since the process started, repeats included.
    pub entries: u64,
    /// Messages in those entries, as their metadata claims.
    pub messages: u64,
    /// Bytes of those entries as stored.
    pub bytes: u64,
    /// Entries confirmed by the destination.
    pub confirmed: u64,
    /// Receipts that said "duplicate".
    pub duplicates: u64,
    /// Entries skipped because a bridge wrote them.
    pub skipped: u64,
    /// Refused entries that went to the quarantine topic instead.
    #[serde(default)]
    pub quarantined: u64,
    /// Where these go, where the route has a quarantine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<String>,
    /// Entries that left the source's backlog before a bridge was handed them; where they cannot be counted exactly,
    /// as many as is known, and all where that is "at most".
    #[serde(default)]
    pub source_skipped: u64,
    /// How often the destination did not know what it had confirmed.
    #[serde(default)]
    pub destination_forgotten: u64,
    /// The last such loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noticed: Option<Noticed>,
    /// Entries sent and not yet confirmed; at a source also those of a session that ended before their receipts,
    /// until they are acknowledged.
    pub in_flight: u64,
    /// Last position acknowledged at the source, `ledger:entry`.
    pub acknowledged: Option<String>,
    /// Milliseconds since something waits without getting on: what was read for its confirmation, or the route for
    /// what is not healthy. 0 while it is idle, advances, or waits for what is healthy to wait for.
    pub stalled_ms: u64,
}

/// A loss that the route did not cause, and that did not stop it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noticed {
    /// `source_skipped` or `destination_forgotten`.
    pub code: String,
    /// What it was, and how much.
    pub detail: String,
    /// What an operator can do about it.
    pub remedy: String,
}

/// What tells rows apart. The sites are part of it: two peers may give one name to their routes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The route's name.
    pub route: String,
    /// The topic-partition at the source.
    pub topic: String,
    /// The site that consumes.
    pub from: String,
    /// The site that publishes.
    pub to: String,
    /// Which end this agent holds.
    pub end: End,
}

impl PartitionStatus {
    /// What tells it apart.
    pub fn key(&self) -> Key {
        let Self { route, topic, from, to, end, .. } = self;
        Key { route: route.clone(), topic: topic.clone(), from: from.clone(), to: to.clone(), end: *end }
    }
}

struct Shown {
    row: PartitionStatus,
    stalled_since: Option<Instant>,
}

impl Shown {
    /// As it is at this moment, however long ago it was written.
    fn now(&self) -> PartitionStatus {
        let stalled_ms =
            self.stalled_since.map_or(self.row.stalled_ms, |since| since.elapsed().as_millis() as u64);
        PartitionStatus { stalled_ms, ..self.row.clone() }
    }
}

/// The relay's board: one row for each partition and end. Bounded by the routes that run.
#[derive(Clone, Default)]
pub struct Board {
    rows: Arc<Mutex<BTreeMap<Key, Shown>>>,
}

impl Board {
    /// Writes or replaces a row.
    pub fn put(&self, row: PartitionStatus) {
        self.put_stalled(row, None);
    }

    /// The same for one that does not get on since then: whoever looks is told for how long.
    pub fn put_stalled(&self, row: PartitionStatus, stalled_since: Option<Instant>) {
        self.lock().insert(row.key(), Shown { row, stalled_since });
    }

    /// Since when a row does not get on.
    pub fn stalled_since(&self, key: &Key) -> Option<Instant> {
        self.lock().get(key)?.stalled_since
    }

    /// Removes a row that no longer runs here.
    pub fn remove(&self, key: &Key) {
        self.lock().remove(key);
    }

    /// One row as it is now.
    pub fn row(&self, key: &Key) -> Option<PartitionStatus> {
        self.lock().get(key).map(Shown::now)
    }

    /// Keeps only rows that are `wanted`.
    pub fn retain(&self, wanted: impl Fn(&PartitionStatus) -> bool) {
        self.lock().retain(|_, shown| wanted(&shown.row));
    }

    /// All rows, in order.
    pub fn rows(&self) -> Vec<PartitionStatus> {
        self.lock().values().map(Shown::now).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Shown>> {
        // Rows are whole values: a panicking writer cannot leave half of one.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
