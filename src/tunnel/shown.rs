//! Keeps one row of the status board true for one link: its lanes and their bytes. Decides nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::budget::Budget;
use super::link::Link;
use super::meter::Meter;
use super::metrics::{KindLabel, TunnelMetrics};
use super::retiring::Retiring;
use super::status::{Board, LaneStatus, LinkStatus};
use super::wire::Kind;

/// A link's row; it leaves the board when the last holder drops it.
pub struct ShownLink {
    board: Board,
    metrics: TunnelMetrics,
    key: String,
    row: LinkStatus,
    budget: Budget,
    retiring: Retiring,
    lanes: Mutex<BTreeMap<(Kind, u32), Shown>>,
    count: watch::Sender<usize>,
}

/// What the trust in a link rests on, both ways.
#[derive(Debug, Default)]
pub struct RestsOn {
    /// By what the hub knows the edge.
    pub edge_key: Option<String>,
    /// By what the edge knows the hub.
    pub hub_root: Option<String>,
}

struct Shown {
    lane_id: String,
    transport: String,
    meter: Arc<Meter>,
}

/// A lane on the board as long as this lives.
pub struct ShownLane {
    link: Arc<ShownLink>,
    place: (Kind, u32),
    lane_id: String,
}

impl ShownLink {
    /// Puts a link that is up on the board.
    pub fn new(
        board: &Board,
        metrics: &TunnelMetrics,
        link: &Link,
        remote: String,
        rests_on: RestsOn,
    ) -> Arc<Self> {
        let id = link_id(link.id);
        metrics.links.inc();
        let shown = Arc::new(Self {
            board: board.clone(),
            metrics: metrics.clone(),
            key: format!("{}/{id}", link.peer),
            row: LinkStatus {
                peer: link.peer.clone(),
                link: Some(id),
                state: "up".into(),
                reason: None,
                remedy: None,
                remote: Some(remote),
                budget_mbit_s: link.budget.mbit_s(),
                edge_key: rests_on.edge_key,
                hub_root: rests_on.hub_root,
                lanes: Vec::new(),
            },
            budget: link.budget.clone(),
            retiring: link.retiring.clone(),
            lanes: Mutex::default(),
            count: watch::Sender::new(0),
        });
        shown.refresh();
        shown
    }

    /// Adds a lane.
    pub fn lane(
        self: &Arc<Self>,
        kind: Kind,
        index: u32,
        lane_id: &str,
        meter: Arc<Meter>,
        transport: String,
    ) -> ShownLane {
        let lane = Shown { lane_id: lane_id.to_owned(), transport, meter };
        let place = (kind, index);
        self.metrics.lanes.get_or_create(&KindLabel { kind: kind.word() }).inc();
        self.metrics.joined.get_or_create(&KindLabel { kind: kind.word() }).inc();
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).insert(place, lane);
        self.refresh();
        ShownLane { link: self.clone(), place, lane_id: lane_id.to_owned() }
    }

    /// Waits until so many lanes are up, those of streams apart.
    pub async fn has_lanes(&self, count: usize) {
        // The sender lives in us.
        _ = self.count.subscribe().wait_for(|up| *up >= count).await;
    }

    /// Writes the row with the bytes of now.
    pub fn refresh(&self) {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        self.count.send_replace(lanes.keys().filter(|(kind, _)| *kind != Kind::Stream).count());
        let lanes = lanes.iter().map(|((kind, index), lane)| LaneStatus {
            index: *index,
            kind: kind.word().to_owned(),
            lane_id: lane.lane_id.clone(),
            transport: lane.transport.clone(),
            bytes_in: lane.meter.bytes_in(),
            bytes_out: lane.meter.bytes_out(),
        });
        let budget_mbit_s = self.budget.mbit_s();
        let state = if self.retiring.is_begun() { "retiring" } else { "up" }.to_owned();
        let row = LinkStatus { lanes: lanes.collect(), budget_mbit_s, state, ..self.row.clone() };
        self.board.put(&self.key, row);
    }
}

impl Drop for ShownLink {
    fn drop(&mut self) {
        self.metrics.links.dec();
        self.board.remove(&self.key);
    }
}

impl Drop for ShownLane {
    fn drop(&mut self) {
        let kind = self.place.0.word();
        self.link.metrics.lanes.get_or_create(&KindLabel { kind }).dec();
        let mut lanes = self.link.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        // A newer lane may have taken the place already.
        if lanes.get(&self.place).is_some_and(|lane| lane.lane_id == self.lane_id) {
            lanes.remove(&self.place);
        }
        drop(lanes);
        self.link.refresh();
    }
}

/// A link's id as logs and board show it, equal on both sides.
pub fn link_id(id: u64) -> String {
    format!("{id:016x}")
}
