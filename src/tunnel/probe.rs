//! One try of a link's URL, for `bridge check`: whether the right hub is there, by which way, who ends TLS on it, and
//! whether it knows this edge. Makes no link: the hub is asked for its judgement, and for no lane.

use std::time::Duration;

use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};

use super::connection::{HANDSHAKE_TIME_MAX, Tls, now_ms, receive, send};
use super::dial::of_own_certificate;
use super::edge_trust::EdgeTrust;
use super::handshake::{self, check_hello, judge_checked};
use super::reason::Reason;
use super::wire::HELLO;
use crate::config::LinkUrl;

/// How far a URL got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tried {
    /// The URL.
    pub url: String,
    /// The proxy that the way leads through.
    pub proxy: Option<String>,
    /// The transport, when the hub was reached: `tls`, `wss` or `wss (hub)`.
    pub transport: Option<String>,
    /// Who issued the certificate that ends the outer TLS, as it says; that end sees nothing of the link.
    pub outer_tls_ends_at: Option<String>,
    /// How long the hub's judgement took to come, in milliseconds: the way there and back, at least 1.
    pub round_trip_ms: Option<u64>,
    /// Why the hub was not reached, or does not take this edge: a code of the tunnel's catalogue.
    pub reason: Option<String>,
    /// It in words.
    pub told: Option<String>,
    /// What an operator can do about it.
    pub remedy: Option<String>,
    /// Whether the hub is reached with a ClientHello without X25519MLKEM768, where it is not with one: then a firewall
    /// on the way refuses the larger one.
    pub small_hello_passes: Option<bool>,
}

/// Tries a URL, for a process of this site.
pub(super) async fn probe(trust: &EdgeTrust, own: (&str, handshake::Instance), url: &LinkUrl) -> Tried {
    let proxy = trust.connector.egress.proxy_for(&url.host).map(ToString::to_string);
    let mut tried = Tried {
        url: url.to_string(),
        proxy,
        transport: None,
        outer_tls_ends_at: None,
        round_trip_ms: None,
        reason: None,
        told: None,
        remedy: None,
        small_hello_passes: None,
    };
    let connected =
        timeout(HANDSHAKE_TIME_MAX, trust.connector.connect(url)).await.unwrap_or(Err(Reason::Timeout));
    let refused = match connected {
        Ok(mut tls) => {
            let way = tls.get_ref().0.way();
            tried.transport = Some(way.transport.to_owned());
            tried.outer_tls_ends_at.clone_from(&way.ended_by);
            let asked = timeout(HANDSHAKE_TIME_MAX, ask(&mut tls, own, &trust.hub)).await;
            let round_trip = asked.unwrap_or(Err(Reason::Timeout));
            tried.round_trip_ms = round_trip
                .as_ref()
                .ok()
                .map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1));
            round_trip.err()
        }
        Err(reason) => Some(reason),
    };
    if let Some(reason) = refused {
        // How a filter looks that does not know the larger ClientHello: silence, a reset, an alert.
        let may_be_filtered = matches!(reason, Reason::Timeout | Reason::PeerClosed | Reason::NotABridge);
        if tried.transport.is_none() && may_be_filtered {
            let small = timeout(HANDSHAKE_TIME_MAX, trust.small_hello.connect(url)).await;
            tried.small_hello_passes = Some(matches!(small, Ok(Ok(_))));
        }
        tried.reason = Some(reason.code().to_owned());
        tried.told = Some(reason.to_string());
        tried.remedy = Some(reason.remedy().to_owned());
    }
    tried
}

/// Asks the hub for its judgement, and takes leave; gives how long the hub took.
async fn ask(
    tls: &mut Tls,
    (site, instance): (&str, handshake::Instance),
    hub: &str,
) -> Result<Duration, Reason> {
    let began = Instant::now();
    // A hub that refuses the key or certificate says so now, perhaps while we still write: its alert is what counts.
    let sent = send(tls, HELLO, &check_hello((site, hub), instance, now_ms())).await;
    let answer = receive(tls).await.map_err(of_own_certificate)?;
    let took = began.elapsed();
    sent?;
    // The judgement is there; how the connection ends changes nothing of it.
    _ = timeout(LEAVE_MAX, tls.shutdown()).await;
    judge_checked(&answer, hub).map(|()| took)
}

/// For the last word to be written.
const LEAVE_MAX: Duration = Duration::from_secs(1);
