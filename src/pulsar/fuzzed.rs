//! The parsers of brokers' and peers' bytes of this room, each as a function that takes anything and panics where what
//! it understood does not hold together. For fuzzing, and for the replay of what fuzzing found.

use bytes::Bytes;

use super::batch::Batch;
use super::entry::{Entry, Heading, SchemaVersion, tag};
use super::fields;
use super::frame::{FrameSplitter, encode};
use super::packing::Compression;
use super::proto::{BaseCommand, Empty, kind};
use super::topic::TopicName;

/// A parser, by its name.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 3] = [("frame", frame), ("entry", entry), ("topic", topic)];

/// Inputs to begin with, by target.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let ping = encode(&BaseCommand { r#type: kind::PING, ping: Some(Empty {}), ..BaseCommand::default() });
    let mut metadata = Vec::new();
    fields::put_bytes(&mut metadata, tag::PRODUCER_NAME, b"p");
    fields::put_varint(&mut metadata, tag::SEQUENCE_ID, 7);
    fields::put_varint(&mut metadata, tag::PUBLISH_TIME, 1);
    let single = [&(metadata.len() as u32).to_be_bytes()[..], &metadata, b"payload"].concat();
    let mut seeds = vec![
        ("frame", [&[3][..], &ping, &ping].concat()),
        ("entry", single.clone()),
        ("topic", b"persistent://public/default/t-partition-3".to_vec()),
        ("topic", b"short".to_vec()),
    ];
    if let Ok(entry) = Entry::parse(single.into()) {
        let mut batch = Batch::new(&entry.by_ref(), 0);
        batch.push(&entry.by_ref());
        seeds.push(("entry", batch.finish(Compression::None).to_vec()));
    }
    seeds
}

/// Frames as they come from a socket: the first byte says in how large pieces.
fn frame(bytes: &[u8]) {
    let Some((piece, bytes)) = bytes.split_first() else {
        return;
    };
    let mut splitter = FrameSplitter::new(FRAME_LEN_MAX);
    for piece in bytes.chunks(usize::from(*piece).max(1)) {
        splitter.inlet().extend_from_slice(piece);
        loop {
            match splitter.next_frame() {
                Ok(Some(frame)) => _ = frame.decode(),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

/// A stored entry: whatever is parsed can be given another head, and then holds the same payload and facts.
fn entry(bytes: &[u8]) {
    let Ok(entry) = Entry::parse(Bytes::copy_from_slice(bytes)) else {
        return;
    };
    // What a broker exposes before it is dropped.
    assert!(entry.facts().messages() > 0 && bytes.ends_with(entry.stored()));
    let heading = Heading {
        producer_name: "bridge/a/b/persistent://public/default/t/1",
        sequence_id: 5,
        highest_sequence_id: None,
        schema_version: SchemaVersion::Remove,
    };
    let head = entry.rehead(&heading);
    let stored: Bytes = [&head[..], entry.payload()].concat().into();
    let Ok(again) = Entry::parse(stored) else {
        panic!("an entry with a new head cannot be read");
    };
    assert!(again.payload() == entry.payload() && again.facts().sequence_id == 5);
    assert!(again.facts().messages() == entry.facts().messages());
    assert!(again.checksum_holds() == (entry.checksum().is_none() || entry.checksum_holds()));
    let mut batch = Batch::new(&entry.by_ref(), 0);
    batch.push(&again.by_ref());
    assert!(Entry::parse(batch.finish(Compression::Zstd)).is_ok_and(|joined| joined.facts().messages() == 2));
}

/// A topic's name: what is understood reads back as itself.
fn topic(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(topic) = TopicName::parse(&text) {
        assert!(TopicName::parse(&topic.to_string()).is_ok_and(|again| again == topic));
    }
}

/// As brokers' frames are bounded.
const FRAME_LEN_MAX: u32 = 5 * 1024 * 1024 + 10 * 1024;
