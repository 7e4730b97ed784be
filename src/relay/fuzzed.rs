//! The parsers of a peer's bytes of this room, each as a function that takes anything and panics where what it
//! understood does not hold together. For fuzzing, and for the replay of what fuzzing found.

use bytes::Bytes;
use prost::Message;

use super::context::Start;
use super::control::{self, ControlMessage, Declaration, DeclaredRoute};
use super::frames::{self, EntryHead, Kind, LANE_FRAME_LEN_MAX, Open, Receipts};
use super::kept;
use super::record::Record;
use super::refused::Refused;
use super::window::Position;
use crate::pulsar::entry::Entry;
use crate::pulsar::frame::FrameSplitter;
use crate::pulsar::topic::TopicName;

/// A parser, by its name.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 4] = [
    ("lane_frame", lane_frame),
    ("declaration", declaration),
    ("record", record),
    ("kept_marker", kept::fuzzed),
];

/// Inputs to begin with, by target.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let open = Open {
        number: 1,
        session: 2,
        route: "r".into(),
        topic: "persistent://public/default/t".into(),
        refused: vec![5, 5, 7, 9],
        ..Open::default()
    };
    let receipts = Receipts { number: 1, session: 2, marked: vec![Receipts::mark(5, true)] };
    let head = EntryHead { number: 1, session: 2, sequence_id: 5, highest_sequence_id: Some(9) };
    let frames = [
        frames::encode(Kind::Open(open)),
        frames::encode(Kind::Receipts(receipts)),
        frames::encode_entry_head(head, 3),
        Bytes::from_static(b"abc"),
    ];
    let route = DeclaredRoute {
        name: "results".into(),
        from: "bank".into(),
        to: "hub".into(),
        topics: vec!["persistent://public/default/t".into()],
        patterns: vec!["persistent://public/data/.*".into()],
        generation: 1,
        subscription: "bridge.bank.hub".into(),
        ..DeclaredRoute::default()
    };
    let topic = TopicName::parse("persistent://public/default/t").ok();
    let declaration = Some(Declaration { routes: vec![route] });
    let message = ControlMessage { declaration, refusals: Vec::new() };
    let held = crate::pulsar::fuzzed::seeds().into_iter().find(|(target, _)| *target == "entry");
    let record = topic.zip(held).map(|(topic, (_, held))| {
        let record = Record {
            reason: "poison".into(),
            from: "hub".into(),
            to: "bank".into(),
            route: "orders".into(),
            destination: topic.clone(),
            topic,
            position: Position { ledger: 3, entry: 4 },
            generation: 1,
            messages: 1,
            publish_time: 5,
            schema_version: Some(Bytes::from_static(&[0; 8])),
        };
        let metadata = record.metadata(3 << 28 | 4, 6);
        [&(metadata.len() as u32).to_be_bytes()[..], &metadata, &held].concat()
    });
    vec![
        ("record", record.unwrap_or_default()),
        ("lane_frame", frames.concat()),
        ("declaration", message.encode_to_vec()),
        ("kept_marker", b"5-5,7-9".to_vec()),
        ("kept_marker", b"?".to_vec()),
    ]
}

/// Frames of a relay lane.
fn lane_frame(bytes: &[u8]) {
    let mut splitter = FrameSplitter::new(LANE_FRAME_LEN_MAX);
    splitter.inlet().extend_from_slice(bytes);
    while let Ok(Some(frame)) = splitter.next_frame() {
        match frames::decode(&frame) {
            Ok(Kind::Receipts(receipts)) => _ = receipts.iter().count(),
            Ok(Kind::Open(open)) => {
                if let Some(refused) = Refused::of_pairs(&open.refused) {
                    assert!(refused.pairs() == open.refused);
                }
            }
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

/// What a peer declares: what is accepted can be declared again, and is accepted again as the same.
fn declaration(bytes: &[u8]) {
    let Ok(message) = control::decode(bytes) else {
        return;
    };
    let Some(routes) =
        message.declaration.and_then(|it| control::check(it, "bank", "hub", Start::Latest).ok())
    else {
        return;
    };
    let Some(again) = control::encode(&routes, "hub") else {
        return;
    };
    let decoded = control::decode(&again).ok().and_then(|message| message.declaration);
    let checked = decoded.and_then(|it| control::check(it, "bank", "hub", Start::Latest).ok());
    assert!(checked.is_some_and(|checked| checked == routes), "a declaration that is no declaration");
}

/// A message of a quarantine topic.
fn record(bytes: &[u8]) {
    if let Ok(entry) = Entry::parse(Bytes::copy_from_slice(bytes)) {
        _ = Record::read(&entry);
    }
}
