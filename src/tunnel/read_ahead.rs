//! Takes more from a socket at once than TLS asks for: rustls reads 4 KiB at a time, a quarter of one of its records.
//! What waits here was read and is counted; a socket that has nothing holds no memory.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::poll_read_buf;

/// What was read and nobody took yet.
#[derive(Debug, Default)]
pub(super) struct ReadAhead(BytesMut);

impl ReadAhead {
    /// Fills `buf`; asks the socket only when nothing waits. Gives how many bytes the socket gave.
    pub(super) fn poll_read(
        &mut self,
        socket: Pin<&mut impl AsyncRead>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        if !self.0.is_empty() {
            self.give(buf);
            return Poll::Ready(Ok(0));
        }
        if buf.remaining() >= AHEAD_LEN {
            let before = buf.filled().len();
            return socket.poll_read(cx, buf).map_ok(|()| buf.filled().len() - before);
        }
        self.0.reserve(AHEAD_LEN);
        let read = poll_read_buf(socket, cx, &mut self.0);
        self.give(buf);
        if read.is_pending() {
            self.0 = BytesMut::new();
        }
        read
    }

    fn give(&mut self, buf: &mut ReadBuf<'_>) {
        let len = buf.remaining().min(self.0.len());
        buf.put_slice(&self.0[..len]);
        self.0.advance(len);
        if self.0.is_empty() {
            // All of the memory again, not only what is behind.
            self.0.clear();
        }
    }
}

/// Four of the longest records.
const AHEAD_LEN: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::AsyncWriteExt;

    use super::*;

    fn read(
        ahead: &mut ReadAhead,
        socket: &mut (impl AsyncRead + Unpin),
        len: usize,
    ) -> (Vec<u8>, Poll<usize>) {
        let mut bytes = vec![0; len];
        let mut buf = ReadBuf::new(&mut bytes);
        let mut cx = Context::from_waker(Waker::noop());
        let read = ahead.poll_read(Pin::new(socket), &mut cx, &mut buf).map(Result::unwrap);
        (buf.filled().to_vec(), read)
    }

    #[tokio::test]
    async fn what_is_taken_bit_by_bit_was_read_at_once_and_in_order() {
        let (mut near, mut far) = tokio::io::duplex(1 << 20);
        far.write_all(b"0123456789").await.unwrap();
        let mut ahead = ReadAhead::default();
        assert_eq!(read(&mut ahead, &mut near, 4), (b"0123".to_vec(), Poll::Ready(10)));
        far.write_all(b"abc").await.unwrap();
        assert_eq!(read(&mut ahead, &mut near, 4), (b"4567".to_vec(), Poll::Ready(0)));
        assert_eq!(read(&mut ahead, &mut near, 4), (b"89".to_vec(), Poll::Ready(0)));
        assert_eq!(read(&mut ahead, &mut near, 4), (b"abc".to_vec(), Poll::Ready(3)));
        assert_eq!(read(&mut ahead, &mut near, 4), (Vec::new(), Poll::Pending));
        assert_eq!(ahead.0.capacity(), 0, "an idle socket holds memory");
        far.write_all(b"d").await.unwrap();
        drop(far);
        assert_eq!(read(&mut ahead, &mut near, 1), (b"d".to_vec(), Poll::Ready(1)));
        assert_eq!(read(&mut ahead, &mut near, 1), (Vec::new(), Poll::Ready(0)));
    }
}
