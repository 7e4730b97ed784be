//! Keeps one row of the status board true for one link: its lanes and their bytes. Decides nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    lanes: Mutex<Lanes>,
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

#[derive(Default)]
struct Lanes {
    shown: BTreeMap<(Kind, u32), Shown>,
    /// Of all that live, those too whose place a newer one has taken.
    meters: Vec<Arc<Meter>>,
    /// What ended ones carried.
    ended: Traffic,
}

#[derive(Clone, Copy, Default)]
struct Traffic {
    bytes_in: u64,
    bytes_out: u64,
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
    meter: Arc<Meter>,
}

impl Traffic {
    fn and(self, meter: &Arc<Meter>) -> Self {
        Self { bytes_in: self.bytes_in + meter.bytes_in(), bytes_out: self.bytes_out + meter.bytes_out() }
    }
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
                bytes_in: 0,
                bytes_out: 0,
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
        let lane = Shown { lane_id: lane_id.to_owned(), transport, meter: meter.clone() };
        let place = (kind, index);
        self.metrics.lanes.get_or_create(&KindLabel { kind: kind.word() }).inc();
        self.metrics.joined.get_or_create(&KindLabel { kind: kind.word() }).inc();
        let mut lanes = self.lanes();
        lanes.shown.insert(place, lane);
        lanes.meters.push(meter.clone());
        drop(lanes);
        self.refresh();
        ShownLane { link: self.clone(), place, lane_id: lane_id.to_owned(), meter }
    }

    /// What an operator should know of it though it is up, as long as that lasts.
    pub fn warn(&self, warning: Option<String>) {
        self.board.warn(&self.key, warning);
    }

    /// Waits until so many lanes are up, those of streams apart.
    pub async fn has_lanes(&self, count: usize) {
        // The sender lives in us.
        _ = self.count.subscribe().wait_for(|up| *up >= count).await;
    }

    /// Writes the row with the bytes of now.
    pub fn refresh(&self) {
        let lanes = self.lanes();
        self.count.send_replace(lanes.shown.keys().filter(|(kind, _)| *kind != Kind::Stream).count());
        let Traffic { bytes_in, bytes_out } = lanes.meters.iter().fold(lanes.ended, Traffic::and);
        let lanes = lanes.shown.iter().map(|((kind, index), lane)| LaneStatus {
            index: *index,
            kind: kind.word().to_owned(),
            lane_id: lane.lane_id.clone(),
            transport: lane.transport.clone(),
            bytes_in: lane.meter.bytes_in(),
            bytes_out: lane.meter.bytes_out(),
        });
        let budget_mbit_s = self.budget.mbit_s();
        let state = if self.retiring.is_begun() { "retiring" } else { "up" }.to_owned();
        let lanes = lanes.collect();
        let row = LinkStatus { lanes, bytes_in, bytes_out, budget_mbit_s, state, ..self.row.clone() };
        self.board.put(&self.key, row);
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut lanes = self.link.lanes();
        // A newer lane may have taken the place already.
        if lanes.shown.get(&self.place).is_some_and(|lane| lane.lane_id == self.lane_id) {
            lanes.shown.remove(&self.place);
        }
        lanes.meters.retain(|meter| !Arc::ptr_eq(meter, &self.meter));
        lanes.ended = lanes.ended.and(&self.meter);
        drop(lanes);
        self.link.refresh();
    }
}

/// A link's id as logs and board show it, equal on both sides.
pub fn link_id(id: u64) -> String {
    format!("{id:016x}")
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::tunnel::stream_lanes::StreamLanes;

    #[test]
    fn what_a_link_has_carried_never_grows_less_when_lanes_end_or_are_replaced() {
        let link = Link {
            id: 1,
            peer: "bank".into(),
            instance: [0; 16],
            relay_lanes: 1,
            features: 0,
            budget: Budget::new(0),
            retiring: Retiring::default(),
            stream_lanes: StreamLanes::default(),
            ended: CancellationToken::new(),
        };
        let (board, metrics) = (Board::default(), TunnelMetrics::default());
        let shown = ShownLink::new(&board, &metrics, &link, String::new(), RestsOn::default());
        let lane = |lane_id: &str, len| {
            let meter = Meter::new(u64::MAX);
            meter.on_read(len).unwrap();
            shown.lane(Kind::Stream, 0, lane_id, meter, "tls".into())
        };
        let carried = || (board.rows()[0].lanes.len(), board.rows()[0].bytes_in);
        let first = lane("a", 1000);
        assert_eq!(carried(), (1, 1000));
        let second = lane("b", 20);
        assert_eq!(carried(), (1, 1020), "it has the other's place");
        first.meter.on_read(5).unwrap();
        drop(first);
        assert_eq!(carried(), (1, 1025));
        drop(second);
        assert_eq!(carried(), (0, 1025));
    }
}
