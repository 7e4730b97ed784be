//! Joins single messages into one Pulsar batch, as an official producer would have written it. Chooses
//! nothing: which entries may share a batch is the relay's decision. Does not compress.
//!
//! ```text
//! payload:  [ metadata_len u32 | SingleMessageMetadata | message ]*
//! ```

use bytes::{BufMut, Bytes};

use super::crc;
use super::entry::{Entry, Facts, tag};
use super::fields::{self, Fields, Value};

/// A batch in the making; never empty.
#[derive(Clone, Debug)]
pub struct Batch {
    first: Facts,
    messages: u32,
    payload: Vec<u8>,
}

impl Batch {
    /// A batch of this one message.
    pub fn new(first: &Entry) -> Self {
        let mut batch = Self {
            first: first.facts().clone(),
            messages: 0,
            payload: Vec::with_capacity(first.stored_len()),
        };
        batch.push(first);
        batch
    }

    /// Appends a single message with its properties, keys, event time and sequence id. Its publish time is
    /// lost: a batch has one, the first message's.
    pub fn push(&mut self, single: &Entry) {
        let at = self.payload.len();
        self.payload.put_u32(0);
        put_single_metadata(single, &mut self.payload);
        let metadata_len = self.payload.len() - at - 4;
        // Shorter than the entry's own metadata and head, whose length came from 32 bits.
        self.payload[at..at + 4].copy_from_slice(&(metadata_len as u32).to_be_bytes());
        self.payload.extend_from_slice(single.payload());
        self.messages += 1;
    }

    /// How many messages it holds.
    pub fn messages(&self) -> u32 {
        self.messages
    }

    /// The stored form, checksum first. Producer name and sequence id are the first message's: the
    /// publisher gives every entry its own heading.
    pub fn finish(self) -> Bytes {
        let first = &self.first;
        let mut metadata = Vec::new();
        fields::put_bytes(
            &mut metadata,
            tag::PRODUCER_NAME,
            first.producer_name.as_deref().unwrap_or_default(),
        );
        fields::put_varint(&mut metadata, tag::SEQUENCE_ID, first.sequence_id);
        fields::put_varint(&mut metadata, tag::PUBLISH_TIME, first.publish_time);
        // Key_Shared looks for the key here only; without it one key would reach several consumers.
        if let Some(key) = &first.partition_key {
            fields::put_bytes(&mut metadata, tag::PARTITION_KEY, key);
        }
        fields::put_varint(&mut metadata, tag::UNCOMPRESSED_SIZE, self.payload.len() as u64);
        fields::put_varint(&mut metadata, tag::NUM_MESSAGES_IN_BATCH, self.messages.into());
        if let Some(version) = &first.schema_version {
            fields::put_bytes(&mut metadata, tag::SCHEMA_VERSION, version);
        }
        if first.partition_key_b64 {
            fields::put_varint(&mut metadata, tag::PARTITION_KEY_B64, 1);
        }
        if let Some(key) = &first.ordering_key {
            fields::put_bytes(&mut metadata, tag::ORDERING_KEY, key);
        }
        stored(&metadata, &self.payload)
    }
}

/// An entry's stored form from its two halves.
fn stored(metadata: &[u8], payload: &[u8]) -> Bytes {
    let prefix = (metadata.len() as u32).to_be_bytes();
    let mut stored = Vec::with_capacity(10 + metadata.len() + payload.len());
    stored.put_u16(0x0e01);
    stored.put_u32(crc::of(&[&prefix, metadata, payload]));
    stored.extend_from_slice(&prefix);
    stored.extend_from_slice(metadata);
    stored.extend_from_slice(payload);
    stored.into()
}

fn put_single_metadata(single: &Entry, out: &mut Vec<u8>) {
    let facts = single.facts();
    // A property is the same KeyValue message in both places.
    for field in Fields::of(single.metadata()).flatten() {
        if let (tag::PROPERTIES, Value::Bytes(property)) = (field.number, field.value) {
            fields::put_bytes(out, single_tag::PROPERTIES, property);
        }
    }
    if let Some(key) = &facts.partition_key {
        fields::put_bytes(out, single_tag::PARTITION_KEY, key);
    }
    fields::put_varint(out, single_tag::PAYLOAD_SIZE, single.payload().len() as u64);
    if let Some(time) = facts.event_time {
        fields::put_varint(out, single_tag::EVENT_TIME, time);
    }
    if facts.partition_key_b64 {
        fields::put_varint(out, single_tag::PARTITION_KEY_B64, 1);
    }
    if let Some(key) = &facts.ordering_key {
        fields::put_bytes(out, single_tag::ORDERING_KEY, key);
    }
    fields::put_varint(out, single_tag::SEQUENCE_ID, facts.sequence_id);
    if facts.null_value {
        fields::put_varint(out, single_tag::NULL_VALUE, 1);
    }
    if facts.null_partition_key {
        fields::put_varint(out, single_tag::NULL_PARTITION_KEY, 1);
    }
}

/// Field numbers of PulsarApi.proto's SingleMessageMetadata.
pub(crate) mod single_tag {
    pub const PROPERTIES: u32 = 1;
    pub const PARTITION_KEY: u32 = 2;
    pub const PAYLOAD_SIZE: u32 = 3;
    pub const EVENT_TIME: u32 = 5;
    pub const PARTITION_KEY_B64: u32 = 6;
    pub const ORDERING_KEY: u32 = 7;
    pub const SEQUENCE_ID: u32 = 8;
    pub const NULL_VALUE: u32 = 9;
    pub const NULL_PARTITION_KEY: u32 = 10;
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLISH_TIME: u64 = 1_767_720_629_305;

    /// A message with everything that survives joining.
    fn dressed(sequence_id: u64, payload: &'static [u8]) -> Entry {
        let mut metadata = Vec::new();
        fields::put_bytes(&mut metadata, tag::PRODUCER_NAME, b"app");
        fields::put_varint(&mut metadata, tag::SEQUENCE_ID, sequence_id);
        fields::put_varint(&mut metadata, tag::PUBLISH_TIME, PUBLISH_TIME + sequence_id);
        fields::put_bytes(&mut metadata, tag::PROPERTIES, b"\x0a\x01k\x12\x01v");
        fields::put_bytes(&mut metadata, tag::PARTITION_KEY, b"a2V5");
        fields::put_bytes(&mut metadata, tag::PROPERTIES, b"\x0a\x01l\x12\x01w");
        fields::put_varint(&mut metadata, tag::EVENT_TIME, 99);
        fields::put_bytes(&mut metadata, tag::SCHEMA_VERSION, &[0, 0, 0, 0, 0, 0, 0, 2]);
        fields::put_varint(&mut metadata, tag::PARTITION_KEY_B64, 1);
        fields::put_bytes(&mut metadata, tag::ORDERING_KEY, b"order");
        Entry::parse(stored(&metadata, payload)).unwrap()
    }

    fn tombstone() -> Entry {
        let mut metadata = Vec::new();
        fields::put_varint(&mut metadata, tag::SEQUENCE_ID, 8);
        fields::put_varint(&mut metadata, tag::PUBLISH_TIME, 1);
        fields::put_varint(&mut metadata, tag::NULL_VALUE, 1);
        fields::put_varint(&mut metadata, tag::NULL_PARTITION_KEY, 1);
        Entry::parse(stored(&metadata, b"")).unwrap()
    }

    #[test]
    fn a_batch_reads_as_a_producer_would_have_written_it() {
        let mut batch = Batch::new(&dressed(7, b"one"));
        batch.push(&tombstone());
        assert_eq!(batch.messages(), 2);
        let entry = Entry::parse(batch.finish()).unwrap();
        assert!(entry.checksum_holds());
        let facts = Facts {
            producer_name: Some(Bytes::from_static(b"app")),
            sequence_id: 7,
            publish_time: PUBLISH_TIME + 7,
            num_messages_in_batch: Some(2),
            schema_version: Some(Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0, 2])),
            partition_key: Some(Bytes::from_static(b"a2V5")),
            partition_key_b64: true,
            ordering_key: Some(Bytes::from_static(b"order")),
            ..Facts::default()
        };
        assert_eq!(entry.facts(), &facts);
        let payload: &[u8] = b"\0\0\0\x25\
            \x0a\x06\x0a\x01k\x12\x01v\x0a\x06\x0a\x01l\x12\x01w\
            \x12\x04a2V5\x18\x03\x28\x63\x30\x01\x3a\x05order\x40\x07one\
            \0\0\0\x08\x18\x00\x40\x08\x48\x01\x50\x01";
        assert_eq!(entry.payload(), payload);
    }

    #[test]
    fn a_batch_is_never_larger_than_the_entries_it_joins() {
        let singles = [dressed(1, b""), dressed(2, b"0123456789"), tombstone()];
        let mut batch = Batch::new(&singles[0]);
        singles[1..].iter().for_each(|single| batch.push(single));
        let apart: usize = singles.iter().map(Entry::stored_len).sum();
        assert!(batch.finish().len() <= apart);
    }
}
