//! A lane after its Welcome: watched for silence, handed out, and over when its holder drops it.
//! Reads and writes nothing of its own.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

use super::KEEPALIVE;
use super::connection::Tls;
use super::meter::Meter;
use super::reason::Reason;
use super::shown::ShownLink;

/// Looks at a lane once a second until it ends: by its holder, its link, or two keepalives of silence.
pub async fn watch(meter: &Meter, shown: &ShownLink, ended: &CancellationToken) -> Reason {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = ended.cancelled() => return Reason::Ended,
            _ = looks.tick() => shown.refresh(),
        }
        if meter.silence() >= SILENCE_MAX {
            ended.cancel();
            return Reason::Silence;
        }
    }
}

/// A relay lane's stream: reading fails once the lane has ended, and dropping it ends the lane.
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

/// Two keepalives.
const SILENCE_MAX: Duration = KEEPALIVE.saturating_mul(2);
const LOOK_EVERY: Duration = Duration::from_secs(1);
