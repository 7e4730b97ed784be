//! One try of a link's URL, for `bridge check`: whether the pinned hub is there, by which way, and who ends TLS on it.
//! Makes no link: the hub sees a connection on which nobody says Hello.

use std::time::Duration;

use serde::Serialize;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::connect::Connector;
use super::connection::{HANDSHAKE_TIME_MAX, reason_of};
use super::reason::Reason;
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

/// Tries a URL.
pub(super) async fn probe(connector: &Connector, small_hello: &Connector, url: &LinkUrl) -> Tried {
    let proxy = connector.egress.proxy_for(&url.host).map(ToString::to_string);
    let mut tried = Tried {
        url: url.to_string(),
        proxy,
        transport: None,
        outer_tls_ends_at: None,
        reason: None,
        told: None,
        remedy: None,
        small_hello_passes: None,
    };
    let connected = timeout(HANDSHAKE_TIME_MAX, connector.connect(url)).await.unwrap_or(Err(Reason::Timeout));
    let refused = match connected {
        Ok(mut tls) => {
            let way = tls.get_ref().0.way();
            tried.transport = Some(way.transport.to_owned());
            tried.outer_tls_ends_at.clone_from(&way.ended_by);
            // A hub that does not take the key says so at once; one that does waits for a word.
            match timeout(VERDICT_PATIENCE, tls.read_u8()).await {
                Err(_) => None,
                Ok(Err(error)) => Some(reason_of(&error)),
                Ok(Ok(_)) => Some(Reason::Malformed),
            }
        }
        Err(reason) => Some(reason),
    };
    if let Some(reason) = refused {
        // How a filter looks that does not know the larger ClientHello: silence, a reset, an alert.
        let may_be_filtered = matches!(reason, Reason::Timeout | Reason::PeerClosed | Reason::NotABridge);
        if tried.transport.is_none() && may_be_filtered {
            let small = timeout(HANDSHAKE_TIME_MAX, small_hello.connect(url)).await;
            tried.small_hello_passes = Some(matches!(small, Ok(Ok(_))));
        }
        tried.reason = Some(reason.code().to_owned());
        tried.told = Some(reason.to_string());
        tried.remedy = Some(reason.remedy().to_owned());
    }
    tried
}

/// A round trip across the world, and the hub's judgement.
const VERDICT_PATIENCE: Duration = Duration::from_millis(1500);
