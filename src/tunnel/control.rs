//! The control lane: yamux on TLS, in it the control stream with pings and other rooms' messages.
//! Other rooms' streams run beside it; each has a window of its own, so none of them waits for another.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::FusedFuture;
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};

use super::KEEPALIVE;
use super::budget::Budget;
use super::connection::{Tls, meter_of, reason_of};
use super::features::BUDGETS;
use super::link::{CONTROL_MESSAGE_LEN_MAX, Link};
use super::meter::Meter;
use super::metrics::TunnelMetrics;
use super::reason::Reason;
use super::streams::{STREAMS_PER_SIDE, StreamEnds};
use super::tally::Tallied;
use super::wire::{BUDGET, Frame, MESSAGE, PING, PONG, WireError, read_frame, write_frame};

/// Which side of the link this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Accepts the control stream.
    Hub,
    /// Opens it.
    Edge,
}

/// Our ends of a control stream's message queues, and of the other streams.
pub struct Mailbox {
    /// To be written.
    pub outbound: mpsc::Receiver<Bytes>,
    /// What was read.
    pub inbound: mpsc::Sender<Bytes>,
    /// Streams of other rooms.
    pub(super) streams: StreamEnds,
    /// Both sides' budgets.
    pub(super) words: Words,
}

/// What either side says of its budget while the link lives.
pub(super) struct Words {
    budget: Budget,
    /// Where the other side understands it.
    ours: Option<watch::Receiver<u32>>,
}

impl Words {
    pub(super) fn of(link: &Link) -> Self {
        let ours = (link.features & BUDGETS != 0).then(|| link.budget.words());
        Self { budget: link.budget.clone(), ours }
    }
}

/// Who takes what was read.
struct Ears {
    inbound: mpsc::Sender<Bytes>,
    budget: Budget,
}

impl Ears {
    fn hear_budget(&self, body: &[u8]) -> Result<(), Reason> {
        let word = <[u8; 4]>::try_from(body).map_err(|_| Reason::Malformed)?;
        self.budget.hear(u32::from_be_bytes(word));
        Ok(())
    }

    /// It says when we sent the ping; where that is later than now, it says nothing.
    fn hear_pong(&self, body: &[u8], born: Instant, metrics: &TunnelMetrics) {
        let sent = <[u8; 8]>::try_from(body).map(u64::from_be_bytes);
        let Some(micros) = sent.ok().and_then(|sent| micros_since(born).checked_sub(sent)) else {
            return;
        };
        metrics.control_round_trip.set(i64::try_from(micros).unwrap_or(i64::MAX));
    }
}

/// This side's next word; never, where nobody understands it.
async fn next_word(ours: &mut Option<watch::Receiver<u32>>) -> Bytes {
    if let Some(words) = ours
        && words.changed().await.is_ok()
    {
        return words.borrow_and_update().to_be_bytes().to_vec().into();
    }
    std::future::pending().await
}

type Mux = yamux::Connection<Compat<Tallied<Tls>>>;

/// Runs a control lane until it ends, and says why.
pub async fn drive(tls: Tls, side: Side, mailbox: Mailbox, metrics: TunnelMetrics) -> Reason {
    let meter = meter_of(&tls);
    let mode = match side {
        Side::Hub => yamux::Mode::Server,
        Side::Edge => yamux::Mode::Client,
    };
    let tally = mailbox.streams.tally.clone();
    let tallied = Tallied::new(tls, tally.clone());
    let mut mux = yamux::Connection::new(tallied.compat(), mux_config(), mode);
    let opened = match side {
        Side::Edge => poll_fn(|cx| mux.poll_new_outbound(cx)).await,
        Side::Hub => match poll_fn(|cx| mux.poll_next_inbound(cx)).await {
            Some(stream) => stream,
            None => return Reason::PeerClosed,
        },
    };
    let stream = match opened {
        Ok(stream) => {
            // This one is always read, or nobody reads anything.
            tally.forget(stream.id().val());
            stream.compat()
        }
        Err(error) => return reason_of_mux(error),
    };
    let (reader, writer) = tokio::io::split(stream);
    let (pongs, pongs_due) = mpsc::channel(PONGS_MAX);
    let born = Instant::now();
    // The first stream that the hub sees is the control stream: the edge opens no other before it has heard it answer.
    let (heard, has_answered) = oneshot::channel();
    let heard = match side {
        Side::Edge => Some(heard),
        Side::Hub => {
            _ = heard.send(());
            None
        }
    };
    let Mailbox { outbound, inbound, streams, words: Words { budget, ours } } = mailbox;
    let ears = Ears { inbound, budget };
    // One task polls all three; the first that ends takes the lane with it.
    tokio::select! {
        reason = pump(mux, streams, has_answered) => reason,
        reason = read_all(reader, &ears, pongs, meter, heard, born, &metrics) => reason,
        reason = write_all(writer, outbound, ours, pongs_due, born, &metrics) => reason,
    }
}

/// Moves the multiplexer's bytes, and opens and takes in streams. Waits for nobody: what the peer opens is read in
/// tasks of its own.
async fn pump(mut mux: Mux, mut streams: StreamEnds, has_answered: oneshot::Receiver<()>) -> Reason {
    let mut has_answered = has_answered.fuse();
    let mut asked: Option<oneshot::Sender<yamux::Stream>> = None;
    loop {
        // Polled together: a stream may be opened only once the peer has taken earlier ones, which the other poll reads.
        let next = poll_fn(|cx| {
            if let Poll::Ready(inbound) = mux.poll_next_inbound(cx) {
                return Poll::Ready(Next::Inbound(inbound));
            }
            if !has_answered.is_terminated() && Pin::new(&mut has_answered).poll(cx).is_pending() {
                return Poll::Pending;
            }
            while asked.is_none() {
                match streams.asks.poll_recv(cx) {
                    // Whoever asked may have gone meanwhile.
                    Poll::Ready(Some(reply)) => asked = Some(reply).filter(|reply| !reply.is_closed()),
                    Poll::Ready(None) | Poll::Pending => return Poll::Pending,
                }
            }
            mux.poll_new_outbound(cx).map(Next::Opened)
        });
        match next.await {
            Next::Inbound(Some(Ok(stream))) => streams.accept(stream),
            Next::Opened(Ok(stream)) => {
                if let Some(reply) = asked.take() {
                    _ = reply.send(stream);
                }
            }
            Next::Inbound(Some(Err(error))) | Next::Opened(Err(error)) => return reason_of_mux(error),
            Next::Inbound(None) => return Reason::PeerClosed,
        }
    }
}

enum Next {
    Inbound(Option<Result<yamux::Stream, yamux::ConnectionError>>),
    Opened(Result<yamux::Stream, yamux::ConnectionError>),
}

async fn read_all<R: AsyncRead + Unpin>(
    mut reader: R,
    ears: &Ears,
    pongs: mpsc::Sender<Bytes>,
    meter: Arc<Meter>,
    mut heard: Option<oneshot::Sender<()>>,
    born: Instant,
    metrics: &TunnelMetrics,
) -> Reason {
    loop {
        let Frame { kind, body } = match read_frame(&mut reader, FRAME_LEN_MAX).await {
            Ok(frame) => frame,
            Err(WireError::Io(error)) => return reason_of(&error),
            Err(WireError::TooLong { .. } | WireError::Empty) => return Reason::Malformed,
        };
        if let Some(heard) = heard.take() {
            _ = heard.send(());
        }
        match kind {
            // A full queue means that answers are already on their way; this one adds nothing.
            PING if body.len() <= PING_LEN_MAX => _ = pongs.try_send(body),
            PONG if body.len() <= PING_LEN_MAX => ears.hear_pong(&body, born, metrics),
            MESSAGE => {
                if let Err(reason) = hand_over(body, &ears.inbound, &meter).await {
                    return reason;
                }
            }
            BUDGET => {
                if let Err(reason) = ears.hear_budget(&body) {
                    return reason;
                }
            }
            unknown => {
                tracing::warn!(kind = unknown, "unknown frame type on the control stream");
                return Reason::Malformed;
            }
        }
    }
}

async fn hand_over(message: Bytes, inbound: &mpsc::Sender<Bytes>, meter: &Meter) -> Result<(), Reason> {
    let message = match inbound.try_send(message) {
        Ok(()) => return Ok(()),
        Err(mpsc::error::TrySendError::Full(message)) => message,
        Err(mpsc::error::TrySendError::Closed(_)) => return Err(Reason::Ended),
    };
    // The peer's pings now wait behind its messages: its silence would be our fault.
    meter.pause(true);
    let sent = inbound.send(message).await;
    meter.pause(false);
    sent.map_err(|_| Reason::Ended)
}

async fn write_all<W: AsyncWrite + Unpin>(
    mut writer: W,
    mut outbound: mpsc::Receiver<Bytes>,
    mut ours: Option<watch::Receiver<u32>>,
    mut pongs_due: mpsc::Receiver<Bytes>,
    born: Instant,
    metrics: &TunnelMetrics,
) -> Reason {
    let mut pings = tokio::time::interval(KEEPALIVE);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut outbound_open = true;
    let mut waiting = Waiting { gauge: &metrics.control_waiting, shown: 0 };
    loop {
        // Receiving loses nothing when it loses the race; writing happens after it.
        let (kind, body) = tokio::select! {
            biased;
            Some(pong) = pongs_due.recv() => (PONG, pong),
            _ = pings.tick() => (PING, micros_since(born).to_be_bytes().to_vec().into()),
            word = next_word(&mut ours) => (BUDGET, word),
            message = outbound.recv(), if outbound_open => match message {
                Some(message) => (MESSAGE, message),
                None => {
                    outbound_open = false;
                    continue;
                }
            },
        };
        waiting.show(outbound.len());
        if body.len() > CONTROL_MESSAGE_LEN_MAX {
            tracing::error!(len = body.len(), "control message too long, not sent: a fault of this program");
            return Reason::Malformed;
        }
        if let Err(error) = write_frame(&mut writer, kind, &body).await {
            return reason_of(&error);
        }
    }
}

/// This link's share of the gauge; given back when the link goes.
struct Waiting<'a> {
    gauge: &'a Gauge,
    shown: i64,
}

impl Waiting<'_> {
    fn show(&mut self, len: usize) {
        let len = i64::try_from(len).unwrap_or(i64::MAX);
        self.gauge.inc_by(len - self.shown);
        self.shown = len;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.gauge.dec_by(self.shown);
    }
}

fn micros_since(born: Instant) -> u64 {
    u64::try_from(born.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn mux_config() -> yamux::Config {
    let mut config = yamux::Config::default();
    // The number of streams first: the window must hold 256 KiB for each, or yamux panics.
    config.set_max_num_streams(STREAMS_MAX);
    config.set_max_connection_receive_window(Some(WINDOW_MAX));
    config.set_split_send_size(SEND_LEN_MAX);
    config
}

#[expect(clippy::wildcard_enum_match_arm, reason = "yamux' errors are open-ended")]
fn reason_of_mux(error: yamux::ConnectionError) -> Reason {
    match error {
        yamux::ConnectionError::Io(error) => reason_of(&error),
        yamux::ConnectionError::Closed => Reason::PeerClosed,
        // A socket that ends between two frames is an end, not a mistake.
        yamux::ConnectionError::Decode(yamux::FrameDecodeError::Io(error)) => reason_of(&error),
        _ => Reason::Malformed,
    }
}

/// Type and message.
const FRAME_LEN_MAX: u32 = 1 + CONTROL_MESSAGE_LEN_MAX as u32;
/// A ping carries eight bytes; the bound keeps a peer from making us echo megabytes.
const PING_LEN_MAX: usize = 8;
/// Pings that wait for their answer.
const PONGS_MAX: usize = 4;
/// Streams of a control lane at which yamux ends it: the control stream, those of both sides, and as many of the peer's
/// again that it let go of and we still empty into somebody slow.
const STREAMS_MAX: usize = 1 + 3 * STREAMS_PER_SIDE;
/// What a stream may have unread in any case; yamux has no less.
const WINDOW_MIN: usize = 256 << 10;
/// What all streams of a control lane may buffer: that each, and room for fast ones. 400 Mbit/s over 100 ms are 5 MB.
const WINDOW_MAX: usize = STREAMS_MAX * WINDOW_MIN + (32 << 20);
/// Longest frame of a stream: the cheapest per byte.
const SEND_LEN_MAX: usize = 256 << 10;
/// Control messages queued in each direction.
pub const MESSAGES_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn while_our_consumer_is_slow_the_peer_is_not_silent() {
        let meter = Meter::new(0);
        let (inbound, mut consumer) = mpsc::channel(1);
        hand_over(Bytes::from_static(b"1"), &inbound, &meter).await.unwrap();
        let waiting = tokio::spawn({
            let (inbound, meter) = (inbound.clone(), meter.clone());
            async move { hand_over(Bytes::from_static(b"2"), &inbound, &meter).await }
        });
        tokio::task::yield_now().await;
        meter.on_pending();
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(meter.silence(), Duration::ZERO);
        assert_eq!(&consumer.recv().await.unwrap()[..], b"1");
        waiting.await.unwrap().unwrap();
        meter.on_pending();
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(meter.silence(), Duration::from_secs(60));
        drop(consumer);
        let gone = hand_over(Bytes::from_static(b"3"), &inbound, &meter).await;
        assert_eq!(gone, Err(Reason::Ended));
    }

    #[test]
    fn yamux_takes_our_bounds() {
        // It panics on a window that is too small for its streams.
        _ = mux_config();
    }
}
