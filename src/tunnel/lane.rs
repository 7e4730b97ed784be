//! A lane after its Welcome: watched for a peer that says or takes nothing, handed out, and over when its holder drops it.
//! Reads and writes nothing of its own.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

use super::KEEPALIVE;
use super::connection::{Tls, meter_of};
use super::meter::Meter;
use super::network;
use super::reason::Reason;
use super::shown::ShownLink;
use super::wire::Kind;

/// Looks at a lane once a second until it ends: by its holder, its link, three keepalives of silence, a peer that
/// speaks but takes nothing, its age, or this machine's loss of the address that the lane has. What a stream carries
/// may wait for its reader as long as that likes.
pub async fn watch(kind: Kind, meter: &Meter, shown: &ShownLink, ended: &CancellationToken) -> Reason {
    let since = Instant::now();
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // An address that cannot be asked for (of a transparent proxy, of another routing table) is not watched.
    let local = meter.local().filter(|address| network::is_here(*address));
    let mut missed = 0;
    loop {
        tokio::select! {
            biased;
            () = ended.cancelled() => return Reason::Ended,
            _ = looks.tick() => shown.refresh(),
        }
        missed = if local.is_some_and(|address| !network::is_here(address)) { missed + 1 } else { 0 };
        let reason = if meter.silence() >= SILENCE_MAX {
            Reason::Silence
        } else if kind != Kind::Stream && meter.unread() >= UNREAD_MAX {
            Reason::Unread
        } else if since.elapsed() >= LANE_AGE_MAX {
            Reason::LaneAge
        } else if missed >= MISSED_MAX {
            Reason::AddressGone
        } else {
            continue;
        };
        ended.cancel();
        return reason;
    }
}

/// The stream of a lane that another room has: reading fails once the lane has ended, and dropping it ends the lane.
#[derive(Debug)]
pub struct HandedOut {
    tls: Tls,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    _ends_with_us: DropGuard,
}

impl HandedOut {
    /// Binds a stream and its token together.
    pub fn new(tls: Tls, ended: &CancellationToken) -> Self {
        Self {
            tls,
            ended: Box::pin(ended.clone().cancelled_owned()),
            _ends_with_us: ended.clone().drop_guard(),
        }
    }

    /// Its meter.
    pub(super) fn meter(&self) -> Arc<Meter> {
        meter_of(&self.tls)
    }
}

impl AsyncRead for HandedOut {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let read = Pin::new(&mut this.tls).poll_read(cx, buf);
        if read.is_pending() && this.ended.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        read
    }
}

impl AsyncWrite for HandedOut {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

/// Three keepalives.
const SILENCE_MAX: Duration = KEEPALIVE.saturating_mul(3);
/// Over a slow line the system takes nothing more until half of [`UNSENT_MAX`](super::meter::UNSENT_MAX) has left:
/// 52 s at 10 kbit/s.
const UNREAD_MAX: Duration = Duration::from_secs(120);
/// A link is renewed within a day, and has an hour more for what it still carries.
const LANE_AGE_MAX: Duration = Duration::from_secs(25 * 3600);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// An IPv6 address may be away for a moment after its interface was.
const MISSED_MAX: u32 = 2;

#[cfg(test)]
mod tests {
    use super::super::shown::RestsOn;
    use super::*;
    use crate::tunnel::budget::Budget;
    use crate::tunnel::link::Link;
    use crate::tunnel::metrics::TunnelMetrics;
    use crate::tunnel::retiring::Retiring;
    use crate::tunnel::status::Board;
    use crate::tunnel::stream_lanes::StreamLanes;

    async fn watched(kind: Kind, meter: &Meter) -> (Reason, Duration) {
        let ended = CancellationToken::new();
        let link = Link {
            id: 1,
            peer: "bank".into(),
            instance: [0; 16],
            relay_lanes: 0,
            features: 0,
            budget: Budget::new(0),
            retiring: Retiring::default(),
            stream_lanes: StreamLanes::default(),
            ended: ended.clone(),
        };
        let shown = ShownLink::new(
            &Board::default(),
            &TunnelMetrics::default(),
            &link,
            String::new(),
            RestsOn::default(),
        );
        let since = Instant::now();
        let reason = watch(kind, meter, &shown, &ended).await;
        assert!(ended.is_cancelled());
        (reason, since.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_speaks_and_takes_nothing_loses_its_lane() {
        let meter = Meter::new(0);
        meter.on_blocked();
        assert_eq!(watched(Kind::Relay, &meter).await, (Reason::Unread, UNREAD_MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_of_a_stream_waits_for_a_reader_of_its_own() {
        let meter = Meter::new(0);
        meter.on_blocked();
        assert_eq!(watched(Kind::Stream, &meter).await, (Reason::LaneAge, LANE_AGE_MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn no_lane_is_older_than_a_day_and_an_hour() {
        assert_eq!(watched(Kind::Control, &Meter::new(0)).await, (Reason::LaneAge, LANE_AGE_MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_says_nothing_loses_its_lane_sooner() {
        let meter = Meter::new(0);
        meter.on_pending();
        meter.on_blocked();
        assert_eq!(watched(Kind::Stream, &meter).await, (Reason::Silence, SILENCE_MAX));
    }
}
