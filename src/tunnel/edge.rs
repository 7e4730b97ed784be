//! The edge: dials the hub for as long as it runs, one control lane and the relay lanes that the hub tells.
//! Sends nothing of its own before the hub has proven its pin.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::backoff::{Backoff, spread};
use super::budget::Budget;
use super::connection::{Tls, meter_of, way_of};
use super::control::{self, MESSAGES_MAX, Mailbox, Side, Words};
use super::dial::{Dialled, Failed};
use super::edge_trust::EdgeTrust;
use super::forewarning::{self, Expiry};
use super::handshake::{Declined, Instance, Lane};
use super::hub_processes::HubProcesses;
use super::hub_proof::watch;
use super::key;
use super::lane::HandedOut;
use super::link::{Link, LinkUp, RelayLane, TunnelEvent};
use super::network::Ways;
use super::probe::{self, Tried};
use super::reason::Reason;
use super::renewal::{Carried, due_after};
use super::retiring::Retiring;
use super::said::Said;
use super::shown::{ShownLink, link_id};
use super::standing::Standing;
use super::status::{Board, LinkStatus};
use super::stream_lanes::StreamLanes;
use super::streams::{LinkStreams, streams};
use super::wire::Kind;
use super::{TunnelError, TunnelMetrics};
use crate::config::{EdgeTunnel, LinkUrl};

/// An edge whose token is read and whose key is made, not yet dialling.
pub struct EdgeDialer {
    site: String,
    instance: Instance,
    trust: Standing<EdgeTrust>,
    relay_lanes_max: u16,
    streams: Option<mpsc::Sender<LinkStreams>>,
}

impl EdgeDialer {
    /// Reads the token and makes the key; an error is one of the configuration.
    pub fn load(cfg: &EdgeTunnel, site: &str) -> Result<Self, TunnelError> {
        let trust = Standing::new(EdgeTrust::load(cfg, site)?);
        let instance = key::random()?;
        Ok(Self { site: site.to_owned(), instance, trust, relay_lanes_max: u16::MAX, streams: None })
    }

    /// Where a reload puts what is to hold instead.
    pub fn trust(&self) -> Standing<EdgeTrust> {
        self.trust.clone()
    }

    /// Tries each of its URLs once, all at a time, without making a link.
    pub async fn try_urls(&self) -> Vec<Tried> {
        let trust = self.trust.now();
        let probe = |url| probe::probe(&trust, (&self.site, self.instance), url);
        futures::future::join_all(trust.cfg.connect.iter().map(probe)).await
    }

    /// What its trust rests on that expires, and when.
    pub fn expiries(&self) -> Vec<Expiry> {
        self.trust.now().expiries.clone()
    }

    /// Dials no relay lanes: a site without a cluster has nothing for them.
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

    /// Keeps a link to the hub until `stop`; returns when all of it is gone.
    pub async fn run(
        self,
        board: Board,
        metrics: TunnelMetrics,
        events: mpsc::Sender<TunnelEvent>,
        stop: CancellationToken,
    ) {
        let edge = Arc::new(Edge {
            hub: self.trust.now().hub.clone(),
            trust: self.trust,
            site: self.site,
            instance: self.instance,
            attempts: AtomicU32::new(0),
            metrics,
            tasks: TaskTracker::new(),
            processes: Mutex::default(),
            said: Mutex::default(),
            welcomed_by: Mutex::default(),
            board,
            events,
            streams: self.streams,
            relay_lanes_max: self.relay_lanes_max,
            stop,
        });
        let expiries = |trust: &EdgeTrust| trust.expiries.clone();
        edge.tasks.spawn(forewarning::tell(edge.trust.clone(), expiries, edge.stop.clone()));
        edge.keep_linked().await;
        edge.tasks.close();
        edge.tasks.wait().await;
        edge.board.remove(&edge.hub);
    }
}

/// What all tasks of an edge share.
pub(super) struct Edge {
    pub(super) trust: Standing<EdgeTrust>,
    pub(super) site: String,
    /// A reload cannot make it another.
    pub(super) hub: String,
    pub(super) instance: Instance,
    pub(super) attempts: AtomicU32,
    pub(super) metrics: TunnelMetrics,
    pub(super) tasks: TaskTracker,
    processes: Mutex<HubProcesses>,
    said: Mutex<Said>,
    /// What the latest link was welcomed by.
    welcomed_by: Mutex<Option<Arc<EdgeTrust>>>,
    board: Board,
    events: mpsc::Sender<TunnelEvent>,
    streams: Option<mpsc::Sender<LinkStreams>>,
    relay_lanes_max: u16,
    stop: CancellationToken,
}

impl Edge {
    /// Dials the configured URLs in turn, for ever.
    async fn keep_linked(self: &Arc<Self>) {
        let mut backoff = Backoff::new(DIAL_DELAY_FIRST, DIAL_DELAY_MAX);
        for nth in 0_usize.. {
            let trust = self.trust.now();
            let Some(url) = trust.cfg.connect.get(nth % trust.cfg.connect.len().max(1)) else {
                return;
            };
            self.show_absent(url, None);
            let control = self.control_lane(&trust, None);
            let dialled = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                dialled = self.dial_for_link(url, &control, &trust) => dialled,
            };
            let declined = match dialled {
                Ok(dialled) => {
                    let since = Instant::now();
                    let reason = self.run_link(dialled, url).await;
                    if since.elapsed() >= LASTED {
                        backoff.reset();
                    }
                    Declined::from(reason)
                }
                Err(failed) => failed.declined,
            };
            if self.stop.is_cancelled() {
                return;
            }
            self.note_failure(url, &declined.reason);
            let wish = Duration::from_millis(declined.retry_after_ms.into());
            self.pause(spread(backoff.next_delay(), jitter()).max(wish), url, &self.stop).await;
            if self.stop.is_cancelled() {
                return;
            }
        }
    }

    /// What to ask for a link with, in the place of another one or of none.
    pub(super) fn control_lane(&self, trust: &EdgeTrust, renews: Option<u64>) -> Lane {
        Lane::Control { relay_lanes: trust.cfg.lanes.min(self.relay_lanes_max), renews }
    }

    /// Carries a link from its Welcome to its end; `renews` is the one whose place it takes.
    pub(super) fn carry(
        self: &Arc<Self>,
        dialled: Dialled,
        url: &LinkUrl,
        renews: Option<&Link>,
    ) -> (Carried, JoinHandle<Reason>) {
        let Dialled { tls, agreed, lane_id, trust, proof } = dialled;
        let ended = self.stop.child_token();
        let (stream_lanes, asked) = StreamLanes::asking();
        let link = Arc::new(Link {
            id: agreed.link,
            peer: self.hub.clone(),
            instance: agreed.instance,
            relay_lanes: agreed.relay_lanes,
            features: agreed.features,
            budget: Budget::between(trust.cfg.budget_mbit_s, agreed.budget_mbit_s),
            retiring: Retiring::default(),
            stream_lanes,
            ended: ended.clone(),
        });
        match renews {
            Some(_) => self.processes().succeed(agreed.instance, ended),
            None => self.processes().enter(agreed.instance, ended),
        }
        self.said().forget(&self.hub);
        self.board.remove(&self.hub);
        let shown =
            ShownLink::new(&self.board, &self.metrics, &link, remote_of(&tls, url), trust.rests_on(&proof));
        let due = due_after(trust.cfg.lane_age, jitter());
        *self.welcomed_by.lock().unwrap_or_else(PoisonError::into_inner) = Some(trust.clone());
        let carried = Carried { link, shown, url: url.clone(), trust, proof: Arc::new(proof), due };
        self.tasks.spawn(self.clone().dial_stream_lanes(carried.clone(), asked));
        let over = self.tasks.spawn(self.clone().carry_through(tls, lane_id, carried.clone()));
        (carried, over)
    }

    /// A link has taken the place of the one before.
    pub(super) fn settle(&self, link: &Link) {
        self.processes().settle(link.instance);
    }

    async fn carry_through(self: Arc<Self>, tls: Tls, lane_id: String, carried: Carried) -> Reason {
        let Carried { link, shown, url, .. } = &carried;
        let _ends_with_us = link.ended.clone().drop_guard();
        let lane = shown.lane(Kind::Control, 0, &lane_id, meter_of(&tls), way_of(&tls));
        let id = link_id(link.id);
        tracing::info!(peer = %link.peer, link = %id, kind = "control", %lane_id, %url, way = way_of(&tls), "lane up");
        let (outbound, to_write) = mpsc::channel(MESSAGES_MAX);
        let (read, inbound) = mpsc::channel(MESSAGES_MAX);
        let (streams, ends) = streams(link, &self.metrics);
        let words = Words::of(link);
        let mailbox = Mailbox { outbound: to_write, inbound: read, streams: ends, words };
        let up = LinkUp { link: link.clone(), outbound, inbound };
        if let Some(taker) = &self.streams {
            // Nobody takes them any more when the process stops.
            _ = taker.send(streams).await;
        }
        let reason = match self.events.send(TunnelEvent::LinkUp(up)).await {
            Ok(()) => self.run_control(tls, mailbox, &carried).await,
            Err(_) => Reason::Ended,
        };
        link.ended.cancel();
        drop(lane);
        tracing::info!(
            peer = %link.peer,
            link = %id,
            kind = "control",
            %lane_id,
            reason = reason.code(),
            "link ended: {reason}"
        );
        reason
    }

    async fn run_control(self: &Arc<Self>, tls: Tls, mailbox: Mailbox, carried: &Carried) -> Reason {
        let Carried { link, shown, proof, .. } = carried;
        for index in 0..link.relay_lanes {
            self.tasks.spawn(self.clone().keep_relay_lane(carried.clone(), index));
        }
        let meter = meter_of(&tls);
        tokio::select! {
            biased;
            reason = watch(Kind::Control, &meter, shown, &link.ended, (&self.trust, proof)) => reason,
            reason = control::drive(tls, Side::Edge, mailbox, self.metrics.clone()) => reason,
        }
    }

    /// Dials one relay lane of a link, again whenever it ends, as long as the link lives.
    async fn keep_relay_lane(self: Arc<Self>, carried: Carried, index: u16) {
        let Carried { link, shown, url, trust, .. } = &carried;
        let mut backoff = Backoff::new(DIAL_DELAY_FIRST, DIAL_DELAY_MAX);
        let lane = Lane::Relay { link: link.id, index };
        while !link.ended.is_cancelled() && !link.retiring.is_begun() {
            let dialled = tokio::select! {
                biased;
                () = link.ended.cancelled() => return,
                dialled = self.dial(url, &lane, trust.clone()) => dialled,
            };
            let since = Instant::now();
            let mut wish = Duration::ZERO;
            match dialled {
                Ok(dialled) => self.run_relay_lane(dialled, link, shown, index).await,
                Err(failed) => {
                    wish = Duration::from_millis(failed.declined.retry_after_ms.into());
                    self.note_lane_failure(link, index, &failed.declined.reason);
                    self.adopt(failed, url).await;
                }
            }
            if since.elapsed() >= LASTED {
                backoff.reset();
            }
            self.pause(spread(backoff.next_delay(), jitter()).max(wish), url, &link.ended).await;
        }
    }

    async fn run_relay_lane(&self, dialled: Dialled, link: &Arc<Link>, shown: &Arc<ShownLink>, index: u16) {
        let Dialled { tls, lane_id, proof, .. } = dialled;
        let meter = meter_of(&tls);
        let ended = link.ended.child_token();
        let lane = shown.lane(Kind::Relay, index.into(), &lane_id, meter.clone(), way_of(&tls));
        let id = link_id(link.id);
        tracing::info!(peer = %link.peer, link = %id, kind = "relay", index, %lane_id, "lane up");
        let relay = RelayLane {
            link: link.clone(),
            index,
            stream: Box::new(HandedOut::new(tls, &ended)),
            ended: ended.clone(),
        };
        let reason = match self.events.send(TunnelEvent::RelayLane(relay)).await {
            Ok(()) => watch(Kind::Relay, &meter, shown, &ended, (&self.trust, &proof)).await,
            Err(_) => Reason::Ended,
        };
        drop(lane);
        self.metrics.count_end(&reason);
        tracing::info!(
            peer = %link.peer,
            link = %id,
            kind = "relay",
            index,
            %lane_id,
            reason = reason.code(),
            "lane ended: {reason}"
        );
    }

    /// A relay lane that a load balancer led to another hub process becomes a link of its own, when there is
    /// none to that process yet.
    async fn adopt(self: &Arc<Self>, failed: Failed, url: &LinkUrl) {
        let (Some(elsewhere), Some(instance)) = (failed.elsewhere, failed.declined.instance) else {
            return;
        };
        let Some(reserved) = self.processes().reserve(instance).map(CancellationToken::drop_guard) else {
            return;
        };
        let control = self.control_lane(&elsewhere.1, None);
        match self.greet_in_time(*elsewhere, &control).await {
            Ok(dialled) if dialled.agreed.instance == instance => {
                self.tasks.spawn(self.clone().run_adopted(dialled, url.clone(), reserved));
            }
            // One process in Refused, another in Welcome: no hub of ours says that.
            Ok(_) => self.note_failure(url, &Reason::Malformed),
            Err(_) => {}
        }
    }

    /// Boxed: links have lanes, and lanes may become links.
    fn run_adopted(
        self: Arc<Self>,
        dialled: Dialled,
        url: LinkUrl,
        reserved: DropGuard,
    ) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            // Held until the link has taken the place over.
            let _reserved = reserved;
            let reason = self.run_link(dialled, &url).await;
            self.note_failure(&url, &reason);
        })
    }

    /// Waits; not after this machine's network changed, nor what is dialled.
    pub(super) async fn pause(&self, delay: Duration, url: &LinkUrl, unless: &CancellationToken) {
        let mut replaced = self.trust.watch();
        // Either way there is nothing to lose. The sender of what is replaced lives in us.
        tokio::select! {
            () = unless.cancelled() => {}
            () = tokio::time::sleep(delay) => {}
            () = Ways::to(&url.host).changed(&url.host) => {}
            _ = replaced.changed() => {}
        }
    }

    fn note_failure(&self, url: &LinkUrl, reason: &Reason) {
        self.metrics.count_end(reason);
        self.show_absent(url, Some(reason));
        if self.said().is_news(&self.hub, reason.code()) {
            let own_key =
                matches!(reason, Reason::RefusedUnknownKey).then(|| self.trust.now().listed_as.clone());
            tracing::warn!(
                peer = %self.hub, %url, reason = reason.code(), own_key, remedy = reason.remedy(),
                "no link: {reason}"
            );
        }
    }

    fn note_lane_failure(&self, link: &Link, index: u16, reason: &Reason) {
        self.metrics.count_end(reason);
        let lane = format!("{}/{index}", link_id(link.id));
        if self.said().is_news(&lane, reason.code()) {
            tracing::warn!(
                peer = %link.peer,
                link = %link_id(link.id),
                index,
                reason = reason.code(),
                remedy = reason.remedy(),
                "no relay lane: {reason}"
            );
        }
    }

    /// Runs something that is waited for at the end.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// The row of a hub to which there is no link.
    fn show_absent(&self, url: &LinkUrl, reason: Option<&Reason>) {
        // Held until the row is written, so that it never stands beside the row of a link that just came up.
        let mut processes = self.processes();
        if processes.any() {
            return;
        }
        let refused = reason.is_some_and(Reason::is_refusal);
        let before = self.board.rows().into_iter().find(|row| row.link.is_none() && row.peer == self.hub);
        let row = LinkStatus {
            peer: self.hub.clone(),
            link: None,
            state: if refused { "refused" } else { "dialling" }.into(),
            // While the next attempt runs, why the last one failed is what an operator wants to see.
            reason: match reason {
                Some(reason) => Some(reason.code().to_owned()),
                None => before.as_ref().and_then(|row| row.reason.clone()),
            },
            remedy: match reason {
                Some(reason) => Some(reason.remedy().to_owned()),
                None => before.and_then(|row| row.remedy),
            },
            remote: Some(url.to_string()),
            budget_mbit_s: 0,
            edge_key: None,
            hub_root: None,
            bytes_in: 0,
            bytes_out: 0,
            lanes: Vec::new(),
        };
        self.board.put(&self.hub, row);
    }

    fn processes(&self) -> MutexGuard<'_, HubProcesses> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn welcomed_by(&self) -> Option<Arc<EdgeTrust>> {
        self.welcomed_by.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The number of the next dial of this process.
    pub(super) fn next_attempt(&self) -> u32 {
        self.attempts.fetch_add(1, Ordering::Relaxed) + 1
    }
}

fn remote_of(tls: &Tls, url: &LinkUrl) -> String {
    let carrier = tls.get_ref().0;
    // With a proxy the socket's other end says nothing of the hub.
    let address = carrier.remote().filter(|_| carrier.way().proxy.is_none());
    address.map_or_else(|| url.to_string(), |address| address.to_string())
}

/// A random byte; its quality matters to nobody.
pub(super) fn jitter() -> u8 {
    key::random::<1>().map_or(0, |[byte]| byte)
}

pub(super) const DIAL_DELAY_FIRST: Duration = Duration::from_millis(100);
/// An edge is back within this after a hub returns.
pub(super) const DIAL_DELAY_MAX: Duration = Duration::from_secs(10);
/// What lasted this long was no failure: the next one begins the backoff anew.
const LASTED: Duration = Duration::from_secs(10);
