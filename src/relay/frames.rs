//! The frames of a relay lane. Control frames are prost messages; an entry is a small head and its raw bytes.
//! Holds no socket. Cut and built like a broker's frames:
//!
//! ```text
//! [ total u32 | head_len u32 | LaneFrame … | entry … ]     `entry` only behind an EntryHead; big-endian
//! ```
//! Version 1 of the link. An unknown kind of frame is refused by name.

use bytes::Bytes;
use prost::Message;

use crate::pulsar::frame::{Frame, FrameError, encode_before};

/// The envelope.
#[derive(Clone, PartialEq, Message)]
pub struct LaneFrame {
    /// What it is.
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6, 7, 8")]
    pub kind: Option<Kind>,
}

/// What a frame is. `number` names a partition on one lane and is chosen by the source's side; frames of
/// another `session` than the current one are dropped.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Kind {
    /// Source to sink: a session begins.
    #[prost(message, tag = "1")]
    Open(Open),
    /// Sink to source: entries may come.
    #[prost(message, tag = "2")]
    Ready(Ready),
    /// Source to sink: an entry follows the head.
    #[prost(message, tag = "3")]
    Entry(EntryHead),
    /// Sink to source: what the destination broker answered.
    #[prost(message, tag = "4")]
    Receipts(Receipts),
    /// Either way: the session is over.
    #[prost(message, tag = "5")]
    Stop(Stop),
    /// Either way: nothing, but proof of life.
    #[prost(message, tag = "6")]
    Keepalive(Keepalive),
    /// Sink to source: which schema is this version?
    #[prost(message, tag = "7")]
    SchemaAsk(SchemaAsk),
    /// Source to sink: this one.
    #[prost(message, tag = "8")]
    SchemaAnswer(SchemaAnswer),
}

/// A session of one partition begins.
#[derive(Clone, PartialEq, Message)]
pub struct Open {
    /// The partition on this lane.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    /// The session, equal at both ends.
    #[prost(uint64, tag = "2")]
    pub session: u64,
    /// The route's name.
    #[prost(string, tag = "3")]
    pub route: String,
    /// The source site.
    #[prost(string, tag = "4")]
    pub from: String,
    /// The destination site.
    #[prost(string, tag = "5")]
    pub to: String,
    /// The source topic-partition.
    #[prost(string, tag = "6")]
    pub topic: String,
    /// How many partitions the source topic has; 0 when it is not partitioned.
    #[prost(uint32, tag = "7")]
    pub partitions: u32,
    /// The route's generation.
    #[prost(uint32, tag = "8")]
    pub generation: u32,
    /// The topic at the destination, without partition, where it has another name there.
    #[prost(string, tag = "9")]
    pub destination: String,
    /// The sites whose messages come with the topic, where the route passes on what bridges brought.
    #[prost(string, repeated, tag = "10")]
    pub fed_by: Vec<String>,
    /// The destination may have another number of partitions.
    #[prost(bool, tag = "11")]
    pub any_partitions: bool,
    /// The topic at the destination for what its broker refuses, where the route has one.
    #[prost(string, optional, tag = "14")]
    pub quarantine: Option<String>,
    /// What was refused before and not yet acknowledged: first and last ids in turn, as `Refused` has them.
    #[prost(uint64, repeated, tag = "15")]
    pub refused: Vec<u64>,
}

/// The sink's producer stands.
#[derive(Clone, PartialEq, Message)]
pub struct Ready {
    /// As in `Open`.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    /// As in `Open`.
    #[prost(uint64, tag = "2")]
    pub session: u64,
    /// The highest sequence id that was pushed under our name, −1 for none.
    #[prost(sint64, tag = "3")]
    pub last_sequence_id: i64,
    /// The destination deduplicates, as far as could be known.
    #[prost(bool, tag = "4")]
    pub effectively_once: bool,
    /// Bytes of entries that may be unconfirmed (or one entry).
    #[prost(uint64, tag = "5")]
    pub window_bytes: u64,
    /// Entries that may be unconfirmed.
    #[prost(uint32, tag = "6")]
    pub window_entries: u32,
    /// What `Open` names as refused goes to the quarantine. A version without it would publish that.
    #[prost(bool, tag = "15")]
    pub quarantines: bool,
    /// The partition of the destination's topic, where it has any.
    #[prost(uint32, optional, tag = "16")]
    pub partition: Option<u32>,
}

/// Before an entry's bytes.
#[derive(Clone, PartialEq, Message)]
pub struct EntryHead {
    /// As in `Open`.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    /// As in `Open`.
    #[prost(uint64, tag = "2")]
    pub session: u64,
    /// The entry's sequence id: `ledger << 28 | entry`; the first of a joined batch.
    #[prost(uint64, tag = "3")]
    pub sequence_id: u64,
    /// The last sequence id of a joined batch.
    #[prost(uint64, optional, tag = "4")]
    pub highest_sequence_id: Option<u64>,
}

/// What the destination broker answered, one by one: a receipt for 6 says nothing about 5.
#[derive(Clone, PartialEq, Message)]
pub struct Receipts {
    /// As in `Open`.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    /// As in `Open`.
    #[prost(uint64, tag = "2")]
    pub session: u64,
    /// Each: the sequence id, shifted left by one, and a last bit that says "duplicate".
    #[prost(uint64, repeated, tag = "3")]
    pub marked: Vec<u64>,
}

impl Receipts {
    /// One answer as it travels.
    pub fn mark(sequence_id: u64, duplicate: bool) -> u64 {
        sequence_id << 1 | u64::from(duplicate)
    }

    /// The answers: sequence id, duplicate.
    pub fn iter(&self) -> impl Iterator<Item = (u64, bool)> + '_ {
        self.marked.iter().map(|marked| (marked >> 1, marked & 1 == 1))
    }
}

/// A session is over.
#[derive(Clone, PartialEq, Message)]
pub struct Stop {
    /// As in `Open`.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    /// As in `Open`.
    #[prost(uint64, tag = "2")]
    pub session: u64,
    /// A code of `Reason`.
    #[prost(string, tag = "3")]
    pub code: String,
    /// The refused entry, where there is one.
    #[prost(uint64, optional, tag = "4")]
    pub sequence_id: Option<u64>,
    /// Sent by the source's side.
    #[prost(bool, tag = "5")]
    pub by_source: bool,
    /// All that was refused: first and last ids in turn. A version without it names one id, perhaps of a batch.
    #[prost(uint64, repeated, tag = "15")]
    pub refused: Vec<u64>,
}

/// Nothing.
#[derive(Clone, PartialEq, Message)]
pub struct Keepalive {}

/// Which schema is this?
#[derive(Clone, PartialEq, Message)]
pub struct SchemaAsk {
    /// As in `Open`.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    /// As in `Open`.
    #[prost(uint64, tag = "2")]
    pub session: u64,
    /// As the source counts.
    #[prost(bytes = "bytes", tag = "3")]
    pub version: Bytes,
}

/// This one.
#[derive(Clone, PartialEq, Message)]
pub struct SchemaAnswer {
    /// As in `Open`.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    /// As in `Open`.
    #[prost(uint64, tag = "2")]
    pub session: u64,
    /// As asked.
    #[prost(bytes = "bytes", tag = "3")]
    pub version: Bytes,
    /// The `Schema` message; absent when the source knows none.
    #[prost(bytes = "bytes", optional, tag = "4")]
    pub schema: Option<Bytes>,
}

/// Why a lane's bytes are not a peer's of our version. Ends the lane.
#[derive(Debug, thiserror::Error)]
pub enum LaneFrameError {
    /// Not framed, too long, or not decodable.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A kind that this version does not know.
    #[error(
        "unknown kind of relay frame (its first byte is {first:#04x}): the other side's version may be newer"
    )]
    Unknown {
        /// The first byte of the frame.
        first: u8,
    },
}

/// Decodes a frame; the entry's bytes stay in `frame.rest`.
pub fn decode(frame: &Frame) -> Result<Kind, LaneFrameError> {
    let envelope = LaneFrame::decode(frame.command.clone()).map_err(FrameError::Command)?;
    envelope.kind.ok_or(LaneFrameError::Unknown { first: frame.command.first().copied().unwrap_or(0) })
}

/// The first byte of a schema's answer, the one frame of control that may be large: field 8, length-delimited.
pub const SCHEMA_ANSWER_TAG: u8 = 8 << 3 | 2;

/// A control frame.
pub fn encode(kind: Kind) -> Bytes {
    encode_before(&LaneFrame { kind: Some(kind) }, 0)
}

/// The beginning of an entry's frame, to be written before the entry.
pub fn encode_entry_head(head: EntryHead, entry_len: usize) -> Bytes {
    encode_before(&LaneFrame { kind: Some(Kind::Entry(head)) }, entry_len)
}

/// A lane's frame is an entry and some; a peer that announces more is cut off.
pub const LANE_FRAME_LEN_MAX: u32 = ENTRY_LEN_MAX as u32 + 4096;
/// The largest entry that a lane carries: three times Pulsar's default bound.
pub const ENTRY_LEN_MAX: usize = 16 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pulsar::frame::FrameSplitter;

    #[test]
    fn an_entry_crosses_with_its_head_and_its_bytes() {
        let head = EntryHead { number: 7, session: 9, sequence_id: 1 << 40, highest_sequence_id: None };
        let mut splitter = FrameSplitter::new(LANE_FRAME_LEN_MAX);
        splitter.inlet().extend_from_slice(&encode_entry_head(head.clone(), 3));
        splitter.inlet().extend_from_slice(b"abc");
        let frame = splitter.next_frame().unwrap().unwrap();
        assert_eq!(decode(&frame).unwrap(), Kind::Entry(head));
        assert_eq!(&frame.rest[..], b"abc");
    }

    #[test]
    fn a_receipt_keeps_its_id_and_its_mark() {
        let receipts = Receipts {
            marked: vec![Receipts::mark(5, false), Receipts::mark((1 << 63) - 1, true)],
            ..Receipts::default()
        };
        assert_eq!(receipts.iter().collect::<Vec<_>>(), [(5, false), ((1 << 63) - 1, true)]);
    }

    #[test]
    fn an_unknown_kind_is_refused_by_name() {
        let frame = Frame { command: Bytes::from_static(b"\xfa\x06\x00"), rest: Bytes::new() };
        assert!(matches!(decode(&frame), Err(LaneFrameError::Unknown { first: 0xfa })));
    }
}
