//! What the tunnel publishes about its links; read by `admin`, written by `tunnel`. Plain data.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// One lane of a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneStatus {
    /// Index within its kind.
    pub index: u32,
    /// `control`, `relay`, or `stream` for what carries one connection that carries much.
    pub kind: String,
    /// Evidence id, equal on both sides (first 16 hex digits of the exporter).
    pub lane_id: String,
    /// `tls`, `wss`, or `wss (hub)` where the hub itself answers a `wss://` URL; at an edge also the proxy.
    #[serde(default)]
    pub transport: String,
    /// Bytes read from the socket.
    pub bytes_in: u64,
    /// Bytes written to the socket.
    pub bytes_out: u64,
}

/// One link, up or being dialled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// The other site.
    pub peer: String,
    /// Link id, equal on both sides; `None` while there is none.
    pub link: Option<String>,
    /// `up`, or `retiring` once another has taken its place; without a link `dialling` or `refused` (somebody must act) at an edge, `waiting` at a hub.
    pub state: String,
    /// Why it is not up: a code of the tunnel's catalogue.
    pub reason: Option<String>,
    /// What an operator can do about it.
    pub remedy: Option<String>,
    /// The remote address, where known.
    pub remote: Option<String>,
    /// What it may send each way, Mbit/s; 0: no bound.
    #[serde(default)]
    pub budget_mbit_s: u32,
    /// By what the hub knows the edge on it: its key, `bk1.…`, or the name in its certificate.
    #[serde(default)]
    pub edge_key: Option<String>,
    /// By what the edge knew the hub when it came up: the pin of its root or, with an own PKI, its name. While roots
    /// rotate the pins, joined by commas: at an edge those of its token that vouched for the hub, in the token's order, at
    /// the hub both, the newest first: which of them an edge has only the edge knows.
    #[serde(default)]
    pub hub_root: Option<String>,
    /// Bytes read from its sockets since it is up, those of lanes that have ended included.
    #[serde(default)]
    pub bytes_in: u64,
    /// Bytes written to them.
    #[serde(default)]
    pub bytes_out: u64,
    /// Lanes that live.
    pub lanes: Vec<LaneStatus>,
}

/// The tunnel's board. Bounded by the configured edges times `max_instances`.
#[derive(Clone, Default)]
pub struct Board {
    rows: Arc<Mutex<BTreeMap<String, Shown>>>,
}

/// A row, and what an operator should know of it though it is up.
#[derive(Debug)]
struct Shown {
    row: LinkStatus,
    warning: Option<String>,
}

impl Board {
    /// Writes or replaces a row under a key of the writer's choice; its warning stays.
    pub fn put(&self, key: &str, row: LinkStatus) {
        let mut rows = self.lock();
        let warning = rows.remove(key).and_then(|shown| shown.warning);
        rows.insert(key.to_owned(), Shown { row, warning });
    }

    /// Puts a warning beside a row, or takes it away; it goes with the row.
    pub fn warn(&self, key: &str, warning: Option<String>) {
        if let Some(shown) = self.lock().get_mut(key) {
            shown.warning = warning;
        }
    }

    /// What an operator should know of links that are up.
    pub fn warnings(&self) -> Vec<String> {
        self.lock().values().filter_map(|shown| shown.warning.clone()).collect()
    }

    /// Removes a row.
    pub fn remove(&self, key: &str) {
        self.lock().remove(key);
    }

    /// All rows, in order.
    pub fn rows(&self) -> Vec<LinkStatus> {
        self.lock().values().map(|shown| shown.row.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Shown>> {
        // Rows are whole values: a panicking writer cannot leave half of one.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
