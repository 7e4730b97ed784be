//! The edge's side of one handshake: from a URL to a lane that joined, or a reason by name.
//! Always a full handshake, under one absolute time limit.

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::connection::{
    HANDSHAKE_TIME_MAX, Tls, UNAUTHENTICATED_READ_MAX, lane_id, meter_of, now_ms, reason_of, receive, send,
    server_name, speaks_bridge,
};
use super::edge::Edge;
use super::handshake::{self, Agreed, Declined, Lane, judge_answer};
use super::meter::{Meter, MeteredSocket};
use super::reason::Reason;
use super::wire::HELLO;
use crate::config::LinkUrl;

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
        // An egress proxy's CONNECT or SOCKS5 belongs here, and the outer layer of wss:// after it.
        let socket = TcpStream::connect((url.host.as_str(), url.port))
            .await
            .map_err(|error| Reason::Unreachable { error: error.to_string() })?;
        let metered = MeteredSocket::new(socket, Meter::new(UNAUTHENTICATED_READ_MAX));
        let metered = metered.map_err(|error| reason_of(&error))?;
        let connector = TlsConnector::from(self.tls.clone());
        let connected = connector.connect(server_name(&url.host)?, metered).await;
        let tls = Tls::from(connected.map_err(|error| reason_of(&error))?);
        if !speaks_bridge(&tls) {
            return Err(Reason::NotABridge);
        }
        Ok(tls)
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
