//! Counts a lane's bytes on the socket, under TLS, and tells how long a reader or a writer has waited in vain.
//! Also the bound on what an unauthenticated peer may send. Knows no frames.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::read_ahead::ReadAhead;

/// What is known of a socket's traffic. Shared by the socket and whoever watches it.
#[derive(Debug)]
pub struct Meter {
    born: Instant,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    reading: Wait,
    writing: Wait,
    /// Set while frames that were read wait for their consumer: then silence is our own.
    paused: AtomicBool,
    read_max: AtomicU64,
    local: OnceLock<IpAddr>,
    /// Set where somebody between, who is not the other side, writes frames of his own.
    framed: AtomicBool,
    /// Bytes of which nobody has said yet whose they are.
    unexplained: AtomicU64,
}

impl Meter {
    /// A meter of a socket whose peer may send `read_max` bytes until [`Self::trust`].
    pub fn new(read_max: u64) -> Arc<Self> {
        Arc::new(Self {
            born: Instant::now(),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            reading: Wait::default(),
            writing: Wait::default(),
            paused: AtomicBool::new(false),
            read_max: AtomicU64::new(read_max),
            local: OnceLock::new(),
            framed: AtomicBool::new(false),
            unexplained: AtomicU64::new(0),
        })
    }

    /// Bytes read from the socket.
    pub fn bytes_in(&self) -> u64 {
        self.bytes_in.load(Ordering::Relaxed)
    }

    /// Bytes written to the socket.
    pub fn bytes_out(&self) -> u64 {
        self.bytes_out.load(Ordering::Relaxed)
    }

    /// This machine's address of the socket.
    pub fn local(&self) -> Option<IpAddr> {
        self.local.get().copied()
    }

    /// The peer is authenticated: it may send without end.
    pub fn trust(&self) {
        self.read_max.store(u64::MAX, Ordering::Relaxed);
    }

    fn is_trusted(&self) -> bool {
        self.read_max.load(Ordering::Relaxed) == u64::MAX
    }

    /// It is known by now that its handshake needs no more than this.
    pub fn lower_read_max(&self, read_max: u64) {
        self.read_max.fetch_min(read_max, Ordering::Relaxed);
    }

    /// Says that reading stands still because our own side is slow (or no longer).
    pub fn pause(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
        // The silence before the pause counts no more.
        self.reading.end();
    }

    /// From now on, whoever reads the frames says what is the other side's word: an ingress's pings are not.
    pub fn await_explanation(&self) {
        self.framed.store(true, Ordering::Relaxed);
    }

    /// What was read up to here is a piece of the other side's, or only of somebody between.
    pub fn explain(&self, is_payload: bool) {
        self.unexplained.store(0, Ordering::Relaxed);
        if is_payload {
            self.reading.end();
        }
    }

    /// How long a reader has waited without a single byte. Zero while nobody reads.
    pub fn silence(&self) -> Duration {
        if self.paused.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        self.reading.lasts(self.now_ms())
    }

    /// How long a writer has waited without a single byte leaving. Zero while nobody writes.
    pub fn unread(&self) -> Duration {
        self.writing.lasts(self.now_ms())
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A reader asked and there was nothing.
    pub fn on_pending(&self) {
        self.reading.begin(self.now_ms());
    }

    /// A writer had something and there was no room.
    pub fn on_blocked(&self) {
        self.writing.begin(self.now_ms());
    }

    pub(super) fn on_read(&self, len: usize) -> io::Result<()> {
        let unexplained = self.unexplained.fetch_add(len as u64, Ordering::Relaxed) + len as u64;
        // The piece of a long TLS record is the other side's too, before anybody can tell what is in it.
        if !self.framed.load(Ordering::Relaxed) || unexplained > PING_RECORDS_LEN_MAX {
            self.reading.end();
        }
        let read = self.bytes_in.fetch_add(len as u64, Ordering::Relaxed) + len as u64;
        if read > self.read_max.load(Ordering::Relaxed) {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, ReadBeyondBound));
        }
        Ok(())
    }
}

/// A wait that may be going on: milliseconds after the meter's birth since when, plus one; else 0.
#[derive(Debug, Default)]
struct Wait(AtomicU64);

impl Wait {
    fn begin(&self, now_ms: u64) {
        if self.0.load(Ordering::Relaxed) == 0 {
            self.0.store(now_ms + 1, Ordering::Relaxed);
        }
    }

    fn end(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn lasts(&self, now_ms: u64) -> Duration {
        match self.0.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis(now_ms.saturating_sub(since - 1)),
        }
    }
}

/// An unauthenticated peer sent more than the handshake can need.
#[derive(Debug, thiserror::Error)]
#[error("more bytes than a handshake needs")]
pub struct ReadBeyondBound;

/// A TCP socket with a meter.
#[derive(Debug)]
pub struct MeteredSocket {
    socket: TcpStream,
    meter: Arc<Meter>,
    ahead: ReadAhead,
}

impl MeteredSocket {
    /// Puts a meter on a socket. What is written leaves at once, and little of it waits in the system, so that what is
    /// urgent waits little behind what is not.
    pub fn new(socket: TcpStream, meter: Arc<Meter>) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT_MAX)?;
        _ = meter.local.set(socket.local_addr()?.ip());
        Ok(Self { socket, meter, ahead: ReadAhead::default() })
    }

    /// Its meter.
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// The next byte, which stays to be read.
    pub async fn first_byte(&self) -> io::Result<u8> {
        let mut first = [0; 1];
        match self.socket.peek(&mut first).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(first[0]),
        }
    }

    /// The other end, while it is connected.
    pub fn remote(&self) -> Option<SocketAddr> {
        self.socket.peer_addr().ok()
    }
}

impl AsyncRead for MeteredSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let socket = Pin::new(&mut this.socket);
        // Nothing of a stranger's is read before it is needed.
        let read = if this.meter.is_trusted() {
            this.ahead.poll_read(socket, cx, buf)
        } else {
            let before = buf.filled().len();
            socket.poll_read(cx, buf).map_ok(|()| buf.filled().len() - before)
        };
        match read {
            Poll::Pending => {
                this.meter.on_pending();
                Poll::Pending
            }
            Poll::Ready(Ok(len)) => Poll::Ready(this.meter.on_read(len)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        }
    }
}

impl AsyncWrite for MeteredSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.count_out(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.count_out(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl MeteredSocket {
    fn count_out(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Pending => self.meter.on_blocked(),
            Poll::Ready(taken) => {
                self.meter.writing.end();
                let len = taken.as_ref().map_or(0, |len| *len as u64);
                self.meter.bytes_out.fetch_add(len, Ordering::Relaxed);
            }
        }
        written
    }
}

/// Three pings of the longest kind (RFC 6455 §5.5: 125 bytes) in TLS records of their own.
const PING_RECORDS_LEN_MAX: u64 = 512;
/// Bytes that a socket takes before the first of them has left (`TCP_NOTSENT_LOWAT`, tcp(7)).
pub const UNSENT_MAX: u32 = 128 << 10;

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_is_the_time_a_reader_waits_and_ends_with_a_byte() {
        let meter = Meter::new(100);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(meter.silence(), Duration::ZERO, "nobody reads");
        meter.on_pending();
        tokio::time::advance(Duration::from_secs(4)).await;
        meter.on_pending();
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(meter.silence(), Duration::from_secs(7));
        meter.on_read(1).unwrap();
        assert_eq!(meter.silence(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn our_own_slowness_is_not_the_peers_silence() {
        let meter = Meter::new(100);
        meter.on_pending();
        meter.pause(true);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(meter.silence(), Duration::ZERO);
        meter.pause(false);
        assert_eq!(meter.silence(), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_measured_from_when_the_socket_is_full_until_it_reads_on() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        let meter = Meter::new(0);
        let mut socket = MeteredSocket::new(near, meter.clone()).unwrap();
        let chunk = vec![0; 1 << 20];
        while let Some(written) = socket.write(&chunk).now_or_never() {
            assert!(written.unwrap() > 0);
            assert_eq!(meter.unread(), Duration::ZERO);
        }
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(40)).await;
        assert!(socket.write(&chunk).now_or_never().is_none());
        assert!(meter.unread() >= Duration::from_secs(40), "{:?}", meter.unread());
        tokio::time::resume();
        let mut read = vec![0; 1 << 20];
        let wrote = async { socket.write(&chunk).await.unwrap() };
        let reads = async { while far.read(&mut read).await.unwrap() > 0 {} };
        tokio::select! {
            biased;
            len = wrote => assert!(len > 0),
            () = reads => panic!("the socket was closed"),
        }
        assert_eq!(meter.unread(), Duration::ZERO);
    }

    #[test]
    fn an_unauthenticated_peer_may_not_send_without_end() {
        let meter = Meter::new(100);
        meter.on_read(100).unwrap();
        meter.lower_read_max(200);
        let error = meter.on_read(1).unwrap_err();
        assert!(error.get_ref().is_some_and(|inner| inner.is::<ReadBeyondBound>()));
        meter.trust();
        meter.on_read(1 << 30).unwrap();
    }
}
