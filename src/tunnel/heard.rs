//! Follows the frames of a WebSocket as they are read, and tells the meter which bytes are the other side's and which are
//! pings of somebody between: an ingress that pings must not keep alive the lane of a hub that is gone. Changes nothing.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::meter::Meter;

/// What a WebSocket runs on, watched.
#[derive(Debug)]
pub(super) struct Heard<S> {
    inner: S,
    walk: Walk,
    meter: Arc<Meter>,
}

impl<S> Heard<S> {
    /// Watches from the first byte behind the upgrade on.
    pub(super) fn new(inner: S, meter: Arc<Meter>) -> Self {
        meter.await_explanation();
        Self { inner, walk: Walk::default(), meter }
    }

    /// What it runs on.
    pub(super) fn get_ref(&self) -> &S {
        &self.inner
    }
}

/// Where in the frames (RFC 6455 §5.2) we are:
/// ```text
/// [ fin, rsv 4 bits, opcode 4 | mask 1, len 7 | len u16 or u64 where 126 or 127 | mask key 4 | payload … ]
/// ```
#[derive(Debug, Default)]
struct Walk {
    head: [u8; HEAD_LEN_MAX],
    head_len: usize,
    payload_left: u64,
    is_payload: bool,
}

impl Walk {
    /// Goes over bytes; whether some of them are payload of data frames.
    fn pass(&mut self, mut bytes: &[u8]) -> bool {
        let mut heard = false;
        while let Some((first, rest)) = bytes.split_first() {
            if self.payload_left > 0 {
                let len = usize::try_from(self.payload_left).unwrap_or(usize::MAX).min(bytes.len());
                self.payload_left -= len as u64;
                heard |= self.is_payload;
                bytes = &bytes[len..];
                continue;
            }
            self.head[self.head_len] = *first;
            self.head_len += 1;
            bytes = rest;
            if self.head_len == self.announced_head_len() {
                self.is_payload = matches!(self.head[0] & 0xf, CONTINUATION | BINARY);
                self.payload_left = self.announced_payload_len();
                self.head_len = 0;
            }
        }
        heard
    }

    /// How long the head is, by what is known of it.
    fn announced_head_len(&self) -> usize {
        if self.head_len < 2 {
            return 2;
        }
        let mask = if self.head[1] & 0x80 == 0 { 0 } else { 4 };
        let len = match self.head[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + len + mask
    }

    fn announced_payload_len(&self) -> u64 {
        let [_, short, a, b, c, d, e, f, g, h, ..] = self.head;
        match short & 0x7f {
            126 => u16::from_be_bytes([a, b]).into(),
            127 => u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            len => len.into(),
        }
    }
}

/// Whatever the pieces are in which bytes come, they are followed alike.
#[cfg(feature = "fuzzed")]
pub(super) fn fuzzed(bytes: &[u8]) {
    let (mut whole, mut apart) = (Walk::default(), Walk::default());
    let heard = whole.pass(bytes);
    let heard_apart = bytes.iter().filter(|byte| apart.pass(std::slice::from_ref(*byte))).count() > 0;
    assert!(heard == heard_apart);
    assert!((whole.payload_left, whole.head_len) == (apart.payload_left, apart.head_len));
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let this = &mut *self;
        let read = Pin::new(&mut this.inner).poll_read(cx, buf);
        let new = &buf.filled()[before..];
        if matches!(read, Poll::Ready(Ok(()))) && !new.is_empty() {
            let is_payload = this.walk.pass(new);
            this.meter.explain(is_payload);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
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

const HEAD_LEN_MAX: usize = 14;
const CONTINUATION: u8 = 0;
const BINARY: u8 = 2;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::tunnel::meter::MeteredSocket;
    use crate::tunnel::websocket::ByteStream;

    #[test]
    fn frames_cut_anywhere_are_followed() {
        let long = [&[0x82, 0x7e, 1, 0][..], &[7; 256]].concat();
        let longer = [&[0x02, 0xff, 0, 0, 0, 0, 0, 0, 0, 3, 9, 9, 9, 9][..], b"abc"].concat();
        // The frame and how many of its bytes are somebody's word.
        let frames: [(&[u8], usize); 6] = [
            (&[0x89, 0x84, 1, 2, 3, 4, b'p', b'i', b'n', b'g'], 0),
            (&long, 256),
            (&[0x8a, 0x00], 0),
            (&longer, 3),
            (&[0x80, 0x82, 1, 2, 3, 4, b'x', b'y'], 2),
            (&[0x88, 0x02, 3, 0xe8], 0),
        ];
        let bytes: Vec<u8> = frames.iter().flat_map(|(frame, _)| frame.iter().copied()).collect();
        let expected: Vec<bool> = frames
            .iter()
            .flat_map(|(frame, words)| (0..frame.len()).map(move |at| at >= frame.len() - words))
            .collect();
        let mut walk = Walk::default();
        let one_by_one: Vec<bool> = bytes.iter().map(|byte| walk.pass(&[*byte])).collect();
        assert_eq!(one_by_one, expected);
        for cut in 0..bytes.len() {
            let mut walk = Walk::default();
            let told = [walk.pass(&bytes[..cut]), walk.pass(&bytes[cut..])];
            assert_eq!(told, [expected[..cut].contains(&true), expected[cut..].contains(&true)], "at {cut}");
        }
    }

    #[tokio::test]
    async fn an_ingress_that_pings_is_not_the_other_side_and_a_piece_of_a_frame_is() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut ingress = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let meter = Meter::new(u64::MAX);
        let socket = MeteredSocket::new(accepted, meter.clone()).unwrap();
        let mut hub = ByteStream::of_server(socket, meter.clone()).await;
        tokio::time::pause();
        let mut byte = [0; 1];
        assert!(hub.read(&mut byte).now_or_never().is_none());
        for _ in 0..10 {
            tokio::time::advance(Duration::from_secs(2)).await;
            ingress.write_all(&[0x89, 0x84, 0, 0, 0, 0, b'p', b'i', b'n', b'g']).await.unwrap();
            // The pong says that the ping was read.
            let mut pong = [0; 6];
            tokio::select! {
                _ = hub.read(&mut byte) => panic!("there is nothing to read"),
                read = ingress.read_exact(&mut pong) => assert_eq!(read.unwrap(), 6),
            }
        }
        assert!(meter.silence() >= Duration::from_secs(20), "{:?}", meter.silence());
        // A long frame that comes slowly: its first bytes count at once, though nothing can be taken yet.
        ingress.write_all(&[0x82, 0xfe, 0x10, 0, 0, 0, 0, 0, 1, 2, 3]).await.unwrap();
        while meter.silence() > Duration::ZERO {
            assert!(hub.read(&mut byte).now_or_never().is_none());
            tokio::task::yield_now().await;
        }
    }
}
