//! The edge: dials the hub for as long as it runs, one control lane and the relay lanes that the hub tells.
//! Sends nothing of its own before the hub has proven its pin.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::backoff::{Backoff, spread};
use super::budget::{Budget, narrower};
use super::connect::Connector;
use super::connection::{self, Tls, meter_of, way_of};
use super::control::{self, MESSAGES_MAX, Mailbox, Side};
use super::dial::{Dialled, Failed};
use super::handshake::{Declined, Instance, Lane};
use super::hub_processes::HubProcesses;
use super::key::{self, EdgeCertificate};
use super::lane::{HandedOut, watch};
use super::link::{Link, LinkUp, RelayLane, TunnelEvent};
use super::network::Ways;
use super::outer::OuterTls;
use super::probe::{self, Tried};
use super::reason::Reason;
use super::said::Said;
use super::shown::{ShownLink, link_id};
use super::status::{Board, LinkStatus};
use super::streams::{LinkStreams, streams};
use super::wire::Kind;
use super::{TunnelError, TunnelMetrics};
use crate::config::credential::{EdgeKey, JoinToken};
use crate::config::secret_file;
use crate::config::{EdgeTunnel, LinkScheme, LinkUrl};

/// An edge whose token is read and whose key is made, not yet dialling.
pub struct EdgeDialer {
    cfg: EdgeTunnel,
    site: String,
    hub: String,
    instance: Instance,
    own_key: EdgeKey,
    connector: Connector,
    /// For a try only.
    small_hello: Connector,
    streams: Option<mpsc::Sender<LinkStreams>>,
}

impl EdgeDialer {
    /// Reads the token and makes the key; an error is one of the configuration.
    pub fn load(cfg: &EdgeTunnel, site: &str) -> Result<Self, TunnelError> {
        let token = read_token(cfg, site)?;
        let own =
            EdgeCertificate::of_token(&token).map_err(|error| rustls::Error::General(error.to_string()))?;
        let tls = connection::edge_tls(&token, &own)?;
        if let Some(login) = cfg.egress.proxy.as_ref().and_then(|proxy| proxy.login.as_ref()) {
            // It is read again at every dial; that it can be read is known now.
            secret_file::read(&login.password_file, TOKEN_FILE_LEN_MAX)
                .map_err(TunnelError::ProxyPassword)?;
        }
        let outer = if cfg.connect.iter().any(|url| url.scheme == LinkScheme::Wss) {
            Some(OuterTls::new(tls.clone(), cfg.outer_ca_file.as_deref())?)
        } else {
            None
        };
        let connector = Connector { tls, outer, egress: cfg.egress.clone() };
        Ok(Self {
            cfg: cfg.clone(),
            site: site.to_owned(),
            hub: token.hub.clone(),
            instance: key::random()?,
            small_hello: connector.with(connection::edge_tls_of_small_hello(&token, &own)?),
            connector,
            own_key: own.edge_key,
            streams: None,
        })
    }

    /// Tries each of its URLs once, all at a time, without making a link.
    pub async fn try_urls(&self) -> Vec<Tried> {
        let probe = |url| probe::probe(&self.connector, &self.small_hello, url);
        futures::future::join_all(self.cfg.connect.iter().map(probe)).await
    }

    /// Dials no relay lanes: a site without a cluster has nothing for them.
    #[must_use]
    pub fn without_relay_lanes(mut self) -> Self {
        self.cfg.lanes = 0;
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
            connector: self.connector,
            site: self.site,
            hub: self.hub,
            instance: self.instance,
            attempts: AtomicU32::new(0),
            metrics,
            own_key: self.own_key,
            cfg: self.cfg,
            tasks: TaskTracker::new(),
            processes: Mutex::default(),
            said: Mutex::default(),
            board,
            events,
            streams: self.streams,
            stop,
        });
        edge.keep_linked().await;
        edge.tasks.close();
        edge.tasks.wait().await;
        edge.board.remove(&edge.hub);
    }
}

fn read_token(cfg: &EdgeTunnel, site: &str) -> Result<JoinToken, TunnelError> {
    let file = &cfg.token_file;
    let text = secret_file::read(file, TOKEN_FILE_LEN_MAX)?;
    let token = JoinToken::parse(text.expose())
        .map_err(|source| TunnelError::Token { file: file.clone(), source })?;
    if token.edge != site {
        return Err(TunnelError::TokenOfAnother {
            file: file.clone(),
            token: token.edge.clone(),
            site: site.to_owned(),
        });
    }
    Ok(token)
}

/// What all tasks of an edge share.
pub(super) struct Edge {
    pub(super) connector: Connector,
    pub(super) site: String,
    pub(super) hub: String,
    pub(super) instance: Instance,
    pub(super) attempts: AtomicU32,
    pub(super) metrics: TunnelMetrics,
    own_key: EdgeKey,
    cfg: EdgeTunnel,
    tasks: TaskTracker,
    processes: Mutex<HubProcesses>,
    said: Mutex<Said>,
    board: Board,
    events: mpsc::Sender<TunnelEvent>,
    streams: Option<mpsc::Sender<LinkStreams>>,
    stop: CancellationToken,
}

impl Edge {
    /// Dials the configured URLs in turn, for ever.
    async fn keep_linked(self: &Arc<Self>) {
        let mut backoff = Backoff::new(DIAL_DELAY_FIRST, DIAL_DELAY_MAX);
        for url in self.cfg.connect.iter().cycle() {
            self.show_absent(url, None);
            let control = self.control_lane();
            let dialled = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                dialled = self.dial(url, &control) => dialled,
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

    fn control_lane(&self) -> Lane {
        Lane::Control { relay_lanes: self.cfg.lanes }
    }

    /// A link from its Welcome to its end.
    async fn run_link(self: &Arc<Self>, dialled: Dialled, url: &LinkUrl) -> Reason {
        let Dialled { tls, agreed, lane_id } = dialled;
        let ended = self.stop.child_token();
        let _ends_with_us = ended.clone().drop_guard();
        let link = Arc::new(Link {
            id: agreed.link,
            peer: self.hub.clone(),
            instance: agreed.instance,
            relay_lanes: agreed.relay_lanes,
            features: agreed.features,
            budget: Budget::new(narrower(agreed.budget_mbit_s, self.cfg.budget_mbit_s)),
            ended: ended.clone(),
        });
        self.processes().enter(agreed.instance, ended.clone());
        self.said().forget(&self.hub);
        self.board.remove(&self.hub);
        let shown = ShownLink::new(&self.board, &self.metrics, &link, remote_of(&tls, url));
        let lane = shown.lane(Kind::Control, 0, &lane_id, meter_of(&tls), way_of(&tls));
        let id = link_id(link.id);
        tracing::info!(peer = %link.peer, link = %id, kind = "control", %lane_id, %url, way = way_of(&tls), "lane up");
        let (outbound, to_write) = mpsc::channel(MESSAGES_MAX);
        let (read, inbound) = mpsc::channel(MESSAGES_MAX);
        let (streams, ends) = streams(&link, &self.metrics);
        let mailbox = Mailbox { outbound: to_write, inbound: read, streams: ends };
        let up = LinkUp { link: link.clone(), outbound, inbound };
        if let Some(taker) = &self.streams {
            // Nobody takes them any more when the process stops.
            _ = taker.send(streams).await;
        }
        let reason = match self.events.send(TunnelEvent::LinkUp(up)).await {
            Ok(()) => self.run_control(tls, mailbox, &link, &shown, url).await,
            Err(_) => Reason::Ended,
        };
        ended.cancel();
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

    async fn run_control(
        self: &Arc<Self>,
        tls: Tls,
        mailbox: Mailbox,
        link: &Arc<Link>,
        shown: &Arc<ShownLink>,
        url: &LinkUrl,
    ) -> Reason {
        for index in 0..link.relay_lanes {
            let (link, shown, url) = (link.clone(), shown.clone(), url.clone());
            self.tasks.spawn(self.clone().keep_relay_lane(link, shown, url, index));
        }
        let meter = meter_of(&tls);
        tokio::select! {
            biased;
            reason = watch(&meter, shown, &link.ended) => reason,
            reason = control::drive(tls, Side::Edge, mailbox, self.metrics.clone()) => reason,
        }
    }

    /// Dials one relay lane of a link, again whenever it ends, as long as the link lives.
    async fn keep_relay_lane(
        self: Arc<Self>,
        link: Arc<Link>,
        shown: Arc<ShownLink>,
        url: LinkUrl,
        index: u16,
    ) {
        let mut backoff = Backoff::new(DIAL_DELAY_FIRST, DIAL_DELAY_MAX);
        let lane = Lane::Relay { link: link.id, index };
        while !link.ended.is_cancelled() {
            let dialled = tokio::select! {
                biased;
                () = link.ended.cancelled() => return,
                dialled = self.dial(&url, &lane) => dialled,
            };
            let since = Instant::now();
            let mut wish = Duration::ZERO;
            match dialled {
                Ok(dialled) => self.run_relay_lane(dialled, &link, &shown, index).await,
                Err(failed) => {
                    wish = Duration::from_millis(failed.declined.retry_after_ms.into());
                    self.note_lane_failure(&link, index, &failed.declined.reason);
                    self.adopt(failed, &url).await;
                }
            }
            if since.elapsed() >= LASTED {
                backoff.reset();
            }
            self.pause(spread(backoff.next_delay(), jitter()).max(wish), &url, &link.ended).await;
        }
    }

    async fn run_relay_lane(&self, dialled: Dialled, link: &Arc<Link>, shown: &Arc<ShownLink>, index: u16) {
        let Dialled { tls, lane_id, .. } = dialled;
        let meter = meter_of(&tls);
        let ended = link.ended.child_token();
        let lane = shown.lane(Kind::Relay, index, &lane_id, meter.clone(), way_of(&tls));
        let id = link_id(link.id);
        tracing::info!(peer = %link.peer, link = %id, kind = "relay", index, %lane_id, "lane up");
        let relay = RelayLane {
            link: link.clone(),
            index,
            stream: Box::new(HandedOut::new(tls, &ended)),
            ended: ended.clone(),
        };
        let reason = match self.events.send(TunnelEvent::RelayLane(relay)).await {
            Ok(()) => watch(&meter, shown, &ended).await,
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
        let (Some(tls), Some(instance)) = (failed.elsewhere, failed.declined.instance) else {
            return;
        };
        let Some(reserved) = self.processes().reserve(instance).map(CancellationToken::drop_guard) else {
            return;
        };
        match self.greet_in_time(*tls, &self.control_lane()).await {
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

    /// Waits; not after this machine's network changed.
    async fn pause(&self, delay: Duration, url: &LinkUrl, unless: &CancellationToken) {
        // Either way there is nothing to lose.
        tokio::select! {
            () = unless.cancelled() => {}
            () = tokio::time::sleep(delay) => {}
            () = Ways::to(&url.host).changed(&url.host) => {}
        }
    }

    fn note_failure(&self, url: &LinkUrl, reason: &Reason) {
        self.metrics.count_end(reason);
        self.show_absent(url, Some(reason));
        if self.said().is_news(&self.hub, reason.code()) {
            let own_key = matches!(reason, Reason::RefusedUnknownKey).then(|| self.own_key.to_string());
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
            lanes: Vec::new(),
        };
        self.board.put(&self.hub, row);
    }

    fn processes(&self) -> MutexGuard<'_, HubProcesses> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the own configuration lets a link send, Mbit/s.
    pub(super) fn budget_mbit_s(&self) -> u32 {
        self.cfg.budget_mbit_s
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
fn jitter() -> u8 {
    key::random::<1>().map_or(0, |[byte]| byte)
}

const TOKEN_FILE_LEN_MAX: u64 = 4096;
const DIAL_DELAY_FIRST: Duration = Duration::from_millis(100);
/// An edge is back within this after a hub returns.
const DIAL_DELAY_MAX: Duration = Duration::from_secs(10);
/// What lasted this long was no failure: the next one begins the backoff anew.
const LASTED: Duration = Duration::from_secs(10);
