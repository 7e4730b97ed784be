//! A byte stream in the binary frames of a WebSocket whose upgrade is done. Keeps no message boundaries: TLS inside has
//! its own. Pings are answered by the library; a Close ends reading, and what ends *well* only that TLS can say.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use futures::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::heard::Heard;
use super::meter::Meter;

/// A WebSocket as a byte stream.
#[derive(Debug)]
pub struct ByteStream<S> {
    frames: WebSocketStream<Heard<S>>,
    /// What came and was not yet taken.
    unread: Bytes,
}

impl<S: AsyncRead + AsyncWrite + Unpin> ByteStream<S> {
    /// The edge's side, which masks. The meter is that of the socket below.
    pub async fn of_client(socket: S, meter: Arc<Meter>) -> Self {
        Self::new(Heard::new(socket, meter), Role::Client).await
    }

    /// The hub's side.
    pub async fn of_server(socket: S, meter: Arc<Meter>) -> Self {
        Self::new(Heard::new(socket, meter), Role::Server).await
    }

    async fn new(socket: Heard<S>, role: Role) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_LEN)
            // Frames are made large enough here; nothing is held back.
            .write_buffer_size(0)
            .max_write_buffer_size(UNSENT_LEN_MAX)
            .max_frame_size(Some(FRAME_LEN_TAKEN_MAX))
            .max_message_size(Some(FRAME_LEN_TAKEN_MAX));
        let frames = WebSocketStream::from_raw_socket(socket, role, Some(config)).await;
        Self { frames, unread: Bytes::new() }
    }

    /// What it runs on.
    pub fn get_ref(&self) -> &S {
        self.frames.get_ref().get_ref()
    }

    /// Sends bytes as one frame; what the socket does not take now is kept, and goes first with the next call.
    fn poll_frame(&mut self, cx: &mut Context<'_>, payload: Bytes) -> Poll<io::Result<usize>> {
        let len = payload.len();
        Pin::new(&mut self.frames).start_send(Message::Binary(payload)).map_err(io_error)?;
        match Pin::new(&mut self.frames).poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(io_error(error))),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(len)),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ByteStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(Pin::new(&mut self.frames).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.unread = bytes,
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Text(_))) => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(end_of(error)),
            }
        }
        let len = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread[..len]);
        self.unread.advance(len);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ByteStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.frames).poll_ready(cx)).map_err(io_error)?;
        let len = buf.len().min(FRAME_LEN_SENT_MAX);
        self.poll_frame(cx, Bytes::copy_from_slice(&buf[..len]))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.frames).poll_ready(cx)).map_err(io_error)?;
        let whole: usize = bufs.iter().map(|buf| buf.len()).sum();
        let mut payload = BytesMut::with_capacity(whole.min(FRAME_LEN_SENT_MAX));
        for buf in bufs {
            let room = FRAME_LEN_SENT_MAX - payload.len();
            payload.extend_from_slice(&buf[..buf.len().min(room)]);
        }
        self.poll_frame(cx, payload.freeze())
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.frames).poll_flush(cx).map_err(io_error)
    }

    /// No Close here: behind it nothing more could be read, and the other side may still have much to say. The end of
    /// one direction is TLS's close_notify.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

/// What reading gives after an error: the end, where the other side went without a word, as on a bare socket.
fn end_of(error: Error) -> io::Result<()> {
    match io_error(error) {
        error if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
        error => Err(error),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the library's errors are open-ended")]
fn io_error(error: Error) -> io::Error {
    use tokio_tungstenite::tungstenite::error::ProtocolError;
    match error {
        Error::Io(error) => error,
        Error::ConnectionClosed
        | Error::AlreadyClosed
        | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => io::ErrorKind::UnexpectedEof.into(),
        Error::Protocol(ProtocolError::SendAfterClosing) => io::ErrorKind::BrokenPipe.into(),
        // What it says is the library's; what was sent is not repeated.
        _ => io::Error::new(io::ErrorKind::InvalidData, "what came is no frame of a websocket"),
    }
}

/// Two TLS records: larger frames gain nothing.
const FRAME_LEN_SENT_MAX: usize = 32 * 1024;
/// Of a frame's announced length, before memory is reserved; an ingress may join frames.
const FRAME_LEN_TAKEN_MAX: usize = 64 * 1024;
/// Reserved for each connection, also before it is known.
const READ_LEN: usize = 16 * 1024;
/// A frame that the socket did not take, and answers to pings.
const UNSENT_LEN_MAX: usize = 4 * FRAME_LEN_SENT_MAX;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    async fn pair(room: usize) -> (ByteStream<DuplexStream>, ByteStream<DuplexStream>) {
        let (near, far) = duplex(room);
        (ByteStream::of_client(near, Meter::new(0)).await, ByteStream::of_server(far, Meter::new(0)).await)
    }

    #[tokio::test]
    async fn bytes_come_out_as_they_went_in_both_ways_at_once_through_a_narrow_pipe() {
        let (near, far) = pair(1000).await;
        let sent: Vec<u8> = (0..300_000_u32).map(|n| (n * 7) as u8).collect();
        let run = |stream: ByteStream<DuplexStream>| {
            let sent = sent.clone();
            async move {
                let (mut read, mut write) = tokio::io::split(stream);
                let writes = async {
                    write.write_all(&sent).await.unwrap();
                    write.flush().await.unwrap();
                };
                let mut got = vec![0; sent.len()];
                let reads = async { read.read_exact(&mut got).await.unwrap() };
                tokio::join!(writes, reads);
                got
            }
        };
        let (one, other) = tokio::join!(tokio::spawn(run(near)), tokio::spawn(run(far)));
        assert!(one.unwrap() == sent && other.unwrap() == sent);
    }

    #[tokio::test]
    async fn slices_are_gathered_into_frames_of_bounded_length() {
        let (near, far) = duplex(1 << 20);
        let mut near = ByteStream::of_client(near, Meter::new(0)).await;
        let slices = [vec![1; 20_000], vec![2; 20_000], vec![3; 9]];
        let slices: Vec<_> = slices.iter().map(|slice| io::IoSlice::new(slice)).collect();
        let written = near.write_vectored(&slices).await.unwrap();
        assert_eq!(written, FRAME_LEN_SENT_MAX);
        let mut far = WebSocketStream::from_raw_socket(far, Role::Server, None).await;
        let frame = futures::StreamExt::next(&mut far).await.unwrap().unwrap();
        assert_eq!(frame.len(), FRAME_LEN_SENT_MAX);
    }

    #[tokio::test]
    async fn a_frame_that_announces_too_much_is_refused_before_it_comes() {
        let (mut near, far) = duplex(1000);
        let mut far = ByteStream::of_server(far, Meter::new(0)).await;
        // FIN, binary, masked, a length of 2 GiB in eight bytes.
        near.write_all(&[0x82, 0xff, 0, 0, 0, 0, 0x80, 0, 0, 0, 1, 2, 3, 4]).await.unwrap();
        let refused = far.read(&mut [0; 16]).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn text_is_not_ours() {
        let (mut near, far) = duplex(1000);
        let mut far = ByteStream::of_server(far, Meter::new(0)).await;
        near.write_all(&[0x81, 0x81, 0, 0, 0, 0, b'x']).await.unwrap();
        let refused = far.read(&mut [0; 16]).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn pings_are_answered_while_somebody_reads() {
        let (mut near, far) = duplex(1000);
        let mut far = ByteStream::of_server(far, Meter::new(0)).await;
        near.write_all(&[0x89, 0x82, 0, 0, 0, 0, b'h', b'i']).await.unwrap();
        let (mut pong, mut nothing) = ([0; 4], [0; 16]);
        tokio::select! {
            _ = far.read(&mut nothing) => panic!("there is nothing to read"),
            read = near.read_exact(&mut pong) => assert_eq!(read.unwrap(), 4),
        }
        assert_eq!(pong, [0x8a, 2, b'h', b'i']);
    }

    #[tokio::test]
    async fn close_and_a_lost_connection_both_end_reading() {
        let (mut near, far) = duplex(1000);
        let mut far = ByteStream::of_server(far, Meter::new(0)).await;
        near.write_all(&[0x82, 0x81, 0, 0, 0, 0, b'x', 0x88, 0x80, 0, 0, 0, 0]).await.unwrap();
        let mut buffer = [0; 16];
        assert_eq!(far.read(&mut buffer).await.unwrap(), 1);
        assert_eq!(far.read(&mut buffer).await.unwrap(), 0);
        assert_eq!(far.read(&mut buffer).await.unwrap(), 0);
        let (near, far) = duplex(1000);
        let mut far = ByteStream::of_server(far, Meter::new(0)).await;
        drop(near);
        assert_eq!(far.read(&mut buffer).await.unwrap(), 0);
    }
}
