//! How many frames wait unread in each stream of a control lane. The multiplexer bounds bytes and keeps each frame by
//! itself, about a hundred bytes beside its own: a peer that sends them one by one must not make that count. Follows
//! what is read for the multiplexer; changes nothing.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

use super::meter::ReadBeyondBound;

/// The streams of one control lane. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally(Arc<Mutex<HashMap<u32, Unread>>>);

/// What came for a stream and was not read yet.
#[derive(Debug, Default)]
struct Unread {
    /// The length of each frame, the first one's without what was read of it.
    frames: VecDeque<u32>,
    /// Cancelled when there are too many.
    flooded: CancellationToken,
}

impl Tally {
    /// A stream begins; the token tells when it has too many frames unread.
    pub(super) fn begin(&self, id: u32) -> CancellationToken {
        self.lock().entry(id).or_default().flooded.clone()
    }

    /// So many bytes of a stream were read.
    pub(super) fn read(&self, id: u32, len: usize) {
        if let Some(unread) = self.lock().get_mut(&id) {
            unread.read(len);
        }
    }

    /// Nobody reads it any more, and the multiplexer keeps nothing of it.
    pub(super) fn forget(&self, id: u32) {
        self.lock().remove(&id);
    }

    /// The head of a frame came.
    fn came(&self, head: Head) -> Result<(), ReadBeyondBound> {
        let mut streams = self.lock();
        if head.begins() && !streams.contains_key(&head.stream) {
            // Those that were refused are still here until we have refused them.
            if streams.len() >= STREAMS_MAX {
                return Err(ReadBeyondBound);
            }
            streams.insert(head.stream, Unread::default());
        }
        // What comes for a stream that is gone, the multiplexer throws away.
        if let Some(unread) = streams.get_mut(&head.stream).filter(|_| head.body_len() > 0) {
            unread.frames.push_back(head.body_len());
            if unread.frames.len() > FRAMES_UNREAD_MAX {
                unread.flooded.cancel();
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Unread>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Unread {
    fn read(&mut self, mut len: usize) {
        while let Some(first) = self.frames.front_mut().filter(|_| len > 0) {
            let part = len.min(*first as usize);
            // No more than the frame has.
            *first -= part as u32;
            len -= part;
            if *first == 0 {
                self.frames.pop_front();
            }
        }
    }
}

/// What stands before each frame (yamux' specification):
/// ```text
/// [ version u8 | type u8 | flags u16 | stream u32 | length u32 ]
/// ```
#[derive(Clone, Copy, Debug)]
struct Head {
    kind: u8,
    flags: u16,
    stream: u32,
    length: u32,
}

impl Head {
    fn parse(bytes: [u8; HEAD_LEN]) -> Self {
        let [_, kind, f, g, a, b, c, d, l, m, n, o] = bytes;
        Self {
            kind,
            flags: u16::from_be_bytes([f, g]),
            stream: u32::from_be_bytes([a, b, c, d]),
            length: u32::from_be_bytes([l, m, n, o]),
        }
    }

    fn begins(self) -> bool {
        matches!(self.kind, DATA | WINDOW_UPDATE) && self.flags & SYN != 0
    }

    fn body_len(self) -> u32 {
        if self.kind == DATA { self.length } else { 0 }
    }
}

/// A connection whose incoming frames are tallied.
pub(super) struct Tallied<S> {
    inner: S,
    tally: Tally,
    head: [u8; HEAD_LEN],
    head_len: usize,
    body_left: u32,
}

impl<S> Tallied<S> {
    /// From the first frame on.
    pub(super) fn new(inner: S, tally: Tally) -> Self {
        Self { inner, tally, head: [0; HEAD_LEN], head_len: 0, body_left: 0 }
    }

    fn pass(&mut self, mut bytes: &[u8]) -> Result<(), ReadBeyondBound> {
        while !bytes.is_empty() {
            if self.body_left > 0 {
                let len = bytes.len().min(self.body_left as usize);
                self.body_left -= len as u32;
                bytes = &bytes[len..];
                continue;
            }
            let len = bytes.len().min(HEAD_LEN - self.head_len);
            self.head[self.head_len..self.head_len + len].copy_from_slice(&bytes[..len]);
            self.head_len += len;
            bytes = &bytes[len..];
            if self.head_len == HEAD_LEN {
                let head = Head::parse(self.head);
                self.head_len = 0;
                self.body_left = head.body_len();
                self.tally.came(head)?;
            }
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tallied<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if matches!(read, Poll::Ready(Ok(())))
            && let Err(beyond) = self.pass(&buf.filled()[before..])
        {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, beyond)));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tallied<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Frames that a stream may have unread: 1.5 MiB of bookkeeping. An honest one meets its window of 256 KiB before, unless
/// its frames have less than 16 bytes.
const FRAMES_UNREAD_MAX: usize = 16 << 10;
/// More than the multiplexer has at any time.
const STREAMS_MAX: usize = 4096;
const HEAD_LEN: usize = 12;
const DATA: u8 = 0;
const WINDOW_UPDATE: u8 = 1;
const SYN: u16 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u16, stream: u32, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(body.len()).unwrap();
        let head = [&[0, kind][..], &flags.to_be_bytes(), &stream.to_be_bytes(), &len.to_be_bytes()].concat();
        [head, body.to_vec()].concat()
    }

    fn unread(tally: &Tally, id: u32) -> Option<Vec<u32>> {
        tally.lock().get(&id).map(|unread| unread.frames.iter().copied().collect())
    }

    #[test]
    fn frames_are_counted_until_they_are_read_however_both_are_cut() {
        let frames = [
            frame(DATA, SYN, 3, b"head"),
            frame(WINDOW_UPDATE, SYN, 5, b""),
            frame(DATA, 0, 3, b"more"),
            frame(DATA, 0, 3, b""),
            frame(DATA, 0, 5, b"other"),
            frame(DATA, 0, 7, b"of nobody"),
        ];
        let bytes = frames.concat();
        for cut in 1..bytes.len() {
            let tally = Tally::default();
            let mut tallied = Tallied::new((), tally.clone());
            bytes.chunks(cut).for_each(|chunk| tallied.pass(chunk).unwrap());
            assert_eq!(unread(&tally, 3), Some(vec![4, 4]), "{cut}");
            assert_eq!((unread(&tally, 5), unread(&tally, 7)), (Some(vec![5]), None));
            tally.read(3, 3);
            assert_eq!(unread(&tally, 3), Some(vec![1, 4]));
            tally.read(3, 3);
            assert_eq!(unread(&tally, 3), Some(vec![2]));
            tally.read(3, 2);
            assert_eq!(unread(&tally, 3), Some(vec![]));
            tally.forget(3);
            assert_eq!(unread(&tally, 3), None);
        }
    }

    #[test]
    fn a_stream_with_too_many_frames_unread_is_told_and_no_other() {
        let tally = Tally::default();
        let (slow, quick) = (tally.begin(2), tally.begin(4));
        let mut tallied = Tallied::new((), tally.clone());
        for n in 0..2 * FRAMES_UNREAD_MAX {
            assert_eq!(slow.is_cancelled(), n > FRAMES_UNREAD_MAX, "{n}");
            tallied.pass(&frame(DATA, 0, 2, b"x")).unwrap();
            tallied.pass(&frame(DATA, 0, 4, b"x")).unwrap();
            tally.read(4, 1);
        }
        assert!(!quick.is_cancelled());
    }

    #[test]
    fn streams_without_end_end_the_lane() {
        let mut tallied = Tallied::new((), Tally::default());
        let begun = (0..).take_while(|n| tallied.pass(&frame(DATA, SYN, *n, b"")).is_ok()).count();
        assert_eq!(begun, STREAMS_MAX);
    }
}
