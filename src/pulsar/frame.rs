//! Cuts a byte stream into Pulsar frames and builds frames. Holds no socket, copies no payload.
//!
//! ```text
//! [ total u32 | command_len u32 | command … | rest … ]     `total` counts what follows it; big-endian
//! ```
//! `rest` is empty, or what `Entry::parse` reads (`Commands.java` of pulsar-common).

use std::ops::Range;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

use super::proto::BaseCommand;

/// Why a byte stream is not Pulsar's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The peer announced more than a frame may have.
    #[error("a frame of {len} bytes was announced, at most {max} are allowed")]
    TooLong {
        /// Announced length.
        len: u32,
        /// The bound.
        max: u32,
    },
    /// The frame ends inside its command.
    #[error("a frame of {body_len} bytes holds a command of {command_len}")]
    CommandOverrun {
        /// Announced command length.
        command_len: usize,
        /// What is there.
        body_len: usize,
    },
    /// The command is no protobuf of the protocol.
    #[error("a command could not be decoded: {0}")]
    Command(#[from] prost::DecodeError),
}

/// One frame: the command's bytes and what follows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The encoded `BaseCommand`.
    pub command: Bytes,
    /// Headers and payload; empty for a simple command.
    pub rest: Bytes,
}

impl Frame {
    /// The decoded command.
    pub fn decode(&self) -> Result<BaseCommand, FrameError> {
        Ok(BaseCommand::decode(self.command.clone())?)
    }
}

/// A frame where it lies among what is unread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lying<'a> {
    /// The encoded command.
    pub command: &'a [u8],
    /// Where headers and payload are, counted from the beginning of what is unread.
    pub rest: Range<usize>,
}

/// Takes bytes as they come, gives whole frames.
#[derive(Debug)]
pub struct FrameSplitter {
    unread: BytesMut,
    frame_len_max: u32,
}

impl FrameSplitter {
    /// A splitter that refuses frames announced longer than `frame_len_max`.
    pub fn new(frame_len_max: u32) -> Self {
        Self { unread: BytesMut::new(), frame_len_max }
    }

    /// Sets the bound anew, once the broker has told its `max_message_size`.
    pub fn set_frame_len_max(&mut self, frame_len_max: u32) {
        self.frame_len_max = frame_len_max;
    }

    /// Where to append what was read, with room for at least one good read; more, up to a bound, where a large
    /// frame has begun, so that it is not copied again with every read.
    pub fn inlet(&mut self) -> &mut BytesMut {
        if self.unread.capacity() - self.unread.len() < READ_LEN_MIN {
            let announced = self.unread.first_chunk::<4>().map_or(0, |prefix| u32::from_be_bytes(*prefix));
            let missing = (announced as usize + 4).saturating_sub(self.unread.len());
            self.unread.reserve(missing.clamp(READ_LEN, READ_LEN_MAX));
        }
        &mut self.unread
    }

    /// Takes the next whole frame; `None` means "feed me more".
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(Lying { command, rest }) = self.whole_at(0)? else {
            return Ok(None);
        };
        let (command_len, rest_len) = (command.len(), rest.len());
        let mut body = self.take(rest.end);
        body.advance(body.len() - rest_len - command_len);
        let command = body.split_to(command_len);
        Ok(Some(Frame { command, rest: body }))
    }

    /// The whole frame that begins at byte `at` of what is unread, and stays there; `None` means "feed me more".
    pub fn whole_at(&self, at: usize) -> Result<Option<Lying<'_>>, FrameError> {
        let unread = self.unread.get(at..).unwrap_or_default();
        let Some((prefix, body)) = unread.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let len = u32::from_be_bytes(*prefix);
        if len > self.frame_len_max {
            // Before buffering: this is the peer's word, not a fact.
            return Err(FrameError::TooLong { len, max: self.frame_len_max });
        }
        let Some(body) = body.get(..len as usize) else {
            return Ok(None);
        };
        let overrun = |command_len, body_len| FrameError::CommandOverrun { command_len, body_len };
        let (command_len, body) = body.split_first_chunk::<4>().ok_or(overrun(0, body.len()))?;
        let command_len = u32::from_be_bytes(*command_len) as usize;
        let command = body.get(..command_len).ok_or(overrun(command_len, body.len()))?;
        let rest = at + 8 + command_len..at + 4 + len as usize;
        Ok(Some(Lying { command, rest }))
    }

    /// Takes so many bytes from the beginning of what is unread, as one piece of memory: whole frames, up to the end
    /// of one that [`FrameSplitter::whole_at`] has found.
    pub fn take(&mut self, len: usize) -> Bytes {
        self.unread.split_to(len).freeze()
    }
}

/// A simple command as a frame.
pub fn encode(command: &BaseCommand) -> Bytes {
    encode_before(command, 0)
}

/// A command as the beginning of a frame of which `rest_len` more bytes will be written.
pub fn encode_before<C: Message>(command: &C, rest_len: usize) -> Bytes {
    let command_len = command.encoded_len();
    let mut frame = BytesMut::with_capacity(8 + command_len);
    // Callers bound `rest_len` by the broker's max_message_size, far below 2^32.
    frame.put_u32((4 + command_len + rest_len) as u32);
    frame.put_u32(command_len as u32);
    // Cannot fail: the buffer has the length that prost announced.
    command.encode_raw(&mut frame);
    frame.freeze()
}

/// One read from a socket, and with it one shared allocation that entries are cut from.
const READ_LEN: usize = 256 * 1024;
/// What is reserved at once for a frame that announces more.
const READ_LEN_MAX: usize = 4 * 1024 * 1024;
/// Below this much room a new allocation is cheaper than many small reads.
const READ_LEN_MIN: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pulsar::proto::{Empty, kind};

    #[test]
    fn a_frame_cut_anywhere_comes_out_whole_and_once() {
        let wire = b"\0\0\0\x09\0\0\0\x02CMpay";
        for cut in 0..=wire.len() {
            let mut splitter = FrameSplitter::new(64);
            splitter.inlet().extend_from_slice(&wire[..cut]);
            let early = splitter.next_frame().unwrap();
            splitter.inlet().extend_from_slice(&wire[cut..]);
            let frame = early.or_else(|| splitter.next_frame().unwrap()).unwrap();
            assert_eq!((&frame.command[..], &frame.rest[..]), (&b"CM"[..], &b"pay"[..]), "cut at {cut}");
            assert_eq!(splitter.next_frame(), Ok(None));
        }
    }

    #[test]
    fn frames_that_lie_behind_each_other_are_found_and_taken_as_one() {
        let mut splitter = FrameSplitter::new(64);
        splitter.inlet().extend_from_slice(b"\0\0\0\x06\0\0\0\x01Ap\0\0\0\x05\0\0\0\x01B\0\0");
        let (mut at, mut found) = (0, Vec::new());
        while let Some(Lying { command, rest }) = splitter.whole_at(at).unwrap() {
            at = rest.end;
            found.push((command.to_vec(), rest));
        }
        assert_eq!(found, [(b"A".to_vec(), 9..10), (b"B".to_vec(), 19..19)]);
        assert_eq!(splitter.take(at)[found[0].1.clone()], b"p"[..]);
        assert_eq!(&splitter.unread[..], b"\0\0");
    }

    #[test]
    fn an_announced_length_is_refused_before_anything_is_reserved() {
        let mut splitter = FrameSplitter::new(1000);
        splitter.inlet().extend_from_slice(&0x7fff_ffff_u32.to_be_bytes());
        let capacity = splitter.unread.capacity();
        assert_eq!(splitter.next_frame(), Err(FrameError::TooLong { len: 0x7fff_ffff, max: 1000 }));
        assert!(capacity <= READ_LEN + READ_LEN_MIN);
    }

    #[test]
    fn a_command_longer_than_its_frame_is_refused() {
        for wire in [&b"\0\0\0\x04\0\0\0\x01"[..], &b"\0\0\0\x02\0\0"[..]] {
            let mut splitter = FrameSplitter::new(64);
            splitter.inlet().extend_from_slice(wire);
            assert!(matches!(splitter.next_frame(), Err(FrameError::CommandOverrun { .. })));
        }
    }

    #[test]
    fn a_ping_is_what_the_java_client_writes() {
        let ping = BaseCommand { r#type: kind::PING, ping: Some(Empty {}), ..BaseCommand::default() };
        assert_eq!(&encode(&ping)[..], b"\0\0\0\x09\0\0\0\x05\x08\x12\x92\x01\x00");
    }
}
