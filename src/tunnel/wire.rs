//! The frames of handshake and control stream: Hello, Welcome, Refused, and how a frame is cut.
//! Decides nothing; reserves nothing before a length is checked.
//!
//! ```text
//! [ len u32 | type u8 | body … ]   `len` counts type and body
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The edge's first word on a lane.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Hello {
    /// Protocol versions that the edge speaks.
    #[prost(uint32, repeated, tag = "1")]
    pub versions: Vec<u32>,
    /// What the edge knows beyond its version: bits of [`features`](super::features).
    #[prost(uint64, tag = "2")]
    pub features: u64,
    /// The edge's name; must be the authenticated one.
    #[prost(string, tag = "3")]
    pub site: String,
    /// 16 random bytes for each process.
    #[prost(bytes = "vec", tag = "4")]
    pub instance: Vec<u8>,
    /// The lane that this connection is to be.
    #[prost(message, optional, tag = "5")]
    pub lane: Option<LaneAsked>,
    /// SHA-256 of the edge's policy; empty until policies are compared.
    #[prost(bytes = "vec", tag = "6")]
    pub policy_digest: Vec<u8>,
    /// Unix time in milliseconds at the edge.
    #[prost(uint64, tag = "7")]
    pub time_ms: u64,
    /// The edge's budget for a link, Mbit/s; 0: none.
    #[prost(uint32, tag = "8")]
    pub budget_mbit_s: u32,
    /// Whom the edge takes the hub for, its site's name; empty from an earlier version.
    #[prost(string, tag = "9")]
    pub hub: String,
}

/// What lane the edge asks for.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct LaneAsked {
    /// The link it belongs to; on a control lane the one whose place it takes. 0 makes a new one.
    #[prost(fixed64, tag = "1")]
    pub link: u64,
    /// Index within its kind; of a stream's own lane the stream's number.
    #[prost(uint32, tag = "2")]
    pub index: u32,
    /// What it is for.
    #[prost(enumeration = "Kind", tag = "3")]
    pub kind: i32,
    /// Grows with each dial of the process; the higher one replaces the older socket.
    #[prost(uint32, tag = "4")]
    pub attempt: u32,
    /// On the control lane: how many relay lanes the edge would like.
    #[prost(uint32, tag = "5")]
    pub relay_lanes: u32,
}

/// What a lane is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Kind {
    /// None: refused.
    Unset = 0,
    /// The first lane of a link: yamux with the control stream.
    Control = 1,
    /// Relay frames directly on TLS.
    Relay = 2,
    /// None at all: the edge only wants to know whether the hub takes it for whom it says.
    Check = 3,
    /// What a stream of the control lane goes on with.
    Stream = 4,
}

impl Kind {
    /// Its word on the board and in logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unset => "unset",
            Self::Control => "control",
            Self::Relay => "relay",
            Self::Check => "check",
            Self::Stream => "stream",
        }
    }
}

/// The hub's yes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Welcome {
    /// The version that both will speak.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// Feature bits in common.
    #[prost(uint64, tag = "2")]
    pub features: u64,
    /// The hub's name; must be the authenticated one.
    #[prost(string, tag = "3")]
    pub site: String,
    /// The hub's process.
    #[prost(bytes = "vec", tag = "4")]
    pub instance: Vec<u8>,
    /// The link that this lane belongs to, never 0.
    #[prost(fixed64, tag = "5")]
    pub link: u64,
    /// What the edge may do.
    #[prost(message, optional, tag = "6")]
    pub limits: Option<Limits>,
    /// SHA-256 of the hub's policy for this edge; empty until policies are compared.
    #[prost(bytes = "vec", tag = "7")]
    pub policy_digest: Vec<u8>,
    /// Unix time in milliseconds at the hub.
    #[prost(uint64, tag = "8")]
    pub time_ms: u64,
}

/// Bounds that the hub sets for a link.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Limits {
    /// How many relay lanes the edge is to dial.
    #[prost(uint32, tag = "1")]
    pub relay_lanes: u32,
    /// Longest control message.
    #[prost(uint32, tag = "2")]
    pub control_message_len: u32,
    /// The narrower of both budgets, Mbit/s; 0: none.
    #[prost(uint32, tag = "3")]
    pub budget_mbit_s: u32,
}

/// The hub's no.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Refused {
    /// A code of [`Refusal`](super::refusal::Refusal).
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// When to try again, in milliseconds; 0 leaves it to the edge's own backoff.
    #[prost(uint32, tag = "2")]
    pub retry_after_ms: u32,
    /// The hub's process, so that an edge knows whether it has a link there.
    #[prost(bytes = "vec", tag = "3")]
    pub instance: Vec<u8>,
}

/// A frame that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// One of the constants below.
    pub kind: u8,
    /// What it carries.
    pub body: Bytes,
}

/// Why no frame could be read.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The socket's or TLS's word.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The peer announced more than we take.
    #[error("a frame of {len} bytes was announced, at most {max} are allowed")]
    TooLong {
        /// What was announced.
        len: u32,
        /// What is allowed.
        max: u32,
    },
    /// A frame needs at least its type.
    #[error("an empty frame")]
    Empty,
}

/// Checks the first four bytes of a frame: the peer's word, not yet a fact.
pub fn frame_len(prefix: [u8; 4], len_max: u32) -> Result<usize, WireError> {
    match u32::from_be_bytes(prefix) {
        0 => Err(WireError::Empty),
        len if len > len_max => Err(WireError::TooLong { len, max: len_max }),
        len => Ok(len as usize),
    }
}

/// Reads exactly one frame and not a byte more. Not cancel-safe: whoever drops it drops the lane.
pub async fn read_frame<R: AsyncRead + Unpin>(from: &mut R, len_max: u32) -> Result<Frame, WireError> {
    let mut prefix = [0; 4];
    from.read_exact(&mut prefix).await?;
    let len = frame_len(prefix, len_max)?;
    let kind = from.read_u8().await?;
    let mut body = vec![0; len - 1];
    from.read_exact(&mut body).await?;
    Ok(Frame { kind, body: body.into() })
}

/// Writes one frame and flushes it.
pub async fn write_frame<W: AsyncWrite + Unpin>(to: &mut W, kind: u8, body: &[u8]) -> std::io::Result<()> {
    let mut frame = BytesMut::with_capacity(5 + body.len());
    // Bodies are ours and bounded far below 4 GiB.
    frame.put_u32(u32::try_from(body.len() + 1).unwrap_or(u32::MAX));
    frame.put_u8(kind);
    frame.put_slice(body);
    to.write_all(&frame).await?;
    to.flush().await
}

/// Longest handshake frame.
pub const HANDSHAKE_LEN_MAX: u32 = 4096;
/// Hello.
pub const HELLO: u8 = 1;
/// Welcome.
pub const WELCOME: u8 = 2;
/// Refused.
pub const REFUSED: u8 = 3;
/// Control stream: are you there?
pub const PING: u8 = 16;
/// Control stream: I am, with the ping's body.
pub const PONG: u8 = 17;
/// Control stream: a message of another room.
pub const MESSAGE: u8 = 18;
/// The sender's budget for the link is another: Mbit/s as u32; 0: none.
pub const BUDGET: u8 = 19;
/// Other streams: what the stream is for.
pub const STREAM_HEAD: u8 = 32;
/// Other streams: nobody here serves that.
pub const STREAM_UNWANTED: u8 = 33;
/// The edge's first frame on a lane of a stream: it has the hub's Welcome, and the lane is in use from now on.
pub const STREAM_TAKEN: u8 = 34;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_frame_comes_out_whole_and_nothing_after_it_is_touched() {
        let (mut ours, mut theirs) = tokio::io::duplex(64);
        write_frame(&mut theirs, HELLO, b"abc").await.unwrap();
        theirs.write_all(b"relay").await.unwrap();
        let frame = read_frame(&mut ours, HANDSHAKE_LEN_MAX).await.unwrap();
        assert_eq!((frame.kind, &frame.body[..]), (HELLO, &b"abc"[..]));
        let mut rest = [0; 5];
        ours.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"relay");
    }

    #[test]
    fn an_announced_length_is_judged_before_anything_is_reserved() {
        let two_gigabytes = 0x8000_0000_u32.to_be_bytes();
        assert!(matches!(
            frame_len(two_gigabytes, HANDSHAKE_LEN_MAX),
            Err(WireError::TooLong { len: 0x8000_0000, max: 4096 })
        ));
        assert!(matches!(frame_len([0; 4], 1), Err(WireError::Empty)));
        assert!(matches!(frame_len(1_u32.to_be_bytes(), 1), Ok(1)));
    }
}
