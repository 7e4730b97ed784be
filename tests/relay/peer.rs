//! The other side of a relay lane, played by the test frame by frame; the messages are written anew from their
//! numbers on the wire, so that a change of those is seen.

use bytes::Bytes;
use prost::Message;
use pulsar_bridge::pulsar::frame::{FrameSplitter, encode_before};
use pulsar_bridge::tunnel::features::FEATURES;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_util::sync::CancellationToken;

use crate::journal::PATIENCE;
use crate::pair::{Side, TOPIC};

#[derive(Clone, PartialEq, Message)]
pub struct LaneFrame {
    #[prost(message, optional, tag = "1")]
    pub open: Option<Open>,
    #[prost(message, optional, tag = "2")]
    pub ready: Option<Ready>,
    #[prost(message, optional, tag = "3")]
    pub entry: Option<EntryHead>,
    #[prost(message, optional, tag = "4")]
    pub receipts: Option<Receipts>,
    #[prost(message, optional, tag = "5")]
    pub stop: Option<Stop>,
    #[prost(message, optional, tag = "6")]
    pub keepalive: Option<Keepalive>,
    #[prost(message, optional, tag = "7")]
    pub schema_ask: Option<SchemaAsk>,
    #[prost(message, optional, tag = "8")]
    pub schema_answer: Option<SchemaAnswer>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Open {
    #[prost(uint32, tag = "1")]
    pub number: u32,
    #[prost(uint64, tag = "2")]
    pub session: u64,
    #[prost(string, tag = "3")]
    pub route: String,
    #[prost(string, tag = "4")]
    pub from: String,
    #[prost(string, tag = "5")]
    pub to: String,
    #[prost(string, tag = "6")]
    pub topic: String,
    #[prost(uint32, tag = "7")]
    pub partitions: u32,
    #[prost(uint32, tag = "8")]
    pub generation: u32,
    #[prost(string, tag = "9")]
    pub destination: String,
    #[prost(string, optional, tag = "14")]
    pub quarantine: Option<String>,
    #[prost(uint64, repeated, tag = "15")]
    pub refused: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Ready {
    #[prost(uint32, tag = "1")]
    pub number: u32,
    #[prost(uint64, tag = "2")]
    pub session: u64,
    #[prost(sint64, tag = "3")]
    pub last_sequence_id: i64,
    #[prost(uint64, tag = "5")]
    pub window_bytes: u64,
    #[prost(uint32, tag = "6")]
    pub window_entries: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct EntryHead {
    #[prost(uint32, tag = "1")]
    pub number: u32,
    #[prost(uint64, tag = "2")]
    pub session: u64,
    #[prost(uint64, tag = "3")]
    pub sequence_id: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Receipts {
    #[prost(uint32, tag = "1")]
    pub number: u32,
    #[prost(uint64, tag = "2")]
    pub session: u64,
    #[prost(uint64, repeated, tag = "3")]
    pub marked: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Stop {
    #[prost(uint32, tag = "1")]
    pub number: u32,
    #[prost(uint64, tag = "2")]
    pub session: u64,
    #[prost(string, tag = "3")]
    pub code: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Keepalive {}

#[derive(Clone, PartialEq, Message)]
pub struct SchemaAsk {
    #[prost(uint32, tag = "1")]
    pub number: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct SchemaAnswer {
    #[prost(uint32, tag = "1")]
    pub number: u32,
    #[prost(uint64, tag = "2")]
    pub session: u64,
}

/// What is said on the control stream.
#[derive(Clone, PartialEq, Message)]
pub struct ControlMessage {
    #[prost(message, optional, tag = "1")]
    pub declaration: Option<Declaration>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Declaration {
    #[prost(message, repeated, tag = "1")]
    pub routes: Vec<DeclaredRoute>,
}

#[derive(Clone, PartialEq, Message)]
pub struct DeclaredRoute {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub from: String,
    #[prost(string, tag = "3")]
    pub to: String,
    #[prost(string, repeated, tag = "4")]
    pub topics: Vec<String>,
    #[prost(uint32, tag = "5")]
    pub generation: u32,
    #[prost(string, tag = "6")]
    pub subscription: String,
}

/// The route that `peer` has `riskfuel` send.
pub fn declaration(peer: &str, generation: u32) -> Bytes {
    let (Open { route: name, from, topic, .. }, to) = (open(), peer.to_owned());
    let subscription = format!("bridge.{from}.{to}");
    let route = DeclaredRoute { name, from, to, topics: vec![topic], generation, subscription };
    ControlMessage { declaration: Some(Declaration { routes: vec![route] }) }.encode_to_vec().into()
}

/// A peer on one lane.
pub struct Peer {
    stream: DuplexStream,
    splitter: FrameSplitter,
    /// The agent's own word on the lane.
    pub ended: CancellationToken,
}

impl Peer {
    /// A lane to this agent, on which the test is `name`.
    pub async fn meet(side: &Side, name: &str) -> Self {
        Self::meet_of(side, name, FEATURES).await
    }

    /// The same of a peer that knows only these features.
    pub async fn meet_of(side: &Side, name: &str, features: u64) -> Self {
        let (here, there) = tokio::io::duplex(1 << 16);
        let ended = side.give_lane_of(name, features, Box::new(there)).await;
        Self { stream: here, splitter: FrameSplitter::new(1 << 20), ended }
    }

    /// Bytes as they are; the lane may end before they are all taken.
    pub async fn write(&mut self, bytes: &[u8]) -> bool {
        let write = self.stream.write_all(bytes);
        tokio::time::timeout(PATIENCE, write).await.is_ok_and(|written| written.is_ok())
    }

    pub async fn tell(&mut self, frame: LaneFrame, entry: &[u8]) -> bool {
        let head = encode_before(&frame, entry.len());
        self.write(&head).await && self.write(entry).await
    }

    /// The next frame that is no keepalive; `None` when the lane has ended.
    pub async fn hear(&mut self) -> Option<LaneFrame> {
        let hear = async {
            loop {
                while let Some(frame) = self.splitter.next_frame().unwrap() {
                    let said = LaneFrame::decode(frame.command).unwrap();
                    if said.keepalive.is_none() {
                        return Some(said);
                    }
                }
                if self.stream.read_buf(self.splitter.inlet()).await.unwrap_or(0) == 0 {
                    return None;
                }
            }
        };
        tokio::time::timeout(PATIENCE, hear).await.expect("the agent says nothing")
    }

    pub async fn until_ended(&self) {
        let ended = tokio::time::timeout(PATIENCE, self.ended.cancelled()).await;
        assert!(ended.is_ok(), "the lane lives on");
    }
}

/// What an honest `riskfuel` opens.
pub fn open() -> Open {
    Open {
        number: 1,
        session: 9,
        route: "orders".into(),
        from: "riskfuel".into(),
        to: "bank".into(),
        topic: TOPIC.into(),
        partitions: 0,
        generation: 1,
        destination: String::new(),
        quarantine: None,
        refused: Vec::new(),
    }
}

pub fn opening(open: Open) -> LaneFrame {
    LaneFrame { open: Some(open), ..LaneFrame::default() }
}

/// A sink that has room, for a session that was opened to us.
pub fn readiness(open: &Open) -> LaneFrame {
    let Open { number, session, .. } = *open;
    let ready = Ready { number, session, last_sequence_id: -1, window_bytes: 1 << 20, window_entries: 100 };
    LaneFrame { ready: Some(ready), ..LaneFrame::default() }
}

pub fn entry_head(sequence_id: u64) -> LaneFrame {
    LaneFrame { entry: Some(EntryHead { number: 1, session: 9, sequence_id }), ..LaneFrame::default() }
}

/// Never sent by any version so far.
pub fn unknown_kind() -> Bytes {
    Bytes::from_static(b"\0\0\0\x07\0\0\0\x03\xfa\x06\0")
}
