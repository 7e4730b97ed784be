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
    /// By what the edge knows the hub on it: the pin of its root or, with an own PKI, its name. At a hub whose roots rotate
    /// both pins: which of them the edge goes by only the edge knows.
    #[serde(default)]
    pub hub_root: Option<String>,
    /// Lanes that live.
    pub lanes: Vec<LaneStatus>,
}

/// The tunnel's board. Bounded by the configured edges times `max_instances`.
#[derive(Clone, Default)]
pub struct Board {
    rows: Arc<Mutex<BTreeMap<String, LinkStatus>>>,
}

impl Board {
    /// Writes or replaces a row under a key of the writer's choice.
    pub fn put(&self, key: &str, row: LinkStatus) {
        self.lock().insert(key.to_owned(), row);
    }

    /// Removes a row.
    pub fn remove(&self, key: &str) {
        self.lock().remove(key);
    }

    /// All rows, in order.
    pub fn rows(&self) -> Vec<LinkStatus> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, LinkStatus>> {
        // Rows are whole values: a panicking writer cannot leave half of one.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
