//! Bytes waiting for one socket, written many at a time without copying them together. Holds no socket.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// A queue of byte slices that `AsyncWriteExt::write_buf` drains with vectored writes.
/// Bounded by whoever fills it: a writer stops taking from its channel at [`WriteQueue::is_full`].
#[derive(Debug, Default)]
pub struct WriteQueue {
    slices: VecDeque<Bytes>,
    len: usize,
}

impl WriteQueue {
    /// Appends a slice.
    pub fn push(&mut self, slice: Bytes) {
        if !slice.is_empty() {
            self.len += slice.len();
            self.slices.push_back(slice);
        }
    }

    /// Enough waits for one large write.
    pub fn is_full(&self) -> bool {
        self.len >= WRITE_LEN || self.slices.len() >= SLICES_MAX
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Writes everything that waits, and flushes. Not cancel-safe: a frame may be cut, so whoever loses a race
    /// against this closes the socket.
    pub async fn write_to<W: AsyncWrite + Unpin>(&mut self, socket: &mut W) -> std::io::Result<()> {
        while !self.is_empty() {
            if socket.write_buf(self).await? == 0 {
                return Err(std::io::ErrorKind::WriteZero.into());
            }
        }
        socket.flush().await
    }
}

impl Buf for WriteQueue {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        self.slices.front().map_or(&[], |slice| slice)
    }

    fn chunks_vectored<'a>(&'a self, dst: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (slot, slice) in dst.iter_mut().zip(&self.slices) {
            *slot = IoSlice::new(slice);
            filled += 1;
        }
        filled
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.len, "advanced past the end of a write queue");
        self.len -= count;
        while count > 0 {
            let Some(front) = self.slices.front_mut() else {
                return;
            };
            if front.len() > count {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.slices.pop_front();
        }
    }
}

/// Enough for one large write; more only delays what is urgent.
const WRITE_LEN: usize = 256 * 1024;
/// What one vectored write takes at most on Linux is 1024; small frames have two slices.
const SLICES_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_leave_in_order_however_the_socket_takes_them() {
        for step in 1..=7 {
            let mut queue = WriteQueue::default();
            for slice in [&b"ab"[..], b"", b"cdefg", b"h"] {
                queue.push(Bytes::from_static(slice));
            }
            let mut written = Vec::new();
            while queue.has_remaining() {
                let mut slots = [IoSlice::new(&[]); 4];
                let filled = queue.chunks_vectored(&mut slots);
                let flat: Vec<u8> = slots[..filled].iter().flat_map(|s| s.to_vec()).collect();
                let taken = step.min(flat.len());
                written.extend_from_slice(&flat[..taken]);
                queue.advance(taken);
            }
            assert_eq!(written, b"abcdefgh", "step {step}");
            assert!(queue.is_empty() && queue.chunk().is_empty());
        }
    }
}
