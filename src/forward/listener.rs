//! The listening end of one forward: holds its address, listens while there is a link, and carries what it accepts.
//! Without a link the address is bound and refuses connections, as that of a server that is down does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio::io;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::agent::Inner;
use super::frames::{FORWARD, Open};
use super::links::is_lost;
use super::places::Places;
use super::reason::Reason;
use super::rules::ForwardSpec;
use super::splice::{Cut, Guarded, Role, splice};
use super::status::{End, Key, Row};
use crate::tunnel::streams::OpenError;

/// One that runs.
pub struct Listening {
    /// What it was started by.
    pub spec: ForwardSpec,
    /// Ends it and its connections.
    pub stop: CancellationToken,
    /// Why it refuses connections, if it does.
    pub state: watch::Receiver<Option<Reason>>,
}

/// The listening end.
pub struct Listener {
    inner: Arc<Inner>,
    spec: ForwardSpec,
    row: Arc<Row>,
    places: Arc<Places>,
    stop: CancellationToken,
    state: watch::Sender<Option<Reason>>,
}

impl Listener {
    /// Starts one that `declarer` declared.
    pub fn start(inner: &Arc<Inner>, spec: ForwardSpec, declarer: &str) -> Listening {
        let key = Key {
            forward: spec.name.clone(),
            declared_by: declarer.to_owned(),
            peer: spec.to.clone(),
            end: End::Listen,
        };
        let row = inner.board.row(key, &spec.target.to_string(), None);
        row.listens_at(spec.listen.to_string());
        // Also where another one had the row: that one no longer listens, and this one does not yet.
        row.refuses(Some(Reason::NoLink));
        let stop = CancellationToken::new();
        let (state, seen) = watch::channel(Some(Reason::NoLink));
        let listener = Arc::new(Self {
            inner: inner.clone(),
            places: Places::new(spec.limits),
            spec: spec.clone(),
            row,
            stop: stop.clone(),
            state,
        });
        inner.tasks.spawn(listener.run());
        Listening { spec, stop, state: seen }
    }

    async fn run(self: Arc<Self>) {
        let draining = self.inner.stop.clone();
        tokio::select! {
            biased;
            // Its row is gone, or another listener's by now.
            () = self.stop.cancelled() => return,
            () = draining.cancelled() => {}
            () = self.listen() => {}
        }
        self.show(Some(Reason::NoLink));
    }

    /// For ever: bound, waiting for a link, listening, and again.
    async fn listen(self: &Arc<Self>) {
        let mut address = self.spec.listen;
        let mut changes = self.inner.links.changes();
        let (mut pause, mut tries) = (BIND_PAUSE_MIN, 0_u32);
        loop {
            let bound = match bind(address) {
                Ok(bound) => bound,
                Err(error) => {
                    tries = tries.saturating_add(1);
                    if tries >= BIND_TRIES_UNTOLD {
                        self.cannot(&error);
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(BIND_PAUSE_MAX);
                    continue;
                }
            };
            tries = 0;
            // Port 0 is any port, but the same one from then on.
            address = bound.local_addr().unwrap_or(address);
            self.row.listens_at(address.to_string());
            while let Some(obstacle) = self.inner.links.obstacle(&self.spec.to) {
                self.show(Some(obstacle));
                // Its sender lives as long as we do.
                _ = changes.changed().await;
            }
            match bound.set_reuseaddr(true).and_then(|()| bound.listen(BACKLOG)) {
                Ok(listener) => {
                    pause = BIND_PAUSE_MIN;
                    self.show(None);
                    self.accept(&listener, &mut changes).await;
                }
                Err(error) => {
                    self.cannot(&error);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(BIND_PAUSE_MAX);
                }
            }
        }
    }

    /// Accepts until there is no link any more.
    async fn accept(self: &Arc<Self>, listener: &TcpListener, changes: &mut watch::Receiver<u64>) {
        loop {
            // Losing the race loses nothing: what was not accepted stays in the listener's queue.
            let accepted = tokio::select! {
                biased;
                _ = changes.changed() => {
                    if self.inner.links.obstacle(&self.spec.to).is_some() {
                        return;
                    }
                    continue;
                }
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((socket, client)) => _ = self.inner.tasks.spawn(self.clone().carry(socket, client)),
                // Out of descriptors, most likely: the listener stays readable and would spin.
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    /// One connection, from its acceptance to its end.
    async fn carry(self: Arc<Self>, socket: TcpStream, client: SocketAddr) {
        let Ok(socket) = Guarded::new(socket) else {
            return;
        };
        let place = match self.places.take() {
            Ok(place) => place,
            Err(reason) => return self.note_reset(reason, client),
        };
        let Some(way) = self.inner.links.next(&self.spec.to) else {
            return self.note_reset(Reason::NoLink, client);
        };
        let _uses = way.link.retiring.user();
        let open = Open { forward: self.spec.name.clone(), target: self.spec.target.to_string() };
        let stream = match way.opener.open(FORWARD, open.encode_to_vec()).await {
            Ok(stream) => stream,
            Err(error) => return self.note_reset(reason_of(error), client),
        };
        let (link, id) = (format!("{:016x}", way.link.id), stream.id());
        let forward = &self.spec.name;
        tracing::debug!(forward, peer = %way.link.peer, link, stream = id, %client, "connection opened");
        let (one, _carried) = (self.row.opened(), way.carried.one());
        let ended = tokio::select! {
            biased;
            ended = splice(socket, stream, Role::Listener, &self.row, &way.link) => ended,
            () = self.stop.cancelled() => Err(Cut::Refused(Reason::NoLongerAllowed)),
        };
        drop((one, place));
        tracing::debug!(forward, peer = %way.link.peer, link, stream = id, %client, ?ended, "connection ended");
        match ended {
            Err(Cut::Refused(reason)) => {
                self.note_reset(reason, client);
                way.count_if_gone(reason).await;
            }
            Err(Cut::Lane) => self.note_reset(Reason::LinkLost, client),
            Err(Cut::Stream) if is_lost(&way.link).await => {
                way.carried.count_cut();
                self.note_reset(Reason::LinkLost, client);
            }
            // TCP's own resets are nobody's refusal.
            Err(Cut::Stream | Cut::Socket) | Ok(()) => {}
        }
    }

    fn note_reset(&self, reason: Reason, client: SocketAddr) {
        if let Some(count) = self.row.count_reset(reason) {
            tracing::info!(
                forward = %self.spec.name, peer = %self.spec.to, target = %self.spec.target, %client, count,
                reason = reason.code(), remedy = reason.remedy(), "connections were reset"
            );
        }
    }

    fn cannot(&self, error: &io::Error) {
        let is_taken = error.kind() == io::ErrorKind::AddrInUse;
        let reason = if is_taken { Reason::AddressInUse } else { Reason::AddressUnavailable };
        if self.show(Some(reason)) {
            tracing::warn!(
                forward = %self.spec.name, listen = %self.spec.listen, %error,
                reason = reason.code(), remedy = reason.remedy(), "a forward cannot listen"
            );
        }
    }

    /// Whether it is news.
    fn show(&self, reason: Option<Reason>) -> bool {
        if self.stop.is_cancelled() {
            return false;
        }
        let is_news = self.row.refuses(reason);
        self.state.send_if_modified(|state| std::mem::replace(state, reason) != reason);
        if is_news && reason.is_none() {
            let listen = self.row.status().listen;
            tracing::info!(forward = %self.spec.name, peer = %self.spec.to, listen, "forward: listening");
        }
        is_news
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // As std's listener: what an earlier connection left in TIME_WAIT is in nobody's way.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    // While there is no link we do not listen, and whoever asks for the same could have the address beside us.
    socket.set_reuseaddr(false)?;
    Ok(socket)
}

fn reason_of(error: OpenError) -> Reason {
    match error {
        OpenError::PeerTooOld => Reason::PeerTooOld,
        OpenError::Full => Reason::TooManyConnections,
        OpenError::Gone => Reason::LinkLost,
    }
}

/// Connections that wait to be accepted; they are accepted at once.
const BACKLOG: u32 = 1024;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const BIND_PAUSE_MIN: Duration = Duration::from_millis(50);
/// Before this one nothing is told: what a reload takes out may not have given its address back yet.
const BIND_TRIES_UNTOLD: u32 = 3;
const BIND_PAUSE_MAX: Duration = Duration::from_secs(2);
