//! The hub: accepts sockets, authenticates edges, makes links and attaches lanes.
//! Tells nothing of its site before Welcome, and never waits for one peer in the accept loop.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch as changes};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::accept::Arrival;
use super::admission::Address;
use super::connection::{meter_of, way_of};
use super::control::{self, Side};
use super::forewarning::{self, Expiry};
use super::forwarded::{Caller, is_trusted};
use super::gate::{Gate, Ticket};
use super::handshake::Instance;
use super::hub_trust::{HubTrust, Presented};
use super::key;
use super::lane::{HandedOut, watch};
use super::link::{Link, RelayLane, TunnelEvent};
use super::links::{Links, RELAY_LANES_MAX};
use super::reason::Reason;
use super::said::Said;
use super::shown::{ShownLink, link_id};
use super::standing::Standing;
use super::status::{Board, LinkStatus};
use super::strangers::{Line, Strangers};
use super::stream_lanes::heard_taken;
use super::streams::LinkStreams;
use super::welcome::{Joined, Refusing, Role};
use super::wire::Kind;
use super::{TunnelError, TunnelMetrics};
use crate::config::HubTunnel;

/// A hub whose identity is loaded, not yet listening.
pub struct HubKeys {
    listen: SocketAddr,
    site: String,
    instance: Instance,
    trust: Standing<HubTrust>,
    streams: Option<mpsc::Sender<LinkStreams>>,
    relay_lanes_max: u16,
}

impl HubKeys {
    /// Loads the identity and the edges' keys; an error is one of the configuration.
    pub fn load(cfg: &HubTunnel, site: &str) -> Result<Self, TunnelError> {
        Ok(Self {
            listen: cfg.listen,
            site: site.to_owned(),
            instance: key::random()?,
            trust: Standing::new(HubTrust::load(cfg, site, None)?),
            streams: None,
            relay_lanes_max: RELAY_LANES_MAX,
        })
    }

    /// Where a reload puts what is to hold instead.
    pub fn trust(&self) -> Standing<HubTrust> {
        self.trust.clone()
    }

    /// Tells edges to dial no relay lanes: a site without a cluster has nothing for them.
    #[must_use]
    pub fn without_relay_lanes(mut self) -> Self {
        self.relay_lanes_max = 0;
        self
    }

    /// Hands each link's streams to this room; without one, what peers open is dropped.
    #[must_use]
    pub fn with_streams(mut self, streams: mpsc::Sender<LinkStreams>) -> Self {
        self.streams = Some(streams);
        self
    }

    /// What its trust rests on that expires, and when.
    pub fn expiries(&self) -> Vec<Expiry> {
        self.trust.now().expiries()
    }

    /// Where it will listen.
    pub fn address(&self) -> SocketAddr {
        self.listen
    }

    /// Binds the port.
    pub async fn bind(self) -> std::io::Result<HubListener> {
        Ok(HubListener { listener: TcpListener::bind(self.listen).await?, keys: self })
    }
}

/// A hub whose port is bound, not yet accepting.
pub struct HubListener {
    listener: TcpListener,
    keys: HubKeys,
}

impl HubListener {
    /// Where it listens.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Accepts edges until `stop`; then every link ends, and this returns when all are gone.
    pub async fn serve(
        self,
        board: Board,
        metrics: TunnelMetrics,
        events: mpsc::Sender<TunnelEvent>,
        stop: CancellationToken,
    ) {
        let Self { listener, keys } = self;
        if let Ok(address) = listener.local_addr() {
            tracing::info!(%address, "tunnel: listening");
        }
        let hub = Arc::new(Hub {
            site: keys.site,
            instance: keys.instance,
            gate: Gate::new(&keys.trust.now().limits, metrics.clone()),
            trust: keys.trust,
            links: Mutex::default(),
            shown: Mutex::default(),
            said: Mutex::default(),
            strangers: Mutex::default(),
            born: Instant::now(),
            board,
            metrics,
            events,
            streams: keys.streams,
            relay_lanes_max: keys.relay_lanes_max,
            stop,
        });
        let mut replaced = hub.trust.watch();
        // Not held while it is looked at: whoever waits to replace it would be waited for.
        let trust = replaced.borrow_and_update().clone();
        hub.hold_to(&trust);
        if let Some(text) = trust.has_no_tombstones() {
            tracing::warn!("{text}");
        }
        let tasks = TaskTracker::new();
        tasks.spawn(forewarning::tell(hub.trust.clone(), HubTrust::expiries, hub.stop.clone()));
        tasks.spawn(hub.clone().hold_to_each(replaced));
        hub.accept(&listener, &tasks).await;
        drop(listener);
        tasks.close();
        tasks.wait().await;
    }
}

/// What all tasks of a hub share.
pub(super) struct Hub {
    pub(super) site: String,
    pub(super) instance: Instance,
    pub(super) trust: Standing<HubTrust>,
    pub(super) board: Board,
    pub(super) metrics: TunnelMetrics,
    pub(super) events: mpsc::Sender<TunnelEvent>,
    pub(super) streams: Option<mpsc::Sender<LinkStreams>>,
    pub(super) relay_lanes_max: u16,
    pub(super) stop: CancellationToken,
    gate: Arc<Gate>,
    links: Mutex<Links>,
    /// Rows of links that live, for their relay lanes.
    shown: Mutex<BTreeMap<u64, Arc<ShownLink>>>,
    said: Mutex<Said>,
    strangers: Mutex<Strangers>,
    born: Instant,
}

impl Hub {
    async fn accept(self: &Arc<Self>, listener: &TcpListener, tasks: &TaskTracker) {
        let mut pause = ACCEPT_PAUSE_MIN;
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((socket, remote)) => {
                    pause = ACCEPT_PAUSE_MIN;
                    // Whom a trusted proxy speaks for, it says first.
                    let trust = self.trust.now();
                    let address = Some(remote.ip()).filter(|ip| !is_trusted(*ip, &trust.trusted_proxies));
                    let ticket = self.gate.enter(address);
                    tasks.spawn(self.clone().receive(socket, remote, ticket));
                }
                Err(error) => {
                    // Out of descriptors, most likely: trying again at once would only burn the CPU.
                    self.metrics.accept_errors.inc();
                    if self.said().is_news("accept", "accept_error") {
                        tracing::warn!(%error, "cannot accept connections");
                    }
                    tokio::select! {
                        () = self.stop.cancelled() => return,
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
                }
            }
        }
    }

    async fn receive(self: Arc<Self>, socket: TcpStream, remote: SocketAddr, ticket: Ticket) {
        let trust = self.trust.now();
        let known = OnceLock::new();
        let arrival = Arrival { remote, trusted: &trust.trusted_proxies, ticket: &ticket, caller: &known };
        let welcomed = tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Reason::Ended.into()),
            () = ticket.displaced() => Err(Reason::Displaced.into()),
            welcomed = timeout(trust.limits.handshake_timeout, self.welcome(socket, &arrival)) =>
                welcomed.unwrap_or_else(|_| Err(Reason::Timeout.into())),
        };
        if let Ok(joined) = &welcomed {
            ticket.welcomed(&joined.link.peer);
        }
        let caller = arrival.caller();
        drop(ticket);
        match welcomed {
            Ok(joined) => self.run(joined, &caller).await,
            Err(refusing) => self.note_refusal(&refusing, &caller),
        }
    }

    fn note_refusal(&self, refusing: &Refusing, remote: &Caller) {
        let Refusing { reason, edge } = refusing;
        self.metrics.count_end(reason);
        let Some(edge) = edge else {
            return self.note_stranger(reason, remote);
        };
        if *reason == Reason::Checked {
            if self.said().is_news(edge, reason.code()) {
                tracing::info!(%remote, edge, reason = reason.code(), "`bridge check`: {reason}");
            }
            return;
        }
        let routine = matches!(reason, Reason::NoSuchLink | Reason::Superseded | Reason::Ended);
        if !routine {
            self.show_absent(edge, Some(reason));
        }
        if self.said().is_news(edge, reason.code()) {
            tracing::warn!(%remote, edge, reason = reason.code(), remedy = reason.remedy(), "connection refused: {reason}");
        }
    }

    /// Of somebody who proved no key.
    fn note_stranger(&self, reason: &Reason, remote: &Caller) {
        let address = Address::from(remote.ip());
        let line = self.strangers.lock().unwrap_or_else(PoisonError::into_inner).count(
            address,
            reason.code(),
            self.born.elapsed(),
        );
        let Some(Line { count, passed_over, is_warning }) = line else {
            return;
        };
        // A macro, because a level cannot be a value.
        macro_rules! say {
            ($level:ident) => {
                tracing::$level!(
                    %remote, edge = "(unknown)", %address, count, passed_over, reason = reason.code(), remedy = reason.remedy(),
                    "connection refused: {reason}"
                )
            };
        }
        if is_warning { say!(warn) } else { say!(info) }
    }

    async fn run(&self, joined: Joined, remote: &Caller) {
        let Joined { mut tls, link, ended, shown, lane_id, role, presented } = joined;
        let (kind, index) = (role.kind(), role.index());
        let meter = meter_of(&tls);
        let lane = shown.lane(kind, index, &lane_id, meter.clone(), way_of(&tls));
        let id = link_id(link.id);
        // One connection's lane is told where connections are.
        let is_told = kind != Kind::Stream;
        if is_told {
            self.said().forget(&link.peer);
            tracing::info!(peer = %link.peer, link = %id, kind = kind.word(), index, %lane_id, %remote, way = way_of(&tls), "lane up");
        }
        let reason = match role {
            Role::Control(mailbox, mut live) => {
                let reason = tokio::select! {
                    biased;
                    reason = watch(kind, &meter, &shown, &ended) => reason,
                    reason = control::drive(tls, Side::Hub, *mailbox, self.metrics.clone()) => reason,
                };
                let reason = self.because(reason, &link, &presented);
                live.last_reason = reason.clone();
                reason
            }
            Role::Relay(index, _ends_with_us) => {
                let relay = RelayLane {
                    link: link.clone(),
                    index,
                    stream: Box::new(HandedOut::new(tls, &ended)),
                    ended: ended.clone(),
                };
                match self.events.send(TunnelEvent::RelayLane(relay)).await {
                    Ok(()) => self.because(watch(kind, &meter, &shown, &ended).await, &link, &presented),
                    Err(_) => Reason::Ended,
                }
            }
            Role::Stream(stream, _ends_with_us) => {
                match ended.run_until_cancelled(heard_taken(&mut tls)).await {
                    Some(Ok(())) => {
                        tracing::debug!(peer = %link.peer, link = %id, stream, %lane_id, "a stream has a lane of its own");
                        link.stream_lanes.hand(stream, HandedOut::new(tls, &ended), ended.clone());
                        self.because(watch(kind, &meter, &shown, &ended).await, &link, &presented)
                    }
                    Some(Err(reason)) => reason,
                    None => self.because(Reason::Ended, &link, &presented),
                }
            }
        };
        drop(lane);
        self.metrics.count_end(&reason);
        if is_told {
            tracing::info!(
                peer = %link.peer, link = %id, kind = kind.word(), index, %lane_id, reason = reason.code(),
                "lane ended: {reason}"
            );
        }
    }

    /// An end of our own making has a reason when the edge's key is no longer what it was.
    fn because(&self, reason: Reason, link: &Link, presented: &Presented) -> Reason {
        let is_revoked = reason == Reason::Ended && !self.trust.now().knows(&link.peer, presented);
        if is_revoked { Reason::Revoked } else { reason }
    }

    /// Holds what lives to whatever a reload puts in place.
    async fn hold_to_each(self: Arc<Self>, mut replaced: changes::Receiver<Arc<HubTrust>>) {
        loop {
            // Losing the race loses nothing: what was not looked at is looked at next time. The sender lives in us.
            tokio::select! {
                () = self.stop.cancelled() => return,
                _ = replaced.changed() => {}
            }
            let trust = replaced.borrow_and_update().clone();
            self.hold_to(&trust);
        }
    }

    /// Lanes whose key is not known any more end; others are not touched.
    fn hold_to(&self, trust: &HubTrust) {
        trust.measure(&self.metrics);
        self.gate.hold_to(&trust.limits);
        let ended = self.links().end_unknown(|edge, presented| trust.knows(edge, presented));
        self.links().hold_to_budgets(|presented| Some(trust.edge_of(presented)?.budget_mbit_s));
        for edge in ended {
            tracing::warn!(edge, "lanes whose key is no longer accepted are ended");
        }
        let gone = |peer: &str| !trust.edges.contains(peer);
        for row in self.board.rows().iter().filter(|row| row.link.is_none() && gone(&row.peer)) {
            self.board.remove(&row.peer);
        }
        let rows = self.board.rows();
        for edge in &trust.edges {
            let row = rows.iter().find(|row| row.peer == *edge);
            let is_shown_out = row.is_some_and(|row| row.reason.as_deref() == Some(SHUT_OUT));
            if row.is_none() || is_shown_out != trust.shut_out.contains(edge) {
                self.show_absent(edge, None);
            }
        }
    }

    /// The row of an edge that has no link here.
    fn show_absent(&self, edge: &str, reason: Option<&Reason>) {
        // Held until the row is written, so that it never stands beside the row of a link that just came up.
        let mut links = self.links();
        if links.count_of(edge) > 0 {
            return;
        }
        let trust = self.trust.now();
        if !trust.edges.contains(edge) {
            return self.board.remove(edge);
        }
        let (code, remedy) = match reason {
            _ if trust.shut_out.contains(edge) => (SHUT_OUT, SHUT_OUT_REMEDY),
            Some(reason) => (reason.code(), reason.remedy()),
            None => ("not_dialled", NOT_DIALLED_REMEDY),
        };
        let row = LinkStatus {
            peer: edge.to_owned(),
            link: None,
            state: "waiting".into(),
            reason: Some(code.to_owned()),
            remedy: Some(remedy.to_owned()),
            remote: None,
            budget_mbit_s: 0,
            edge_key: None,
            hub_root: None,
            bytes_in: 0,
            bytes_out: 0,
            lanes: Vec::new(),
        };
        self.board.put(edge, row);
    }

    pub(super) fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn shown_links(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<ShownLink>>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A link in the hub's books: when this goes, link, lanes and rows go, whatever happened.
pub(super) struct LiveLink {
    pub(super) hub: Arc<Hub>,
    pub(super) link: Arc<Link>,
    /// Why it ended, for the edge's row.
    pub(super) last_reason: Reason,
}

impl Drop for LiveLink {
    fn drop(&mut self) {
        self.link.ended.cancel();
        self.hub.shown_links().remove(&self.link.id);
        self.hub.show_absent(&self.link.peer, Some(&self.last_reason));
    }
}

const NOT_DIALLED_REMEDY: &str = "start the edge, and see in its log whether it reaches this hub; an edge that \
                                  runs dials again within 10 s";
/// Of an edge that the configuration lists without a key.
const SHUT_OUT: &str = "shut_out";
const SHUT_OUT_REMEDY: &str = "none needed if it was meant: nobody joins as this edge while its entry in tunnel.edges \
                               has no key; `bridge init --rotate` makes one, or `bridge init --own-key` with \
                               another --out at an edge that makes its own";
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(10);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);
