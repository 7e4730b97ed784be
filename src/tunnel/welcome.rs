//! The hub's side of one handshake: from a fresh socket to a lane that joined, or a refusal by name.
//! Runs under the accept task's time limit; dropping it half way leaves nothing behind.

use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::accept::Arrival;
use super::carrier::Carrier;
use super::connection::{Tls, lane_id, meter_of, now_ms, reason_of, receive, send, speaks_bridge};
use super::control::{MESSAGES_MAX, Mailbox, Words};
use super::forwarded::Caller;
use super::gate::Ticket;
use super::handshake::{self, Asked, Lane, judge_hello};
use super::hub::{Hub, LiveLink};
use super::hub_trust::Presented;
use super::key;
use super::link::{Link, LinkUp, TunnelEvent};
use super::links::{Joining, Links};
use super::reason::Reason;
use super::refusal::{Refusal, refused};
use super::shown::{ShownLink, link_id};
use super::streams::streams;
use super::trust::KnownKey;
use super::wire::{Frame, Kind, REFUSED, WELCOME};

/// A lane that got its Welcome.
pub(super) struct Joined {
    pub(super) tls: Tls,
    pub(super) link: Arc<Link>,
    pub(super) ended: CancellationToken,
    pub(super) shown: Arc<ShownLink>,
    pub(super) lane_id: String,
    pub(super) role: Role,
    pub(super) presented: Presented,
}

/// What the lane is, with what it needs. Dropping it ends the lane; the control lane's, the whole link.
pub(super) enum Role {
    Control(Box<Mailbox>, LiveLink),
    Relay(u16, DropGuard),
    Stream(u32, DropGuard),
}

impl Role {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Control(..) => Kind::Control,
            Self::Relay(..) => Kind::Relay,
            Self::Stream(..) => Kind::Stream,
        }
    }

    pub(super) fn index(&self) -> u32 {
        match self {
            Self::Control(..) => 0,
            Self::Relay(index, _) => (*index).into(),
            Self::Stream(stream, _) => *stream,
        }
    }
}

/// A connection that did not become a lane.
pub(super) struct Refusing {
    pub(super) reason: Reason,
    /// The edge, once its key told.
    pub(super) edge: Option<String>,
}

impl From<Reason> for Refusing {
    fn from(reason: Reason) -> Self {
        Self { reason, edge: None }
    }
}

/// A lane entered into the books, Welcome not yet sent.
struct Entered {
    link: Arc<Link>,
    ended: CancellationToken,
    shown: Arc<ShownLink>,
    role: Role,
}

impl Hub {
    /// The whole handshake.
    pub(super) async fn welcome(
        self: &Arc<Self>,
        socket: TcpStream,
        arrival: &Arrival<'_>,
    ) -> Result<Joined, Refusing> {
        let carrier = arrival.receive(socket).await?;
        let mut tls = self.accept_tls(carrier, arrival.ticket).await?;
        let remote = arrival.caller();
        let (known, presented) = self.edge_behind(&tls)?;
        arrival.ticket.proven();
        let of_edge = |reason| Refusing { reason, edge: Some(known.edge.clone()) };
        let mut was_elsewhere = false;
        for _ in 0..HELLOS_MAX {
            let hello = receive(&mut tls).await.map_err(|reason| {
                // It need not ask once more.
                let went = was_elsewhere && reason == Reason::PeerClosed;
                of_edge(if went { Reason::NoSuchLink } else { reason })
            })?;
            match self.enter(&hello, &known, &presented, &remote).await {
                Ok((asked, entered)) => {
                    let welcomed = self.say_welcome(tls, &hello, &asked, entered, presented);
                    return welcomed.await.map_err(of_edge);
                }
                Err(refusal) => {
                    let answer = refused(refusal, self.instance);
                    send(&mut tls, REFUSED, &answer).await.map_err(of_edge)?;
                    // A lane that came to the wrong process may become a link of its own.
                    if refusal != Refusal::NoSuchLink {
                        linger(&mut tls).await;
                        return Err(of_edge(refusal.reason()));
                    }
                    was_elsewhere = true;
                }
            }
        }
        Err(of_edge(Reason::NoSuchLink))
    }

    async fn accept_tls(&self, carrier: Carrier, ticket: &Ticket) -> Result<Tls, Reason> {
        let mut acceptor = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), carrier);
        let start = match (&mut acceptor).await {
            Ok(start) => start,
            Err(error) => {
                if let Some(mut socket) = acceptor.take_io() {
                    linger(&mut socket).await;
                }
                return Err(reason_of(&error));
            }
        };
        let computing = ticket.turn().await;
        let accepted = start.into_stream(self.trust.now().tls.clone()).into_fallible().await;
        drop(computing);
        match accepted {
            Ok(tls) => {
                let tls = Tls::from(tls);
                if speaks_bridge(&tls) { Ok(tls) } else { Err(Reason::NotABridge) }
            }
            Err((error, mut socket)) => {
                linger(&mut socket).await;
                Err(reason_of(&error))
            }
        }
    }

    /// The edge whose key proved itself in the TLS handshake.
    fn edge_behind(&self, tls: &Tls) -> Result<(KnownKey, Presented), Reason> {
        let (_, session) = tls.get_ref();
        let presented = session.peer_certificates().unwrap_or_default();
        let presented: Presented = presented.iter().map(|it| it.clone().into_owned()).collect();
        let known = self.trust.now().edge_of(&presented).ok_or(Reason::RefusedUnknownKey)?;
        Ok((known, presented))
    }

    async fn enter(
        self: &Arc<Self>,
        hello: &Frame,
        known: &KnownKey,
        presented: &Presented,
        remote: &Caller,
    ) -> Result<(Asked, Entered), Refusal> {
        let asked = judge_hello(hello, &known.edge, &self.site)?;
        self.note_clock(&asked, known);
        let entered = match asked.lane {
            Lane::Control { relay_lanes, .. } => {
                self.open(&asked, relay_lanes, known, presented, remote).await?
            }
            Lane::Relay { link, index } => {
                self.attach(&asked, link, |ends| Role::Relay(index, ends), known, presented)?
            }
            Lane::Stream { link, stream } => {
                self.attach(&asked, link, |ends| Role::Stream(stream, ends), known, presented)?
            }
        };
        Ok((asked, entered))
    }

    async fn open(
        self: &Arc<Self>,
        asked: &Asked,
        relay_lanes: u16,
        known: &KnownKey,
        presented: &Presented,
        remote: &Caller,
    ) -> Result<Entered, Refusal> {
        let id = key::random().map_or(0, u64::from_be_bytes).max(1);
        let ended = self.stop.child_token();
        let (opened, known) = {
            let (mut links, known) = self.links_of(known, presented)?;
            let joining = Joining {
                edge: &known.edge,
                presented,
                instance: asked.instance,
                attempt: asked.attempt,
                renews: asked.link(),
                features: asked.features,
                relay_lanes: relay_lanes.min(self.relay_lanes_max),
                max_instances: known.max_instances,
                budget_mbit_s: known.budget_mbit_s,
                asked_mbit_s: asked.budget_mbit_s,
            };
            (links.open(&joining, id, ended.clone())?, known)
        };
        let live = LiveLink { hub: self.clone(), link: opened.link.clone(), last_reason: Reason::PeerClosed };
        if opened.new_instance {
            tracing::info!(
                edge = known.edge, instance = key::hex(&asked.instance), instances = opened.instances,
                key = known.key_index, %remote, "a new process of this edge joins"
            );
        }
        let link = opened.link;
        let shown = ShownLink::new(
            &self.board,
            &self.metrics,
            &link,
            remote.to_string(),
            self.trust.now().rests_on(presented),
        );
        self.board.remove(&known.edge);
        self.shown_links().insert(id, shown.clone());
        let (outbound, to_write) = mpsc::channel(MESSAGES_MAX);
        let (read, inbound) = mpsc::channel(MESSAGES_MAX);
        let up = LinkUp { link: link.clone(), outbound, inbound };
        let (streams, ends) = streams(&link, &self.metrics);
        if let Some(taker) = &self.streams {
            // Nobody takes them any more when the process stops.
            _ = taker.send(streams).await;
        }
        // Before Welcome: so that no relay lane can be announced before its link.
        let announced = self.events.send(TunnelEvent::LinkUp(up)).await;
        announced.map_err(|_| Refusal::NoSuchLink)?;
        let words = Words::of(&link);
        let mailbox = Mailbox { outbound: to_write, inbound: read, streams: ends, words };
        Ok(Entered { link, ended, shown, role: Role::Control(Box::new(mailbox), live) })
    }

    fn attach(
        &self,
        asked: &Asked,
        link: u64,
        role: impl FnOnce(DropGuard) -> Role,
        known: &KnownKey,
        presented: &Presented,
    ) -> Result<Entered, Refusal> {
        let shown = self.shown_links().get(&link).cloned();
        let (mut links, known) = self.links_of(known, presented)?;
        let (link, ended) = links.attach(&known.edge, asked, link, presented)?;
        drop(links);
        Ok(Entered {
            link,
            role: role(ended.clone().drop_guard()),
            ended,
            shown: shown.ok_or(Refusal::NoSuchLink)?,
        })
    }

    /// The book of links, for an edge that is still known, with its bounds of now: what a reload takes away while a handshake goes on is not
    /// entered, because it goes through the book after the rules were replaced.
    fn links_of(
        &self,
        known: &KnownKey,
        presented: &Presented,
    ) -> Result<(MutexGuard<'_, Links>, KnownKey), Refusal> {
        let links = self.links();
        let now = self.trust.now().edge_of(presented).filter(|now| now.edge == known.edge);
        now.map(|now| (links, now)).ok_or(Refusal::UnknownKey)
    }

    async fn say_welcome(
        &self,
        mut tls: Tls,
        hello: &Frame,
        asked: &Asked,
        entered: Entered,
        presented: Presented,
    ) -> Result<Joined, Reason> {
        let link = &entered.link;
        let welcome = handshake::welcome(asked, &self.site, self.instance, link, now_ms());
        let body = send(&mut tls, WELCOME, &welcome).await?;
        let lane_id = lane_id(&tls, &hello.body, &body)?;
        meter_of(&tls).trust();
        Ok(Joined {
            tls,
            lane_id,
            link: entered.link,
            ended: entered.ended,
            shown: entered.shown,
            role: entered.role,
            presented,
        })
    }

    fn note_clock(&self, asked: &Asked, known: &KnownKey) {
        let skew_ms = handshake::skew_ms(asked.time_ms, now_ms());
        self.metrics.clock_skew.set(skew_ms);
        if skew_ms.abs() > handshake::SKEW_WORTH_TELLING_MS {
            tracing::warn!(
                edge = known.edge,
                link = asked.link().map(link_id).map(tracing::field::display),
                skew_ms,
                "the edge's clock differs from ours"
            );
        }
    }
}

/// Reads on for a moment, so that what was said last is not thrown away by a reset: the peer may already have
/// sent what nobody will read.
pub(super) async fn linger<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    let read_out = async {
        stream.shutdown().await?;
        let mut unread = [0; 1024];
        while stream.read(&mut unread).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    // Whatever happens here, the connection is over.
    _ = timeout(LINGER_MAX, read_out).await;
}

/// The first Hello, and one more after `no_such_link`.
const HELLOS_MAX: usize = 2;
const LINGER_MAX: Duration = Duration::from_secs(1);
