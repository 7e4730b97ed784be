//! Lanes for single streams of a link: who may carry so much that a connection of its own is worth it, and what came for
//! whom. A stream that stands still then holds nothing of the window that all streams of a lane share. Only the edge
//! dials; dials nothing itself.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::connection::{HANDSHAKE_TIME_MAX, Tls, receive};
use super::lane::HandedOut;
use super::meter::Meter;
use super::reason::Reason;
use super::wire::STREAM_TAKEN;

/// Those of one link. Cheap to clone; all clones are of the same.
#[derive(Clone, Debug, Default)]
pub struct StreamLanes {
    waiting: Arc<Mutex<HashMap<u32, Waiting>>>,
    /// To whoever dials; without one, they come by the other side's wish.
    asks: Option<mpsc::Sender<u32>>,
}

#[derive(Debug)]
struct Waiting {
    /// When somebody dialled for it last.
    dialled: Option<Instant>,
    writer: oneshot::Sender<LaneWriter>,
    reader: oneshot::Sender<LaneReader>,
}

/// A stream's half of it: what will come, if anything does. Dropped, nothing comes any more.
#[derive(Debug)]
pub struct Awaited {
    lanes: StreamLanes,
    stream: u32,
}

/// Both directions of what comes. Each ends without a value when nothing will.
pub struct Halves {
    /// What is said goes on here.
    pub writer: oneshot::Receiver<LaneWriter>,
    /// What the other side says goes on here.
    pub reader: oneshot::Receiver<LaneReader>,
}

/// Says something on a lane of one stream.
#[derive(Debug)]
pub struct LaneWriter {
    inner: WriteHalf<HandedOut>,
    ended: CancellationToken,
}

/// Hears what is said on a lane of one stream.
#[derive(Debug)]
pub struct LaneReader {
    inner: ReadHalf<HandedOut>,
    meter: Arc<Meter>,
}

impl StreamLanes {
    /// Those of a link whose lanes are dialled by whoever has the other end.
    pub(super) fn asking() -> (Self, mpsc::Receiver<u32>) {
        let (asks, asked) = mpsc::channel(ASKS_MAX);
        (Self { asks: Some(asks), ..Self::default() }, asked)
    }

    /// A stream would take one.
    pub(super) fn awaited(&self, stream: u32) -> (Awaited, Halves) {
        let ((writer, writes), (reader, reads)) = (oneshot::channel(), oneshot::channel());
        self.lock().insert(stream, Waiting { dialled: None, writer, reader });
        (Awaited { lanes: self.clone(), stream }, Halves { writer: writes, reader: reads })
    }

    /// Somebody dials for it now; false where nobody is to: it is gone, or somebody did a moment ago.
    pub(super) fn begin(&self, stream: u32) -> bool {
        let mut waiting = self.lock();
        let Some(waiting) = waiting.get_mut(&stream) else {
            return false;
        };
        let now = Instant::now();
        let is_due = waiting.dialled.is_none_or(|dialled| now.duration_since(dialled) >= DIAL_AGAIN_AFTER);
        if is_due {
            waiting.dialled = Some(now);
        }
        is_due
    }

    /// Here it is; whoever is gone meanwhile drops it, which ends it.
    pub(super) fn hand(&self, stream: u32, lane: HandedOut, ended: CancellationToken) {
        let Some(waiting) = self.lock().remove(&stream) else {
            return;
        };
        let meter = lane.meter();
        let (reader, writer) = tokio::io::split(lane);
        // In this order: what the other side is told to listen to is there by then.
        _ = waiting.reader.send(LaneReader { inner: reader, meter });
        _ = waiting.writer.send(LaneWriter { inner: writer, ended });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Awaited {
    /// This stream carries much. Where too many ask at once it may ask again.
    pub fn ask(&self) {
        if let Some(asks) = &self.lanes.asks {
            _ = asks.try_send(self.stream);
        }
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        self.lanes.lock().remove(&self.stream);
    }
}

impl LaneWriter {
    /// Writes all of it, unless the lane ends.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let writing = async {
            self.inner.write_all(bytes).await?;
            self.inner.flush().await
        };
        let written = self.ended.run_until_cancelled(writing).await;
        written.unwrap_or_else(|| Err(io::ErrorKind::ConnectionAborted.into()))
    }
}

impl LaneReader {
    /// Nobody reads until it is read again, so that the other side's words wait, and its silence means nothing.
    pub fn rests(&self) {
        self.meter.pause(false);
    }
}

impl AsyncRead for LaneReader {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

/// Waits until the edge says that it has the lane. One that gave up while Welcome was on its way says nothing, and the
/// stream stays where it is on both sides.
pub(super) async fn heard_taken(tls: &mut Tls) -> Result<(), Reason> {
    match timeout(HANDSHAKE_TIME_MAX, receive(tls)).await {
        Ok(Ok(frame)) if frame.kind == STREAM_TAKEN => Ok(()),
        Ok(Ok(_)) => Err(Reason::Malformed),
        Ok(Err(reason)) => Err(reason),
        Err(_) => Err(Reason::Timeout),
    }
}

/// Such lanes of one link; further streams stay where they are.
pub const STREAM_LANES_MAX: usize = 16;
/// At the hub, where one may end later than at the edge.
pub(super) const STREAM_LANES_ENTERED_MAX: usize = 2 * STREAM_LANES_MAX;
/// Longer than it takes to fail.
const DIAL_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Asked for and not yet looked at.
const ASKS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_failed_is_dialled_again_after_a_while() {
        let (lanes, _asked) = StreamLanes::asking();
        let _awaited = lanes.awaited(3);
        assert!(lanes.begin(3));
        tokio::time::advance(DIAL_AGAIN_AFTER / 2).await;
        assert!(!lanes.begin(3));
        tokio::time::advance(DIAL_AGAIN_AFTER / 2).await;
        assert!(lanes.begin(3));
    }

    #[tokio::test]
    async fn a_stream_that_is_gone_awaits_nothing() {
        let (lanes, mut asked) = StreamLanes::asking();
        let (awaited, halves) = lanes.awaited(3);
        awaited.ask();
        assert_eq!(asked.recv().await, Some(3));
        assert!(lanes.begin(3) && !lanes.begin(3) && !lanes.begin(4));
        drop(awaited);
        assert!(!lanes.begin(3));
        assert!(halves.writer.await.is_err() && halves.reader.await.is_err());
    }

    #[tokio::test]
    async fn more_wishes_than_can_be_looked_at_are_passed_over() {
        let (lanes, mut asked) = StreamLanes::asking();
        let awaited: Vec<_> = (0..=ASKS_MAX as u32).map(|stream| lanes.awaited(stream).0).collect();
        awaited.iter().for_each(Awaited::ask);
        let mut seen = 0;
        while asked.try_recv().is_ok() {
            seen += 1;
        }
        assert_eq!(seen, ASKS_MAX);
        awaited[ASKS_MAX].ask();
        assert_eq!(asked.try_recv(), Ok(ASKS_MAX as u32));
    }
}
