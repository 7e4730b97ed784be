//! The edge's way to a hub's TLS: addresses, an egress proxy, an ingress. Shows the edge's certificate to nobody but the
//! pinned hub, and says nothing of the link.

use tokio::io::AsyncWriteExt;
use tokio_rustls::{TlsConnector, client};

use super::carrier::{Carrier, Way};
use super::connection::{
    ALPN, EdgeTls, Tls, UNAUTHENTICATED_READ_MAX, reason_of, server_name, speaks_bridge,
};
use super::egress;
use super::meter::{Meter, MeteredSocket};
use super::outer::{self, OuterTls, Server, asked_for_certificate, reason_of_outer};
use super::reach::reach;
use super::reason::Reason;
use super::upgrade::{self, HeadError, read_head};
use crate::config::{Egress, LinkScheme, LinkUrl};

/// What connections to a hub are made with.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) tls: EdgeTls,
    /// Where a URL is `wss://`.
    pub(super) outer: Option<OuterTls>,
    pub(super) egress: Egress,
}

/// What the TLS of a `wss://` URL turned out to be.
enum Outer {
    /// The hub's own: the link's.
    Hub(Box<Tls>),
    /// An ingress's; the link's goes inside.
    Ingress(Carrier),
}

impl Connector {
    /// The same with another half of TLS.
    pub(super) fn with(&self, tls: EdgeTls) -> Self {
        Self {
            outer: self.outer.as_ref().map(|outer| outer.with(tls.clone())),
            tls,
            egress: self.egress.clone(),
        }
    }

    /// A connection whose other end has proven to be the hub. It has not judged this edge yet, and nothing was said.
    pub(super) async fn connect(&self, url: &LinkUrl) -> Result<Tls, Reason> {
        self.connect_through(url).await.map_err(|mut reason| {
            if let Reason::Intercepted { via, .. } = &mut reason {
                *via = self.egress.proxy_for(&url.host).map(ToString::to_string);
            }
            reason
        })
    }

    async fn connect_through(&self, url: &LinkUrl) -> Result<Tls, Reason> {
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
        let proxy = proxy.map(ToString::to_string);
        Ok(Carrier::direct(socket, Way { transport, proxy, ended_by: None }))
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
            (Some(Server::Other(not_the_hub)), Some(outer::HTTP) | None) => {
                let ended_by = issuer_in(&not_the_hub);
                self.upgrade(url, connected, ended_by).await.map(Outer::Ingress)
            }
            (_, _) => Err(Reason::NotABridge),
        }
    }

    async fn upgrade(
        &self,
        url: &LinkUrl,
        mut outer: client::TlsStream<Carrier>,
        ended_by: Option<String>,
    ) -> Result<Carrier, Reason> {
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
        Ok(Carrier::ingress(outer, ended_by).await)
    }
}

/// Whose certificate ended a TLS that is not the hub's, as it says: capped and escaped.
fn issuer_in(not_the_hub: &Reason) -> Option<String> {
    let Reason::Intercepted { issuer, .. } = not_the_hub else {
        return None;
    };
    Some(issuer.clone())
}
