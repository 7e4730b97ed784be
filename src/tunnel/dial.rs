//! The edge's side of one handshake: from a URL to a lane that joined, or a reason by name.
//! Always a full handshake, under one absolute time limit.

use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, client};

use super::carrier::{Carrier, Way};
use super::connection::{
    ALPN, HANDSHAKE_TIME_MAX, Tls, UNAUTHENTICATED_READ_MAX, lane_id, meter_of, now_ms, reason_of, receive,
    send, server_name, speaks_bridge,
};
use super::edge::Edge;
use super::egress;
use super::handshake::{self, Agreed, Declined, Lane, judge_answer};
use super::meter::{Meter, MeteredSocket};
use super::outer::{self, Server, asked_for_certificate, reason_of_outer};
use super::reach::reach;
use super::reason::Reason;
use super::upgrade::{self, HeadError, read_head};
use super::wire::HELLO;
use crate::config::{LinkScheme, LinkUrl};

/// A lane that got its Welcome.
pub(super) struct Dialled {
    pub(super) tls: Tls,
    pub(super) agreed: Agreed,
    pub(super) lane_id: String,
}

/// A lane that did not.
pub(super) struct Failed {
    pub(super) declined: Declined,
    /// The connection, when it came to a hub process that does not have the link: it may ask once more.
    pub(super) elsewhere: Option<Box<Tls>>,
}

/// What the TLS of a `wss://` URL turned out to be.
enum Outer {
    /// The hub's own: the link's.
    Hub(Box<Tls>),
    /// An ingress's; the link's goes inside.
    Ingress(Carrier),
}

impl From<Reason> for Failed {
    fn from(reason: Reason) -> Self {
        Self { declined: reason.into(), elsewhere: None }
    }
}

impl Edge {
    /// Dials a URL for a lane.
    pub(super) async fn dial(&self, url: &LinkUrl, lane: &Lane) -> Result<Dialled, Failed> {
        let dialled = timeout(HANDSHAKE_TIME_MAX, async {
            let tls = self.connect(url).await?;
            self.greet(tls, lane).await
        });
        dialled.await.unwrap_or_else(|_| Err(Reason::Timeout.into()))
    }

    /// Says Hello on a connection that stands.
    pub(super) async fn greet_in_time(&self, tls: Tls, lane: &Lane) -> Result<Dialled, Failed> {
        let greeted = timeout(HANDSHAKE_TIME_MAX, self.greet(tls, lane));
        greeted.await.unwrap_or_else(|_| Err(Reason::Timeout.into()))
    }

    async fn connect(&self, url: &LinkUrl) -> Result<Tls, Reason> {
        let carrier = match url.scheme {
            LinkScheme::Tls => self.way_to(url, Way::TLS).await?,
            LinkScheme::Wss => match self.connect_outer(url).await? {
                Outer::Hub(tls) => return Ok(*tls),
                Outer::Ingress(carrier) => carrier,
            },
        };
        let connector = TlsConnector::from(self.tls.config.clone());
        let connected = connector.connect(server_name(&url.host)?, carrier).await;
        let tls = Tls::from(connected.map_err(|error| reason_of(&error))?);
        if !speaks_bridge(&tls) {
            return Err(Reason::NotABridge);
        }
        Ok(tls)
    }

    /// A socket whose other end is the URL's host, through a proxy if there has to be one.
    async fn way_to(&self, url: &LinkUrl, transport: &'static str) -> Result<Carrier, Reason> {
        let proxy = self.egress.proxy_for(&url.host);
        let (host, port) = proxy.map_or((&url.host, url.port), |proxy| (&proxy.host, proxy.port));
        let socket = reach(host, port).await.map_err(|error| Reason::Unreachable {
            error: match proxy {
                Some(proxy) => format!("the proxy {proxy}: {error}"),
                None => error.to_string(),
            },
        })?;
        let socket = MeteredSocket::new(socket, Meter::new(UNAUTHENTICATED_READ_MAX));
        let mut socket = socket.map_err(|error| reason_of(&error))?;
        if let Some(proxy) = proxy {
            egress::ask(proxy, &mut socket, url).await?;
        }
        Ok(Carrier::direct(socket, Way { transport, proxy: proxy.map(ToString::to_string) }))
    }

    /// The TLS of a `wss://` URL: the hub's own, which then is the link's, or an ingress's with a WebSocket inside.
    async fn connect_outer(&self, url: &LinkUrl) -> Result<Outer, Reason> {
        let Some(outer) = &self.outer else {
            return Err(Reason::Ended);
        };
        let mut shows_certificate = true;
        let (connected, met) = loop {
            let carrier = self.way_to(url, Way::WSS_HUB).await?;
            let (config, met) = outer.handshake(shows_certificate);
            match TlsConnector::from(config).connect(server_name(&url.host)?, carrier).await {
                // Some ingresses ask whoever comes; they get an empty answer.
                Err(error) if shows_certificate && asked_for_certificate(&error) => shows_certificate = false,
                Err(error) => return Err(reason_of_outer(&error)),
                Ok(tls) => break (tls, met),
            }
        };
        let protocol = connected.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        match (met.server(), protocol.as_deref()) {
            (Some(Server::Hub), Some(ALPN)) => Ok(Outer::Hub(Box::new(Tls::from(connected)))),
            (Some(Server::Other(not_the_hub)), Some(ALPN)) => Err(not_the_hub),
            (Some(Server::Other(_)), Some(outer::HTTP) | None) => {
                self.upgrade(url, connected).await.map(Outer::Ingress)
            }
            (_, _) => Err(Reason::NotABridge),
        }
    }

    async fn upgrade(&self, url: &LinkUrl, mut outer: client::TlsStream<Carrier>) -> Result<Carrier, Reason> {
        let key = upgrade::Key::new()?;
        let request = upgrade::request(url, &key);
        outer.write_all(request.as_bytes()).await.map_err(|error| reason_of(&error))?;
        outer.flush().await.map_err(|error| reason_of(&error))?;
        match read_head(&mut outer).await {
            Ok(head) => upgrade::judge_answer(&head, &key)?,
            // The page of a refusal: its status stands before it. Nobody speaks before the edge behind a 101.
            Err(HeadError::Early(head)) => {
                upgrade::judge_answer(&head, &key).and(Err(Reason::NotABridge))?;
            }
            Err(HeadError::TooLong) => return Err(Reason::NotABridge),
            Err(HeadError::Io(error)) => return Err(reason_of(&error)),
        }
        Ok(Carrier::ingress(outer).await)
    }

    async fn greet(&self, mut tls: Tls, lane: &Lane) -> Result<Dialled, Failed> {
        let hello = handshake::hello(
            &self.site,
            self.instance,
            lane,
            self.next_attempt(),
            self.budget_mbit_s(),
            now_ms(),
        );
        // A hub that refuses the key says so now, perhaps while we still write: its alert is what counts.
        let sent = send(&mut tls, HELLO, &hello).await;
        let answer = receive(&mut tls).await?;
        let hello = sent?;
        match judge_answer(&answer, &self.hub, lane) {
            Ok(agreed) => {
                self.note_clock(&agreed);
                meter_of(&tls).trust();
                let lane_id = lane_id(&tls, &hello, &answer.body)?;
                Ok(Dialled { tls, agreed, lane_id })
            }
            Err(declined) => {
                let elsewhere = (declined.reason == Reason::NoSuchLink).then(|| Box::new(tls));
                Err(Failed { declined, elsewhere })
            }
        }
    }

    fn note_clock(&self, agreed: &Agreed) {
        let skew_ms = handshake::skew_ms(agreed.time_ms, now_ms());
        self.metrics.clock_skew.set(skew_ms);
        if skew_ms.abs() > handshake::SKEW_WORTH_TELLING_MS {
            tracing::warn!(hub = self.hub, skew_ms, "the hub's clock differs from ours");
        }
    }
}
