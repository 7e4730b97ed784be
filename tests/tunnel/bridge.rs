//! A hub and an edge as `bridge init` makes them, on port 0. Knows no assertion.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use pulsar_bridge::config::credential::{EdgeKey, JoinToken};
use pulsar_bridge::config::{
    EdgeCredential, EdgeEntry, EdgeTunnel, Egress, HubCertificate, HubTunnel, LinkUrl, TunnelLimits,
};
use pulsar_bridge::tunnel::init::{self, Request};
use pulsar_bridge::tunnel::link::{LinkUp, RelayLane, TunnelEvent};
use pulsar_bridge::tunnel::status::{Board, LinkStatus};
use pulsar_bridge::tunnel::{EdgeDialer, HubKeys, TunnelMetrics};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Keys of one hub (`riskfuel`) and its edges (`bank`, `other`).
pub struct Keys {
    dir: tempfile::TempDir,
}

impl Keys {
    pub fn new() -> Self {
        Self::at(SystemTime::now())
    }

    pub fn at(now: SystemTime) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let request = Request::New {
            forwards_only: false,
            hub: "riskfuel".into(),
            edges: vec!["bank".into(), "other".into()],
            url: LinkUrl::parse("tls://127.0.0.1:8001").unwrap(),
            out: dir.path().to_owned(),
        };
        init::init(&request, now).unwrap();
        Self { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn token_file(&self, edge: &str) -> PathBuf {
        self.path().join(edge).join("token")
    }

    pub fn token(&self, edge: &str) -> JoinToken {
        JoinToken::parse(&std::fs::read_to_string(self.token_file(edge)).unwrap()).unwrap()
    }

    /// The edges' public keys, as hub.json lists them.
    pub fn edge_keys(&self) -> Vec<EdgeKey> {
        let text = std::fs::read_to_string(self.path().join("hub/hub.json")).unwrap();
        let hub: serde_json::Value = serde_json::from_str(&text).unwrap();
        let edges = hub["tunnel"]["edges"].as_array().unwrap();
        let key = |edge: &serde_json::Value| EdgeKey::parse(edge["keys"][0].as_str().unwrap()).unwrap();
        edges.iter().map(key).collect()
    }

    pub fn hub_tunnel(&self) -> HubTunnel {
        let entry = |key: EdgeKey| EdgeEntry {
            name: key.edge.clone(),
            keys: vec![key],
            cert_name: None,
            policy: Default::default(),
            max_instances: 2,
            budget_mbit_s: 0,
        };
        HubTunnel {
            listen: "127.0.0.1:0".parse().unwrap(),
            certificate: HubCertificate::Issuer(self.path().join("hub/keys")),
            client_authorities: None,
            edges: self.edge_keys().into_iter().map(entry).collect(),
            limits: TunnelLimits::default(),
            trusted_proxies: Vec::new(),
        }
    }

    pub fn edge_tunnel(&self, edge: &str, hub: SocketAddr, lanes: u16) -> EdgeTunnel {
        EdgeTunnel {
            connect: vec![LinkUrl::parse(&format!("tls://{hub}")).unwrap()],
            credential: EdgeCredential::Token(self.token_file(edge)),
            lanes,
            lane_age: Duration::from_secs(86_400),
            trust_after: 0,
            budget_mbit_s: 0,
            egress: Egress::default(),
            outer_ca_file: None,
        }
    }
}

/// One running side.
pub struct Side {
    pub board: Board,
    pub metrics: TunnelMetrics,
    pub events: mpsc::Receiver<TunnelEvent>,
    pub stop: CancellationToken,
    pub task: JoinHandle<()>,
}

pub async fn hub(cfg: &HubTunnel) -> (Side, SocketAddr) {
    let listener = HubKeys::load(cfg, "riskfuel").unwrap().bind().await.unwrap();
    let address = listener.local_addr().unwrap();
    let (board, metrics, stop) = (Board::default(), TunnelMetrics::default(), CancellationToken::new());
    let (events, received) = mpsc::channel(16);
    let task = tokio::spawn(listener.serve(board.clone(), metrics.clone(), events, stop.clone()));
    let side = Side { board, metrics, events: received, stop, task };
    (side, address)
}

pub fn edge(cfg: EdgeTunnel, site: &str) -> Side {
    let (board, metrics, stop) = (Board::default(), TunnelMetrics::default(), CancellationToken::new());
    let (events, received) = mpsc::channel(16);
    let dialer = EdgeDialer::load(&cfg, site).unwrap();
    let task = tokio::spawn(dialer.run(board.clone(), metrics.clone(), events, stop.clone()));
    Side { board, metrics, events: received, stop, task }
}

impl Side {
    pub async fn link_up(&mut self) -> LinkUp {
        match in_time(self.events.recv()).await.unwrap() {
            TunnelEvent::LinkUp(up) => up,
            TunnelEvent::RelayLane(lane) => panic!("a relay lane {} instead of a link", lane.index),
        }
    }

    pub async fn relay_lane(&mut self) -> RelayLane {
        match in_time(self.events.recv()).await.unwrap() {
            TunnelEvent::RelayLane(lane) => lane,
            TunnelEvent::LinkUp(up) => panic!("a link {} instead of a lane", up.link.id),
        }
    }

    /// The first row of the board that fits.
    pub async fn row(&self, fits: impl Fn(&LinkStatus) -> bool) -> LinkStatus {
        row_of(|| self.board.rows(), fits).await
    }

    /// The row that gives this reason.
    pub async fn reason(&self, code: &str) -> LinkStatus {
        self.row(|row| row.reason.as_deref() == Some(code)).await
    }
}

pub async fn in_time<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(PATIENCE, what).await.expect("within the test's patience")
}

/// Longer than any timeout of the tunnel's own.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The first row of a board that fits, once there is one.
pub async fn row_of<T: std::fmt::Debug>(rows: impl Fn() -> Vec<T>, fits: impl Fn(&T) -> bool) -> T {
    let found = async {
        loop {
            if let Some(row) = rows().into_iter().find(|row| fits(row)) {
                return row;
            }
            // The board tells no changes; looking again is all there is.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, found).await {
        Ok(row) => row,
        Err(_) => panic!("no such row: {:#?}", rows()),
    }
}
