//! The two directions of a connection over its stream, and over a lane of its own once it carries much. A direction
//! moves between two of its words and never back; each by itself. Carries nothing by itself.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::buf::Limit;
use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::frames::{HEADER_LEN, Said};
use super::reason::Reason;
use super::splice::Cut;
use crate::tunnel::KEEPALIVE;
use crate::tunnel::stream_lanes::{Awaited, Halves, LaneReader, LaneWriter};
use crate::tunnel::streams::LinkStream;

/// What is said to the other side.
pub struct Outward {
    stream: WriteHalf<LinkStream>,
    lane: Option<LaneWriter>,
    coming: Option<oneshot::Receiver<LaneWriter>>,
}

/// What the other side says.
pub struct Inward {
    stream: ReadHalf<LinkStream>,
    lane: Option<LaneReader>,
    coming: Option<oneshot::Receiver<LaneReader>>,
}

/// Asks for a lane while much is carried. A lane may come as long as this lives.
pub struct Wish {
    awaited: Option<Awaited>,
}

/// How much one direction carries.
pub struct Pace {
    since: Instant,
    len: usize,
}

/// What is to be done while nothing is said.
enum Due {
    Move(Option<LaneWriter>),
    Alive,
}

/// Both directions of a stream, and what may move them.
pub fn ways(stream: LinkStream) -> (Outward, Inward, Wish) {
    let (awaited, halves) = stream.await_lane().unzip();
    let (writer, reader) = halves.map(|Halves { writer, reader }| (writer, reader)).unzip();
    let (from_stream, to_stream) = tokio::io::split(stream);
    let outward = Outward { stream: to_stream, lane: None, coming: writer };
    let inward = Inward { stream: from_stream, lane: None, coming: reader };
    (outward, inward, Wish { awaited })
}

impl Outward {
    /// Says one whole word; over the lane, if it has come.
    pub async fn write(&mut self, word: &[u8]) -> Result<(), Cut> {
        match self.coming.as_mut().map(oneshot::Receiver::try_recv) {
            None | Some(Err(oneshot::error::TryRecvError::Empty)) => {}
            Some(come) => self.act(Due::Move(come.ok())).await?,
        }
        match &mut self.lane {
            Some(lane) => lane.write(word).await.map_err(|error| cut_of(&error)),
            None => self.stream.write_all(word).await.map_err(|_| Cut::Stream),
        }
    }

    /// Says a word without a body.
    pub async fn say(&mut self, said: Said) -> Result<(), Cut> {
        self.write(&said.header()).await
    }

    /// Waits for something that may take long; meanwhile moves, and keeps the lane from looking dead. What is waited for
    /// is dropped before anything is said, and asked for again: nobody holds a turn while the other side takes nothing.
    pub async fn meanwhile<T, F>(&mut self, something: impl Fn() -> F) -> Result<T, Cut>
    where
        F: Future<Output = T>,
    {
        loop {
            let due = tokio::select! {
                biased;
                done = something() => return Ok(done),
                due = self.due() => due,
            };
            self.act(due).await?;
        }
    }

    /// Nothing more is said, not even over the stream: everything here is done.
    pub async fn close(&mut self) {
        // Where the stream is gone, the other side is done, too.
        _ = self.stream.shutdown().await;
    }

    /// Whether it has moved.
    pub fn has_lane(&self) -> bool {
        self.lane.is_some()
    }

    /// Cancel-safe.
    async fn due(&mut self) -> Due {
        if let Some(coming) = &mut self.coming {
            return Due::Move(coming.await.ok());
        }
        if self.lane.is_none() {
            std::future::pending::<()>().await;
        }
        sleep(KEEPALIVE).await;
        Due::Alive
    }

    async fn act(&mut self, due: Due) -> Result<(), Cut> {
        match (due, &mut self.lane) {
            (Due::Move(Some(lane)), _) => {
                self.coming = None;
                self.stream.write_all(&Said::Moved.header()).await.map_err(|_| Cut::Stream)?;
                self.lane = Some(lane);
            }
            (Due::Move(None), _) => self.coming = None,
            (Due::Alive, Some(lane)) => {
                lane.write(&Said::Alive.header()).await.map_err(|error| cut_of(&error))?;
            }
            (Due::Alive, None) => {}
        }
        Ok(())
    }
}

impl Inward {
    /// Whether it has moved.
    pub fn has_lane(&self) -> bool {
        self.lane.is_some()
    }

    /// The next word that is for the connection.
    pub async fn heard(&mut self) -> Result<Said, Cut> {
        loop {
            let mut header = [0; HEADER_LEN];
            self.read_exact(&mut header).await.map_err(|error| cut_of(&error))?;
            match Said::parse(header).map_err(|_| MALFORMED)? {
                Said::Moved => {
                    let coming = self.coming.take().ok_or(MALFORMED)?;
                    // Handed over before the other side could know of it.
                    let lane = timeout(COMES_WITHIN, coming).await.map_err(|_| MALFORMED)?;
                    self.lane = Some(lane.map_err(|_| Cut::Stream)?);
                }
                Said::Alive if self.lane.is_some() => {}
                Said::Alive => return Err(MALFORMED),
                said @ (Said::Data(_) | Said::End | Said::Opened | Said::Refused(_) | Said::Words(_)) => {
                    return Ok(said);
                }
            }
        }
    }

    /// Takes what is there, at least one byte, at most what the piece has room for; 0 is an end. One record of TLS after
    /// the other, so that the socket is written to less often.
    pub async fn take(&mut self, piece: &mut Limit<&mut BytesMut>) -> Result<usize, Cut> {
        let taken = self.read_buf(piece).await.map_err(|error| cut_of(&error))?;
        let more = poll_fn(|cx| {
            let mut more = 0;
            while piece.has_remaining_mut() {
                match pin!(self.read_buf(piece)).poll(cx) {
                    Poll::Ready(Ok(len)) if len > 0 => more += len,
                    // Said again when it is asked for again.
                    Poll::Ready(Ok(_) | Err(_)) | Poll::Pending => break,
                }
            }
            Poll::Ready(more)
        });
        let taken = if taken == 0 { 0 } else { taken + more.await };
        if let Some(lane) = &self.lane {
            lane.rests();
        }
        Ok(taken)
    }

    /// Waits, after the other side's last word, until it is done or gone. Its lane says nothing of that.
    pub async fn until_gone(&mut self) -> Cut {
        match self.stream.read(&mut [0; 1]).await {
            Ok(1..) => MALFORMED,
            Ok(0) | Err(_) => Cut::Stream,
        }
    }
}

impl AsyncRead for Inward {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        match &mut this.lane {
            Some(lane) => Pin::new(lane).poll_read(cx, buf),
            None => Pin::new(&mut this.stream).poll_read(cx, buf),
        }
    }
}

impl Wish {
    /// So much was carried.
    pub fn carried(&self, pace: &mut Pace, len: usize) {
        if let Some(awaited) = &self.awaited
            && pace.is_bulk(len, Instant::now())
        {
            awaited.ask();
        }
    }
}

impl Pace {
    /// Nothing so far.
    pub fn new() -> Self {
        Self { since: Instant::now(), len: 0 }
    }

    /// Whether it is much by now.
    fn is_bulk(&mut self, len: usize, now: Instant) -> bool {
        if now.duration_since(self.since) > BULK_WITHIN {
            *self = Self { since: now, len: 0 };
        }
        let before = self.len;
        self.len = before.saturating_add(len);
        // Once in each stretch.
        before < BULK_LEN && self.len >= BULK_LEN
    }
}

/// A lane that its watch ended is one thing, one that the other side dropped with its connection another.
fn cut_of(error: &io::Error) -> Cut {
    if error.kind() == io::ErrorKind::ConnectionAborted { Cut::Lane } else { Cut::Stream }
}

const MALFORMED: Cut = Cut::Refused(Reason::Malformed);
/// What carries so much within so long is worth a handshake.
const BULK_LEN: usize = 1 << 20;
const BULK_WITHIN: Duration = Duration::from_secs(1);
const COMES_WITHIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_carries_much_within_a_second_asks_and_once_in_each() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pace = Pace { since: start, len: 0 };
        assert!(!pace.is_bulk(BULK_LEN - 1, at(900)));
        assert!(!pace.is_bulk(BULK_LEN - 1, at(1001)));
        assert!(pace.is_bulk(1, at(1500)));
        assert!(!pace.is_bulk(10 * BULK_LEN, at(1600)));
        assert!(pace.is_bulk(BULK_LEN, at(3000)));
    }
}
