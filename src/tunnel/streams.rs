//! Streams of a control lane for other rooms: one for each connection that they carry. The first frame of a stream
//! says its kind; what a peer opens beyond the bounds is dropped. Knows nothing of what a stream carries.
//!
//! ```text
//! [ len u32 | HEAD | StreamHead ]  then whatever its room says     (the opener)
//! [ len u32 | UNWANTED | code u32 ]                                (the answer to a kind that nobody here serves)
//! ```

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::poll_fn;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};
use tokio_util::sync::CancellationToken;

use super::features::{STREAM_LANES, STREAMS};
use super::link::Link;
use super::metrics::TunnelMetrics;
use super::stream_lanes::{Awaited, Halves, StreamLanes};
use super::tally::Tally;
use super::wire::{STREAM_HEAD, STREAM_UNWANTED, read_frame, write_frame};

/// The streams of one link, handed to the room that uses them. When `inbound` ends, the link is gone.
pub struct LinkStreams {
    /// The link.
    pub link: Arc<Link>,
    /// Opens streams to the other side.
    pub opener: Opener,
    /// Streams that the other side opened.
    pub inbound: mpsc::Receiver<Inbound>,
}

/// Opens streams of one link. Cheap to clone.
#[derive(Clone)]
pub struct Opener {
    asks: mpsc::Sender<oneshot::Sender<yamux::Stream>>,
    tally: Tally,
    lanes: Option<StreamLanes>,
    places: Arc<Semaphore>,
    understood: bool,
}

/// A stream that the other side opened.
pub struct Inbound {
    /// What it says it is for.
    pub kind: u32,
    /// What its room wrote first, at most [`HEAD_LEN_MAX`] bytes: the peer's words.
    pub head: Bytes,
    /// The rest.
    pub stream: LinkStream,
}

/// A stream's bytes. Dropped without a word of its room's own, it is reset. The number of an ended stream is reused by
/// nobody.
#[derive(Debug)]
pub struct LinkStream {
    inner: Compat<yamux::Stream>,
    id: u32,
    tally: Tally,
    flooded: CancellationToken,
    lanes: Option<StreamLanes>,
    _place: OwnedSemaphorePermit,
}

/// Why no stream was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The other side's version has no streams.
    #[error("the other side is too old for it")]
    PeerTooOld,
    /// All places of the link are taken.
    #[error("the link has {STREAMS_PER_SIDE} streams already")]
    Full,
    /// There is no link any more.
    #[error("the link is gone")]
    Gone,
}

/// The first frame of a stream.
#[derive(Clone, PartialEq, Message)]
pub struct StreamHead {
    /// What the stream is for.
    #[prost(uint32, tag = "1")]
    pub kind: u32,
    /// The first words of its room.
    #[prost(bytes = "bytes", tag = "2")]
    pub head: Bytes,
}

/// The control lane's side of [`LinkStreams`].
pub(super) struct StreamEnds {
    pub(super) asks: mpsc::Receiver<oneshot::Sender<yamux::Stream>>,
    /// What waits unread in them.
    pub(super) tally: Tally,
    accepting: Accepting,
}

/// Takes in what the peer opens.
struct Accepting {
    inbound: Option<mpsc::Sender<Inbound>>,
    tally: Tally,
    lanes: Option<StreamLanes>,
    places: Arc<Semaphore>,
    heads: JoinSet<()>,
    metrics: TunnelMetrics,
}

/// Both ends of a link's streams.
pub(super) fn streams(link: &Arc<Link>, metrics: &TunnelMetrics) -> (LinkStreams, StreamEnds) {
    let (asks, asked) = mpsc::channel(ASKS_MAX);
    let (inbound, received) = mpsc::channel(STREAMS_PER_SIDE);
    let understood = link.features & STREAMS != 0;
    let places = Arc::new(Semaphore::new(STREAMS_PER_SIDE));
    let tally = Tally::default();
    let lanes = (link.features & STREAM_LANES != 0).then(|| link.stream_lanes.clone());
    let opener = Opener { asks, tally: tally.clone(), lanes: lanes.clone(), places, understood };
    let ends = StreamEnds {
        asks: asked,
        tally: tally.clone(),
        accepting: Accepting {
            inbound: understood.then_some(inbound),
            tally,
            lanes,
            places: Arc::new(Semaphore::new(STREAMS_PER_SIDE)),
            heads: JoinSet::new(),
            metrics: metrics.clone(),
        },
    };
    (LinkStreams { link: link.clone(), opener, inbound: received }, ends)
}

#[cfg(test)]
impl LinkStreams {
    /// Of a link to this site whose control lane is gone a moment before it.
    pub(crate) fn of_ending(peer: &str) -> Self {
        let link = Link {
            id: 1,
            peer: peer.to_owned(),
            instance: [1; 16],
            relay_lanes: 0,
            features: STREAMS,
            budget: super::budget::Budget::between(0, 0),
            retiring: super::retiring::Retiring::default(),
            stream_lanes: StreamLanes::default(),
            ended: CancellationToken::new(),
        };
        streams(&Arc::new(link), &TunnelMetrics::default()).0
    }
}

impl Opener {
    /// Opens a stream of this kind and writes its head. Waits for no answer of the peer.
    pub async fn open(&self, kind: u32, head: Vec<u8>) -> Result<LinkStream, OpenError> {
        if !self.understood {
            return Err(OpenError::PeerTooOld);
        }
        let place = self.places.clone().try_acquire_owned().map_err(|_| OpenError::Full)?;
        let (reply, opened) = oneshot::channel();
        self.asks.send(reply).await.map_err(|_| OpenError::Gone)?;
        let stream = opened.await.map_err(|_| OpenError::Gone)?;
        let mut stream = LinkStream::new(stream, self.tally.clone(), self.lanes.clone(), place);
        let head = StreamHead { kind, head: head.into() }.encode_to_vec();
        write_frame(&mut stream, STREAM_HEAD, &head).await.map_err(|_| OpenError::Gone)?;
        Ok(stream)
    }

    /// Whether the other side's version has streams.
    pub fn is_understood(&self) -> bool {
        self.understood
    }
}

impl LinkStream {
    fn new(
        stream: yamux::Stream,
        tally: Tally,
        lanes: Option<StreamLanes>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let id = stream.id().val();
        let flooded = tally.begin(id);
        Self { inner: stream.compat(), id, tally, flooded, lanes, _place: place }
    }

    /// From now on a lane of its own may come for it, where the other side's version has them.
    pub fn await_lane(&self) -> Option<(Awaited, Halves)> {
        self.lanes.as_ref().map(|lanes| lanes.awaited(self.id))
    }

    /// Cancelled when the peer has sent so many small pieces, unread, that the stream has to end.
    pub fn flooded(&self) -> CancellationToken {
        self.flooded.clone()
    }

    /// Its number in the link, equal on both sides.
    pub fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for LinkStream {
    fn drop(&mut self) {
        self.tally.forget(self.id);
    }
}

impl StreamEnds {
    /// Takes in a stream that the peer opened; never waits.
    pub(super) fn accept(&mut self, stream: yamux::Stream) {
        self.accepting.accept(stream);
    }
}

impl Accepting {
    fn accept(&mut self, stream: yamux::Stream) {
        while self.heads.try_join_next().is_some() {}
        let (Some(inbound), Ok(place)) = (self.inbound.clone(), self.places.clone().try_acquire_owned())
        else {
            // An honest peer counts as we do; what it opens nevertheless is reset.
            self.tally.forget(stream.id().val());
            self.metrics.streams_dropped.inc();
            return;
        };
        let stream = LinkStream::new(stream, self.tally.clone(), self.lanes.clone(), place);
        let mut greeting = Box::pin(greet(stream, inbound));
        // The head of an honest peer comes with the opening itself.
        if (&mut greeting).now_or_never().is_some() {
            return;
        }
        if self.heads.len() >= HEADS_MAX {
            self.metrics.streams_dropped.inc();
            return;
        }
        // It may be slow in coming; it holds up no other stream.
        self.heads.spawn(async move {
            _ = timeout(HEAD_TIME_MAX, greeting).await;
        });
    }
}

async fn greet(mut stream: LinkStream, inbound: mpsc::Sender<Inbound>) {
    let Ok(frame) = read_frame(&mut stream, HEAD_LEN_MAX + HEAD_AROUND_MAX).await else {
        return;
    };
    let head = match StreamHead::decode(frame.body) {
        Ok(head) if frame.kind == STREAM_HEAD => head,
        Ok(_) | Err(_) => return,
    };
    // There is room for as many as have places.
    _ = inbound.try_send(Inbound { kind: head.kind, head: head.head, stream });
}

/// Says that nobody here serves this kind, and lets go once the peer has heard it.
pub async fn unwanted(mut stream: LinkStream) {
    let said = async {
        write_frame(&mut stream, STREAM_UNWANTED, &UNKNOWN_KIND.to_be_bytes()).await?;
        gone(&mut stream).await;
        io::Result::Ok(())
    };
    _ = timeout(HEAD_TIME_MAX, said).await;
}

/// Waits until the other side has dropped the stream; what it still sends is thrown away.
pub async fn gone(stream: &mut LinkStream) {
    let mut unread = [0; 1024];
    poll_fn(|cx| {
        loop {
            let mut buf = ReadBuf::new(&mut unread);
            match Pin::new(&mut *stream).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
}

impl AsyncRead for LinkStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.tally.read(self.id, buf.filled().len() - before);
        read
    }
}

impl AsyncWrite for LinkStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Streams that each side may have opened on one link, counted until it lets go of them.
pub const STREAMS_PER_SIDE: usize = 256;
/// Longest words of a room in a stream's head.
pub const HEAD_LEN_MAX: u32 = 1024;
/// The only code of an answer to a head: nobody serves its kind.
pub const UNKNOWN_KIND: u32 = 1;
/// What stands around them in the frame.
const HEAD_AROUND_MAX: u32 = 32;
/// An honest opener writes it at once.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
/// Streams asked for and not yet opened; they are opened at once.
const ASKS_MAX: usize = 16;
/// Streams whose head is still awaited, each with a task: an honest peer's comes with the opening.
const HEADS_MAX: usize = 16;
