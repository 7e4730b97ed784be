//! What the tunnel hands to the other rooms: links that are up, and their relay lanes.
//! Holds no handshake and no TLS.

use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::budget::Budget;
use super::retiring::Retiring;
use super::stream_lanes::StreamLanes;

/// A link that was authenticated on both sides.
#[derive(Debug)]
pub struct Link {
    /// Equal on both sides; chosen by the hub.
    pub id: u64,
    /// The other site's authenticated name.
    pub peer: String,
    /// The other process (16 random bytes per process).
    pub instance: [u8; 16],
    /// How many relay lanes the edge was told to dial.
    pub relay_lanes: u16,
    /// What both sides know: bits of [`features`](super::features).
    pub features: u64,
    /// What may be sent in a second, by whoever sends over it.
    pub budget: Budget,
    /// Begins when another link has taken its place.
    pub retiring: Retiring,
    /// Lanes for single streams of its.
    pub stream_lanes: StreamLanes,
    /// Cancelled when the link is gone; cancelling it ends the link.
    pub ended: CancellationToken,
}

/// What happens in the tunnel, in order, to whoever carries things over it.
pub enum TunnelEvent {
    /// A link came up. Its relay lanes follow as they are dialled.
    LinkUp(LinkUp),
    /// A relay lane of a link that is up.
    RelayLane(RelayLane),
}

/// A link with its control stream's message ends. A control message is opaque here, at most
/// [`CONTROL_MESSAGE_LEN_MAX`] bytes. When `inbound` ends, the link is gone.
pub struct LinkUp {
    /// The link.
    pub link: Arc<Link>,
    /// Messages to the other side.
    pub outbound: mpsc::Sender<Bytes>,
    /// Messages from the other side.
    pub inbound: mpsc::Receiver<Bytes>,
}

/// A TLS connection of a link for relay frames, handshake done. The relay owns the framing; the tunnel
/// watches the socket and cancels `ended` on silence, so the relay must write something at least every
/// [`KEEPALIVE`](crate::tunnel::KEEPALIVE); and when the peer takes nothing any more, so that no write waits for
/// ever.
pub struct RelayLane {
    /// Its link.
    pub link: Arc<Link>,
    /// Index among the link's relay lanes, from 0.
    pub index: u16,
    /// The stream.
    pub stream: Box<dyn LaneStream>,
    /// Cancelled when the lane is gone; whoever finishes first cancels it, the edge then dials it anew.
    pub ended: CancellationToken,
}

/// A lane's byte stream.
pub trait LaneStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> LaneStream for T {}

/// Longest control message.
pub const CONTROL_MESSAGE_LEN_MAX: usize = 1 << 20;
